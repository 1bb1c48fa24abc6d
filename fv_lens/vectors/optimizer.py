"""Optimisation: many vectors in one batch, each moved by Adam to make the answers of its train prompts probable.

For each vector the step of lowest loss on its validation prompts is kept. `lessons` says what vectors are tuned on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.prompts import PromptTemplate, with_demonstrations
from ..datasets.relations import Relation
from ..engine.batches import PromptBatch, batch
from ..engine.edits import CPU_FLOAT32
from ..engine.gradients import Rows
from ..ground.errors import InputError, finite_number, whole_number
from ..ground.progress import progress_bar
from ..models.lens import Lens

STEPS = 40
EVERY = 2  # steps between measurements of the validation loss
MOST_RATE = 100  # root mean squares of the residual stream, in one step
RATE = 0.05  # Adam's step for each number of the vector, in root mean squares of the residual stream at the layer
STRENGTHS = (0.5, 1.0, 2.0, 4.0)  # of an initial vector


@dataclass(frozen=True)
class Tuning:
    """How vectors are tuned.

    Args:
        steps: full-batch steps of Adam. The validation loss is measured at every second step, including the start.
        learning_rate: of Adam, in root mean squares of the residual stream at the layer over a vector's train prompts.
        strengths: a start other than zero is multiplied by the one of these with the lowest validation loss.
        first_token: tune on the first token of each answer alone, not on the whole first-listed answer.
        shuffle: a control: the answers of the train pairs, and of the validation pairs, are exchanged so that none is
            right. What such a vector gains is the form of the answers, not the relation.
        template: the prompts' form; None for that of the initial vectors, or the default.
        l2: weight of a penalty on the vector's length: `l2 * (rms(vector) / rms(residual stream))**2` is added to the
            loss, with the residual stream's root mean square at the layer over the vector's train prompts.
        perplexity: minimise the mean over prompts of each answer's perplexity, exp(nats / tokens), and not its nats.

    Both change what the steps go down, on the train pairs. Losses are recorded, and the step is chosen, in nats per
    answer without the penalty, so that they can be compared.

    Raises:
        InputError: steps below 1; a learning rate that is not above 0 and at most 100; strengths that are not a list of
            finite numbers; a template of another type; an `l2` below 0; a `perplexity` that is not True or False.
    """

    steps: int = STEPS
    learning_rate: SupportsFloat = RATE
    strengths: Sequence[SupportsFloat] = STRENGTHS
    first_token: bool = False
    shuffle: bool = False
    template: PromptTemplate | None = None
    l2: SupportsFloat = 0.0
    perplexity: bool = False

    def __post_init__(self) -> None:
        rate = finite_number("learning_rate", self.learning_rate)
        if not 0 < rate <= MOST_RATE:
            raise InputError(f"learning_rate is {self.learning_rate!r}; give a number above 0 and at most {MOST_RATE}.")
        if not isinstance(self.strengths, list | tuple):
            raise InputError(f"strengths is {self.strengths!r}; give a list of numbers, such as [1, 2]")
        if not isinstance(self.template, PromptTemplate | None):
            raise InputError(f"template is {self.template!r}; give a PromptTemplate, or None for the usual one")
        if (l2 := finite_number("l2", self.l2)) < 0:
            raise InputError(f"l2 is {self.l2!r}; give a number of at least 0")
        if not isinstance(self.perplexity, bool):
            raise InputError(f"perplexity is {self.perplexity!r}; give True or False")
        strengths = [finite_number("strength", strength) for strength in self.strengths] or [1.0]
        # The dataclass is frozen for its users; this is its own normal form.
        object.__setattr__(self, "steps", whole_number("steps", self.steps, least=1))
        object.__setattr__(self, "learning_rate", rate)
        object.__setattr__(self, "l2", l2)
        object.__setattr__(self, "strengths", tuple(strengths))


@dataclass
class Task:
    """What one vector is tuned on: train and validation prompts, and the vector to start from (None: zero).

    It is added after the block `layer`. With `in_rms`, the start is in root mean squares of the residual stream there.
    """

    train: PromptBatch
    validation: PromptBatch
    layer: int
    start: Float[Tensor, " d_model"] | None = None
    in_rms: bool = False


@dataclass(frozen=True)
class Result:
    """A tuned vector `[d_model]` (None if its loss became NaN or its norm infinite at `step`), with its history.

    `losses`, `validation_losses`: nats per answer at each step; the latter NaN at steps where it was not measured.
    """

    vector: Float[Tensor, " d_model"] | None
    step: int
    strength: float
    losses: np.ndarray = field(repr=False)
    validation_losses: np.ndarray = field(repr=False)

    @property
    def loss(self) -> float:
        """The validation loss of the chosen step."""
        return float(self.validation_losses[self.step]) if self.vector is not None else np.nan

    def record(self, task: Task, how: Tuning, seed: int = 0, shuffle: bool = False) -> dict[str, Any]:
        """What the vector's `training` says, as plain JSON data."""
        seen = [[i, round(float(x), 6)] for i, x in enumerate(self.validation_losses) if np.isfinite(x)]
        options = {name: getattr(how, name) for name in ("l2", "perplexity") if getattr(how, name)}
        return {
            "learning_rate": how.learning_rate, "first_token": how.first_token, "shuffle": shuffle, "seed": seed,
            "n_pairs": len(task.train), "n_validation": len(task.validation), "chosen_step": self.step,
            "validation_loss": round(self.loss, 6), "losses": [round(float(x), 6) for x in self.losses],
            "validation_losses": seen, "train_words": list(task.train.words),
            "validation_words": list(task.validation.words),
        } | options  # fmt: skip


@torch.inference_mode(False)
def tune(
    lens: Lens,
    tasks: Sequence[Task],
    how: Tuning = Tuning(),
    description: str = "tuning",
) -> list[Result]:
    """Tune one vector for each task, all in one batch, whatever their layers."""
    layers = [item.layer for item in tasks]
    train = _rows(lens, [item.train for item in tasks], layers, how.first_token)
    check = _rows(lens, [item.validation for item in tasks], layers, how.first_token)
    steps, rate, unit = how.steps, float(how.learning_rate), train.residual_rms
    starts = [torch.zeros(lens.d_model, **CPU_FLOAT32) if item.start is None else item.start for item in tasks]
    starts = [start * size if item.in_rms else start for item, start, size in zip(tasks, starts, unit)]
    strengths = [float(s) for s in how.strengths] if any(start.any() for start in starts) else [1.0]
    at_strength = torch.stack([mean_by_owner(check, check.losses(s * torch.stack(starts))) for s in strengths])
    lowest = at_strength.nan_to_num(nan=torch.inf).argmin(0).tolist()
    chosen = [strengths[i] if start.any() else 1.0 for i, start in zip(lowest, starts)]
    vectors = torch.stack([s * start for s, start in zip(chosen, starts)])
    best, best_loss = vectors.clone(), torch.full((len(tasks),), torch.inf, **CPU_FLOAT32)
    best_step, broken = (torch.full((len(tasks),), at, dtype=torch.long, device="cpu") for at in (0, -1))
    losses = np.full((steps + 1, len(tasks)), np.nan)
    validation = np.full((steps + 1, len(tasks)), np.nan)
    # One parameter group per vector, a view of its row, so that no vector's steps depend on the others.
    moving = list(vectors)
    adam = torch.optim.Adam([{"params": [item], "lr": rate * size} for item, size in zip(moving, unit.tolist())])
    with progress_bar(total=steps, desc=description, unit="step") as bar:
        for step in range(steps + 1):
            if step % EVERY == 0 or step == steps:
                loss = mean_by_owner(check, check.losses(vectors))
                validation[step] = loss
                # Beyond a finite norm a model's own norms overflow, to zeros more often than to NaN.
                broken[(broken < 0) & ~(loss.isfinite() & vectors.norm(dim=1).isfinite())] = step
                better = loss < best_loss
                best[better], best_loss[better], best_step[better] = vectors[better], loss[better], step
            if step < steps:
                rows, gradient = train.gradient(vectors, how.perplexity)
                if how.l2:
                    gradient += 2 * float(how.l2) * vectors / (lens.d_model * unit[:, None] ** 2)
                losses[step] = mean_by_owner(train, rows)
                broken[(broken < 0) & ~(torch.from_numpy(losses[step]).isfinite() & gradient.isfinite().all(1))] = step
                for item, slope in zip(moving, gradient.nan_to_num(0.0, 0.0, 0.0)):
                    item.grad = slope
                adam.step()
                bar.update()
    return [
        Result(None if broken[i] >= 0 else best[i].clone(), int(broken[i] if broken[i] >= 0 else best_step[i]),
               chosen[i], losses[:-1, i], validation[:, i])
        for i in range(len(tasks))
    ]  # fmt: skip


def task(
    lens: Lens, train: Sequence[Relation], validation: Sequence[Relation], layer: int, template: PromptTemplate
) -> Task:
    """The zero-shot prompts of the pairs of some relations, to tune one vector on."""

    def prompts(parts: Sequence[Relation]) -> PromptBatch:
        return batch(lens, [prompt for part in parts for prompt in with_demonstrations(part, part, 0)], template)

    return Task(prompts(train), prompts(validation), layer)


def mean_by_owner(rows: Rows, losses: Tensor) -> Tensor:
    """Mean loss of each vector's rows, `[vector]`."""
    return torch.zeros(int(rows.owners.max()) + 1, **CPU_FLOAT32).index_add_(0, rows.owners, losses * rows.shares)


def _rows(lens: Lens, parts: Sequence[PromptBatch], layers: Sequence[int], first_token: bool) -> Rows:
    owners = [owner for owner, part in enumerate(parts) for _ in range(len(part))]
    return Rows(lens, PromptBatch.joined(parts, lens.pad_id), owners, layers, first_token)
