"""Train, validation and test parts of analogy questions, without a pair in common."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..ground.errors import whole_number
from .questions import Question, digest, unordered

SHARES = (0.4, 0.2, 0.4)  # of train, validation and test, as in `Relation.split`


class Questions(NamedTuple):
    """Parts of a list of questions: composites are fitted on train, chosen on validation, and test is reported."""

    train: list[Question]
    validation: list[Question]
    test: list[Question]


def split_questions(questions: Sequence[Question], seed: int = 0) -> Questions:
    """Split questions into train, validation and test, about 2 : 1 : 2 in each relation and in those without one.

    Questions that share a pair, A:B or C:D in either direction, go to the same part; such a group counts for the first
    of its relations. The part depends on the seed (SHA-256) and on the set of questions, not on their order, and each
    part keeps the order given. With few questions a part may be empty.
    """
    seed = whole_number("seed", seed, least=0)
    groups = defaultdict(list)
    for group in _groups_by_pair(questions):
        mark = min(digest(seed, questions[i].identity) for i in group)
        groups[min(questions[i].relation or "" for i in group)].append((-len(group), mark, group))
    part_of, owed = {}, [0.0, 0.0, 0.0]
    for relation in sorted(groups):
        n = sum(len(group) for *_, group in groups[relation])
        # Carry over what earlier relations left uneven, by one question at most: else single ones all go to train.
        missing = [share * n + min(max(debt, -1), 1) for share, debt in zip(SHARES, owed)]
        owed = [debt + share * n for share, debt in zip(SHARES, owed)]
        for size, _, group in sorted(groups[relation]):
            part = missing.index(max(missing))
            missing[part] += size
            owed[part] += size
            part_of.update(dict.fromkeys(group, part))
    return Questions(*([q for i, q in enumerate(questions) if part_of[i] == part] for part in range(3)))


def families_of(questions: Iterable[Question]) -> dict[str, str]:
    """Relation -> family, for the questions that name both."""
    return {question.relation: question.family for question in questions if question.relation and question.family}


def seen(question: Question, pairs: Iterable[tuple[str, str]]) -> bool:
    """Whether A:B, or C with any of its answers, is among (word, answer) pairs, in either direction or letter case."""
    return not question.used.isdisjoint(unordered(*pair) for pair in pairs)


def _groups_by_pair(questions: Sequence[Question]) -> list[list[int]]:
    """The places of the questions, in groups that shared pairs hold together."""
    group = {pair: {pair} for question in questions for pair in question.used}
    for question in questions:
        joined = set().union(*(group[pair] for pair in question.used))
        group.update(dict.fromkeys(joined, joined))
    places = defaultdict(list)
    for i, question in enumerate(questions):
        places[id(group[next(iter(question.used))])].append(i)
    return list(places.values())
