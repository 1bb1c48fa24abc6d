"""A library in a folder: a safetensors file a vector, a card, and `library.json`, which is written last."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...ground import storage
from ...ground.errors import InputError
from ...ground.names import file_names
from ...ground.schema import validated
from ...ground.text_files import FilePath, own_path
from ...models.identity import Identity
from ..function_vector import FunctionVector
from .record import CARD, RECORD, SCORE_COLUMNS, LibraryRecord


def write_library(
    folder: FilePath,
    vectors: Mapping[str, FunctionVector],
    scores: pd.DataFrame,
    identity: Identity | None,
    card: str,
) -> Path:
    """Write the parts of a library, see `Library.save`; returns the folder."""
    place = own_path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot make the folder {str(place)!r}: {error.strerror}. Choose another place.") from None
    earlier = _earlier_files(place)
    files = dict(zip(vectors, file_names(list(vectors))))
    entries = {}
    for name, fv in vectors.items():
        fv.save(place / files[name])
        entries[name] = {"file": files[name], "sha256": _sha256(place / files[name])}
    record = validated(LibraryRecord, {
        "vectors": entries, "identity": None if identity is None else identity.model_dump(),
        "scores": _lines(scores), "versions": storage.versions(),
    })  # fmt: skip
    with storage.written_whole(place / CARD) as partial:
        partial.write_text(card, encoding="utf-8")
    storage.save_json(place / RECORD, record.model_dump(by_alias=True))
    for file in earlier - set(files.values()):
        (place / file).unlink(missing_ok=True)
    return place


def library_files(names: Sequence[str]) -> set[str]:
    """The files that a library of these vectors may have in its folder."""
    return {*file_names(names), RECORD, CARD}


def read_library(folder: FilePath) -> tuple[dict[str, FunctionVector], pd.DataFrame | None, Identity | None]:
    """The vectors, scores and model of a library in a folder, see `Library.load`."""
    place = own_path(folder)
    if not (place / RECORD).exists():
        return _unlisted(place), None, None
    record = LibraryRecord.read(place / RECORD)
    vectors = {}
    for name, entry in record.vectors.items():
        file = place / entry.file
        vectors[name] = FunctionVector.load(file)
        if _sha256(file) != entry.sha256:
            raise InputError(
                f"{str(file)!r} is not the vector of {name!r} that {RECORD} lists: the SHA-256 differs. Save the "
                f"library again, or delete {RECORD} to read the vectors as they are."
            )
    scores = pd.DataFrame([line.model_dump() for line in record.scores], columns=list(SCORE_COLUMNS))
    return vectors, scores.astype({"low": float, "high": float}), record.identity


def _unlisted(place: Path) -> dict[str, FunctionVector]:
    """The vectors of a folder without a record, by the relation of each."""
    files = sorted(place.glob("*.safetensors"))
    if not files:
        raise InputError(f"{str(place)!r} has no vectors (*.safetensors); give the `vectors` folder of a `reproduce`.")
    vectors: dict[str, FunctionVector] = {}
    for file in files:
        fv = FunctionVector.load(file)
        name = fv.relation or file.stem
        if name in vectors:
            raise InputError(f"{str(place)!r} has two vectors of {name!r}; keep one of them.")
        vectors[name] = fv
    return vectors


def _earlier_files(place: Path) -> set[str]:
    """The files that the library which is in the folder now lists."""
    try:
        return set(LibraryRecord.read(place / RECORD).files)
    except InputError:
        return set()


def _lines(scores: pd.DataFrame) -> list[Mapping[str, Any]]:
    lines = scores.astype(object).to_dict("records")
    for line in lines:
        line |= {end: float(line[end]) if math.isfinite(line[end]) else None for end in ("low", "high")}
        line |= {"value": float(line["value"]), "n": int(line["n"])}
    return lines


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
