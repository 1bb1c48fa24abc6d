"""A measured number with its interval: Wilson for proportions, bootstrap over words for everything else."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2000
ENOUGH_GROUPS = 10  # for an interval by drawing groups


@dataclass(frozen=True)
class Score:
    """A number with its 95 % interval and the number of words it was measured on; converts to `float`.

    Example:
        >>> score = proportion(np.array([1, 0, 1, 1]))
        >>> float(score), score.n
        (0.75, 4)
    """

    value: float
    low: float
    high: float
    n: int

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    @property
    def signed(self) -> str:
        """As a difference is written: "+0.55 [0.46, 0.65]"."""
        return f"{self.value:+.2f} [{self.low:.2f}, {self.high:.2f}]"


def proportion(right: np.ndarray) -> Score:
    """Share of ones in `right`, `[word]` or `[draw, word]`, with Wilson's interval; draws do not count as words."""
    right = np.atleast_2d(right).astype(float)
    share, n, z = float(right.mean()), right.shape[1], stats.norm.ppf(0.975)
    # scipy's own takes whole counts only, and a mean over draws is none.
    centre, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
    return Score(share, max(0.0, round(float(low), 12)), min(1.0, round(float(high), 12)), n)


def mean(values: np.ndarray, seed: int = 0) -> Score:
    """Mean of `values`, `[word]` or `[draw, word]`, with a bootstrap interval over words and draws."""
    values = np.atleast_2d(values)
    return _score(values.mean(), _resampled_means(values, seed), values.shape[1])


def clustered_mean(values: np.ndarray, groups: Sequence, seed: int = 0) -> Score:
    """Mean of `values` `[value]` with an interval over whole groups, for values of a group are no independent ones.

    `groups`: the group of each value. Groups are drawn with replacement; where they are fewer than ten, of which draws
    show too little, the interval is Student's with the cluster-robust standard error. One group says nothing.

    Source: Cameron and Miller 2015, A practitioner's guide to cluster-robust inference.

    Example:
        >>> str(clustered_mean(np.arange(30) % 3 / 2, np.arange(30) // 3))
        '0.50 [0.50, 0.50]'
    """
    group = np.unique(list(groups), return_inverse=True)[1]
    sizes, sums = np.bincount(group), np.bincount(group, weights=values)
    n, centre = len(sizes), float(np.mean(values))
    if n == 1:
        low, high = -np.inf, np.inf
    elif n < ENOUGH_GROUPS:
        error = np.sqrt(n / (n - 1) * ((sums - sizes * centre) ** 2).sum()) / len(values)
        low, high = centre + np.array([-1, 1]) * stats.t.ppf(0.975, n - 1) * error
    else:
        drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        low, high = np.quantile((drawn @ sums) / (drawn @ sizes), [0.025, 0.975])
    return Score(centre, float(low), float(high), len(values))


def paired_difference(values: np.ndarray, control: np.ndarray, seed: int = 0) -> Score:
    """Mean of `values` `[word]` minus that of `control`, `[word]` or `[draw, word]`; words are resampled together."""
    return mean(np.atleast_2d(values) - np.atleast_2d(control), seed)


def interval(values: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap percentile interval of the mean over the first axis: (low, high), each of the shape of one value."""
    if len(values) == 1:  # one value says nothing about its spread
        return np.full(values.shape[1:], -np.inf), np.full(values.shape[1:], np.inf)
    rng, n = np.random.default_rng(seed), len(values)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n  # how often each value is drawn
    means = weights @ values.reshape(n, -1).astype(np.float64)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])


def _resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    rng, (draws, words) = np.random.default_rng(seed), values.shape
    of_draws = rng.multinomial(draws, np.full(draws, 1 / draws), size=RESAMPLES) / draws
    of_words = rng.multinomial(words, np.full(words, 1 / words), size=RESAMPLES) / words
    return np.einsum("rd,dw,rw->r", of_draws, values.astype(np.float64), of_words, optimize=True)


def _score(value: float, resampled: np.ndarray, n: int) -> Score:
    low, high = np.quantile(resampled, [0.025, 0.975]) if n > 1 else (-np.inf, np.inf)  # one says nothing of spread
    return Score(float(value), float(low), float(high), n)
