"""Files that a study of one model has left, read for a study of several; and what that writes from them."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from ..evaluation.table import write_csv
from ..ground import storage
from ..ground.errors import InputError

T = TypeVar("T")
RESULTS, SUMMARY, REPORT = "results.csv", "summary.json", "report.html"
NUMBERS, COUNTS = ("value", "low", "high", "p"), ("n",)


def is_finished(folder: Path, files: Collection[str] = ()) -> bool:
    """Whether a study has left all of its results there, `files` among them."""
    return all((folder / name).is_file() for name in (RESULTS, SUMMARY, REPORT, *files))


def read_result(path: Path, read: Callable[[Path], T]) -> T:
    """What `read` makes of a file that a model's study has left; an InputError that names a damaged one."""
    try:
        return read(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read: {error}. Delete the file; the same command then writes it again."
        ) from None


def read_table(path: Path, columns: Collection[str]) -> pd.DataFrame:
    """A table with its numbers as they were written; all else is text, also a relation called "null".

    Raises:
        ValueError: it lacks a column, or has text for a number.
    """
    numbers = [column for column in columns if column in NUMBERS]
    texts = [column for column in columns if column not in (*NUMBERS, *COUNTS)]
    frame = pd.read_csv(
        path, float_precision="round_trip", keep_default_na=False, na_values={column: [""] for column in numbers},
        dtype=dict.fromkeys(texts, str) | dict.fromkeys(numbers, float),
    )  # fmt: skip
    if missing := [column for column in columns if column not in frame]:
        raise ValueError(f"it lacks the column {missing[0]!r}")
    return frame


def read_summary(path: Path, keys: Collection[str]) -> dict[str, Any]:
    """A summary.

    Raises:
        ValueError: it is not one, or lacks one of the keys.
    """
    summary = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(summary, dict) or not set(keys) <= summary.keys():
        raise ValueError("it lacks what a study says")
    return summary


def write_results(
    out: Path,
    frame: pd.DataFrame,
    summary: Mapping[str, Any],
    page: Callable[[Path, pd.DataFrame, Mapping[str, Any]], None],
) -> None:
    """Write `results.csv`, `summary.json` and, by `page`, `report.html`, each whole or not at all."""
    with storage.written_whole(out / RESULTS) as partial:
        write_csv(frame, partial)
    storage.save_json(out / SUMMARY, summary)
    page(out / REPORT, frame, summary)
