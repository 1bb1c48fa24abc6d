"""Affine weights fitted on analogies: the map and bias under whose composites the frozen model finds D most probable.

Each train analogy A:B :: C:D is a prompt for C with a vector of its own, the composite that map and bias make of A:B.
The engine gives the loss of D and its exact gradient for that vector; the chain rule leads from there to map and bias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ..datasets.question_split import families_of
from ..datasets.questions import Question
from ..engine.batches import PromptBatch, batch
from ..engine.gradients import Rows
from ..ground.errors import InputError
from ..ground.progress import no_progress, progress_bar
from ..models.lens import Lens, Model, lens_of
from ..vectors.function_vector import FunctionVector
from .affine import affine_scores
from .affine_map import Affine, AffineParameters, backward
from .basis import Basis, Exclusion, allowed_for
from .compose import Composer
from .composition import Composition, Folded, ScoredBy
from .fit import Fitting
from .selection import BEST, Folds, answers_by_setting, best_settings, folds_of

EVERY = 4  # steps between measurements of the validation loss
PATIENCE = 2  # measurements without a lower loss that end a fit
BLOCK = 64  # train analogies in a step
# The strongest ridge keeps the map near the posterior; probabilities are fitted at the weaker one, to save time.
KINDS: list[tuple[ScoredBy, float]] = [("log-probability", 0.1), ("log-probability", 1.0), ("probability", 0.1)]
AFFINE = {
    f"affine, {name}": [Affine(full, scored_by, ridge) for scored_by, ridge in KINDS]
    for name, full in (("diagonal", False), ("full", True))
}


def fit_affine(
    model: Model,
    vectors: Mapping[str, FunctionVector],
    train: Sequence[Question],
    validation: Sequence[Question],
    *,
    n_shots: Literal[0, 1] = 0,
    candidates: Mapping[str, Sequence[Affine]] = AFFINE,
    how: Fitting = Fitting(),
) -> dict[str, Folded]:
    """Composites with affine weights, for each name the best of its candidates on validation.

    They are after Kang et al., equation 4, without a shared vector; centring, ridge and log-probabilities are ours.

    Args:
        model: a HookedTransformer or TransformerBridge.
        vectors: the library, relation -> FunctionVector.
        train: analogies that map and bias are fitted on.
        validation: analogies that stop each fit, and that candidates are chosen on.
        n_shots: 1 to fit for the prompt that shows A:B, 0 for the one that asks for C alone.
        candidates: name -> what is fitted.
        how: folds, and the most steps of a fit.

    Returns:
        name -> `Folded`. The settings of a fold are fitted and chosen without the fold's families, on analogies whose
        own family is left out of the library, as it is where they are used.

    Raises:
        InputError: no train or validation analogies, or no candidates; an empty library, vectors of two models or
            layers; a family without whose vectors the library is empty; a loss that is NaN before the first step.

    Example:
        >>> parts = split_questions(load_questions())
        >>> affine = fit_affine(model, vectors, parts.train, parts.validation)
        >>> answer = solve_analogy(model, vectors, ("hot", "cold"), "big", how=affine["affine, diagonal"])
    """
    return AffineFits(model, vectors, train, validation, how).fitted(n_shots, candidates)


class AffineFits:
    """Affine fits in both prompts, which have the scores of the pairs in common; see `fit_affine`.

    The maps of each fold can be fitted apart: `chosen` of what `maps` gives for all families (fold None) and for each
    of the folds is `fitted`.
    """

    def __init__(
        self,
        model: Model,
        vectors: Mapping[str, FunctionVector],
        train: Sequence[Question],
        validation: Sequence[Question],
        how: Fitting = Fitting(),
    ):
        self.lens, self.how = lens_of(model), how
        self.library = Basis.of(self.lens, vectors)
        if not train or not validation:
            raise InputError(
                f"There are {len(train)} train and {len(validation)} validation analogies; give some of each."
            )
        self.folds = Folds(folds_of([*train, *validation], how.n_folds, how.seed))
        self.families = families_of([*train, *validation])
        self.train, self.validation = (
            _Part(self.lens, self.library, part, self.families) for part in (train, validation)
        )

    def fitted(self, n_shots: Literal[0, 1], candidates: Mapping[str, Sequence[Affine]] = AFFINE) -> dict[str, Folded]:
        """name -> the best of its candidates, as `fit_affine` returns them."""
        if n_shots not in (0, 1):
            raise InputError(f"n_shots is {n_shots!r}; composites are for prompts with 0 or 1 demonstration.")
        if not any(candidates.values()):
            raise InputError("There are no candidates to choose from; give name -> [Affine, ...].")
        maps_by_fold = [self.maps(n_shots, fold, candidates) for fold in (None, *range(self.folds.n))]
        return self.chosen(n_shots, maps_by_fold, candidates)

    def maps(
        self, n_shots: Literal[0, 1], fold: int | None, candidates: Mapping[str, Sequence[Affine]] = AFFINE
    ) -> list[Composition]:
        """Every candidate, fitted on the analogies outside a fold, or on all of them."""
        every, analogies = [each for listed in candidates.values() for each in listed], self._analogies(n_shots, fold)
        description = f"affine maps, {('zero', 'one')[n_shots]}-shot, {self._families_of(fold)}"
        return [
            self._fit(candidate, n_shots, analogies) for candidate in progress_bar(every, desc=description, unit="map")
        ]

    def chosen(
        self,
        n_shots: Literal[0, 1],
        maps_by_fold: Sequence[Sequence[Composition]],
        candidates: Mapping[str, Sequence[Affine]] = AFFINE,
    ) -> dict[str, Folded]:
        """name -> the best of its candidates, from `maps` of all families and of each fold."""
        settings = list(zip(*maps_by_fold, strict=True))
        composer, questions = self.validation.composer, self.validation.questions
        fold_of_question = np.array([self.folds.fold(question) for question in questions])
        with no_progress():  # it takes no time, as there are no pair parts
            answers = answers_by_setting(composer, questions, settings, n_shots, self.folds, self.families)
        descriptions = [(name, f"{name}, {each}") for name, listed in candidates.items() for each in listed]
        best = best_settings(descriptions, settings, answers, fold_of_question, self.folds)
        return {name: folded for name, folded in best.items() if name != BEST}

    def _families_of(self, fold: int | None) -> str:
        return "all families" if fold is None else f"all families but those of fold {fold + 1} of {self.folds.n}"

    def _analogies(self, n_shots: int, fold: int | None) -> "_FoldAnalogies":
        """The analogies outside a fold, or all."""
        blocks, check = (
            part.blocks(n_shots, [fold is None or self.folds.fold(question) != fold for question in part.questions], n)
            for part, n in ((self.train, BLOCK), (self.validation, len(self.validation.questions)))
        )
        return _FoldAnalogies(fold, blocks, check[0] if check else None)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _fit(self, candidate: Affine, n_shots: int, analogies: "_FoldAnalogies") -> Composition:
        """The map of lowest validation loss; where there are no analogies to fit or to stop on, its start."""
        (scores, known), (checked, checked_known) = (
            affine_scores(part.composer.log_probs[:, 1:], candidate.scored_by, part.allowed(analogies.exclude))
            for part in (self.train, self.validation)
        )
        kept = sorted(place for block in analogies.blocks for place in block.places)
        parameters = AffineParameters(candidate, scores[kept], known[kept])
        best, lowest, waited = parameters.settings(self.library, n_shots), torch.inf, 0
        if (check := analogies.check) is None or not analogies.blocks:
            return best
        turns = cycle(analogies.blocks)
        for step in range(self.how.steps + 1):
            if step % EVERY == 0 or step == self.how.steps:
                with torch.no_grad():
                    composites = parameters.composites(
                        checked[check.places], checked_known[check.places], self.library.matrix
                    )
                loss = float(check.rows.losses(composites).mean())
                if not step and not np.isfinite(loss):
                    raise InputError(
                        f"The loss of the affine map of {self._families_of(analogies.fold)} is {loss} before its first "
                        "step. Load the model in float32 or bfloat16, or leave out vectors that make its logits "
                        "overflow."
                    )
                waited += 1
                if loss < lowest:
                    best, lowest, waited = parameters.settings(self.library, n_shots), loss, 0
                if waited == PATIENCE:
                    break
            if step < self.how.steps:
                block = next(turns)
                composites = parameters.composites(scores[block.places], known[block.places], self.library.matrix)
                backward(block.rows, composites)
                parameters.step()
        return best


@dataclass
class _Block:
    """Some of the analogies, each a row with a vector of its own."""

    places: list[int]
    rows: Rows


@dataclass
class _FoldAnalogies:
    """The analogies outside a fold, or all: train ones in blocks, and the validation ones that stop a fit."""

    fold: int | None
    blocks: list[_Block]
    check: _Block | None

    @property
    def exclude(self) -> Exclusion | None:
        return None if self.fold is None else "family"


class _Part:
    """Train or validation analogies, with what all fits need of them."""

    def __init__(self, lens: Lens, library: Basis, questions: Sequence[Question], families: Mapping[str, str]):
        self.lens, self.library, self.questions, self.families = lens, library, questions, families
        self.composer = Composer(lens, library, [question.source for question in questions])

    def prompts(self, n_shots: int) -> PromptBatch:
        return batch(self.lens, [question.asked(n_shots) for question in self.questions], self.library.template)

    def allowed(self, exclude: Exclusion | None) -> Bool[Tensor, "pair vector"]:
        return allowed_for(self.library, self.questions, exclude, self.families)

    def blocks(self, n_shots: int, kept: Sequence[bool], most: int) -> list[_Block]:
        """Analogies dealt out in turn to blocks of `most`, so that each has some of every relation; then those kept."""
        prompts, n = self.prompts(n_shots), -(-len(self.questions) // most)
        dealt = ([place for place in range(i, len(kept), n) if kept[place]] for i in range(n))
        return [
            _Block(places, Rows(self.lens, prompts.select(places), range(len(places)), self.library.first.layer))
            for places in dealt
            if places
        ]
