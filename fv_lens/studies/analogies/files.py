"""Files of a study of analogies: its library of vectors, its composites, table and summary."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from ...analogies.composition import Folded
from ...datasets.relation_files import relation_names
from ...evaluation.table import write_csv
from ...ground import storage
from ...ground.errors import InputError
from ...models.lens import Model
from ...vectors.function_vector import FunctionVector
from ...vectors.tuning import finetune_all
from ..stages import Step

RESULTS, SUMMARY = "results.csv", "summary.json"


def load_library(folder: Path) -> dict[str, FunctionVector]:
    """The vectors of a folder, by the relation of each; an InputError where there are none or two of one relation."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{str(folder)!r} has no vectors (*.safetensors); give the `vectors` folder of a `reproduce`.")
    vectors: dict[str, FunctionVector] = {}
    for file in files:
        fv = FunctionVector.load(file)
        name = fv.relation or file.stem
        if name in vectors:
            raise InputError(f"{str(folder)!r} has two vectors of {name!r}; keep one of them.")
        vectors[name] = fv
    return vectors


def tuned_library(model: Model, folder: Path, tell: Callable[[str], None]) -> dict[str, FunctionVector]:
    """A vector of every bundled relation, tuned from zero and saved in the folder; read where all are there."""
    kept = load_library(folder) if any(folder.glob("*.safetensors")) else {}
    if set(kept) >= set(relation_names()):
        return kept
    tell(f"Tuning the library: {len(relation_names())} bundled relations, from zero")
    vectors = dict(finetune_all(model, relation_names()))
    folder.mkdir(parents=True, exist_ok=True)
    for name, fv in vectors.items():
        fv.save(folder / f"{name}.safetensors")
    return vectors


def write_outputs(out: Path, frame: pd.DataFrame, fitted: Mapping[str, Folded], summary: Mapping[str, Any]) -> None:
    """Write `results.csv`, `summary.json` and `composites/`."""
    with storage.written_whole(out / RESULTS) as partial:
        write_csv(frame, partial)
    storage.save_json(out / SUMMARY, summary)
    (out / "composites").mkdir(exist_ok=True)
    for name, how in fitted.items():
        how.save(out / "composites" / file_name(name))


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
