"""The record of a library, `library.json`: its files, the model it is for, and what was measured of it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from ...ground.errors import InputError
from ...ground.schema import Count, Hash, Schema, Text, Versions
from ...ground.text_files import parse_json, read_text
from ...models.identity import Identity

RECORD, CARD = "library.json", "README.md"
KIND, FORMAT = "fv_lens.Library", "1"
VECTOR = "vector"  # the row of scores that is the vector's own; other rows are controls


class Entry(Schema):
    """The file of a vector, in the library's folder."""

    file: Annotated[str, Field(pattern=r"^[\w-][\w.-]*\.safetensors$")]
    sha256: Hash


class Measured(Schema):
    """A line of a library's scores; without an interval, `low` and `high` are None."""

    name: Text
    row: Text
    measure: Text
    value: float
    low: float | None
    high: float | None
    n: Count


SCORE_COLUMNS = tuple(Measured.model_fields)


class LibraryRecord(Schema):
    """What `library.json` holds."""

    kind: Literal["fv_lens.Library"]
    format: Literal["1"]
    vectors: dict[Text, Entry] = Field(min_length=1)
    identity: Identity | None
    scores: list[Measured]
    versions: Versions

    @classmethod
    def read(cls, path: Path) -> "LibraryRecord":
        """The record in a file; an InputError names the field that is wrong."""
        try:
            content = parse_json(read_text(path))
            if isinstance(content, dict) and content.get("kind") == KIND and content.get("format") != FORMAT:
                known = f"this version reads {FORMAT!r}. Update fv_lens"
                raise InputError(f"it has format {content.get('format')!r}; {known}")
            return cls.model_validate(content)
        except InputError as error:
            raise InputError(f"{str(path)!r}: {error}.") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise InputError(
                f"{str(path)!r}: {where}: {first['msg']}. It is damaged or was edited; save the library again."
            ) from None

    @property
    def files(self) -> list[str]:
        """The files of the vectors."""
        return [entry.file for entry in self.vectors.values()]

    def file_of(self, name: str) -> str:
        """The file of a vector; an InputError names those that are there."""
        if name not in self.vectors:
            raise InputError(f"The library has no vector {name!r}; it has {', '.join(self.vectors)}.")
        return self.vectors[name].file
