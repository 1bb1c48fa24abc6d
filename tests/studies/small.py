"""A small study: few short relations of few answers, a tiny model, and settings that make each step quick."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd

from fv_lens.datasets.relations import Relation, Split
from fv_lens.models.lens import lens_of
from fv_lens.studies.folders import OutputFolder
from fv_lens.studies.job import Job
from fv_lens.studies.reproduce.setup import Settings, Study
from fv_lens.studies.reproduce.study import reproduce
from fv_lens.vectors import lessons

from .. import oracles, tiny

SMALL = dict(
    n_pairs=8, n_validation=5, n_test=6, n_shots=3, n_together=6, map_prompts=2, mean_prompts=3, head_counts=(2, 3),
    strengths=(1.0, 4.0), draws=2, steps=8, rate=0.2, curve=(1, 4), seeds=2,
)  # fmt: skip
KIN = {"a": ("f", "one"), "b": ("g", "one"), "c": ("f", "two"), "d": ("h", "two"), "e": ("i", "two")}


def made(name: str, at: int = 0, n: int = 40, **kin) -> Relation:
    """Few first answers, of one or two tokens, so that a vector learns them; many others, so that some come anyway."""
    words = [f"w{i} w{i + 1}" if i % 5 == 0 else f"w{i}" for i in range(n)]
    first = [f"w{100 + 5 * at + i % 4}" + " w90" * (i % 2) for i in range(n)]
    others = [[f"w{125 + (7 * i + 11 * j + at) % 40}" for j in range(6)] for i in range(n)]
    return Relation(name, [(w, [x, *more]) for w, x, more in zip(words, first, others)], [f"w{150 + at}"], **kin)


def relations() -> list[Relation]:
    return [made(name, at, family=f, category=c) for at, (name, (f, c)) in enumerate(KIN.items())]


def studied(name: str = "llama"):
    """A tiny model to which half of all tokens end an answer, so that some answers are right as a whole."""
    model = tiny.bent() if name == "bent" else tiny.build(name)
    lens_of(model).state.endings = oracles.some_endings()
    return model


def with_permuted_test(relation: Relation, settings: Settings) -> Relation:
    """The relation as a study cuts it, with the answers of its test words passed round among them."""
    train, validation, test = relation.limited(settings.n_pairs, settings.n_validation, settings.n_test).split()
    answers = [listed for _, listed in test.pairs[1:] + test.pairs[:1]]
    other = relation.with_pairs(list(zip(test.words, answers)))
    pairs = [*train.pairs, *validation.pairs, *other.pairs]
    return replace(relation, pairs=pairs, parts=Split(train, validation, other), cut_from=relation.hash)


def study_of(model, given=None, **settings) -> Study:
    return Study(model, relations() if given is None else given, Settings(**SMALL | settings))


def demonstrated(text: str) -> list[tuple[str, str]]:
    """The (word, answer) pairs shown in a prompt of the default template."""
    return re.findall(r"Q: (.*)\nA: (.*)\n", text)


def breaking(monkeypatch, name: str):
    """Tuning breaks for one relation."""
    make = lessons._vector

    def broken(lens, lesson, of, result, *more):
        result = replace(result, vector=None, step=3) if lesson.name == name else result
        return make(lens, lesson, of, result, *more)

    monkeypatch.setattr(lessons, "_vector", broken)


def run(study: Study, out: Path, told: list | None = None, **facts: str) -> pd.DataFrame:
    tell = (lambda line: None) if told is None else told.append
    with OutputFolder(out, "reproduce") as folder:
        return reproduce(study, Job(folder, "fv-lens reproduce", tell), facts)


def small_study(model) -> Study:
    return study_of(model, relations()[:2], steps=2, curve=(1,))
