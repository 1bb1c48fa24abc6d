"""The record of a library, `library.json`: its files, the model it is for, and what was measured of it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ...ground.errors import InputError
from ...ground.schema import Count, Hash, Schema, Text, Versions, validated
from ...ground.storage import naming
from ...ground.text_files import parse_json, read_text
from ...models.identity import Identity

RECORD, CARD = "library.json", "README.md"
VECTOR = "vector"  # the row of scores that is the vector's own; other rows are controls


class Entry(Schema):
    """The file of a vector, in the library's folder."""

    file: Annotated[str, Field(pattern=r"^[\w-][\w.-]*\.safetensors$")]
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


SCORE_COLUMNS = tuple(ScoreLine.model_fields)


class LibraryRecord(Schema):
    """What `library.json` holds."""

    kind: Literal["fv_lens.Library"] = "fv_lens.Library"
    format: Literal["1"] = "1"
    vectors: dict[Text, Entry] = Field(min_length=1)
    identity: Identity | None
    scores: list[ScoreLine]
    versions: Versions

    @classmethod
    def read(cls, path: Path) -> "LibraryRecord":
        """The record in a file; an InputError names the field that is wrong."""
        try:
            content = parse_json(read_text(path))
        except InputError as error:
            raise InputError(f"{str(path)!r}: {error}.") from None
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
