"""Strict readers of users' text files: UTF-8, JSON, tables of rows."""

import csv
import json
import os
import re
import stat
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from .errors import InputError

FilePath = str | os.PathLike[str]
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")


def own_path(path: FilePath) -> Path:
    """The path that was given, with `~` as the home folder; an InputError for what is not a path."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{path!r} is not a path; give a string or a pathlib.Path")
    try:
        return Path(path).expanduser()
    except (RuntimeError, TypeError) as error:  # an unknown user's home; a path of bytes
        raise InputError(f"{path!r} is not a path that can be used: {error}") from None


def check_file(path: Path) -> None:
    """Raise an InputError (the caller names the file) unless this is a regular file: reading a pipe could block."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise InputError("there is no such file; check the path") from None
    except OSError as error:
        raise InputError(f"this file cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        raise InputError("this is a folder; give the path of one file")
    if not stat.S_ISREG(mode):
        raise InputError("this is a pipe or a device, not a file; save what comes from it to a file first")


def read_text(file: Traversable) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises InputError, for the caller to name the file."""
    if isinstance(file, Path):
        check_file(file)
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"this file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"this file is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8") from None


def parse_json(text: str, what: str = "this", constants: bool = False) -> Any:
    """The value of a JSON text; NaN and Infinity, which are not JSON, are accepted only with `constants`.

    Raises:
        InputError: not JSON, or a key that occurs twice in one object, where Python's reader would keep the last.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=None if constants else _refuse_constant)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is not JSON: {error}") from None


def table_rows(text: str, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """The rows of a table that are not blank, each with the number of its first line.

    Raises:
        InputError: a quote that is not closed, or that stands anywhere but around a whole cell or doubled within one.
    """
    rows, first, record, within = [], 1, [], False
    for number, line in enumerate(_lines(text), 1):
        record.append(line)
        within ^= line.count('"') % 2 == 1
        if within:
            continue  # a quoted cell goes on in the next line
        cells = _cells("".join(record), first, delimiter)
        if any(cell.strip() for cell in cells):
            rows.append((first, cells))
        first, record = number + 1, []
    if record:
        raise InputError(
            f"line {first}: {_short(''.join(record))} has a quote that is never closed; close it, or remove it"
        )
    return rows


def table_records(text: str) -> tuple[tuple[int, list[str]], list[tuple[int, dict[str, str]]]]:
    """A CSV with a header: its line and names in lower case, and every other row as name -> cell, stripped.

    Missing cells at the end of a row are empty.

    Raises:
        InputError: as `table_rows`; a column named twice; a row with more cells than the header; no rows.
    """
    (line, header), *rows = table_rows(text) or [(1, [])]
    columns = [name.strip().lower() for name in header]
    if repeated := sorted({name for name in columns if columns.count(name) > 1 and name}):
        raise InputError(f"line {line}, the header, has {repeated[0]!r} twice; give each column a name of its own")
    records = []
    for number, cells in rows:
        cells = [cell.strip() for cell in cells]
        if any(cells[len(columns) :]):
            raise InputError(
                f"line {number} has {len(cells)} cells, but the header has {len(columns)}; quote cells that hold commas"
            )
        records.append((number, dict(zip(columns, cells + [""] * len(columns)))))
    return (line, columns), records


def _lines(text: str) -> list[str]:
    """The lines with their ends; not by splitlines(), which also splits at rarer characters, unlike editors."""
    return [line for line in _LINE.findall(text) if line]


def _cells(record: str, line: int, delimiter: str) -> list[str]:
    record = record.rstrip("\r\n")
    # Python's reader keeps the marks of a quote behind a space, and lets a quote begin in the middle of a cell.
    if '"' in record and not _quoted(delimiter).fullmatch(record):
        raise InputError(
            f"line {line}: {_short(record)} has a quote out of place; put quotes around whole cells, with no space "
            'outside them, and double those within: "say ""hi"""'
        )
    try:
        return next(csv.reader([record], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise InputError(f"line {line} is not a row of a table: {error}") from None


@cache
def _quoted(delimiter: str) -> re.Pattern[str]:
    cell = rf'(?:"(?:[^"]|"")*+"|[^"{delimiter}]*+)'
    return re.compile(rf"{cell}(?:{delimiter}{cell})*+")


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise InputError(
                f"the key {key!r} occurs twice in one object, with {members[key]!r} and {value!r}; keep one"
            )
        members[key] = value
    return members


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")
