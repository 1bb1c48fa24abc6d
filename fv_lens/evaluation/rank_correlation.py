"""Spearman's rho of matrices over relations and of comparisons: a Mantel test, and intervals over relations."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ..ground.errors import InputError, whole_number
from ..ground.scores import Score
from ..ground.streams import Stream, generator


def matrix_rho(predicted: np.ndarray, rated: np.ndarray) -> float:
    """Spearman's rho over the upper triangle, where both are known."""
    upper = np.triu_indices(len(predicted), 1)
    a, b = predicted[upper], rated[upper]
    known = np.isfinite(a) & np.isfinite(b)
    if not known.any():
        return float("nan")
    return float(_spearman(a[known][None], b[known][None])[0])


def mantel_p(predicted: np.ndarray, rated: np.ndarray, n_permutations: int = 10_000, seed: int = 0) -> float:
    """One-sided p value of a Mantel test: how often permuting the relations gives as large a rho.

    Unrated cells stay where they are in `rated`.
    """
    n_permutations = whole_number("n_permutations", n_permutations, least=1)
    upper = np.triu_indices(len(predicted), 1)
    known = np.isfinite(rated[upper])
    rows, columns = upper[0][known], upper[1][known]
    rng = generator(seed, Stream.PERMUTATIONS)
    orders = rng.permuted(np.tile(np.arange(len(predicted)), (n_permutations, 1)), axis=1)
    permuted = predicted[orders[:, rows], orders[:, columns]]
    there = rated[rows, columns]
    rhos = _spearman(permuted, there[None])
    observed = _spearman(predicted[rows, columns][None], there[None])[0]
    return float((1 + (rhos >= observed - 1e-12).sum()) / (1 + n_permutations))


def rho_interval(predicted: np.ndarray, rated: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Interval of a rho over relations: the jackknife over relations, on Fisher's z.

    In simulations (250 to 500 data sets each, true rho .12 to .83) it holds the truth in 95 to 97 % at 10 relations and
    92 to 98 % at 20, and in 92 to 94 % where some relations are alike to all others; the bootstrap over relations holds
    it in 99 %, and the basic bootstrap in 90 to 97 %.
    """
    low, high = jackknife([(predicted, rated)], lambda z: z[0], level)
    return float(np.tanh(low)), float(np.tanh(high))


def clustered_rho(
    predicted: np.ndarray, rated: np.ndarray, first: np.ndarray, second: np.ndarray, level: float = 0.95
) -> Score:
    """Spearman's rho of comparisons of two pairs each, with an interval over relations.

    `first`, `second`: the relation of either pair. The interval is the jackknife's on Fisher's z, a relation left out
    with every comparison that it is in: comparisons of one relation share its pairs and the vectors' errors on it. In
    simulations on the ratings' own design of 20 relations (500 data sets each) it holds the truth in 95 to 97 %;
    drawing cells (two relations each) as if they were independent holds it in 76 to 92 %.

    Raises:
        InputError: fewer than three relations.
    """
    if (n := len({*first.tolist(), *second.tolist()})) < 3:
        raise InputError(f"The comparisons are of {n} relations; an interval over relations needs three or more.")

    without = np.array([fisher_z(rho) for rho in rhos_without(predicted, rated, first, second).values()])
    rho = float(_spearman(predicted[None], rated[None])[0])
    half = stats.norm.ppf((1 + level) / 2) * comparisons_error(without)
    low, high = np.tanh([fisher_z(rho) - half, fisher_z(rho) + half])
    return Score(rho, float(low), float(high), len(rated))


def rhos_without(predicted: np.ndarray, rated: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[Any, float]:
    """Spearman's rho of comparisons of two pairs each, by the relation that is left out."""
    rhos = {}
    for name in sorted({*first.tolist(), *second.tolist()}):
        kept = (first != name) & (second != name)
        rhos[name] = float(_spearman(predicted[kept][None], rated[kept][None])[0])
    return rhos


def comparisons_error(without: np.ndarray) -> float:
    """The jackknife's standard error of a rho of comparisons, from its values (on Fisher's z) without each relation."""
    n = len(without)
    return float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))


def jackknife(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], of: Callable[[Sequence[float]], Any], level: float
) -> tuple[float, float]:
    """Interval of `of` (rhos on Fisher's z) over relations, each left out in turn of every pair of matrices."""
    whole = of(_z(pairs, np.arange(len(pairs[0][0]))))
    half = stats.norm.ppf((1 + level) / 2) * matrices_error(np.array([of(z) for z in z_without(pairs)]))
    return whole - half, whole + half


def z_without(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[list[float]]:
    """For each relation that is left out the rhos of every pair of matrices, on Fisher's z."""
    n = len(pairs[0][0])
    return [_z(pairs, np.delete(np.arange(n), i)) for i in range(n)]


def matrices_error(without: np.ndarray) -> float:
    """The jackknife's standard error of a rho of matrices, from its values without each relation."""
    # Each relation stands in n - 1 cells, and leaving one out changes what is left of all others' cells as well: with
    # the jackknife's usual (n - 1) / n, intervals would be too wide.
    n = len(without)
    return float((n - 2) * np.sqrt(((without - without.mean()) ** 2).sum() / (n * (n - 1))))


def _z(pairs: Sequence[tuple[np.ndarray, np.ndarray]], kept: np.ndarray) -> list[float]:
    return [fisher_z(matrix_rho(a[np.ix_(kept, kept)], b[np.ix_(kept, kept)])) for a, b in pairs]


def fisher_z(rho: float) -> float:
    """Fisher's z of a correlation, finite at 1 and -1 as well."""
    return float(np.arctanh(np.clip(rho, -0.999999, 0.999999)))


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rho row by row."""
    a, b = (stats.rankdata(x, axis=-1) for x in (a, b))
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
