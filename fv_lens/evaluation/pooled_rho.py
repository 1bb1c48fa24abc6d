"""Agreement with people of several models together: correlations, each with one relation left out on every model."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy import stats

from ..ground.scores import Score, clustered_mean
from .pooled import ROUNDED
from .rank_correlation import fisher_z, matrices_error


def pooled_rho(
    rhos: Float[np.ndarray, " model"],
    without: Float[np.ndarray, "model relation"],
    n: int,
    error: Callable[[np.ndarray], float],
) -> tuple[Score, Score]:
    """The mean of several models' rhos (on Fisher's z) with its interval over relations, and with that over models.

    The first is the jackknife of a single model: a relation is left out on all models at once, since one that is easy
    for one model is often easy for others. It speaks of these models. The second is Student's interval of the models'
    rhos (a bootstrap from ten models on), and speaks of other models; with one model there is none.

    Args:
        without: the rhos with each relation left out.
        n: what the rhos are of: cells or comparisons.
        error: `matrices_error` or `comparisons_error`.
    """
    z, z_without = (np.vectorize(fisher_z, otypes=[float])(values) for values in (rhos, without))
    half = stats.norm.ppf(0.975) * error(z_without.mean(0))
    over_models = clustered_mean(z, range(len(z)), alike=ROUNDED)
    low, high = np.tanh([z.mean() - half, z.mean() + half])
    value = float(np.tanh(z.mean()))
    ends = np.tanh(over_models.ends)
    return Score(value, float(low), float(high), n), Score(value, float(ends[0]), float(ends[1]), len(z))


def pooled_difference(
    gaps: Float[np.ndarray, " model"], without: Float[np.ndarray, "model relation"]
) -> tuple[Score, Score]:
    """The mean of several models' differences of two rhos of matrices, with both intervals as of `pooled_rho`."""
    value, half = float(gaps.mean()), stats.norm.ppf(0.975) * matrices_error(without.mean(0))
    over_relations = Score(value, value - half, value + half, without.shape[1])
    return over_relations, clustered_mean(gaps, range(len(gaps)), alike=ROUNDED)
