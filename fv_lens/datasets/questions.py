"""The `Question` type: an analogy A:B :: C:D.

Questions are read from files by `question_files`, made from relations by `question_generator`, and split into parts
without a pair in common by `question_split`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from ..ground.errors import InputError, whole_number
from ..ground.words import check_text
from .prompts import FewShot
from .relation_files import load_relation, relation_names


@dataclass(frozen=True)
class Question:
    """An analogy question A:B :: C:D, to be completed or, if it has choices, answered by choosing.

    Sequences are kept as tuples.

    Args:
        source: A and B.
        pairs: the choices as pairs C:D; none where the question is only completed.
        right: the index in `pairs` of the right choice; None without choices.
        target: C; None where each choice has its own. Set where all choices share it.
        answers: every right D for C, the usual one first; the second word of the right choice if not given.
        relation, family: what A:B and C:D have in common, and the relation's kin; None where not known.
        kinds: of each choice: "right", or what is wrong with it ("associate", "other", "reversed", ...); may be none.
        label: what else the question is known as ("near", "far", a school grade, a domain).

    Raises:
        InputError: a source or choice that is not two words; a word that `check_text` does not take; a single
            choice; `right` out of range; nothing to complete; a right answer among the wrong choices.

    Example:
        >>> question = Question(("hot", "cold"), (("big", "huge"), ("big", "small")), right=1)
        >>> question.completion, question.choices, question.chance
        (('big', ('small',)), ('huge', 'small'), 0.5)
    """

    source: Sequence[str]
    pairs: Sequence[Sequence[str]] = ()
    right: int | None = None
    target: str | None = None
    answers: Sequence[str] = ()
    relation: str | None = None
    family: str | None = None
    kinds: Sequence[str] = ()
    label: str = ""

    def __post_init__(self) -> None:
        source = _two_words(self.source, "The source of a question")
        this = "The question " + ":".join(source)
        if not all(isinstance(part, list | tuple) for part in (self.pairs, self.answers, self.kinds)):
            raise InputError(f"{this} has pairs, answers or kinds that are not lists; give a list of each.")
        pairs = tuple(_two_words(pair, f"A choice of the question {':'.join(source)}") for pair in self.pairs)
        if len(pairs) == 1:
            raise InputError(f"{this} has one choice, {pairs[0]!r}; give at least two, or none to complete it.")
        if (self.right is None) != (not pairs):
            raise InputError(f"{this} has {len(pairs)} choices and right = {self.right!r}; give both or neither.")
        right = None if self.right is None else whole_number("right", self.right, least=0)
        if right is not None and right >= len(pairs):
            raise InputError(f"{this} has right = {self.right}; with {len(pairs)} choices give 0 to {len(pairs) - 1}.")

        firsts = {c for c, _ in pairs}
        target = next(iter(firsts)) if len(firsts) == 1 and self.target is None else self.target
        answers = tuple(self.answers) or (() if right is None else pairs[right][1:])
        if not answers or (target is None and not pairs):
            raise InputError(f"{this} has target {target!r} and no answer or choices; give C and its answers.")
        for word in (*answers, *([] if target is None else [target])):
            check_text(word, f"{this} has the word")
        if target is not None and firsts - {target}:
            raise InputError(
                f"{this} has target {target!r} and choices for {sorted(firsts)}; give pairs of the target."
            )
        if right is not None:
            c, d = pairs[right]
            if d not in answers:
                raise InputError(f"{this} has the right choice {c}:{d} and the answers {answers}; list {d!r} there.")
            for i, pair in enumerate(pairs):
                if i != right and pair[0] == c and pair[1] in answers:
                    raise InputError(
                        f"{this} has {':'.join(pair)}, a right answer, among its wrong choices; remove it."
                    )
        if self.kinds and len(self.kinds) != len(pairs):
            raise InputError(f"{this} has {len(self.kinds)} kinds and {len(pairs)} choices; give one kind per choice.")
        if not all(isinstance(kind, str) for kind in self.kinds):
            raise InputError(f"{this} has kinds {self.kinds!r}; give text.")
        for name in ("relation", "family"):
            if getattr(self, name) is not None:
                check_text(getattr(self, name), f"{this} has the {name}")

        # The dataclass is frozen for its users; this is its own normal form.
        normal = {"source": source, "pairs": pairs, "target": target, "answers": answers, "kinds": tuple(self.kinds)}
        for name, value in normal.items():
            object.__setattr__(self, name, value)

    @property
    def completion(self) -> tuple[str, tuple[str, ...]]:
        """C and every right D, the usual one first: of the target, or else of the right choice."""
        return (self._right_pair[0] if self.target is None else self.target), tuple(self.answers)

    @property
    def _right_pair(self) -> tuple[str, str]:
        assert self.right is not None  # where there are no choices, there is a target
        c, d = self.pairs[self.right]
        return c, d

    @property
    def choices(self) -> tuple[str, ...] | tuple[tuple[str, str], ...]:
        """Words D where all choices share C, else pairs C:D."""
        return tuple((c, d) for c, d in self.pairs) if self.target is None else tuple(d for _, d in self.pairs)

    @property
    def chance(self) -> float | None:
        """How often guessing is right; None without choices."""
        return 1 / len(self.pairs) if self.pairs else None

    @property
    def kin(self) -> str | None:
        """The family, or the relation where that has none; None where neither is known."""
        return self.family or self.relation

    def asked(self, n_shots: int) -> FewShot:
        """The prompt that asks for D, with A:B as its demonstration if `n_shots` is 1."""
        target, answers = self.completion
        return FewShot(target, answers, ((self.source[0], self.source[1]),) if n_shots else ())

    @property
    def identity(self) -> tuple[Any, ...]:
        """Relation, source and completion, without the choices: the key by which questions are ordered (hashed)."""
        return self.relation, self.source, self.completion

    @cached_property
    def used(self) -> frozenset[frozenset[str]]:
        """The pairs A:B and C:D, with every answer D, whatever their order and letter case."""
        target, answers = self.completion
        return frozenset([unordered(*self.source), *(unordered(target, answer) for answer in answers)])

    def shuffled(self, seed: int = 0) -> "Question":
        """The question with its choices in an order that depends on seed and question alone."""
        if self.right is None:
            return self
        identity = self.identity
        order = sorted(range(len(self.pairs)), key=lambda i: digest(seed, identity, self.pairs[i]))
        kinds = tuple(self.kinds[i] for i in order) if self.kinds else ()
        return replace(self, pairs=tuple(self.pairs[i] for i in order), right=order.index(self.right), kinds=kinds)

    def reversed(self) -> "Question":
        """B:A :: D:C: source and choices turned round; D is the usual answer, or that of the right choice."""
        target, answers = self.completion
        d = self._right_pair[1] if self.pairs else answers[0]
        pairs = tuple((d, c) for c, d in self.pairs)
        return replace(self, source=self.source[::-1], pairs=pairs, target=None if pairs else d, answers=(target,))

    def as_pairs(self) -> "Question":
        """The question with pairs C:D to choose from, and D:C as one more that is "reversed".

        D:C is not added if it is a choice already, or if it is right as well because the bundled list of the relation
        has pairs in both directions (antonym).
        """
        if not self.pairs:
            raise InputError(f"The question {':'.join(self.source)} has no choices; use a question that has some.")
        back = self._right_pair[::-1]
        if back in self.pairs or (self.relation is not None and _symmetric(self.relation)):
            return self
        kinds = self.kinds or tuple("right" if i == self.right else "" for i in range(len(self.pairs)))
        return replace(self, pairs=(*self.pairs, back), target=None, kinds=(*kinds, "reversed"))


@cache
def _symmetric(relation: str) -> bool:
    """Whether the bundled list of a relation holds a pair in both directions; False where there is none."""
    answers = load_relation(relation).answers if relation in relation_names() else {}
    return any(word in answers.get(answer, ()) for word in answers for answer in answers[word])


def unordered(a: str, b: str) -> frozenset[str]:
    """A pair whatever its direction and letter case."""
    return frozenset((a.casefold(), b.casefold()))


def digest(*parts: Any) -> str:
    """SHA-256 of plain data, to order things by: the same on every machine."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _two_words(pair: Any, what: str) -> tuple[str, str]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise InputError(f"{what} is {pair!r}; give two words.")
    for word in pair:
        check_text(word, f"{what} has the word")
    return pair[0], pair[1]
