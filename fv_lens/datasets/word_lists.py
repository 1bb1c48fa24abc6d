"""What loaders of published word lists share: their folder, relations by name, and pairs whose answer is the word."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..ground.errors import InputError
from ..ground.text_files import FilePath, own_path
from .relations import Relation


def json_files(folder: FilePath, what: str, depth: int) -> list[Path]:
    """The .json files of a folder and its sub-folders down to a depth, sorted; hidden ones are left out.

    Raises:
        InputError: there is no such folder; the message asks for the path of `what`.
    """
    path = own_path(folder)
    if not os.path.isdir(path):
        raise InputError(f"{str(path)!r} is not a folder; give the path of {what}")
    found = [file for level in range(depth + 1) for file in path.absolute().glob("*/" * level + "*.json")]
    return sorted(file for file in found if not file.name.startswith("."))


def by_name(relations: Iterable[tuple[Path, Relation]]) -> dict[str, Relation]:
    """Relations by their names; an InputError for two files of one name."""
    files: dict[str, Path] = {}
    named: dict[str, Relation] = {}
    for file, relation in relations:
        if (other := files.setdefault(relation.name, file)) != file:
            raise InputError(f"{other} and {file} are both for {relation.name}; keep one of them")
        named[relation.name] = relation
    return named


def without_copies(pairs: Sequence[tuple[str, tuple[str, ...]]]) -> list[tuple[str, tuple[str, ...]]]:
    """The pairs without answers equal to their word, and without words that have no other answer."""
    others = [(word, tuple(answer for answer in answers if answer != word)) for word, answers in pairs]
    return [(word, answers) for word, answers in others if answers]
