"""Files of a study of analogies: its composites, tables and summary."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from ...analogies.composition import Folded
from ...evaluation.table import write_csv
from ...ground import storage
from ...ground.errors import InputError
from ..results import RESULTS, SUMMARY, read_result, read_summary
from ..stages import Step

BY_QUESTION, COMPOSITES = "by_question.csv", "composites"
# What composites depend on, of the plan of a run, and what is said where two runs differ in it.
FITTED_BY = {
    "weights, SHA-256": "another model", "dtype": "another dtype", "seed": "another --seed",
    "vectors, SHA-256": "other vectors", "fitted on, SHA-256": "other analogies to fit and to choose on",
}  # fmt: skip


def write_outputs(
    out: Path,
    frame: pd.DataFrame,
    answers: pd.DataFrame,
    fitted: Mapping[str, Folded],
    summary: Mapping[str, Any],
) -> None:
    """Write `results.csv`, `by_question.csv`, `summary.json` and `composites/`."""
    for name, each in {RESULTS: frame, BY_QUESTION: answers}.items():
        with storage.written_whole(out / name) as path:
            write_csv(each, path)
    storage.save_json(out / SUMMARY, summary)
    (out / COMPOSITES).mkdir(exist_ok=True)
    for name, how in fitted.items():
        how.save(out / COMPOSITES / file_name(name))


def read_composites(folder: Path, plan: Mapping[str, Any]) -> dict[str, Folded]:
    """The composites that a finished run has fitted, where a run of this plan would fit the same.

    Raises:
        InputError: there is no finished run in the folder; its model, vectors, seed or the analogies that it fitted and
            chose on are others; a file is missing or damaged.
    """
    if not (folder / SUMMARY).is_file():
        raise InputError(f"{str(folder)!r} has no {SUMMARY}; give the --out of a finished `fv-lens analogies`.")
    told = read_result(folder / SUMMARY, partial(read_summary, keys=("fitted",)))
    for key, difference in FITTED_BY.items():
        if told.get(key) != plan[key]:
            raise InputError(
                f"The run in {str(folder)!r} was with {difference}, so its composites are not those of this one. Give "
                "it the same, or leave --composites out to fit them anew."
            )
    return {name: Folded.load(folder / COMPOSITES / file_name(name)) for name in told["fitted"]}


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
