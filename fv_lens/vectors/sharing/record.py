"""The record of a library, `library.json`: its files, the model it is for, and what was measured of it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ...ground.errors import InputError
from ...ground.schema import Count, Hash, Schema, Text, Versions, validated
from ...ground.storage import naming
from ...ground.text_files import parse_json, read_text
from ...models.identity import Identity

RECORD, CARD = "library.json", "README.md"
LIBRARY_NAME = "fv_lens"  # in the metadata of cards
KIND = "fv_lens.Library"
INTERRUPTED = {"kind": KIND, "interrupted": True}  # what stands in its place while files are exchanged


def _of_the_folder(file: str) -> str:
    if file != Path(file).name or file.startswith(".") or "\\" in file or not file.endswith(".safetensors"):
        raise ValueError("expected the name of a safetensors file in the library's own folder")
    return file


class Entry(Schema):
    """The file of a vector, in the library's folder."""

    file: Annotated[str, AfterValidator(_of_the_folder)]
    sha256: Hash


class ScoreLine(Schema):
    """A line of a library's scores; without an interval, `low` and `high` are None."""

    name: Text
    row: Text
    measure: Text
    value: float
    low: float | None
    high: float | None
    n: Count


class LibraryRecord(Schema):
    """What `library.json` holds."""

    kind: Literal["fv_lens.Library"] = "fv_lens.Library"
    format: Literal["1"] = "1"
    vectors: dict[Text, Entry] = Field(min_length=1)
    identity: Identity | None
    scores: list[ScoreLine]
    licence: Text | None = None
    versions: Versions

    @classmethod
    def read(cls, path: Path) -> "LibraryRecord":
        """The record in a file; an InputError names the field that is wrong."""
        try:
            content = parse_json(read_text(path))
        except InputError as error:
            raise InputError(f"{str(path)!r}: {error}.") from None
        if content == INTERRUPTED:
            raise InputError(f"{str(path)!r}: a save of this library was interrupted; save it again.")
        if isinstance(content, dict) and str(content.get("format", "1")) > "1":
            raise InputError(f"{str(path)!r} has format {content['format']!r}; this version reads '1'. Update fv_lens.")
        with naming(path):
            return validated(cls, content)

    @property
    def files(self) -> list[str]:
        """The files of the vectors."""
        return [entry.file for entry in self.vectors.values()]

    def file_of(self, name: str) -> str:
        """The file of a vector; an InputError names those that are there."""
        if name not in self.vectors:
            raise InputError(f"The library has no vector {name!r}; it has {', '.join(self.vectors)}.")
        return self.vectors[name].file
