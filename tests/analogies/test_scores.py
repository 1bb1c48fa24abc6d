"""Scores of analogies: means with intervals over families, paired differences, and their table."""

import numpy as np
import pandas as pd
import pytest

from fv_lens.analogies.scores import PROFILES, PROMPT_ONLY, AnalogyScores, Row
from fv_lens.ground import scores
from fv_lens.ground.errors import InputError

from .made import FAMILY, FULL, asked, evaluated

pytestmark = pytest.mark.usefixtures("some_end")


@pytest.fixture(scope="module")
def made() -> AnalogyScores:
    """Values made up, 24 questions of 12 families; every third is of no use to the second row."""
    rng, questions = np.random.default_rng(0), [asked(i % 10, "r", 3, family=f"f{i // 2}") for i in range(24)]
    right, worse = (rng.random(24) < share for share in (0.7, 0.4))
    values = {
        Row("one", FULL, "one-shot"): {"accuracy": right.astype(float), "log_prob": rng.normal(size=24)},
        Row("two", "", "zero-shot"): {"accuracy": np.where(np.arange(24) % 3, worse, np.nan)},
        Row("none"): {"choice": np.full(24, np.nan)},
    }
    return AnalogyScores(values, questions, [question.family for question in questions], 3)


@pytest.mark.slow
def test_scores_are_means_with_intervals_over_families(made, llama):
    values = made.values["one", FULL, "one-shot"]["accuracy"]
    assert made.score(("one", FULL, "one-shot")) == scores.clustered_mean(values, made.groups)
    assert made.score(("one", FULL, "one-shot"), "log_prob").value == pytest.approx(
        made.values["one", FULL, "one-shot"]["log_prob"].mean()
    )
    some = made.values["two", "", "zero-shot"]["accuracy"]
    known = ~np.isnan(some)
    groups = [group for group, k in zip(made.groups, known) if k]
    assert made.score(("two", "", "zero-shot")) == scores.clustered_mean(some[known], groups) and known.sum() == 16
    assert evaluated(llama, choices=False).groups == ["f", "f", "g", "i", 4, "h"], (
        "an unknown one is a group of its own"
    )
    assert evaluated(llama, [asked(0, "new", family=None)], choices=False).groups == ["new"]


def test_differences_are_paired_over_the_questions_that_both_rows_have(made):
    one, two = Row("one", FULL, "one-shot"), Row("two", "", "zero-shot")
    gaps = made.values[one]["accuracy"] - made.values[two]["accuracy"]
    known = ~np.isnan(gaps)
    expected = scores.clustered_mean(gaps[known], [group for group, k in zip(made.groups, known) if k])
    assert made.difference(one, two) == expected and expected.n == 16
    assert made.difference(two, one).value == pytest.approx(-expected.value)
    nothing = made.difference(one, tuple(one))
    assert (nothing.value, nothing.known, nothing.n) == (0, False, 24)  # all alike: no interval


@pytest.mark.slow
def test_a_frame_has_every_score_and_reads_back(made, llama, tmp_path):
    for found in (made, evaluated(llama)):
        frame = found.to_frame()
        assert [*frame.columns] == ["method", "library", "prompt", "measure", "value", "low", "high", "n"]
        there = {
            (row, name)
            for row, measures in found.values.items()
            for name, x in measures.items()
            if not np.isnan(x).all()
        }
        assert {(Row(*line[1:4]), line[4]) for line in frame.itertuples()} == there and len(frame) == len(there)
        frame.to_csv(tmp_path / "frame.csv", index=False)
        for line in pd.read_csv(tmp_path / "frame.csv").fillna({"library": "", "prompt": ""}).itertuples():
            score = found.score((line.method, line.library, line.prompt), line.measure)
            assert (float(line.value), int(line.n)) == (pytest.approx(score.value), score.n)
            assert [line.low, line.high] == pytest.approx(score.ends, nan_ok=True)
    assert not (made.to_frame().method == "none").any()


def test_a_row_is_named_by_what_it_has():
    assert str(Row("posterior", FULL, "one-shot")) == "posterior, full, one-shot"
    assert (
        str(Row(PROMPT_ONLY, "", "sentence")) == "prompt only, sentence"
        and str(Row(PROFILES, FULL)) == f"{PROFILES}, full"
    )


@pytest.mark.parametrize(
    "row, measure, told",
    [
        (("one", FAMILY, "one-shot"), "accuracy", "'accuracy' of 'one, family left out, one-shot'"),
        (("another", "", ""), "accuracy", "'accuracy' of 'another'"),
        (("one", FULL, "one-shot"), "choice", "'choice' of 'one, full, one-shot'"),
        (("one", FULL, "one-shot"), "accurate", "'accurate' of 'one, full, one-shot'"),
    ],
)
def test_an_unknown_row_or_measure_is_told(made, row, measure, told):
    for ask in (lambda: made.score(row, measure), lambda: made.difference(("one", FULL, "one-shot"), row, measure)):
        with pytest.raises(InputError, match=f"^There is no {told}; `to_frame...? lists all rows and measures.$"):
            ask()
