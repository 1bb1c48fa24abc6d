"""Intervals: known values, and what an interval must do."""

import numpy as np
import pytest
from scipy import stats

from fv_lens.ground import scores
from fv_lens.ground.scores import Score

VALUES = np.random.default_rng(0).standard_normal(40)


def test_a_score_is_a_number_that_shows_its_interval():
    score = Score(0.75, 0.301, 0.954, 4)
    assert float(score) == 0.75 and str(score) == "0.75 [0.30, 0.95]"


GAINED, LOST = Score(0.5512, 0.4631, 0.6478, 20), Score(-0.0312, -0.0622, -0.0104, 20)


@pytest.mark.parametrize(
    "score, form, text",
    [
        (GAINED, "", "0.55 [0.46, 0.65]"),
        (GAINED, "+", "+0.55 [0.46, 0.65]"),
        (GAINED, ".3f", "0.551 [0.463, 0.648]"),
        (GAINED, "+.4f", "+0.5512 [0.4631, 0.6478]"),
        (LOST, "+", "-0.03 [-0.06, -0.01]"),
        (LOST, ".2g", "-0.031 [-0.062, -0.01]"),
        (Score(0.5, -np.inf, np.inf, 1), "+", "+0.50 (no interval)"),
        (Score(0.5, np.nan, np.nan, 1), ".1f", "0.5 (no interval)"),
    ],
)
def test_a_format_gives_the_sign_to_the_value_and_its_precision_to_all_three_numbers(score, form, text):
    assert f"{score:{form}}" == text == " ".join(score.written(form))


@pytest.mark.parametrize(
    "low, high, interval",
    [
        (0.004, 0.18, "[0.004, 0.18]"),
        (-0.0004, 0.16, "[-0.0004, 0.16]"),
        (-0.1, 0.0, "[-0.10, 0.00]"),
        (1e-7, 0.1, "[0.00, 0.10]"),
    ],
)
def test_an_interval_of_a_difference_shows_on_which_side_of_0_it_ends(low, high, interval):
    score = Score(0.09, low, high, 9)
    assert f"{score:+}" == f"+0.09 {interval}"
    assert f"{score}" == f"0.09 [{low:.2f}, {high:.2f}]"


def test_a_signed_and_an_unsigned_score_are_formats_of_it():
    assert GAINED.signed == f"{GAINED:+}" and str(GAINED) == f"{GAINED}" == GAINED.unsigned
    assert LOST.unsigned == "0.03 [0.01, 0.06]"


@pytest.mark.parametrize("form", ["d", "-", "+.f", ".2", ".2e", "10", ">20", "s"])
def test_a_format_that_scores_do_not_have_is_quoted(form):
    with pytest.raises(ValueError, match=f"the format of a score is {form!r}".replace("+", r"\+")):
        format(LOST, form)


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 40])
def test_few_values_are_held_as_often_as_many(n):
    rng = np.random.default_rng(2)
    held = [score.low <= 0 <= score.high for score in (scores.mean(rng.standard_normal(n)) for _ in range(1000))]
    assert np.mean(held) >= 0.94  # plain percentiles: .92 and .937


def test_an_expanded_percentile_interval_ends_at_hesterbergs_quantiles():
    n, resampled = 10, np.linspace(0, 1, 100_001)
    below = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    score = scores._score(0.5, resampled, n)
    assert (score.low, score.high) == pytest.approx((below, 1 - below), abs=1e-4) and below < 0.025


def test_a_gain_has_a_width_where_all_words_fare_alike():
    for n in (20, 100):
        score = scores.gain(np.ones(n), np.ones(n))
        assert score.value == 0 and score.n == n and -4 / n < score.low < -0.5 / n and 0.5 / n < score.high < 4 / n
        assert not score.differs()
    assert scores.gain(np.ones(20), np.zeros(20)).differs()


def test_a_gain_is_the_paired_difference_with_an_interval_that_is_hardly_wider():
    rng = np.random.default_rng(3)
    right, control = rng.random(200) < 0.7, rng.random((3, 200)) < 0.4
    plain, score = scores.paired_difference(right.astype(float), control), scores.gain(right, control)
    assert score.value == pytest.approx(plain.value)
    assert plain.high - plain.low < score.high - score.low < 1.1 * (plain.high - plain.low)


@pytest.mark.parametrize("n", [2, 12])
def test_groups_that_are_all_alike_have_no_interval_and_show_nothing(n):
    score = scores.clustered_mean(np.ones(2 * n), np.arange(2 * n) // 2)
    assert not score.known and not score.differs() and str(score) == "1.00 (no interval)"


def test_students_interval_ends_where_a_share_does():
    values, groups = np.array([0.0, 0.9]), ["a", "b"]
    assert scores.clustered_mean(values, groups).high > 1
    score = scores.clustered_mean(values, groups, within=scores.SHARE)
    assert (score.low, score.high) == (0, 1)


def test_a_score_differs_if_its_whole_interval_lies_on_one_side():
    assert Score(0.3, 0.1, 0.5, 9).differs() and Score(-0.3, -0.5, -0.1, 9).differs()
    assert not Score(0.3, -0.1, 0.5, 9).differs() and not Score(0.7, 0.5, 0.9, 9).differs(0.5)
    assert Score(0.7, 0.51, 0.9, 9).differs(0.5) and not Score(0.7, -np.inf, np.inf, 1).differs()


@pytest.mark.slow
def test_the_interval_of_a_mean_difference_holds_the_truth():
    rng = np.random.default_rng(4)
    held = []
    for seed in range(2000):
        both = rng.standard_normal((2, 100)) * [[1.0], [2.0]] + rng.standard_normal(100) + [[0.3], [0.0]]
        found = scores.paired_difference(both[0], both[1], seed)
        held.append(found.low <= 0.3 <= found.high)
    assert 0.94 <= np.mean(held) <= 0.96
