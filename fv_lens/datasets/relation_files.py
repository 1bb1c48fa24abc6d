"""Relations from files: those bundled with fv_lens, by name, and the user's own, by path.

Formats: our own JSON, `{"name": "antonym", "pairs": [["hot", "cold"], ["big", ["small", "little"]]]}` with "names",
"category" and "family" where wanted; the JSON of Todd et al. 2024 (github.com/ericwtodd/function_vectors),
`[{"input": "hot", "output": "cold"}, ...]`; and two-column tables of word and answer, as CSV or TSV.
"""

import difflib
import json
import os
import re
import warnings
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ..ground.errors import InputError
from ..ground.text_files import FilePath, own_path, parse_json, read_text, table_rows
from .bundled_files import bundled_file
from .relations import Relation, merge_pairs

RelationLike = Relation | FilePath  # what `load_relation` takes
FORMAT = '{"name": "antonym", "pairs": [["hot", "cold"], ["big", ["small", "little"]]]}'
OPTIONAL = '"names": ["opposite"], "category": "lexicographic", "family": "opposite"'
DELIMITERS = {".csv": ",", ".tsv": "\t"}
HEADERS = (["word", "answer"], ["input", "output"])
CAPITALISED = 0.9  # share of a column under which a cell in lower case looks like its heading


@cache
def relation_names() -> tuple[str, ...]:
    """The names of the bundled relations, sorted."""
    files = bundled_file("relations").iterdir()
    return tuple(sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json")))


def load_relation(source: RelationLike) -> Relation:
    """Load a relation: a bundled one by its name, or a file by its path.

    Words are stripped of whitespace, and a word that comes twice gets all its answers, each once. A string is a path if
    it has a separator or a suffix, or is on disk and not a bundled name. A Relation is returned as it is.

    A JSON file holds the name and the pairs, a word with its answer or with a list of answers, the answer to show
    first; and, where wanted, words that name the relation (`names`), its kind (`category`) and that of its close kin
    (`family`), see `Relation`:

        {"name": "antonym", "pairs": [["hot", "cold"], ["big", ["small", "little"]]],
         "names": ["opposite"], "category": "lexicographic", "family": "opposite"}

    `[{"input": "hot", "output": "cold"}, ...]` is read as well, and so are tables, .csv (commas) or .tsv (tabs), of a
    word and an answer in each row, a word with several answers in several rows. A first row "word,answer" or
    "input,output" is a header; any other first row is a pair, with a warning where it looks like a header. Such a
    relation has the name of its file.

    Raises:
        InputError: an unknown name; a file that is missing, a folder, not UTF-8, not JSON or in no known format. The
            message names the file and the place in it.

    Example:
        >>> load_relation("antonym")
        Relation('antonym', 255 pairs)
        >>> load_relation("lists/park-country.json")
        Relation('park-country', 748 pairs)
    """
    if isinstance(source, Relation):
        return source
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"{source!r} is not a relation; give a bundled name, the path of a file or a Relation")
    return _bundled(source) if isinstance(source, str) and source in relation_names() else _load(_find(source))


@cache
def _bundled(name: str) -> Relation:
    return _load(bundled_file("relations", f"{name}.json"))


def _load(file: Traversable) -> Relation:
    try:
        suffix = Path(file.name).suffix.lower()
        if suffix in DELIMITERS:
            name = file.name[: -len(suffix)]
            return Relation(name, merge_pairs(*_table_pairs(read_text(file), DELIMITERS[suffix], name)))
        return _parse_relation(_read_json(file), name=file.name.removesuffix(".json"))
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _find(source: FilePath) -> Traversable:
    path = own_path(source)
    if isinstance(source, os.PathLike) or path.name != source or path.suffix or os.path.exists(source):
        return path
    near = _near(source)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise InputError(f"there is no bundled relation {source!r}; {hint}`fv-lens relations` lists all")


def _near(name: str) -> list[str]:
    """Bundled relations with a similar name, then those with a similar entry in `names` ("opposits" -> antonym)."""
    by_label: dict[str, list[str]] = {}
    for relation in map(_bundled, relation_names()):
        for word in relation.names:
            by_label.setdefault(word.lower(), []).append(relation.name)
    near = difflib.get_close_matches(name.lower(), relation_names())
    alike = difflib.get_close_matches(name.lower(), by_label, cutoff=0.8)
    return list(dict.fromkeys([*near, *(known for word in alike for known in by_label[word])]))


def _table_pairs(text: str, delimiter: str, name: str) -> tuple[list[list[str]], list[str]]:
    """The pairs of a table without its header, and the place of each."""
    rows = table_rows(text, delimiter)
    for line, row in rows:
        if len(row) != 2:
            between = "a comma" if delimiter == "," else "a tab"
            raise InputError(f"line {line} is {row!r}; give a word and an answer, {between} between")
    if rows and [cell.strip().lower() for cell in rows[0][1]] in HEADERS:
        rows = rows[1:]
    elif rows and _looks_like_header([row for _, row in rows], name):
        first = delimiter.join(rows[0][1])
        warnings.warn(
            f"{name}: the first line, {first!r}, is read as a pair of words. If it names the columns, delete it or "
            f"write {delimiter.join(HEADERS[1])!r}.",
            stacklevel=2,
        )
    return [row for _, row in rows], [f"line {line}" for line, _ in rows]


def _looks_like_header(rows: list[list[str]], name: str) -> bool:
    """Whether the first row repeats the file's name, or has a lower-case cell above a column of capitalised ones."""
    first, *others = rows
    if {cell.strip().lower() for cell in first} <= set(re.findall(r"[^\W_]+", name.lower())):
        return True
    columns = [[row[i][:1].isupper() for row in others] for i in (0, 1)]
    return any(cell.islower() and sum(column) > CAPITALISED * len(column) for cell, column in zip(first, columns))


def _read_json(file: Traversable) -> Any:
    text = read_text(file)
    try:
        return parse_json(text, what="this file")
    except InputError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and _is_json(lines[0]) and _is_json(lines[1]):
            raise InputError(
                'this file has JSON on every line; a relation is one JSON value. Put the lines in a list: "[" before '
                'the first, "," between lines and "]" after the last. Analogy questions are read by `load_questions`'
            ) from None
        raise InputError(f"{error}; give a JSON file such as {FORMAT}, or a .csv of words and answers") from None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_relation(content: Any, name: str) -> Relation:
    places = None
    if isinstance(content, list):
        for number, item in enumerate(content, 1):
            if not isinstance(item, dict) or not {"input", "output"} <= item.keys():
                raise InputError(f'item {number} is {item!r}; it should be {{"input": word, "output": answer}}')
        places = [f"item {number}" for number in range(1, len(content) + 1)]
        content = {"name": name, "pairs": [[item["input"], item["output"]] for item in content]}
    if not isinstance(content, dict) or not {"name", "pairs"} <= content.keys():
        raise InputError(
            f'the file should hold {FORMAT}, optionally with {OPTIONAL}; or a list of {{"input": ..., "output": ...}}'
        )
    kinds = {"name": str, "pairs": list, "names": list, "category": str | None, "family": str | None}
    for key, kind in kinds.items():
        if key in content and not isinstance(content[key], kind):
            raise InputError(f'"{key}" is {content[key]!r}; it should be a {"list" if kind is list else "string"}')

    pairs = merge_pairs(content["pairs"], places)
    return Relation(**{key: content[key] for key in kinds if key in content} | {"pairs": pairs})
