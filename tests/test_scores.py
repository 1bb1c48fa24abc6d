"""Intervals: known values, and what an interval must do."""

import numpy as np
import pytest

from fv_lens import scores
from fv_lens.scores import Score

VALUES = np.random.default_rng(0).standard_normal(40)


def test_a_score_is_a_number_that_shows_its_interval():
    score = Score(0.75, 0.301, 0.954, 4)
    assert float(score) == 0.75 and str(score) == "0.75 [0.30, 0.95]"


@pytest.mark.parametrize(
    "count, n, low, high",
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (45, 60, 0.6277, 0.8422)],
)
def test_a_proportion_has_wilsons_interval(count, n, low, high):
    score = scores.proportion(np.arange(n) < count)
    assert (score.value, score.n) == (count / n, n)
    assert (score.low, score.high) == pytest.approx((low, high), abs=5e-5)


def test_wilsons_formula():
    p, n, z = 0.3, 20, 1.959963984540054
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    score = scores.proportion(np.arange(n) < 6)
    assert (score.low, score.high) == pytest.approx(
        ((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n))
    )


def test_a_mean_lies_in_its_interval_and_more_words_narrow_it():
    few, many = scores.mean(VALUES[:10]), scores.mean(np.tile(VALUES[:10], 9))
    assert few.low < few.value < few.high and few.n == 10 and few.value == pytest.approx(VALUES[:10].mean())
    assert many.value == pytest.approx(few.value) and many.high - many.low < (few.high - few.low) / 2


def test_the_interval_of_a_mean_is_about_that_of_a_normal_distribution():
    score, error = scores.mean(VALUES), VALUES.std() / np.sqrt(len(VALUES))
    assert (score.low, score.high) == pytest.approx(
        (score.value - 1.96 * error, score.value + 1.96 * error), abs=0.2 * error
    )


def test_about_95_of_100_intervals_hold_the_truth():
    rng = np.random.default_rng(1)
    held = [score.low <= 0 <= score.high for score in (scores.mean(rng.standard_normal(30)) for _ in range(200))]
    assert 0.9 <= np.mean(held) <= 0.98


def test_one_word_says_nothing_about_its_spread():
    score = scores.mean(np.array([0.3]))
    assert score.value == 0.3 and not score.high - score.low < 1


def test_draws_do_not_count_as_words():
    draws = np.stack([VALUES, VALUES + 1.0, VALUES - 1.0])
    score = scores.mean(draws)
    assert score.value == pytest.approx(VALUES.mean()) and score.n == 40
    assert score.high - score.low > scores.mean(VALUES).high - scores.mean(VALUES).low
    same = scores.mean(np.stack([VALUES] * 3))
    assert (same.low, same.high) == pytest.approx((scores.mean(VALUES).low, scores.mean(VALUES).high), abs=0.05)


def test_a_paired_difference_resamples_the_same_words_in_both():
    assert (shifted := scores.paired_difference(VALUES + 0.5, VALUES)).value == pytest.approx(0.5)
    assert (shifted.low, shifted.high) == pytest.approx((0.5, 0.5))
    unpaired = scores.paired_difference(VALUES + 0.5, VALUES[::-1])
    assert unpaired.value == pytest.approx(0.5) and unpaired.high - unpaired.low > 0.3


def test_a_paired_difference_changes_its_sign_with_its_order():
    a, b = VALUES[:20], VALUES[20:]
    there, back = scores.paired_difference(a, b), scores.paired_difference(b, a)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))


def test_a_paired_difference_takes_draws_of_the_control():
    control = np.stack([VALUES - 1, VALUES - 3])
    score = scores.paired_difference(VALUES, control)
    assert score.value == pytest.approx(2) and score.low == pytest.approx(1) and score.high == pytest.approx(3)


def test_the_same_seed_resamples_the_same():
    assert scores.mean(VALUES, seed=1) == scores.mean(VALUES, seed=1) != scores.mean(VALUES, seed=2)


def test_an_interval_has_the_shape_of_a_value_and_widens_with_its_level():
    values = VALUES.reshape(10, 2, 2)
    (low, high), (lower, higher) = scores.interval(values, 0.8), scores.interval(values, 0.99)
    assert low.shape == high.shape == (2, 2)
    assert (
        (lower < low).all() and (low < values.mean(0)).all() and (values.mean(0) < high).all() and (high < higher).all()
    )


def test_the_interval_of_one_value_is_unbounded():
    low, high = scores.interval(np.ones((1, 3)))
    assert low.tolist() == [-np.inf] * 3 and high.tolist() == [np.inf] * 3
