"""Composites fitted on analogies: one shared vector, scales, temperatures, in folds over families of relations.

The shared vector is tuned on train analogies; early stopping and every other choice use validation analogies. For each
family of relations there are a shared vector and settings in which none of its analogies had a direct part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.question_split import families_of
from ..datasets.questions import Question
from ..engine.batches import PromptBatch, batch
from ..ground.errors import InputError, whole_number
from ..models.lens import Lens, Model, lens_of
from ..vectors.function_vector import FunctionVector
from ..vectors.optimizer import Task, Tuning, tune
from .basis import Basis
from .compose import Composer
from .composition import Composition, Folded
from .selection import BEST, Folds, answers_by_setting, best_settings, folds_of

N_FOLDS = 5
SHARED_STEPS = 24  # more steps overfit the families it is tuned on
LIBRARY = [Composition("posterior", t, scale=s) for t, s in product((0.5, 1.0, 2.0), (0.25, 0.5, 1.0))]
CENTRED = [Composition("posterior", t, center=True, scale=s) for t, s in product((1.0, 2.0, 4.0), (0.25, 0.5, 1.0))]
PAIR = [Composition("none", pair_steps=n, pair_scale=s) for n, s in product((4, 8, 12), (0.25, 0.5, 0.75, 1.0))]
# What is fitted: name -> the settings to choose from; each gets the shared vector, and the pair part its start.
CANDIDATES = {
    "shared alone": [Composition("none")],
    "shared + composite": LIBRARY,
    "shared + centred": CENTRED,
    "shared + fitted": PAIR,
    "shared + centred + fitted": [
        replace(library, pair_steps=pair.pair_steps, pair_scale=pair.pair_scale)
        for library, pair in product(CENTRED[:6], PAIR[4:8])
    ],
}


@dataclass(frozen=True)
class Fitting:
    """How composites are fitted.

    Args:
        n_folds: number of groups of families that are left out in turn, at most the number of families; 0 for none.
        steps: steps of tuning shared vectors, see `Tuning`.
        seed: seed of the folds.

    Raises:
        InputError: a number of folds or a seed below 0, or steps below 1.
    """

    n_folds: int = N_FOLDS
    steps: int = SHARED_STEPS
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n_folds", 0), ("steps", 1), ("seed", 0)):
            whole_number(name, getattr(self, name), least=least)


def fit_composition(
    model: Model,
    vectors: Mapping[str, FunctionVector],
    train: Sequence[Question],
    validation: Sequence[Question],
    *,
    n_shots: Literal[0, 1] = 1,
    candidates: Mapping[str, Sequence[Composition]] = CANDIDATES,
    how: Fitting = Fitting(),
) -> Folded:
    """The settings of a composite with a shared vector that are best on validation.

    Args:
        model: a HookedTransformer or TransformerBridge.
        vectors: the library, relation -> FunctionVector.
        train: analogies that shared vectors are tuned on.
        validation: analogies that they are stopped by and that scales, temperatures and steps are chosen on.
        n_shots: 1 to fit for the prompt that shows A:B, 0 for the one that asks for C alone.
        candidates: name -> settings to choose from.
        how: folds, and steps of tuning shared vectors.

    Returns:
        The best `Folded` of `fit_compositions`, which says how folds are kept apart.

    Raises:
        InputError: as `fit_compositions`.

    Example:
        >>> parts = split_questions(load_questions())
        >>> how = fit_composition(model, vectors, parts.train, parts.validation)
        >>> answer = solve_analogy(model, vectors, ("hot", "cold"), "big", how=how)
    """
    fitted = fit_compositions(model, vectors, train, validation, n_shots=n_shots, candidates=candidates, how=how)
    return fitted[BEST]


def fit_compositions(
    model: Model,
    vectors: Mapping[str, FunctionVector],
    train: Sequence[Question],
    validation: Sequence[Question],
    *,
    n_shots: Literal[0, 1] = 1,
    candidates: Mapping[str, Sequence[Composition]] = CANDIDATES,
    how: Fitting = Fitting(),
) -> dict[str, Folded]:
    """Settings of every kind of composite with a shared vector, each the best of its candidates on validation.

    Args:
        model: a HookedTransformer or TransformerBridge.
        vectors: the library, relation -> FunctionVector.
        train: analogies that shared vectors are tuned on.
        validation: analogies that they are stopped by and that scales, temperatures and steps are chosen on.
        n_shots: 1 to fit for the prompt that shows A:B, 0 for the one that asks for C alone.
        candidates: name -> settings to choose from.
        how: folds, and steps of tuning shared vectors.

    Returns:
        name -> `Folded`, and the best of all as "shared + best". The settings of a fold are chosen on validation
        analogies of the other folds' families, each answered with its own family left out of library, shared vector
        and start. (The shared vectors that answer them were stopped on validation analogies of every family but theirs,
        so a family has that much of a say in its own settings.)

    Raises:
        InputError: no train or validation analogies, or no candidates; an empty library, vectors of two models or
            layers; a family without whose vectors the library is empty, or without whose analogies no train or
            validation analogy is left; a shared vector whose loss became NaN.
    """
    lens = lens_of(model)
    if n_shots not in (0, 1):
        raise InputError(f"n_shots is {n_shots!r}; composites are for prompts with 0 or 1 demonstration.")
    if not any(candidates.values()):
        raise InputError("There are no candidates to choose from; give name -> [Composition, ...].")
    library = Basis.of(lens, vectors)
    if not train or not validation:
        raise InputError(f"There are {len(train)} train and {len(validation)} validation analogies; give some of each.")
    folds = Folds(folds_of([*train, *validation], how.n_folds, how.seed))
    tuned = {
        shots: _shared(lens, library, (train, validation), shots, folds, how.steps) for shots in sorted({0, n_shots})
    }
    shared, starts = list(tuned[n_shots]), list(tuned[0])  # one tensor per fold, shared by all settings

    def placed(how: Composition, fold: int) -> Composition:
        start = starts[fold] if how.pair_steps else None
        return replace(how, shared=shared[fold], start=start, n_shots=n_shots)

    every = [(name, how) for name, listed in candidates.items() for how in listed]
    fold_of_question = np.array([folds.fold(question) for question in validation])
    sources, most = [question.source for question in validation], max(how.pair_steps for _, how in every)
    composer = Composer(lens, library, sources, most)
    settings_by_fold = [[placed(how, fold) for fold in range(1 + folds.n)] for _, how in every]
    families = families_of([*train, *validation])
    answers = answers_by_setting(composer, validation, settings_by_fold, n_shots, folds, families)
    descriptions = [(name, _summary(name, how)) for name, how in every]
    return best_settings(descriptions, settings_by_fold, answers, fold_of_question, folds)


def _shared(
    lens: Lens,
    library: Basis,
    questions: tuple[Sequence[Question], Sequence[Question]],
    n_shots: int,
    folds: Folds,
    steps: int,
) -> Float[Tensor, "fold d_model"]:
    """Vectors tuned on train and validation analogies of all families, row 0, and without those of each fold."""

    def parts(questions: Sequence[Question]) -> list[PromptBatch]:
        whole = batch(lens, [question.asked(n_shots) for question in questions], library.template)
        places = [folds.fold(question) for question in questions]
        kept = [[i for i, place in enumerate(places) if place != fold] for fold in range(folds.n)]
        return [whole, *(whole.select(some) for some in kept)]

    names = ["all", *(f"all but fold {fold}" for fold in range(folds.n))]
    for what, part in zip(("train", "validation"), questions):
        in_folds = {folds.fold(question) for question in part}
        if len(in_folds) == 1 and in_folds != {-1}:
            families = sorted({str(question.kin) for question in part})
            raise InputError(
                f"Every {what} analogy is of {', '.join(families)}, which one fold leaves out, so it has none to fit "
                f"settings on; give {what} analogies of other families as well, or how=Fitting(n_folds=0)."
            )
    train, validation = map(parts, questions)
    tasks = [Task(*one, library.first.layer) for one in zip(train, validation)]
    description = f"shared vectors, {('zero', 'one')[n_shots]}-shot"
    results = tune(lens, tasks, Tuning(steps), description)
    vectors = []
    for name, result in zip(names, results):
        if result.vector is None:
            raise InputError(f"The loss of the shared vector of {name!r} became NaN.")
        vectors.append(result.vector)
    return torch.stack(vectors)


def _summary(name: str, how: Composition) -> str:
    """Settings in words."""
    parts = [f"T = {how.temperature:g}, scale {how.scale:g}"] if how.uses_library else []
    parts += [f"{how.pair_steps} steps x {how.pair_scale:g}"] if how.pair_steps else []
    return ", ".join([name, *parts])
