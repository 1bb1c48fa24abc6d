"""Questions of a run of analogies on a tiny model, and what makes it quick."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest

from fv_lens.analogies.affine_map import Affine
from fv_lens.analogies.composition import METHODS, Composition
from fv_lens.analogies.fit import fit_compositions
from fv_lens.analogies.fit_affine import AffineFits
from fv_lens.datasets.questions import Question
from fv_lens.studies.analogies import steps, study
from fv_lens.studies.analogies.files import packed, unpacked
from fv_lens.vectors.function_vector import FunctionVector

from ...analogies.made import TRAIN, VALIDATION, noise, vectors_of
from ...analogies.made import asked as asked_at_length

FILES = ["by_question.csv", "composites", "report.html", "results.csv", "stages", "summary.json"]


def asked(*args, **more) -> Question:
    question = asked_at_length(*args, **more)
    return replace(question, answers=question.answers[:20])


QUESTIONS = [asked(0, "a", 3), asked(1, "b"), asked(2, "c", 4, pairs=True), asked(4, None, 5, pairs=True)]
PARTS = (TRAIN, VALIDATION, QUESTIONS)
CHOOSE_ON = [replace(asked(i, "abcde"[i % 5], 3), source=(f"w{i}", f"w{i + 60}")) for i in range(6, 10)]
FEW = {"shared alone": [Composition("none")], "shared + composite": [Composition(scale=s) for s in (0.25, 0.5)]}
AFFINE = {"affine, diagonal": [Affine()]}
AFFINE_FILES = ["affine-diagonal-one-shot.safetensors", "affine-diagonal-zero-shot.safetensors"]
BUNDLED = ("antonym", "hypernym", "synonym", "tool-action")
NAMED = {name: METHODS[name] for name in ("posterior", "single best")}


@contextmanager
def quick(fits: list | None = None, items: int = 1, known: dict | None = None):
    """Fewer settings, steps, methods and single answers than by default.

    Args:
        fits: gets the number of questions of each fit.
        known: what was fitted before; the same model, vectors and questions are not fitted again.
    """
    known = {} if known is None else known

    def fit(model, vectors, train, validation, how):
        if fits is not None:
            fits.append((len(train), len(validation)))
        key = "fit", id(model), of_vectors(vectors), repr((train, validation, how))
        if key not in known:
            known[key] = fit_compositions(model, vectors, train, validation, candidates=FEW, how=replace(how, steps=2))
        return known[key]

    def fit_affine(model, vectors, train, validation, seed, stages):
        key = "affine", id(model), of_vectors(vectors), repr((train, validation, seed))
        if key not in known:
            known[key] = steps.fit_affine_all(model, vectors, train, validation, seed, stages)
        return unpacked(*stages.run(steps.AFFINE_STAGE, lambda: packed(known[key])))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(study, "fit_compositions", fit)
        patched.setattr(study, "fit_affine_all", fit_affine)
        patched.setattr(study, "METHODS", NAMED)
        patched.setattr(study, "N_ITEMS", items)
        patched.setattr(steps, "AFFINE", AFFINE)
        patched.setattr(steps, "AffineFits", lambda *parts, how: AffineFits(*parts, replace(how, steps=1)))
        yield


def of_vectors(vectors) -> tuple:
    """What tells two libraries apart."""
    return tuple((name, fv.relation, fv.layer, fv.vector.numpy().tobytes()) for name, fv in vectors.items())


def summed_of(model) -> dict[str, FunctionVector]:
    return {name: replace(fv, vector=noise(32, seed=9 + i)) for i, (name, fv) in enumerate(vectors_of(model).items())}


def summary(out) -> dict:
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))
