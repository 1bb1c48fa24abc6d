"""Spearman's rho of two matrices, Mantel's p and intervals, against SciPy, all orders and simulations."""

import itertools

import numpy as np
import pytest
from scipy import stats

from fv_lens.evaluation.humans import compare_to_humans
from fv_lens.evaluation.rank_correlation import clustered_rho, mantel_p, matrix_rho, rho_interval
from fv_lens.evaluation.similarity import Similarity
from fv_lens.ground.errors import InputError

from .made import NAMES, people, symmetric


def test_rho_is_scipys_over_the_rated_cells_of_the_upper_triangle():
    rng = np.random.default_rng(0)
    mine, theirs = symmetric(rng), symmetric(rng)
    upper = np.triu_indices(8, 1)
    assert matrix_rho(mine, theirs) == pytest.approx(stats.spearmanr(mine[upper], theirs[upper]).statistic)
    theirs[0, 1] = theirs[1, 0] = np.nan
    known = np.isfinite(theirs[upper])
    expected = stats.spearmanr(mine[upper][known], theirs[upper][known]).statistic
    assert matrix_rho(mine, theirs) == pytest.approx(expected)
    assert compare_to_humans(Similarity(NAMES, mine, "cosine", True), people(theirs)).n_cells == 27


@pytest.mark.slow
def test_mantels_p_is_uniform_when_nothing_is_shared():
    rng = np.random.default_rng(1)
    found = [mantel_p(symmetric(rng, 10), symmetric(rng, 10), 199, seed=i) for i in range(400)]
    # p takes the values 1/200, 2/200, ...; a uniform share of 1/400 makes it continuous.
    spread = np.array(found) - rng.uniform(0, 1 / 200, len(found))
    assert stats.kstest(spread, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.08


def test_mantels_p_is_small_when_something_is_and_never_zero():
    mine = symmetric(np.random.default_rng(2), 10)
    assert mantel_p(mine, mine, 199) == 1 / 200


def test_mantels_p_is_that_of_all_orders_of_the_relations():
    """A relation keeps its row and its column: both matrices have some that are near to all others, which shows it."""
    rng, upper = np.random.default_rng(8), np.triu_indices(5, 1)
    for _ in range(4):
        mine, theirs = (symmetric(rng, 5) / 4 + near[:, None] + near for near in rng.standard_normal((2, 5)))
        orders = [list(order) for order in itertools.permutations(range(5))]
        rhos = [stats.spearmanr(mine[np.ix_(order, order)][upper], theirs[upper]).statistic for order in orders]
        assert mantel_p(mine, theirs) == pytest.approx(np.mean(np.array(rhos) >= rhos[0] - 1e-12), abs=0.02)


def truth(rng, n, noise):
    x = rng.standard_normal((n, 4))
    y = x + noise * rng.standard_normal((n, 4))
    apart = [-np.linalg.norm(z[:, None] - z[None], axis=-1) for z in (x, y)]
    return apart


@pytest.mark.slow
def test_the_interval_of_rho_holds_the_truth_at_ten_relations():
    rng = np.random.default_rng(3)
    rho = matrix_rho(*truth(rng, 500, 1.0))
    held = [low <= rho <= high for low, high in (rho_interval(*truth(rng, 10, 1.0)) for _ in range(300))]
    assert 0.91 < np.mean(held) < 0.99


def compared(rng, n=20, n_pairs=6, n_comparisons=600):
    """Comparisons of random pairs: predicted, rated, relations of either side; errors are of relations and of pairs."""
    relation = np.repeat(np.arange(n), n_pairs)
    truth = rng.standard_normal((n, 3))[relation] + 0.8 * rng.standard_normal((n * n_pairs, 3))
    model = truth + rng.standard_normal((n, 3))[relation] + rng.standard_normal(truth.shape)
    i, j = rng.integers(0, n * n_pairs, (2, n_comparisons))
    i, j = i[i != j], j[i != j]
    predicted, rated = (-np.linalg.norm(x[i] - x[j], axis=1) for x in (model, truth))
    return predicted, rated + 0.5 * rng.standard_normal(len(i)), relation[i], relation[j]


def test_the_interval_of_comparisons_leaves_out_whole_relations():
    a, b, first, second = compared(np.random.default_rng(7))
    found, z = clustered_rho(a, b, first, second), []
    for one in range(20):
        kept = [i for i in range(len(a)) if one not in (first[i], second[i])]
        z.append(np.arctanh(stats.spearmanr(a[kept], b[kept]).statistic))
    rho = stats.spearmanr(a, b).statistic
    half = 1.959963984540054 * np.sqrt(19 / 20 * 20 * np.var(z))
    assert found.value == pytest.approx(rho) and found.n == len(a)
    assert (found.low, found.high) == pytest.approx(tuple(np.tanh([np.arctanh(rho) - half, np.arctanh(rho) + half])))
    assert found == clustered_rho(a, b, second, first)
    with pytest.raises(
        InputError, match="comparisons are of 2 relations; an interval over relations needs three or more"
    ):
        clustered_rho(a, b, first % 2, second % 2)


@pytest.mark.slow
def test_the_interval_of_comparisons_holds_the_truth():
    data = [compared(np.random.default_rng([8, i])) for i in range(200)]
    truth = stats.spearmanr(*(np.concatenate(x) for x in list(zip(*data))[:2])).statistic
    held = [found.low <= truth <= found.high for found in (clustered_rho(*one) for one in data)]
    assert 0.90 < np.mean(held) < 0.99
