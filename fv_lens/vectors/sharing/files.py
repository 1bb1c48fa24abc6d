"""A library in a folder: a safetensors file a vector, a card, and `library.json`, which is written last."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...ground import storage
from ...ground.errors import InputError
from ...ground.names import file_names
from ...ground.schema import validated
from ...ground.text_files import FilePath, own_path
from ..function_vector import FunctionVector
from .record import CARD, INTERRUPTED, KIND, LIBRARY_NAME, RECORD, LibraryRecord

if TYPE_CHECKING:
    from ..library import Library

WORDS = {RECORD: KIND, CARD: f"library_name: {LIBRARY_NAME}"}  # by which a file of fv_lens is known


def write_library(folder: FilePath, library: "Library", card: str) -> Path:
    """Write a library and its card, see `Library.save`; returns the folder.

    All files are written beside those that are there, then put in their place, the record last: an error leaves the
    folder as it was, and a process that is killed in between leaves a record that says so.
    """
    place = own_path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".saving-", dir=place))
    except OSError as error:
        raise InputError(f"Cannot make the folder {str(place)!r}: {error.strerror}. Choose another place.") from None
    try:
        files = dict(zip(library, file_names(list(library))))
        entries = {}
        for name, fv in library.items():
            fv.save(scratch / files[name])
            entries[name] = {"file": files[name], "sha256": _sha256(scratch / files[name])}
        record = validated(LibraryRecord, {
            "vectors": entries, "identity": None if library.identity is None else library.identity.model_dump(),
            "scores": list(library.measured.lines()), "licence": library.licence, "versions": storage.versions(),
        })  # fmt: skip
        (scratch / CARD).write_text(card, encoding="utf-8")
        storage.save_json(scratch / RECORD, record.model_dump(by_alias=True))
        _put_in_place(scratch, place, [*files.values(), CARD, RECORD])
    except OSError as error:
        raise InputError(f"Cannot write to {str(place)!r}: {error.strerror}. Choose another place.") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return place


def _put_in_place(scratch: Path, place: Path, files: Sequence[str]) -> None:
    """Move the files of a library into its folder, in this order, and remove those of the library that was there."""
    earlier = _earlier_files(place)
    for file in files:
        if file not in earlier and (place / file).exists() and not _is_own(place / file):
            raise InputError(f"{str(place / file)!r} is there and not a library's; save to another folder, or move it.")
    storage.save_json(place / RECORD, INTERRUPTED)
    for file in files:
        os.replace(scratch / file, place / file)
    for file in earlier - set(files):
        (place / file).unlink(missing_ok=True)


def _is_own(file: Path) -> bool:
    """Whether fv_lens wrote a file that has the name of one of a library."""
    if file.name in WORDS:
        return WORDS[file.name] in file.read_text(encoding="utf-8", errors="replace")
    try:
        FunctionVector.load(file)
        return True
    except InputError:
        return False


def library_files(names: Sequence[str]) -> set[str]:
    """The files that a library of these vectors may have in its folder."""
    return {*file_names(names), RECORD, CARD}


def read_library(folder: FilePath) -> tuple[dict[str, FunctionVector], LibraryRecord | None]:
    """The vectors of a folder by their names, and the record of the library that they are, if they are one."""
    place = own_path(folder)
    if not (place / RECORD).exists():
        return _unlisted(place), None
    record = LibraryRecord.read(place / RECORD)
    vectors = {}
    for name, entry in record.vectors.items():
        file = place / entry.file
        vectors[name] = FunctionVector.load(file)
        if _sha256(file) != entry.sha256:
            raise InputError(
                f"{str(file)!r} is not the vector of {name!r} that {RECORD} lists: the SHA-256 differs. Save the "
                "library again."
            )
    return vectors, record


def _unlisted(place: Path) -> dict[str, FunctionVector]:
    """The vectors of a folder without a record, by the relation of each."""
    if not place.is_dir():
        raise InputError(f"There is no folder {str(place)!r}; give one that holds saved vectors.")
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
    """The files of the library that is in the folder now."""
    try:
        return {*LibraryRecord.read(place / RECORD).files, RECORD, CARD}
    except InputError:
        return set()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
