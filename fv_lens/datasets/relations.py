"""Relations: named word pairs, where a word may have several right answers, and how they are split."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..ground.errors import InputError, whole_number
from ..ground.markup import card, escape, facts, table
from ..ground.words import check_text

if TYPE_CHECKING:
    import pandas as pd


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
        split_seed: which split the relation is dealt in (see `with_split`).
        cut_from: `hash` of the relation that this one was cut from by `limited`.

    Raises:
        InputError: an empty name; no pairs; a pair that is not two things; a word or answer that is not a string, is
            empty, begins or ends with whitespace or holds what cannot be seen (`check_text`); a word given twice; an
            answer listed twice for one word.

    Example:
        >>> relation = Relation("antonym", [("hot", "cold"), ("big", ["small", "little"])], names=["opposite"])
        >>> relation.pairs
        (('hot', ('cold',)), ('big', ('small', 'little')))
    """

    name: str
    pairs: Sequence[Any]
    names: Sequence[str] = ()
    category: str | None = None
    family: str | None = None
    parts: "Split | None" = field(default=None, repr=False, compare=False)
    split_seed: int = 0
    cut_from: str | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_text(self.name, "the name of a relation is")
        if not isinstance(self.pairs, list | tuple) or not self.pairs:
            raise InputError(f"relation {self.name!r} has pairs {self.pairs!r}; give a list of (word, answer)")
        if not isinstance(self.names, list | tuple):
            raise InputError(f"relation {self.name!r} has names {self.names!r}; give a list of words")
        labels = [label for label in (self.category, self.family) if label is not None]
        for text in (*self.names, *labels):
            check_text(text, f"a name, category or family of relation {self.name!r} is")

        parsed = [_parse_pair(pair, f"pair {n} of relation {self.name!r}") for n, pair in enumerate(self.pairs, 1)]
        first: dict[str, int] = {}
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
        object.__setattr__(self, "split_seed", whole_number("split_seed", self.split_seed, least=0))

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"Relation({self.name!r}, {len(self)} pairs)"

    def _repr_html_(self) -> str:
        about = {"pairs": len(self), "category": self.category, "family": self.family, "names": ", ".join(self.names)}
        rows = [(word, escape(", ".join(answers), 1000)) for word, answers in self.pairs]
        return card("Relation", self.name, facts(about), table(["word", "right answers"], rows, words=True, most=8))

    def to_frame(self) -> "pd.DataFrame":
        """One line per pair: word, and the tuple of its right answers."""
        import pandas as pd  # slow to import, and commands read relations

        return pd.DataFrame(self.pairs, columns=["word", "answers"])

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
        """SHA-256, in hexadecimal, of the name and the pairs in order, which identifies the data of a result.

        A relation cut by `limited` has the hash of the whole one, whose split its parts come from.
        """
        parts = {"name": self.name, "pairs": self.pairs}
        return self.cut_from or _sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")))

    def with_split(self, seed: int) -> "Relation":
        """The relation with another split: everything made from it uses the parts of `split(seed)`.

        Raises:
            InputError: the relation has parts of its own, of another split.

        Example:
            >>> relation = load_relation("antonym").with_split(1)
            >>> fv = finetune(model, relation)  # on train words of split 1, which its record says
        """
        if self.parts is not None and seed != self.split_seed:
            raise InputError(
                f"relation {self.name!r} is cut to parts of split {self.split_seed} and cannot be split with seed "
                f"{seed}; call with_split on the whole relation, then cut it"
            )
        return replace(self, split_seed=seed)

    def split(self, seed: int | None = None) -> "Split":
        """Deal the pairs to train (two fifths, rounded up), validation (one fifth, rounded down) and test (the rest).

        The order is that of SHA-256 of the seed and the word: the same on every machine, whatever the order of the
        pairs. A pair and its reversal (hot: cold, cold: hot) land in the same part, or training would show what the
        test asks. If such groups miss the sizes, other orders are tried and the one that comes nearest is kept.

        The seed is `split_seed` unless another is given.

        Raises:
            InputError: fewer than 5 pairs, or fewer than 3 groups, so that a part would be empty.

        Example:
            >>> [len(part) for part in Relation("successor", [(str(n), str(n + 1)) for n in range(10)]).split()]
            [4, 2, 4]
        """
        seed = self.split_seed if seed is None else whole_number("seed", seed, least=0)
        n, groups = len(self), self._reversal_groups()
        if self.parts is not None:
            return self.parts
        if n < 5 or len(groups) < 3:
            raise InputError(
                f"relation {self.name!r} cannot be split into train, validation and test: it has {n} pairs, in "
                f"{len(groups)} groups once each pair is kept with its reversal; give at least 5 pairs in 3 groups"
            )
        n_train, n_validation = math.ceil(n * 2 / 5), n // 5
        sizes = (n_train, n_validation, n - n_train - n_validation)
        nearest: list[list[str]] = []
        fewest = math.inf
        for attempt in range(500):
            salt = f"{seed}.{attempt}" if attempt else f"{seed}"
            parts = _deal(sorted(groups, key=lambda group: _sha256(f"{salt}:{group[0]}")), sizes)
            misplaced = sum(abs(len(part) - size) for part, size in zip(parts, sizes))
            if misplaced < fewest:
                nearest, fewest = parts, misplaced
            if misplaced == 0:
                break
        pairs = [[(word, self.answers[word]) for word in words] for words in nearest]
        return Split(*(replace(self, pairs=part, split_seed=seed) for part in pairs))

    def limited(self, train: int, validation: int, test: int) -> "Relation":
        """The relation with at most that many pairs in each part of its split, which is its only split from then on.

        Example:
            >>> [len(part) for part in load_relation("antonym").limited(20, 10, 20).split()]
            [20, 10, 20]
        """
        sizes = [whole_number("a part's size", size, least=1) for size in (train, validation, test)]
        parts = Split(*(self.with_pairs(part.pairs[:size]) for part, size in zip(self.split(), sizes)))
        kept = self.with_pairs([pair for part in parts for pair in part.pairs])
        return replace(kept, parts=parts, cut_from=self.hash)

    def with_pairs(self, pairs: Sequence[Any]) -> "Relation":
        """The relation with other pairs: its name, names, category, family and split seed stay."""
        return replace(self, pairs=pairs, parts=None, cut_from=None)

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

    def _repr_html_(self) -> str:
        first = [", ".join(f"{word}: {answers[0]}" for word, answers in part.pairs[:4]) for part in self]
        rows = zip(self._fields, map(len, self), first)
        return card("Split", self.train.name, table(["part", "pairs", "the first of them"], rows, words=True))

    def to_frame(self) -> "pd.DataFrame":
        """One line per pair: part, word, and the tuple of its right answers."""
        import pandas as pd

        lines = [(name, *pair) for name, part in zip(self._fields, self) for pair in part.pairs]
        return pd.DataFrame(lines, columns=["part", "word", "answers"])


def pairs_for(n_train: int) -> int:
    """Number of pairs that a relation needs for a train part of `n_train` (see `Relation.split`).

    Pairs that must stay with their reversals may take a few more.

    Example:
        >>> pairs_for(11)
        26
    """
    return 5 * (n_train - 1) // 2 + 1


def merge_pairs(pairs: Sequence[Any], places: Sequence[str] | None = None) -> list[tuple[str, tuple[str, ...]]]:
    """The pairs with whitespace stripped, each word once with all its answers, each answer once, in their order.

    `places`: what errors call each pair; "pair 1" and so on by default.
    """
    merged: dict[str, dict[str, None]] = {}
    for place, pair in zip(places or [f"pair {number}" for number in range(1, len(pairs) + 1)], pairs):
        word, answers = _parse_pair(pair, place, strip=True)
        merged.setdefault(word, {}).update(dict.fromkeys(answers))
    return [(word, tuple(answers)) for word, answers in merged.items()]


def _parse_pair(pair: Any, where: str, strip: bool = False) -> tuple[str, tuple[str, ...]]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise InputError(f"{where} is {pair!r}; give (word, answer) or (word, [answer, ...])")
    word, answers = pair
    texts = [word, *answers] if isinstance(answers, list | tuple) else [word, answers]
    if len(texts) == 1:
        raise InputError(f"{where}, {pair!r}, has no answer; give at least one")
    if strip:
        texts = [text.strip() if isinstance(text, str) else text for text in texts]
    for text in texts:
        check_text(text, f"a word of {where}, {pair!r}, is")
    return texts[0], tuple(texts[1:])


def _deal(groups: list[list[str]], sizes: tuple[int, ...]) -> list[list[str]]:
    """Fill one part after the other with the groups that fit, in their order; the last part takes what is left.

    A part takes its first group whatever its size and leaves one to each part after it, so three groups fill three.
    """
    parts: list[list[str]] = []
    n_left = len(groups)
    for n_later, size in zip(reversed(range(len(sizes))), sizes[:-1]):
        part: list[str] = []
        left: list[list[str]] = []
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
