"""Analogy questions on pairs that no vector was tuned on."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..datasets.questions import Question, unordered
from ..datasets.relation_files import load_relation, relation_names
from ..datasets.relations import Relation
from ..ground.errors import InputError
from ..vectors.function_vector import FunctionVector


def unseen(
    questions: Iterable[Question], vectors: Iterable[FunctionVector], relations: Iterable[Relation] = ()
) -> tuple[list[Question], list[Question]]:
    """Separate the questions to keep from those that a vector may have learnt from, which are to be left out.

    Tuned vectors record their train and validation pairs (those of an earlier version the first words alone) and the
    names of their relations; so do the parents of combined ones. The rule errs on the side of leaving out: a question
    is left out if A or C is among the words of a vector of the question's relation, or of any vector if the relation of
    either is unknown. A question of any relation is left out if A:B or C:D is a pair that a vector was tuned on, in
    either direction: otherwise a pair under another relation's name would pass. Letter case is ignored. Untuned vectors
    leave out nothing, nor do composites, which record their parents without the words.

    Args:
        questions: kept and left out in their order.
        vectors: such as the values of a library.
        relations: the relations that the vectors were tuned on, unless bundled, for vectors without answers.

    Example:
        >>> kept, left_out = unseen(load_questions(), vectors.values())
    """
    words: dict[str | None, set[str]] = defaultdict(set)
    pairs: set[frozenset[str]] = set()
    own: dict[str | None, Relation] = {relation.name: relation for relation in relations}
    bundled: dict[str | None, Relation] = {name: load_relation(name) for name in relation_names()}
    for name, tuned, listed in _tuned_words(fv.record for fv in vectors):
        words[name].update(word.casefold() for word in tuned)
        pairs.update(unordered(word, answer) for word, answers in zip(tuned, listed) for answer in answers)
        for relation in (own.get(name), bundled.get(name)):
            answers = relation.answers if relation else {}
            pairs.update(unordered(word, answer) for word in tuned for answer in answers.get(word, ()))
    everything: set[str] = set().union(*words.values())

    def may_be_known(question: Question) -> bool:
        listed = everything if question.relation is None else words[question.relation] | words[None]
        firsts = {question.source[0].casefold(), question.completion[0].casefold()}
        return not (firsts.isdisjoint(listed) and question.used.isdisjoint(pairs))

    parted = [(may_be_known(question), question) for question in questions]
    return [q for out, q in parted if not out], [q for out, q in parted if out]


def some_unseen(questions: Sequence[Question], vectors: Iterable[FunctionVector]) -> tuple[list[Question], int]:
    """The questions that `unseen` keeps, and how many it leaves out; an InputError where none is left."""
    kept, left_out = unseen(questions, vectors)
    if not kept:
        raise InputError(f"No question is left of {len(questions)}; {len(left_out)} have a pair that was tuned on.")
    return kept, len(left_out)


def _tuned_words(
    records: Iterable[Mapping[str, Any]],
) -> Iterator[tuple[str | None, list[str], Sequence[Sequence[str]]]]:
    """Relation, first words and answers (where recorded) of what each vector, or a parent of it, was tuned on."""
    for record in records:
        training = record["training"] or {}
        words = [*training.get("train_words", ()), *training.get("validation_words", ())]
        yield record["relation"], words, training.get("word_answers", ())
        yield from _tuned_words(parent for _, parent in record["parents"])
