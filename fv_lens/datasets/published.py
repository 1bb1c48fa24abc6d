"""Published sets of relations in a folder or file, whichever of those that fv_lens reads it is."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..ground.errors import InputError
from ..ground.text_files import FilePath, own_path
from .bats import load_bats
from .lre import KINDS, load_lre
from .question_files import load_questions
from .questions import Question
from .relations import Relation, merge_pairs
from .semeval import load_semeval
from .todd import load_todd


class Published(NamedTuple):
    """A set of relations, and what it is called."""

    name: str
    relations: list[Relation]


def load_published(path: FilePath) -> Published:
    """Read the relations of BATS, LRE, SemEval-2012 Task 2 or Todd et al. from their folder, or those of questions.

    A folder is that of the set that it has files of; a file, or a folder of .jsonl files, holds analogy questions, of
    which the pairs of each relation are brought together (`relations_of`). Of SemEval, pairs rated above 0 stand for a
    relation, all of them for tuning; its class is its family. Relations of LRE, whose families are but four kinds, are
    families of their own here.

    Raises:
        InputError: it is none of these, or is damaged.

    Example:
        >>> load_published("semeval2012").relations[0]
        Relation('1a', 19 pairs)
    """
    root = own_path(path)
    if root.is_file():
        return Published(root.stem, relations_of(load_questions(root)))
    if not root.is_dir():
        raise InputError(f"{str(root)!r} is not there; give a folder of relations, or a file of analogy questions")
    for name, is_there, load in _SETS:
        if is_there(root):
            return Published(name, list(load(root).values()))
    if files := sorted(root.rglob("*.jsonl")):
        return Published(root.name, relations_of(question for file in files for question in load_questions(file)))
    raise InputError(
        f"{str(root)!r} has no files of BATS, LRE, SemEval-2012 Task 2 or Todd et al., nor questions (*.jsonl); give "
        "the folder of one of these sets"
    )


def relations_of(questions: Iterable[Question]) -> list[Relation]:
    """The relations that questions name, each with the pairs A:B and C:D of its questions, in the order of names.

    Raises:
        InputError: no question names its relation.
    """
    pairs: dict[str, list[tuple[str, str]]] = {}
    families: dict[str, str | None] = {}
    for question in questions:
        if question.relation is not None:
            target, answers = question.completion
            found = pairs.setdefault(question.relation, [])
            found += [(question.source[0], question.source[1]), *((target, answer) for answer in answers)]
            families.setdefault(question.relation, question.family)
    if not pairs:
        raise InputError("None of the questions names its relation; give questions that do.")
    return [
        Relation(name, merge_pairs([list(pair) for pair in dict.fromkeys(pairs[name])]), family=families[name])
        for name in sorted(pairs)
    ]


def _lre(folder: FilePath) -> dict[str, Relation]:
    return {name: replace(relation, family=name) for name, relation in load_lre(folder).items()}


def _semeval(folder: FilePath) -> dict[str, Relation]:
    return {code: rated.relation() for code, rated in load_semeval(folder).items()}


def _has(root: Path, *marks: str) -> bool:
    return any(True for mark in marks for _ in root.rglob(mark))


def _is_lre(root: Path) -> bool:
    return _has(root, *(f"{kind}/*.json" for kind in KINDS)) or (root.name in KINDS and _has(root, "*.json"))


# Of each set its name, whether a folder is one of it, and its relations; the first that fits counts.
_SETS: list[tuple[str, Callable[[Path], bool], Callable[[FilePath], dict[str, Relation]]]] = [
    ("SemEval", lambda root: _has(root, "GoldRatings-*.txt"), _semeval),
    ("BATS", lambda root: _has(root, "[DEIL]0[0-9]*.txt", "[DEIL]10*.txt"), load_bats),
    ("LRE", _is_lre, _lre),
    ("Todd", lambda root: _has(root, "*.json") and not _has(root, "*.jsonl"), load_todd),
]
