"""An affine map while it is fitted: its parameters, their steps, and how a loss reaches them.

Scores differ between vectors by several nats, and a row of a full map sums as many of them as there are vectors: at one
rate for all numbers a full map diverges where a diagonal one hardly moves. So Adam moves what is added to the identity
in units of the scores' root mean square (and of the square root of the number of vectors, for a full map).
"""

from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..engine.edits import CPU_FLOAT32
from ..engine.gradients import Rows
from ..ground.errors import InputError, finite_number
from .affine import affine_weights
from .basis import Basis
from .composition import Composition, ScoredBy

RATE, SCALE_RATE = 0.05, 0.02  # Adam's steps: of a logit, about, and of the logarithm of the scale


@dataclass(frozen=True)
class Affine:
    """An affine weighting to be fitted.

    Args:
        full: a map from every score to every weight; else a slope and a bias for each vector.
        scored_by: see `Composition`.
        ridge: weight of half the squared distance of the map from its start and of the bias from zero, per vector, in
            logits. The start is the identity, which is the posterior, or for probabilities the identity over their root
            mean square.
        free_scale: fit one number that multiplies the composite as well; else it is 1.

    Raises:
        InputError: an unknown kind of score, or a ridge below 0.
    """

    full: bool = False
    scored_by: ScoredBy = "log-probability"
    ridge: float = 0.1
    free_scale: bool = False

    def __post_init__(self) -> None:
        if self.scored_by not in get_args(ScoredBy):
            raise InputError(f"scored_by is {self.scored_by!r}; choose from {', '.join(get_args(ScoredBy))}.")
        if finite_number("ridge", self.ridge) < 0:
            raise InputError(f"ridge is {self.ridge!r}; give a number of at least 0.")

    def __str__(self) -> str:
        return f"by {self.scored_by}, ridge {self.ridge:g}" + ", free scale" * self.free_scale


def backward(rows: Rows, composites: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
    """Losses of D, each under its own composite; the gradient of their mean goes to what made the composites."""
    losses, slopes = rows.gradient(composites.detach())
    composites.backward(slopes.nan_to_num(0.0, 0.0, 0.0) / len(slopes))
    return losses


class AffineParameters:
    """Map, bias and scale while they are fitted."""

    def __init__(self, what: Affine, scores: Float[Tensor, "pair vector"], known: Bool[Tensor, "pair vector"]):
        self.what, n = what, scores.shape[1]
        rms = scores[known].square().mean().sqrt().item() if known.any() else 0.0
        self.unit = rms if rms > 0 else 1.0
        # By probability the posterior is not a start: scores of one unit stand in for log-probabilities.
        diagonal = torch.full((n,), 1.0 if what.scored_by == "log-probability" else 1 / self.unit, **CPU_FLOAT32)
        self.start = diagonal.diag() if what.full else diagonal
        self.moved = torch.zeros_like(self.start, requires_grad=True)  # from the start, in logits per unit of score
        self.bias = torch.zeros(n, **CPU_FLOAT32).requires_grad_()
        self.log_scale = torch.zeros((), **CPU_FLOAT32).requires_grad_(what.free_scale)
        groups = [
            {"params": [self.moved], "lr": RATE / (n**0.5 if what.full else 1)},
            {"params": [self.bias], "lr": RATE},
            {"params": [self.log_scale] if what.free_scale else [], "lr": SCALE_RATE},
        ]
        self.adam = torch.optim.Adam(groups)

    @property
    def map(self) -> Tensor:
        return self.start + self.moved / self.unit

    def composites(self, scores: Tensor, known: Tensor, matrix: Tensor) -> Float[Tensor, "pair d_model"]:
        weights = affine_weights(scores, self.map, self.bias, known)
        return self.log_scale.exp() * (weights @ matrix)

    def step(self) -> None:
        """One step of Adam on the gradient that was left, and on the ridge."""
        n = len(self.bias)
        for values in (self.moved, self.bias):
            assert values.grad is not None  # `backward` reaches it
            values.grad += self.what.ridge * values.detach() / n
        self.adam.step()
        self.adam.zero_grad()

    def settings(self, library: Basis, n_shots: int) -> Composition:
        return Composition(
            "affine", scale=float(self.log_scale.detach().exp()), n_shots=n_shots, affine_map=self.map.detach().clone(),
            affine_bias=self.bias.detach().clone(), scored_by=self.what.scored_by, vectors=library.names,
        )  # fmt: skip
