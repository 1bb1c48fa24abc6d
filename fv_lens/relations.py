"""Relations: named word pairs, where a word may have several right answers; their splits and their files.

Two file formats are read: our own, `{"name": "antonym", "pairs": [["hot", "cold"], ["big", ["small", "little"]]]}` with
"names", "category" and "family" where wanted; and that of Todd et al. 2024 (github.com/ericwtodd/function_vectors),
`[{"input": "hot", "output": "cold"}, ...]`.
"""

import difflib
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from .errors import InputError, whole_number


@dataclass(frozen=True, repr=False)
class Relation:
    """A relation, given by its word pairs.

    Args:
        name: what the relation is called.
        pairs: a list of `(word, answer)` or `(word, [answer, ...])`, the answer to show first; kept as a tuple of
            `(word, (answer, ...))`.
        names: words that name the relation, which decoding looks for ("opposite").
        category: the kind of relation ("lexicographic").
        family: relations of one family are close kin (three forms of the past tense), to be left out together.
        parts: the split, where it is given and not dealt (see `limited`).

    Raises:
        InputError: an empty name; no pairs; a pair that is not two things; a word or answer that is not a string, is
            empty, or begins or ends with whitespace; a word given twice; an answer listed twice for one word.

    Example:
        >>> relation = Relation("antonym", [("hot", "cold"), ("big", ["small", "little"])], names=["opposite"])
        >>> relation.pairs
        (('hot', ('cold',)), ('big', ('small', 'little')))
    """

    name: str
    pairs: Sequence
    names: Sequence = ()
    category: str | None = None
    family: str | None = None
    parts: "Split | None" = field(default=None, repr=False, compare=False)

    def __post_init__(self):
        _check_text(self.name, "the name of a relation")
        if not isinstance(self.pairs, list | tuple) or not self.pairs:
            raise InputError(f"relation {self.name!r} has pairs {self.pairs!r}; give a list of (word, answer)")
        if not isinstance(self.names, list | tuple):
            raise InputError(f"relation {self.name!r} has names {self.names!r}; give a list of words")
        labels = [label for label in (self.category, self.family) if label is not None]
        for text in (*self.names, *labels):
            _check_text(text, f"a name, category or family of relation {self.name!r}")

        parsed = [_parse_pair(pair, f"pair {n} of relation {self.name!r}") for n, pair in enumerate(self.pairs, 1)]
        first = {}
        for number, (word, answers) in enumerate(parsed, 1):
            if first.setdefault(word, number) < number:
                raise InputError(
                    f"pairs {first[word]} and {number} of relation {self.name!r} are both for {word!r}; "
                    "give the word once, with a list of its answers"
                )
            if len(set(answers)) < len(answers):
                raise InputError(f"pair {number} of relation {self.name!r}, {word!r}, lists an answer twice: {answers}")
        # The dataclass is frozen for its users; this is its own normal form.
        object.__setattr__(self, "pairs", tuple(parsed))
        object.__setattr__(self, "names", tuple(self.names))

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"Relation({self.name!r}, {len(self)} pairs)"

    @property
    def words(self) -> tuple[str, ...]:
        """The first word of each pair."""
        return tuple(word for word, _ in self.pairs)

    @cached_property
    def answers(self) -> dict[str, tuple[str, ...]]:
        """The right answers of each word."""
        return dict(self.pairs)

    @property
    def hash(self) -> str:
        """SHA-256, in hexadecimal, of the name and the pairs in their order: tells which data a result came from."""
        return _sha256(json.dumps({"name": self.name, "pairs": self.pairs}, sort_keys=True, separators=(",", ":")))

    def split(self, seed: int = 0) -> "Split":
        """Deal the pairs to train (two fifths, rounded up), validation (one fifth, rounded down) and test (the rest).

        The order is that of SHA-256 of the seed and the word: the same on every machine, whatever the order of the
        pairs. A pair and its reversal (hot: cold, cold: hot) land in the same part, or training would show what the
        test asks. If such groups miss the sizes, other orders are tried and the one that comes nearest is kept.

        Raises:
            InputError: fewer than 5 pairs, or fewer than 3 groups, so that a part would be empty.

        Example:
            >>> [len(part) for part in Relation("successor", [(str(n), str(n + 1)) for n in range(10)]).split()]
            [4, 2, 4]
        """
        seed, n, groups = whole_number("seed", seed, least=0), len(self), self._reversal_groups()
        if self.parts is not None:
            return self.parts
        if n < 5 or len(groups) < 3:
            raise InputError(
                f"relation {self.name!r} cannot be split into train, validation and test: it has {n} pairs, in "
                f"{len(groups)} groups once each pair is kept with its reversal; give at least 5 pairs in 3 groups"
            )
        n_train, n_validation = math.ceil(n * 2 / 5), n // 5
        sizes = (n_train, n_validation, n - n_train - n_validation)
        nearest, fewest = None, math.inf
        for attempt in range(500):
            salt = f"{seed}.{attempt}" if attempt else f"{seed}"
            parts = _deal(sorted(groups, key=lambda group: _sha256(f"{salt}:{group[0]}")), sizes)
            misplaced = sum(abs(len(part) - size) for part, size in zip(parts, sizes))
            if misplaced < fewest:
                nearest, fewest = parts, misplaced
            if misplaced == 0:
                break
        pairs = [[(word, self.answers[word]) for word in words] for words in nearest]
        return Split(*map(self.with_pairs, pairs))

    def limited(self, train: int, validation: int, test: int, seed: int = 0) -> "Relation":
        """The relation with at most so many pairs in each part of `split(seed)`, which is its only split from then on.

        Example:
            >>> [len(part) for part in load_relation("antonym").limited(20, 10, 20).split()]
            [20, 10, 20]
        """
        sizes = [whole_number("a part's size", size, least=1) for size in (train, validation, test)]
        parts = Split(*(self.with_pairs(part.pairs[:size]) for part, size in zip(self.split(seed), sizes)))
        return replace(self.with_pairs([pair for part in parts for pair in part.pairs]), parts=parts)

    def with_pairs(self, pairs: Sequence) -> "Relation":
        """The relation with other pairs: its name, names, category and family stay."""
        return Relation(self.name, pairs, self.names, self.category, self.family)

    def _reversal_groups(self) -> list[list[str]]:
        """The words, sorted within groups that pairs and their reversals hold together."""
        group = {word: {word} for word in self.words}
        for word, answers in self.pairs:
            for answer in answers:
                if word in self.answers.get(answer, ()):
                    joined = group[word] | group[answer]
                    group.update(dict.fromkeys(joined, joined))
        return [sorted(words) for words in {id(words): words for words in group.values()}.values()]


class Split(NamedTuple):
    """The parts of a relation: vectors are made from train, choices on validation, and test is for the report."""

    train: Relation
    validation: Relation
    test: Relation


@cache
def relation_names() -> tuple[str, ...]:
    """The names of the bundled relations, sorted."""
    files = (resources.files("fv_lens") / "data" / "relations").iterdir()
    return tuple(sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json")))


def load_relation(source: object) -> Relation:
    """Load a relation: a bundled one by its name, or a JSON file in one of the two formats above by its path.

    Words are stripped of whitespace, and a word that comes twice gets all its answers, each once. A string is a path if
    it has a separator or a suffix, or is on disk and not a bundled name. A Relation is returned as it is.

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
        raise InputError(f"{source!r} is no relation; give a bundled name, the path of a JSON file or a Relation")
    return _bundled(source) if source in relation_names() else _load(_find(source))


@cache
def _bundled(name: str) -> Relation:
    return _load(resources.files("fv_lens") / "data" / "relations" / f"{name}.json")


def _load(file: Traversable) -> Relation:
    try:
        return _parse_relation(_read_json(file), name=file.name.removesuffix(".json"))
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _find(source: str | os.PathLike) -> Traversable:
    names, path = relation_names(), Path(source)
    if isinstance(source, os.PathLike) or path.name != source or path.suffix or os.path.exists(source):
        return path
    near = difflib.get_close_matches(source, names)
    hint = f"near names are {', '.join(near)}; " if near else ""
    raise InputError(f"no bundled relation is called {source!r}; {hint}`fv-lens relations` lists all")


def read_text(file: Traversable) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises InputError, for the caller to name the file."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except IsADirectoryError:
        raise InputError("this is a folder; give the path of one file") from None
    except FileNotFoundError:
        raise InputError("there is no such file; check the path, or give a bundled name") from None
    except OSError as error:
        raise InputError(f"this file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"this file is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8") from None


def _read_json(file: Traversable) -> object:
    text = read_text(file)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"this file is not JSON: {error}") from None


def _parse_relation(content: object, name: str) -> Relation:
    if isinstance(content, list):
        for number, item in enumerate(content, 1):
            if not isinstance(item, dict) or not {"input", "output"} <= item.keys():
                raise InputError(f'item {number} is {item!r}; it should be {{"input": word, "output": answer}}')
        content = {"name": name, "pairs": [[item["input"], item["output"]] for item in content]}
    if not isinstance(content, dict) or not {"name", "pairs"} <= content.keys():
        raise InputError(
            'the file should hold {"name": ..., "pairs": [...]} or a list of {"input": ..., "output": ...}'
        )
    kinds = {"name": str, "pairs": list, "names": list, "category": str | None, "family": str | None}
    for key, kind in kinds.items():
        if key in content and not isinstance(content[key], kind):
            raise InputError(f'"{key}" is {content[key]!r}; it should be a {"list" if kind is list else "string"}')

    return Relation(**{key: content[key] for key in kinds if key in content} | {"pairs": merge_pairs(content["pairs"])})


def merge_pairs(pairs: list) -> list[tuple[str, tuple[str, ...]]]:
    """The pairs with whitespace stripped, each word once with all its answers, each answer once, in their order."""
    merged = {}
    for number, pair in enumerate(pairs, 1):
        word, answers = _parse_pair(pair, f"pair {number}", strip=True)
        merged.setdefault(word, {}).update(dict.fromkeys(answers))
    return [(word, tuple(answers)) for word, answers in merged.items()]


def _parse_pair(pair: object, where: str, strip: bool = False) -> tuple[str, tuple[str, ...]]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise InputError(f"{where} is {pair!r}; give (word, answer) or (word, [answer, ...])")
    word, answers = pair
    texts = [word, *answers] if isinstance(answers, list | tuple) else [word, answers]
    if len(texts) == 1:
        raise InputError(f"{where}, {pair!r}, has no answer; give at least one")
    if strip:
        texts = [text.strip() if isinstance(text, str) else text for text in texts]
    for text in texts:
        _check_text(text, f"a word of {where}, {pair!r},")
    return texts[0], tuple(texts[1:])


def _check_text(text: object, what: str) -> None:
    # A lone surrogate, which JSON can spell, is a str that no tokenizer takes.
    if not isinstance(text, str) or not text or text != text.strip() or text != text.encode(errors="ignore").decode():
        raise InputError(
            f"{what} is {text!r}; give a string of valid Unicode, not empty, without whitespace at its ends"
        )


def _deal(groups: list[list[str]], sizes: tuple[int, ...]) -> list[list[str]]:
    """Fill one part after the other with the groups that fit, in their order; the last part takes what is left.

    A part takes its first group whatever its size and leaves one to each part after it, so three groups fill three.
    """
    parts, n_left = [], len(groups)
    for n_later, size in zip(reversed(range(len(sizes))), sizes[:-1]):
        part, left = [], []
        for group in groups:
            if not part or (len(part) + len(group) <= size and n_left > n_later):
                part.extend(group)
                n_left -= 1
            else:
                left.append(group)
        parts.append(part)
        groups = left
    return [*parts, [word for group in groups for word in group]]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
