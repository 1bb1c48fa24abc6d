"""Steps of a study of analogies: affine weights in both prompts, and the gates of its best composite."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import pandas as pd

from ...analogies.composition import Composition, Folded
from ...analogies.fit import Fitting
from ...analogies.fit_affine import AFFINE, AffineFits
from ...analogies.gate import COVERAGES, Gate, GateCurve, Gated
from ...analogies.scores import PROMPT_ONLY, LibraryName
from ...analogies.selection import BEST
from ...datasets.questions import Question
from ...models.lens import Model
from ...vectors.function_vector import FunctionVector
from ..stages import PARTS, Stages, Step
from .files import packed, unpacked

AFFINE_PROMPTS: dict[Literal[0, 1], str] = {0: "zero-shot", 1: "one-shot"}
AFFINE_STAGE = "affine"


def affine_names() -> list[str]:
    """The names of the affine composites that are fitted, as `fit_affine_all` gives them."""
    return [f"{name}, {prompt}" for name in AFFINE for prompt in AFFINE_PROMPTS.values()]


def fit_affine_all(
    model: Model,
    vectors: Mapping[str, FunctionVector],
    train: Sequence[Question],
    validation: Sequence[Question],
    seed: int,
    stages: Stages,
) -> dict[str, Folded]:
    """Affine composites, each fitted for the zero-shot and for the one-shot prompt: "name, prompt" -> settings.

    They are the stage `AFFINE_STAGE`, of which the maps of each fold in each prompt are parts.
    """
    fits = AffineFits(model, vectors, train, validation, how=Fitting(seed=seed))
    every_fold = (None, *range(fits.folds.n))
    parts = {
        (n_shots, fold): f"{PARTS}/{AFFINE_STAGE}-{prompt}-{'all' if fold is None else fold + 1}"
        for n_shots, prompt in AFFINE_PROMPTS.items()
        for fold in every_fold
    }
    maps: dict[tuple[int, int | None], list[Composition]] = {}
    for (n_shots, fold), part in parts.items() if not stages.has(AFFINE_STAGE) else ():
        fitted = stages.run(part, partial(_packed_maps, fits, n_shots, fold))
        maps[n_shots, fold] = [how.whole for how in unpacked(*fitted).values()]

    def chosen() -> Step:
        found = {
            prompt: fits.chosen(n_shots, [maps[n_shots, fold] for fold in every_fold], AFFINE)
            for n_shots, prompt in AFFINE_PROMPTS.items()
        }
        return packed({f"{name}, {prompt}": of_prompt[name] for name in AFFINE for prompt, of_prompt in found.items()})

    done = stages.run(AFFINE_STAGE, chosen, [*parts.values()])
    stages.tidy()
    return unpacked(*done)


def _packed_maps(fits: AffineFits, n_shots: Literal[0, 1], fold: int | None) -> Step:
    """The maps of a fold as a stage's results, which are of `Folded`, by their place among the candidates."""
    return packed({str(i): Folded(how) for i, how in enumerate(fits.maps(n_shots, fold, AFFINE))})


def by_prompt(affine: Mapping[str, Folded]) -> dict[str, tuple[Folded, Folded]]:
    """Affine methods, each with its settings in the zero-shot and in the one-shot prompt."""
    zero, one = AFFINE_PROMPTS.values()
    return {name: (affine[f"{name}, {zero}"], affine[f"{name}, {one}"]) for name in AFFINE if affine}


def gates_of(
    model: Model,
    vectors: Mapping[str, FunctionVector],
    parts: tuple[Sequence[Question], Sequence[Question]],
    how: Folded,
    libraries: Sequence[LibraryName],
) -> dict[LibraryName, tuple[Gate, GateCurve]]:
    """For each library a gate chosen on validation analogies, and what it does on test ones."""
    validation, test = (Gated(model, vectors, questions) for questions in parts)
    gates = {library: validation.fit(how, library) for library in libraries}
    return {library: (gate, test.curve(gate)) for library, gate in gates.items()}


def gates_frame(gates: Mapping[LibraryName, tuple[Gate, GateCurve]]) -> pd.DataFrame:
    """What composites gain over their prompt among the analogies of the largest signal, and with the gate over all."""
    lines = []
    for library, (_, curve) in gates.items():
        of_curve = {f"accuracy, {coverage:.0%} covered": curve.gain(coverage) for coverage in COVERAGES}
        for measure, score in (of_curve | {"accuracy over all, gated": curve.gated}).items():
            method = f"{BEST} - {PROMPT_ONLY}"
            lines.append((method, library, "one-shot", measure, score.value, *score.ends, score.n))
    columns = ["method", "library", "prompt", "measure", "value", "low", "high", "n"]
    return pd.DataFrame(lines, columns=columns).assign(part="gate")
