"""Which analogies may serve for what: parts that share no pair, and those whose pairs no vector was tuned on."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .errors import whole_number
from .questions import Question, digest, unordered
from .relation_files import load_relation, relation_names
from .relations import Relation
from .vectors import FunctionVector

SHARES = (0.4, 0.2, 0.4)  # of train, validation and test, as in `Relation.split`


class Questions(NamedTuple):
    """Parts of a list of questions: composites are fitted on train, chosen on validation, and test is reported."""

    train: list[Question]
    validation: list[Question]
    test: list[Question]


def split_questions(questions: Sequence[Question], seed: int = 0) -> Questions:
    """Deal questions to train, validation and test, about 2 : 1 : 2 within each relation, and over those of none.

    Questions that share a pair, A:B or C:D in either direction, come into the same part; such a group counts for the
    first of its relations. Which part depends on the seed (SHA-256) and on which questions there are, not on their
    order, and each part keeps the order given. Where there are few questions, a part may be empty.
    """
    seed = whole_number("seed", seed, least=0)
    groups = defaultdict(list)
    for group in _sharing(questions):
        mark = min(digest(seed, questions[i].identity) for i in group)
        groups[min(questions[i].relation or "" for i in group)].append((-len(group), mark, group))
    part_of, owed = {}, [0.0, 0.0, 0.0]
    for relation in sorted(groups):
        n = sum(len(group) for *_, group in groups[relation])
        # What earlier relations left uneven is made up, by one question at most: else single ones all went to train.
        missing = [share * n + min(max(debt, -1), 1) for share, debt in zip(SHARES, owed)]
        owed = [debt + share * n for share, debt in zip(SHARES, owed)]
        for size, _, group in sorted(groups[relation]):
            part = missing.index(max(missing))
            missing[part] += size
            owed[part] += size
            part_of.update(dict.fromkeys(group, part))
    return Questions(*([q for i, q in enumerate(questions) if part_of[i] == part] for part in range(3)))


def families_of(questions: Iterable[Question]) -> dict[str, str]:
    """The relations of known family, with it."""
    return {question.relation: question.family for question in questions if question.relation and question.family}


def seen(question: Question, pairs: Iterable[tuple[str, str]]) -> bool:
    """Whether A:B, or C with any of its answers, is among (word, answer) pairs, in either direction or letter case."""
    return not question.used.isdisjoint(unordered(*pair) for pair in pairs)


def unseen(
    questions: Iterable[Question], vectors: Iterable[FunctionVector], relations: Iterable[Relation] = ()
) -> tuple[list[Question], list[Question]]:
    """Part questions into those to keep and those that a vector may have learnt from, to be left out.

    Tuned vectors record the first words of their train and validation pairs, not the answers, and the names of their
    relations; so do the parents of combined ones. The careful rule is therefore: a question is left out if A or C is
    among the words of a vector of the question's relation, or, where the question or the vector has no known relation,
    of any. Where the answers are known too, a question of any relation is left out if A:B or C:D is a pair that a
    vector was tuned on, in either direction: without that a pair under another relation's name would pass. Letter case
    is ignored. Untuned vectors leave out nothing.

    Args:
        questions: kept and left out in their order.
        vectors: such as the values of a library.
        relations: what the vectors were tuned on, where it is not bundled, so that the answers are known.

    Example:
        >>> kept, left_out = unseen(load_questions(), vectors.values())
    """
    words, pairs, own = defaultdict(set), set(), {relation.name: relation for relation in relations}
    bundled = {name: load_relation(name) for name in relation_names()}
    for name, tuned in _tuned(fv.record for fv in vectors):
        words[name].update(word.casefold() for word in tuned)
        for relation in (own.get(name), bundled.get(name)):
            answers = relation.answers if relation else {}
            pairs.update(unordered(word, answer) for word in tuned for answer in answers.get(word, ()))
    everything = set().union(*words.values())

    def known(question: Question) -> bool:
        listed = everything if question.relation is None else words[question.relation] | words[None]
        firsts = {question.source[0].casefold(), question.completion[0].casefold()}
        return not (firsts.isdisjoint(listed) and question.used.isdisjoint(pairs))

    parted = [(known(question), question) for question in questions]
    return [q for out, q in parted if not out], [q for out, q in parted if out]


def _tuned(records: Iterable[Mapping]) -> Iterator[tuple[str | None, list[str]]]:
    """The relation and the first words of what each vector, and each it was combined from, was tuned on."""
    for record in records:
        training = record["training"] or {}
        yield record["relation"], [*training.get("train_words", ()), *training.get("validation_words", ())]
        yield from _tuned(parent for _, parent in record["parents"])


def _sharing(questions: Sequence[Question]) -> list[list[int]]:
    """The places of the questions, in groups that shared pairs hold together."""
    group = {pair: {pair} for question in questions for pair in question.used}
    for question in questions:
        joined = set().union(*(group[pair] for pair in question.used))
        group.update(dict.fromkeys(joined, joined))
    places = defaultdict(list)
    for i, question in enumerate(questions):
        places[id(group[next(iter(question.used))])].append(i)
    return list(places.values())
