"""Analogy questions made from the pairs of relations: A:B and C:D are two pairs of one of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Literal

from ..ground.errors import InputError, whole_number
from .question_split import Questions
from .questions import Question, digest
from .relation_files import RelationLike, load_relation
from .relations import Relation

Pair = tuple[str, tuple[str, ...]]


def generate(
    relations: Iterable[RelationLike] | Mapping[str, RelationLike],
    n_each: int = 10,
    seed: int = 0,
    part: Literal["train", "validation", "test"] = "test",
    n_choices: int | None = None,
) -> list[Question]:
    """Questions that each combine two pairs of one relation: `n_each` per relation, all different, fixed by the seed.

    The words of a question, with all answers for C, are all different; B is the usual answer of A. A relation without a
    family counts as a family of its own.

    Args:
        relations: Relations, or what `load_relation` takes; a mapping gives its values.
        n_each: questions per relation.
        seed: seed of the relations' split, and of which pairs are combined.
        part: the part of the split whose pairs are used: "train", "validation" or "test".
        n_choices: how many words to choose from; None for questions without choices. About half of the wrong ones are
            answers to other words of the relation ("other"); the rest come from relations of other families: words
            paired with C there ("associate"), and where these run out answers to any word ("unrelated"). No wrong
            choice is an answer to C in a relation of the same family.

    Raises:
        InputError: no relations; an unknown part; a relation whose part gives fewer questions, or that leaves fewer
            wrong choices, than asked for.

    Example:
        >>> generate(load_bats("BATS_3.0"), n_each=10, n_choices=4)[0].choices
        ('colleges', 'facts', 'weeks', 'university')
    """
    n_each, seed = whole_number("n_each", n_each, least=1), whole_number("seed", seed, least=0)
    n_wrong = 0 if n_choices is None else whole_number("n_choices", n_choices, least=2) - 1
    if part not in Questions._fields:
        raise InputError(f"part is {part!r}; choose from {', '.join(Questions._fields)}.")
    listed = [load_relation(each) for each in (relations.values() if isinstance(relations, Mapping) else relations)]
    if not listed:
        raise InputError("There are no relations to make questions from; give at least one.")
    pairs = {relation.name: getattr(relation.split(seed), part).pairs for relation in listed}
    questions = []
    for relation in listed:
        family, current = relation.family or relation.name, []
        for first, second in _pairings(pairs[relation.name], relation.name, seed):
            (a, (b, *_)), (c, answers) = first, second
            if len({a, b, c, *answers}) == 3 + len(answers):
                current.append(Question((a, b), target=c, answers=answers, relation=relation.name, family=family))
            if len(current) == n_each:
                break
        else:
            raise InputError(
                f"The {part} part of relation {relation.name!r} gives {len(current)} questions without repeated words, "
                f"of {n_each} asked for; ask for fewer, or give a relation of more pairs."
            )
        if n_wrong:
            current = [_with_foils(question, listed, pairs, n_wrong, seed) for question in current]
        questions += current
    return questions


def _pairings(pairs: Sequence[Pair], name: str, seed: int) -> list[tuple[Pair, Pair]]:
    """Every two pairs, both ways round, in an order of their own for each seed."""
    return sorted(permutations(pairs, 2), key=lambda two: digest(seed, name, two[0][0], two[1][0]))


def _with_foils(
    question: Question, relations: Sequence[Relation], pairs: Mapping[str, Sequence[Pair]], n_wrong: int, seed: int
) -> Question:
    """The question with the usual answer and `n_wrong` words that are wrong for C, to choose from."""
    target, answers = question.completion
    kin = [relation for relation in relations if (relation.family or relation.name) == question.family]
    others = [relation for relation in relations if relation not in kin]
    used = {*question.source, target, *answers, *_partners(kin, target)}
    used_words = {word.casefold() for word in used}
    chosen: list[tuple[str, str]] = []

    def draw(words: Iterable[str], kind: str, n: int) -> None:
        for word in sorted(set(words), key=lambda word: digest(seed, question.identity, word)):
            if n > 0 and word.casefold() not in used_words:
                used_words.add(word.casefold())
                chosen.append((word, kind))
                n -= 1

    same = [usual for _, (usual, *_) in pairs[question.relation or ""]]
    draw(same, "other", math.ceil(n_wrong / 2))
    draw(_partners(others, target), "associate", n_wrong - len(chosen))
    elsewhere = [usual for relation in others for _, (usual, *_) in pairs[relation.name]]
    draw(elsewhere, "unrelated", n_wrong - len(chosen))
    draw(same, "other", n_wrong - len(chosen))
    if len(chosen) < n_wrong:
        raise InputError(
            f"The relations leave {len(chosen)} wrong choices for {target!r} of {question.relation!r}, of {n_wrong} "
            "asked for; give more relations, or ask for fewer choices."
        )
    words, kinds = zip((answers[0], "right"), *chosen)
    choices = tuple((target, word) for word in words)
    return replace(question, pairs=choices, right=0, kinds=kinds).shuffled(seed)


def _partners(relations: Iterable[Relation], word: str) -> set[str]:
    """The words that stand in a pair with `word`, on either side."""
    partners: set[str] = set()
    for relation in relations:
        partners.update(relation.answers.get(word, ()))
        partners.update(first for first, answers in relation.pairs if word in answers)
    return partners
