"""Cells of a head map, for the figure and for the page: each head's effect, interval and shade, and the notes.

`HeadCells` computes it; `plots.heads` and the studies' `page.head_map` only draw it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from ..ground import scores
from ..ground.errors import InputError, whole_number
from ..ground.markup import colour_limit, decimals
from ..ground.scores import Score
from ..vectors.effects import HeadEffects

UNITS = {"probability": "change in probability", "log_prob": "change in log-probability (nats)"}


@dataclass(frozen=True)
class HeadCells:
    """The cells of a map of heads in one measure, "probability" or "log_prob".

    Colours end at the 99.5th percentile of the absolute effects, so that one strong head does not make the rest pale.
    """

    values: Float[np.ndarray, "prompt layer head"]
    measure: str

    @classmethod
    def of(cls, effects: HeadEffects, measure: str) -> "HeadCells":
        """The cells of measured effects."""
        return cls((effects.values if measure == "probability" else effects.log_prob_values).numpy(), measure)

    @cached_property
    def mean(self) -> Float[np.ndarray, "layer head"]:
        """Mean effects; NaN where a layer has no heads."""
        return self.values.mean(0)

    @cached_property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of each mean's interval, infinite where there is one prompt."""
        return scores.interval(self.values)

    @property
    def unit(self) -> str:
        """The unit of the colours."""
        return UNITS[self.measure]

    @property
    def limit(self) -> float:
        """The absolute effect at which the colours end."""
        return colour_limit(self.mean)

    @property
    def clipped(self) -> bool:
        """Whether a head's effect is beyond the colours."""
        return float(np.nanmax(np.abs(self.mean))) > self.limit

    @property
    def absent(self) -> list[int]:
        """The layers without heads."""
        return np.flatnonzero(np.isnan(self.mean).all(1)).tolist()

    def score(self, layer: int, head: int) -> Score | None:
        """The mean effect of a head with its interval; None where the layer has no heads."""
        value, low, high = (float(of[layer, head]) for of in (self.mean, *self.interval))
        return None if np.isnan(value) else Score(value, low, high, len(self.values))

    @cached_property
    def form(self) -> str:
        """The format of the map's scores: signed, with as many decimals as show three figures of the largest effect."""
        return f"+.{decimals(float(np.nanmax(np.abs(self.mean))))}f"

    def written(self, score: Score) -> str:
        """A head's score in the map's format."""
        return format(score, self.form)

    def shades(self, n: int) -> list[int | None]:
        """Index of each head's colour in a scale of `n`, layer by layer; None if a layer has no heads."""
        middle, mean = n // 2, self.mean.ravel()
        places = middle + np.rint(middle * np.clip(np.nan_to_num(mean) / self.limit, -1, 1)).astype(int)
        return [None if gone else place for gone, place in zip(np.isnan(mean), places.tolist())]

    def strongest(self, k: int) -> set[int]:
        """Flat indices (layer by layer) of the `k` heads of largest absolute effect."""
        size = np.abs(self.mean).ravel()
        return set(size.argsort()[: np.isfinite(size).sum()][::-1][:k].tolist())  # NaN are last in numpy's order


def outlined(heads: Sequence[tuple[int, int]]) -> list[str]:
    """What the outlines mean, in a sentence; none where nothing is outlined."""
    which = f"the {len(heads)} chosen heads" if len(heads) > 1 else "the chosen head"
    return [f"Outlined: {which}."] if heads else []


def checked_head(head: Sequence[int], n_layers: int, n_heads: int) -> tuple[int, int]:
    """(layer, head) as whole numbers.

    Raises:
        InputError: not a head, or one outside the map.
    """
    if not isinstance(head, Sequence) or len(head) != 2:
        raise InputError(f"{head!r} is not a head; give (layer, head).")
    layer, index = whole_number("layer", head[0], least=0), whole_number("head", head[1], least=0)
    if layer >= n_layers or index >= n_heads:
        raise InputError(f"Head ({layer}, {index}) is outside the map of {n_layers} layers x {n_heads} heads.")
    return layer, index
