"""Lessons: what vectors are tuned on and where they start, tuned in one batch, and the layer that serves them best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from ..datasets.prompts import PromptTemplate
from ..datasets.relations import Relation
from ..ground.errors import InputError
from ..ground.streams import Stream, generator
from ..models.lens import Lens, check_layer
from .function_vector import FunctionVector
from .optimizer import Result, Task, Tuning, task, tune
from .tuning_pairs import shuffled

Start = FunctionVector | Literal["zero", "random"]


@dataclass(frozen=True)
class Lesson:
    """What one vector is tuned on, and where it starts.

    Args:
        relation: what the vector is of, for its record; None for several relations.
        train, validation: pairs to learn, and pairs to stop by: one part, or one of each of several relations.
        start: "zero"; "random", a direction as long as the residual stream is at the layer; or a FunctionVector.
        seed: of the draw of the pairs, and of a random direction.
        is_shuffled: whether the answers are exchanged, see `shuffled`; for the record.
    """

    relation: Relation | None
    train: Sequence[Relation]
    validation: Sequence[Relation]
    start: Start = "zero"
    seed: int = 0
    is_shuffled: bool = False

    @property
    def name(self) -> str:
        return self.relation.name if self.relation else "all"

    @property
    def answers(self) -> list[list[str]]:
        """The answers of the train words, then of the validation words, in the order of the prompts."""
        parts = [*self.train, *self.validation]
        return [list(answers) for part in parts for _, answers in part.pairs]

    def shuffled(self) -> "Lesson":
        """The control: the same words with exchanged answers, none of which is right."""
        assert self.relation is not None  # several relations together have no list of right answers
        parts = [
            [shuffled(part, self.relation, self.seed) for part in split_part]
            for split_part in (self.train, self.validation)
        ]
        return replace(self, train=parts[0], validation=parts[1], is_shuffled=True)

    def task(self, lens: Lens, layer: int, template: PromptTemplate) -> Task:
        """The lesson as prompts, and its start as numbers."""
        result = task(lens, self.train, self.validation, layer, template)
        if isinstance(self.start, FunctionVector):
            result.start = self.start.vector
        elif self.start == "random":  # it does not depend on what is tuned beside it
            rng = generator(self.seed, Stream.START, self.name.encode())
            direction = torch.from_numpy(rng.standard_normal(lens.d_model)).float()
            result.start, result.in_rms = direction / direction.square().mean().sqrt(), True
        return result


def tune_lessons(
    lens: Lens,
    lessons: Sequence[Lesson],
    layers: Sequence[int],
    how: Tuning = Tuning(),
    description: str | None = None,
) -> dict[int, list[FunctionVector | InputError]]:
    """Layer -> the vector of each lesson, all tuned in one batch; an InputError for one that cannot be tuned.

    What a lesson gives does not depend on the lessons and layers beside it.
    """
    layers, template = [check_layer(lens, layer) for layer in layers], how.template or PromptTemplate()
    tasks: dict[int, Task] = {}
    errors: dict[int, InputError] = {}
    for i, lesson in enumerate(lessons):
        try:
            tasks[i] = lesson.task(lens, layers[0], template)
        except InputError as error:
            errors[i] = error
    everywhere = [replace(of, layer=layer) for layer in layers for of in tasks.values()]
    results = iter(tune(lens, everywhere, how, description or _title(lessons, layers)) if tasks else [])
    by_layer = {}
    for layer in layers:
        vectors = {i: _vector(lens, lessons[i], of, next(results), layer, how) for i, of in tasks.items()}
        by_layer[layer] = [(errors | vectors)[i] for i in range(len(lessons))]
    return by_layer


def best_layer(by_layer: Mapping[int, Sequence[FunctionVector | InputError]]) -> tuple[int, dict[int, float]]:
    """The layer of lowest mean validation loss, and the losses of all; see `mean_validation_losses`."""
    losses = dict(zip(by_layer, mean_validation_losses(list(by_layer.values()))))
    return min(losses, key=lambda at: losses[at]), losses


def mean_validation_losses(kinds: Sequence[Sequence[FunctionVector | InputError]]) -> list[float]:
    """Mean validation loss of each kind of tuned vectors at their chosen steps, over relations whole in all of them.

    So a kind gains nothing from hard relations that broke in it. A kind that shares no relation with those with more
    whole vectors is not compared: its loss is infinite.
    """
    whole = [
        {i: training_of(fv)["validation_loss"] for i, fv in enumerate(kind) if isinstance(fv, FunctionVector)}
        for kind in kinds
    ]
    shared = max((set(kind_losses) for kind_losses in whole), key=len)
    for kind_losses in sorted(whole, key=len, reverse=True):
        shared = shared & kind_losses.keys() or shared
    losses = [[kind_losses[r] for r in sorted(shared & kind_losses.keys())] for kind_losses in whole]
    return [round(float(np.mean(of)), 6) if of else np.inf for of in losses]


def training_frame(fv: FunctionVector) -> pd.DataFrame:
    """One line per step of a tuned vector's training: step, loss, validation_loss (NaN where not looked at), chosen."""
    training = training_of(fv)
    seen = dict(training["validation_losses"])
    losses = [*training["losses"], np.nan]
    lines = [(i, loss, seen.get(i, np.nan), i == training["chosen_step"]) for i, loss in enumerate(losses)]
    return pd.DataFrame(lines, columns=["step", "loss", "validation_loss", "chosen"])


def training_of(fv: FunctionVector) -> Mapping[str, Any]:
    """The training record of a tuned vector."""
    if fv.training is None:
        raise InputError(f"{fv} was not tuned, so it has no training record.")
    return fv.training


def _vector(
    lens: Lens, lesson: Lesson, of: Task, result: Result, layer: int, how: Tuning
) -> FunctionVector | InputError:
    if result.vector is None:
        return InputError(
            f"The loss of {lesson.name!r} became NaN, or its vector too large, at step {result.step}; lower "
            f"learning_rate (now {how.learning_rate:g}) or the strength of its start."
        )
    start = lesson.start
    return FunctionVector.on(
        lens, result.vector, layer, lesson.relation, how.template or PromptTemplate(), method="tuned",
        parents=[(result.strength, start.record)] if isinstance(start, FunctionVector) else (),
        aliases=start.aliases if isinstance(start, FunctionVector) else (),
        kin=start.kin if isinstance(start, FunctionVector) else (),
        training=result.record(of, how, lesson.seed, lesson.is_shuffled) | {"word_answers": lesson.answers},
    )  # fmt: skip


def _title(lessons: Sequence[Lesson], layers: Sequence[int]) -> str:
    """What a progress bar says."""
    start = lessons[0].start if isinstance(lessons[0].start, str) else "a vector"
    places = f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"
    return f"tuning from {start}{', shuffled pairs' * lessons[0].is_shuffled}, {places}"
