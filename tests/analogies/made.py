"""A library of vectors made up, and questions over the words of the tiny tokenizer."""

from dataclasses import fields

import torch

from fv_lens.analogies.composition import Composition
from fv_lens.analogies.evaluate import evaluate_analogies
from fv_lens.analogies.scores import LIBRARIES, AnalogyScores
from fv_lens.datasets.questions import Question
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector

FAMILIES = {"a": "f", "b": "f", "c": "g", "d": "h", "e": "i"}  # "e" has no vector
LAYER = 1
FULL, RELATION, FAMILY = LIBRARIES


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vectors_of(model, names="abcd", layer: int = LAYER, **more) -> dict[str, FunctionVector]:
    """A vector of each relation, long enough to matter; what a relation gets does not depend on the others."""
    lens = lens_of(model)
    record = dict(model=lens.name, processing=lens.processing, bos=lens.bos) | more
    return {name: FunctionVector(3 * noise(32, seed=ord(name[0])), layer, relation=name, **record) for name in names}


def questions_of(relation: str | None, n: int, at: int, family: str | None = None) -> list[Question]:
    """Few usual answers, so that a vector learns them, many others, so that some are right; prompts of two lengths."""

    def answers(i: int) -> tuple[str, ...]:
        return (f"w{150 + (at + i + 1) % 4}", *(f"w{(at + 13 * i + 9 * j) % 150}" for j in range(30)))

    return [
        Question(
            (f"w{at + 2 * i}", f"w{150 + (at + i) % 4}"), target=f"w{at + 2 * i + 1}" + " w98" * (i % 2),
            answers=answers(i), relation=relation, family=family or FAMILIES.get(relation),
        )
        for i in range(n)
    ]  # fmt: skip


def every(n: int, at: int = 0) -> list[Question]:
    return [q for i, relation in enumerate(FAMILIES) for q in questions_of(relation, n + i % 2, at + 10 * i)]


TRAIN, VALIDATION = every(3), every(2, at=60)


def equal(one: Composition, other: Composition) -> bool:
    """Bit by bit."""
    for field in fields(Composition):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if not (torch.equal(a, b) if torch.is_tensor(a) and torch.is_tensor(b) else a is b or a == b):
            return False
    return True


def asked(i: int, relation: str | None, choices: int = 0, pairs: bool = False, **more) -> Question:
    """Words of one and two tokens, and many answers, so that some are right; `choices` with one C or `pairs` of two."""
    source, c = (f"w{4 * i}" + " w99" * (i % 2), f"w{4 * i + 1}"), f"w{4 * i + 2}" + " w98" * (i % 3 == 1)
    first = f"w{100 + 3 * i}" + " w97" * (i % 3 == 0)
    answers = dict.fromkeys([first, *(f"w{100 + (7 * i + 11 * j) % 60}" for j in range(60))])
    wrong = [(f"w{160 + 5 * i % 40 + j}" if pairs else c, f"w{60 + (5 * i + j) % 30}") for j in range(choices - 1)]
    listed, right = [*wrong[:1], (c, first), *wrong[1:]] if choices else [], 1 if choices else None
    own = {"relation": relation, "family": FAMILIES.get(relation)} | more
    return Question(source, listed, right, None if pairs else c, [*answers], **own)


QUESTIONS = [
    asked(0, "a", 3), asked(1, "b"), asked(2, "c", 4, pairs=True), asked(3, "e", 2), asked(4, None, 5, pairs=True),
    asked(5, "d", 3, pairs=True),
]  # fmt: skip


def evaluated(model, questions=QUESTIONS, vectors=None, methods=None, **settings) -> AnalogyScores:
    vectors, methods = vectors or vectors_of(model), {"posterior": "posterior"} if methods is None else methods
    return evaluate_analogies(model, vectors, questions, methods, **settings)
