"""Analogy questions in files: the bundled set, published multiple-choice sets, the user's own tables, SCAN.

A file is JSON (one object per line, or a list of them) or a CSV. An object has `source`, `target`, `answers` and
`foils` as in the bundled set, or `stem`, `choice`, `answer` and `prefix` as in the U2, SAT, Google and BATS questions
(Ushio et al. 2021, BERT is to NLP what AlexNet is to CV, 2021.acl-long.280). A CSV has columns a, b, c, d and foils, or
those of SCAN.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from itertools import permutations
from pathlib import PureWindowsPath
from typing import Any, TypeVar

from ..ground.errors import InputError
from ..ground.text_files import FilePath, own_path, parse_json, read_text, table_records
from .bundled_files import bundled_file, bundled_json
from .questions import Question
from .relation_files import load_relation, relation_names

T = TypeVar("T")
# Prefixes that are not relations: a level of difficulty, or the number of a test.
_LEVEL = re.compile(r"grade ?\d+|.*(beginn|elementary|intermediate|advanced).*|\d.*", re.IGNORECASE)
_SCAN = ("target", "source", "targ_word", "src_word", "analogy_type")
_EXPECTED = "give JSON lines, or a CSV whose header has a, b, c, d or SCAN's columns"


def load_questions(source: FilePath | None = None) -> list[Question]:
    """Read analogy questions: the bundled set, or a file of JSON or a CSV by its path.

    - JSON lines as the bundled set has them: {"relation": "antonym", "family": "opposite", "source": ["hot", "cold"],
      "target": "big", "answers": ["small"], "foils": [{"word": "huge", "kind": "associate"}], "distance": "near"};
      source, target and answers are needed. `distance`, a word or a number, becomes the label. A JSON list of such
      objects, over as many lines as it likes, is read as well.
    - JSON lines of published sets: {"stem": ["hot", "cold"], "choice": [["big", "huge"], ["big", "small"]], "answer":
      1, "prefix": "grade4"}. `prefix`, or the last part of a path, becomes the label where it is a school grade, a
      level or a test's number, else the relation, spelt as `load_bats` spells names (its family is known for BATS and
      for bundled relations).
    - A CSV with columns a, b, c, d, in any letter case; d may hold several answers, separated by "/". Columns that
      begin with "foil" are wrong choices (empty ones are skipped); `relation`, `family` and `distance` (words such as
      near and far, or numbers; the label) are optional.
    - SCAN's CSV (Czinczoll et al. 2022, arXiv 2211.15268): every two rows of one domain pair, in either order, make a
      question with A:B from the source domain and C:D from the target domain (sun:planet :: nucleus:electron), except
      those that use a word twice. Rows with the same source word give one question with several answers.
      `alternatives` are other words of the source domain, not answers. The label is the type of analogy.

    Raises:
        InputError: a file that is missing, a folder, empty, not UTF-8 or of another format; a line that is not a
            question, or repeats that of an earlier line (except in SCAN, where domains share pairs); a foil listed
            twice (except in published sets). The message names the file and the line.

    Example:
        >>> questions = load_questions("my_analogies.csv")
        >>> questions[0].source, questions[0].completion
        (('hot', 'cold'), ('big', ('small', 'little')))
    """
    if source is None:
        bundled = bundled_file("analogies")
        files = sorted((file for file in bundled.iterdir() if file.name.endswith(".jsonl")), key=lambda f: f.name)
    else:
        files = [own_path(source)]
    questions: list[Question] = []
    for file in files:
        try:
            questions += _parse(read_text(file))
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
    return questions


def _parse(text: str) -> list[Question]:
    if not text.strip():
        raise InputError(f"this file is empty; {_EXPECTED}")
    if text.lstrip().startswith(("{", "[")):
        return _distinct([(place, _at(place, _from_json, item)) for place, item in _json_items(text)])
    (line, columns), rows = table_records(text)
    if not rows:
        raise InputError(f"this file has a header and no rows; {_EXPECTED}")
    if set(_SCAN) <= set(columns):
        return _from_scan(rows)
    if missing := [name for name in "abcd" if name not in columns]:
        raise InputError(f"line {line}, the header {','.join(columns)!r}, lacks {', '.join(missing)}; {_EXPECTED}")
    return _distinct([(f"line {number}", _at(f"line {number}", _from_cells, cells)) for number, cells in rows])


def _json_items(text: str) -> list[tuple[str, Any]]:
    """The items of a file and the place of each: of JSON lines, of one list, or one object over several lines."""
    # Not splitlines(), which also parts at rarer characters and would number the lines as no editor does.
    lines = [(f"line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    whole = text.lstrip().startswith("[") or lines[0][1].strip() == "{"  # an object that is indented
    if not whole:
        return [(place, _at(place, parse_json, line)) for place, line in lines]
    content = parse_json(text)
    items = content if isinstance(content, list) else [content]
    if not items:
        raise InputError(f"this file holds an empty list; {_EXPECTED}")
    return [(f"item {number}", item) for number, item in enumerate(items, 1)]


def _at(place: str, parse: Callable[[Any], T], text: Any) -> T:
    try:
        return parse(text)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def _distinct(questions: list[tuple[str, Question]]) -> list[Question]:
    """The questions; an InputError names both places of a repeated one, which would count twice."""
    first: dict[tuple[Any, ...], str] = {}
    for place, question in questions:
        same = (question.source, question.completion[0], frozenset(question.answers), frozenset(question.pairs))
        if (other := first.setdefault(same, place)) != place:
            raise InputError(f"{place} repeats the question of {other}, {':'.join(question.source)}; keep one")
    return [question for _, question in questions]


def _from_json(item: Any) -> Question:
    if isinstance(item, dict) and {"stem", "choice", "answer"} <= item.keys():
        return _from_published(item)
    if isinstance(item, dict) and {"source", "target", "answers"} <= item.keys():
        return _from_bundled(item)
    raise InputError(
        f"this is {json.dumps(item, ensure_ascii=False)[:80]!r}; give an object with source, target, answers or stem, "
        "choice, answer"
    )


def _from_published(item: dict[str, Any]) -> Question:
    _check_types(item, stem=list, choice=list, prefix=str)
    choices, right = item["choice"], item["answer"]
    if not choices:
        raise InputError('"choice" is empty; give a list of pairs of words')
    if len(choices) > 1 and (type(right) is not int or not 0 <= right < len(choices)):
        raise InputError(f'"answer" is {right!r}; with {len(choices)} choices give 0 to {len(choices) - 1}')
    name, relation = PureWindowsPath(item.get("prefix", "")).stem.strip(), None  # of a path with slashes of either kind
    if not _LEVEL.fullmatch(name):
        name, relation = "", re.sub(r"[\W_]+", "-", name.lower()).strip("-") or None
    return Question(item["stem"], choices, right, relation=relation, family=_family(relation), label=name)


def _from_bundled(item: dict[str, Any]) -> Question:
    _check_types(item, source=list, target=str, answers=list, foils=list, relation=str, family=str)
    source, target, answers, foils = item["source"], item["target"], item["answers"], item.get("foils", [])
    if not answers:
        raise InputError('"answers" is empty; give a list of words, the usual one first')
    if not all(isinstance(foil, dict) and "word" in foil for foil in foils):
        raise InputError(f'"foils" is {foils!r}; give a list of {{"word": ..., "kind": ...}}')
    pairs, kinds = _choices(target, answers, [foil["word"] for foil in foils]), ()
    if pairs:
        kinds = ("right", *(foil.get("kind", "") for foil in foils))
    relation, label = item.get("relation"), _distance(item.get("distance", ""))
    family = item.get("family") or _family(relation)
    return Question(source, pairs, 0 if pairs else None, target, answers, relation, family, kinds, label)


def _distance(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f'"distance" is {value!r}; give a word, such as "near", or a number')
    return f"{value}"


def _check_types(item: dict[str, Any], **types: type) -> None:
    for key, kind in types.items():
        if key in item and not isinstance(item[key], kind):
            raise InputError(f'"{key}" is {item[key]!r}; give a {"list" if kind is list else "string"}')


def _from_cells(cells: dict[str, str]) -> Question:
    if empty := [name for name in "abcd" if not cells[name]]:
        raise InputError(f"column {empty[0]} is empty; give A, B, C and D")
    answers = list(dict.fromkeys(answer.strip() for answer in cells["d"].split("/") if answer.strip()))
    if not answers:
        raise InputError(f"column d holds no answer but {cells['d']!r}; give one, or several parted by '/'")
    foils = [cell for name, cell in cells.items() if name.startswith("foil") and cell]
    pairs, relation = _choices(cells["c"], answers, foils), cells.get("relation") or None
    return Question(
        (cells["a"], cells["b"]), pairs, 0 if pairs else None, cells["c"], answers, relation,
        family=cells.get("family") or _family(relation), label=cells.get("distance", ""),
    )  # fmt: skip


def _choices(target: str, answers: list[Any], wrong: list[Any]) -> list[tuple[Any, Any]]:  # `Question` checks the words
    """The usual answer and the wrong ones as pairs; empty for questions that are only completed."""
    if repeated := [word for place, word in enumerate(wrong) if word in wrong[:place]]:
        raise InputError(f"the foil {repeated[0]!r} is listed twice; keep one of them, or another wrong answer")
    return [(target, word) for word in (answers[0], *wrong)] if wrong else []


def _from_scan(rows: list[tuple[int, dict[str, str]]]) -> list[Question]:
    domains: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
    answers: dict[tuple[tuple[str, str, str], str, str, str], dict[str, None]] = defaultdict(dict)
    for number, cells in rows:
        if empty := [name for name in _SCAN if not cells[name]]:
            raise InputError(f"line {number}: column {empty[0]} is empty; give every column but alternatives")
        domains[cells["source"], cells["target"], cells["analogy_type"]].append((cells["src_word"], cells["targ_word"]))
    for domain, mapped in domains.items():
        for (a, c), (b, d) in permutations(mapped, 2):
            if len({word.casefold() for word in (a, b, c, d)}) == 4:
                answers[domain, a, b, c][d] = None
    return [Question((a, b), target=c, answers=tuple(ds), label=domain[2]) for (domain, a, b, c), ds in answers.items()]


@cache
def _bats_families() -> dict[str, str]:
    described = bundled_json("bats.json")
    return {code.lower(): relation["family"] for code, relation in described.items()}


def _family(relation: str | None) -> str | None:
    """The family of a relation of BATS or of the bundled ones, by its name; None where it is not known."""
    if relation is None:
        return None
    code = re.fullmatch(r"([idel]\d\d)-.+", relation)
    if code and code[1] in _bats_families():
        return _bats_families()[code[1]]
    return load_relation(relation).family if relation in relation_names() else None
