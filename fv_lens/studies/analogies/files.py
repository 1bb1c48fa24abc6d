"""Files of a study of analogies: its composites, tables and summary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from ...analogies.composition import Folded
from ...evaluation.table import write_csv
from ...ground import storage
from ..results import RESULTS, SUMMARY
from ..stages import Step

BY_QUESTION, COMPOSITES = "by_question.csv", "composites"


def write_outputs(
    out: Path,
    frame: pd.DataFrame,
    answers: pd.DataFrame,
    fitted: Mapping[str, Folded],
    summary: Mapping[str, Any],
) -> None:
    """Write `composites/`, `results.csv`, `by_question.csv` and `summary.json`."""
    (out / COMPOSITES).mkdir(exist_ok=True)
    for name, how in fitted.items():
        how.save(out / COMPOSITES / file_name(name))
    for name, each in {RESULTS: frame, BY_QUESTION: answers}.items():
        with storage.written_whole(out / name) as path:
            write_csv(each, path)
    storage.save_json(out / SUMMARY, summary)


def file_name(composite: str) -> str:
    """The file of a composite's settings."""
    return f"{composite.replace(' + ', '-').replace(', ', '-').replace(' ', '-')}.safetensors"


def packed(fitted: Mapping[str, Folded]) -> Step:
    """Fitted settings as a stage's results."""
    tensors: dict[str, Tensor] = {}
    record: dict[str, Any] = {}
    for name, how in fitted.items():
        own, record[name] = how.parts()
        tensors |= {f"{name}/{key}": value for key, value in own.items()}
    return tensors, record


def unpacked(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> dict[str, Folded]:
    """The settings that `packed` made results of."""
    return {
        name: Folded.of_parts(
            {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}, saved
        )
        for name, saved in record.items()
    }
