"""SemEval-2012 Task 2: word pairs of 79 relations, each rated for how well it shows its relation.

Jurgens, Mohammad, Turney & Holyoak (2012), SemEval-2012 Task 2: Measuring Degrees of Relational Similarity
(S12-1047). The set is not bundled; it is a folder with `subcategories-definitions.txt`, `reversals.txt` and the files
`GoldRatings-1a.txt`, wherever they are in it.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..ground.errors import InputError, whole_number
from ..ground.text_files import FilePath, own_path, read_text
from ..ground.words import check_text
from .relations import Relation, Split, merge_pairs

_RATING = re.compile(r'\s*(-?\d+(?:\.\d+)?)\s+"([^":]+):([^":]+)"\s*')
_REVERSAL = re.compile(r"reversal in (\w+):\s*[^:]+:[^:]+ --> ([^:]+):([^:]+)")
_FILE = re.compile(r"GoldRatings-(\d+[a-z])\.txt")
TRAIN_SHARE = 0.7
MOST = 100.0  # percent of judges


@dataclass(frozen=True)
class RatedRelation:
    """A relation with its rated pairs.

    `code` is "1a"; `category` the class ("CLASS-INCLUSION"), `definition` a phrase of X and Y. `ratings` of `pairs`:
    percent of judges who chose the pair as most illustrative minus percent who chose it as least, -100 to 100. Pairs
    that the authors reversed on purpose are left out; there were `n_reversed`.
    """

    code: str
    name: str
    category: str
    definition: str
    pairs: tuple[tuple[str, str], ...]
    ratings: tuple[float, ...]
    n_reversed: int = 0

    @property
    def instances(self) -> list[tuple[str, str]]:
        """The pairs rated above 0, which stand for the relation."""
        return [pair for pair, rating in zip(self.pairs, self.ratings) if rating > 0]

    def relation(self, leave_out: Iterable[Sequence[str]] = (), seed: int = 0) -> Relation:
        """The instances but those left out, dealt 70 : 30 to train and validation by first word; no test part.

        Raises:
            InputError: fewer than 3 first words are left.
        """
        left_out = {tuple(pair) for pair in leave_out}
        kept = [pair for pair in self.instances if pair not in left_out]
        words = sorted({a for a, _ in kept}, key=lambda word: _order(seed, self.code, word))
        if len(words) < 3:
            raise InputError(f"Relation {self.code} has {len(words)} first words left to tune on; it takes 3 or more.")
        n_train = min(len(words) - 1, max(1, round(TRAIN_SHARE * len(words))))
        whole = Relation(
            self.code, merge_pairs([list(pair) for pair in kept]), (), self.category.lower(), self.category
        )
        train, validation = (
            whole.with_pairs([pair for pair in whole.pairs if pair[0] in part_words])
            for part_words in (set(words[:n_train]), set(words[n_train:]))
        )
        # Never scored on words: validation fills the test part, which a Split must have.
        parts = Split(train, validation, validation)
        return Relation(whole.name, whole.pairs, (), whole.category, whole.family, parts)


def halves(relations: Mapping[str, RatedRelation], seed: int = 0) -> dict[str, dict[tuple[str, str], int]]:
    """Code -> pair -> 0 or 1: vectors tuned on one half of every relation are scored on the other.

    A relation's pairs with one first word go together, and so does one pair (or its reversal) wherever it is listed,
    because the library that scores it holds all relations' vectors. The reversal of a pair has the pair's half too.
    """
    group = {(code, a): {(code, a)} for code, relation in relations.items() for a, _ in relation.pairs}
    seen: dict[frozenset[str], tuple[str, str]] = {}
    for code, relation in relations.items():
        for pair in relation.pairs:
            joined = group[seen.setdefault(frozenset(pair), (code, pair[0]))] | group[code, pair[0]]
            group.update(dict.fromkeys(joined, joined))
    surplus, half = dict.fromkeys(relations, 0), {}
    groups = {id(words): sorted(words) for words in group.values()}.values()
    # The largest first, each to the half that its relations have less of.
    ordered = sorted((-len(words), min(_order(seed, *word, "halves") for word in words), words) for words in groups)
    for _, order, words in ordered:
        more = sum(surplus[code] for code, _ in words)
        second = more > 0 or (more == 0 and int(order, 16) % 2 == 1)
        half.update(dict.fromkeys(words, int(second)))
        for code, _ in words:
            surplus[code] += -1 if second else 1
    half_of_pair = {
        code: {pair: half[code, pair[0]] for pair in relation.pairs} for code, relation in relations.items()
    }
    return {code: {pair[::-1]: place for pair, place in pairs.items()} | pairs for code, pairs in half_of_pair.items()}


def load_semeval(folder: FilePath) -> dict[str, RatedRelation]:
    """Read the rated relations of a folder, by code, in the order of the list of definitions.

    Raises:
        InputError: no such folder, a missing file, two files of one relation, a line of another form, a rating
            outside -100..100, a pair or relation listed twice; the message names file and line.

    Example:
        >>> relations = load_semeval("semeval2012")
        >>> len(relations), relations["1a"].name, len(relations["1a"].pairs)
        (79, 'Taxonomic', 36)
    """
    root = own_path(folder)
    if not os.path.isdir(root):
        raise InputError(f"{str(root)!r} is not a folder; give the path of the SemEval-2012 Task 2 data")
    definitions, reversals = (_find(root, name) for name in ("subcategories-definitions.txt", "reversals.txt"))
    files: dict[str, Path] = {}
    for path in sorted(root.rglob("*.txt")):
        if match := _FILE.fullmatch(path.name):
            if (other := files.setdefault(match[1], path)) != path:
                raise InputError(f"{other} and {path} are both for relation {match[1]}; keep one of them")
    if not files:
        raise InputError(f"{str(root)!r} has no ratings; looked in it and its sub-folders for GoldRatings-1a.txt")
    reversed_pairs: dict[str, set[tuple[str, str]]] = {}
    for number, line in _lines(reversals):
        if not line.startswith("#"):
            match = _REVERSAL.fullmatch(line)
            if not match:
                raise InputError(f"{reversals}: line {number} is {line!r}; expected 'reversal in 1a: a:b --> b:a'")
            reversed_pairs.setdefault(match[1], set()).add((match[2].strip(), match[3].strip()))
    relations: dict[str, RatedRelation] = {}
    for number, line in _lines(definitions):
        parts = [part.strip() for part in line.split(",", 4)]
        if len(parts) < 5:
            raise InputError(f"{definitions}: line {number} is {line!r}; expected number, letter, class, name, phrase")
        code = parts[0] + parts[1]
        for text, what in zip(parts, ("number", "letter", "class", "name", "phrase")):
            check_text(text, f"{definitions}: line {number} has the {what}")
        if code in relations:
            raise InputError(f"{definitions}: line {number} is for relation {code}, like an earlier line; keep one")
        if code in files:
            rated = _ratings(files[code])
            pairs = [pair for pair in rated if pair not in reversed_pairs.get(code, ())]
            ratings = tuple(rated[pair] for pair in pairs)
            left_out = len(rated) - len(pairs)
            relations[code] = RatedRelation(code, parts[3], parts[2], parts[4], tuple(pairs), ratings, left_out)
    if missing := sorted(files.keys() - relations.keys()):
        raise InputError(f"{definitions} has no line for relation {missing[0]}, which has ratings; get all files")
    return relations


def _ratings(file: Path) -> dict[tuple[str, str], float]:
    rated: dict[tuple[str, str], float] = {}
    first: dict[tuple[str, str], int] = {}
    for number, line in _lines(file):
        if line.startswith("#"):
            continue
        match = _RATING.fullmatch(line)
        if not match:
            raise InputError(f"""{file}: line {number} is {line!r}; expected a rating and a pair, as in '72.0 "a:b"'""")
        pair, rating = (match[2].strip(), match[3].strip()), float(match[1])
        for word in pair:
            check_text(word, f"{file}: line {number} has the word")
        if abs(rating) > MOST:
            raise InputError(f"{file}: line {number} has the rating {match[1]}; ratings are -100 to 100")
        if (other := first.setdefault(pair, number)) != number:
            raise InputError(f"{file}: lines {other} and {number} both rate {':'.join(pair)}; keep one of them")
        rated[pair] = rating
    if not rated:
        raise InputError(f"{file} has no ratings")
    return rated


def _lines(file: Path) -> list[tuple[int, str]]:
    try:
        text = read_text(file)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _find(folder: Path, name: str) -> Path:
    files = sorted(folder.rglob(name))
    if not files:
        raise InputError(f"{str(folder)!r} has no {name}, nor do its sub-folders; get the whole data package")
    return files[0]


def _order(seed: int, *parts: str) -> str:
    seed = whole_number("seed", seed, least=0)
    return hashlib.sha256(":".join([str(seed), *parts]).encode()).hexdigest()
