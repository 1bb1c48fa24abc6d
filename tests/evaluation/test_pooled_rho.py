"""Rhos of several models together: as sure as one model where models are alike, and surer where they differ."""

import numpy as np
import pytest
from scipy import stats

from fv_lens.evaluation.pooled_rho import pooled_difference, pooled_rho
from fv_lens.evaluation.rank_correlation import (
    clustered_rho,
    comparisons_error,
    jackknife,
    matrices_error,
    matrix_rho,
    rho_interval,
    rhos_without,
    z_without,
)

N = 12


def matrix(seed: int, like: np.ndarray | None = None) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(N, N))
    symmetric = noise + noise.T
    return symmetric if like is None else symmetric + 2 * like


PEOPLE = matrix(0)
MODELS = [matrix(seed, PEOPLE) for seed in (1, 2, 3)]


def parts(models):
    rhos = np.array([matrix_rho(x, PEOPLE) for x in models])
    without = np.array([[np.tanh(z) for (z,) in z_without([(x, PEOPLE)])] for x in models])
    return rhos, without


def test_one_model_together_is_the_model():
    pooled, over = pooled_rho(*parts(MODELS[:1]), 66, matrices_error)
    assert pooled.value == pytest.approx(matrix_rho(MODELS[0], PEOPLE)) and pooled.n == 66
    np.testing.assert_allclose((pooled.low, pooled.high), rho_interval(MODELS[0], PEOPLE), atol=1e-9)
    assert not over.known and over.n == 1


def test_several_models_are_the_jackknife_of_their_mean_each_relation_left_out_of_all():
    pooled, over = pooled_rho(*parts(MODELS), 66, matrices_error)
    low, high = jackknife([(x, PEOPLE) for x in MODELS], np.mean, 0.95)
    np.testing.assert_allclose((pooled.low, pooled.high), np.tanh([low, high]), atol=1e-9)
    z = np.arctanh([matrix_rho(x, PEOPLE) for x in MODELS])
    assert pooled.value == over.value == pytest.approx(np.tanh(z.mean()))
    half = stats.t.ppf(0.975, 2) * z.std(ddof=1) / np.sqrt(3)
    np.testing.assert_allclose((over.low, over.high), np.tanh([z.mean() - half, z.mean() + half]), atol=1e-9)


def test_models_that_are_copies_are_as_sure_as_one():
    """They have no errors of their own that a mean would even out."""
    one, _ = pooled_rho(*parts(MODELS[:1]), 66, matrices_error)
    copies, over = pooled_rho(*parts(MODELS[:1] * 4), 66, matrices_error)
    np.testing.assert_allclose([copies.value, *copies.ends], [one.value, *one.ends], atol=1e-12)
    assert not over.known
    different, _ = pooled_rho(*parts(MODELS), 66, matrices_error)
    assert different.high - different.low < one.high - one.low


def test_comparisons_of_one_model_together_are_those_of_the_model():
    rng = np.random.default_rng(5)
    rated, first, second = rng.normal(size=300), rng.integers(0, 8, 300), rng.integers(0, 8, 300)
    predicted = rated + rng.normal(size=300)
    own = clustered_rho(predicted, rated, first, second)
    without = np.array([[*rhos_without(predicted, rated, first, second).values()]])
    pooled, _ = pooled_rho(np.array([own.value]), without, own.n, comparisons_error)
    np.testing.assert_allclose([pooled.value, *pooled.ends, pooled.n], [own.value, *own.ends, own.n], atol=1e-9)


def test_a_difference_is_paired_on_every_model():
    others = [matrix(seed, PEOPLE / 2) for seed in (7, 8, 9)]
    (a, a_without), (b, b_without) = parts(MODELS), parts(others)
    pooled, over = pooled_difference(a - b, a_without - b_without)

    def gap(z):
        return np.mean(np.tanh(z[:3]) - np.tanh(z[3:]))

    low, high = jackknife([(x, PEOPLE) for x in (*MODELS, *others)], gap, 0.95)
    np.testing.assert_allclose((pooled.low, pooled.high), (low, high), atol=1e-9)
    assert pooled.value == over.value == pytest.approx((a - b).mean()) and (pooled.n, over.n) == (N, 3)
