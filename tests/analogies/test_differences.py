"""The table of analogies: every group of questions is scored as if it were asked alone."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fv_lens.analogies.differences import COLUMNS, GROUPED, compared, differences, table
from fv_lens.analogies.scores import PROMPT_ONLY, TRUE, AnalogyScores, Row

from .made import asked

PROMPT, MIXED, BEST = Row(PROMPT_ONLY, "", "one-shot"), Row("posterior", "full", "one-shot"), Row(TRUE, "", "one-shot")
LABELS = ["near", "far", "far", "near", "", "far", "near", "near"]
QUESTIONS = [replace(asked(i, "abcde"[i % 5]), label=label) for i, label in enumerate(LABELS)]


def made(questions=QUESTIONS) -> AnalogyScores:
    rng, n = np.random.default_rng(3), len(questions)
    values = {
        row: {"accuracy": rng.integers(0, 2, n).astype(float), "log_prob": rng.normal(size=n)}
        for row in (PROMPT, MIXED, BEST)
    }
    values[MIXED]["choice"] = values[PROMPT]["choice"] = np.where(np.arange(n) % 2, np.nan, 1.0)
    return AnalogyScores(values, questions, [question.kin for question in questions], 0)


@pytest.mark.parametrize("group", ["near", "far"])
def test_a_group_is_scored_as_its_questions_are_alone(group):
    scores = made()
    frame = table(scores, QUESTIONS)
    places = [i for i, label in enumerate(LABELS) if label == group]
    values = {row: {name: x[places] for name, x in of.items()} for row, of in scores.values.items()}
    alone = AnalogyScores(values, [QUESTIONS[i] for i in places], [scores.groups[i] for i in places], 0)
    for part, expected in (("score", alone.to_frame()), ("difference", differences(alone))):
        own = frame[(frame.group == group) & (frame.part == GROUPED[part])]
        pd.testing.assert_frame_equal(own[COLUMNS].reset_index(drop=True), expected)


def test_all_questions_come_first_and_groups_are_those_of_all_that_were_asked():
    scores = made()
    frame = table(scores, QUESTIONS)
    assert list(dict.fromkeys(frame.group)) == ["all", "near", "far"]
    assert set(frame.part[frame.group == "all"]) == {"score", "difference"}
    near = [i for i, label in enumerate(LABELS) if label == "near"]
    assert list(dict.fromkeys(table(scores.only(near), QUESTIONS).group)) == ["all", "near"], "far ones were left out"
    assert set(table(scores.only(near), [QUESTIONS[i] for i in near]).group) == {"all"}


def test_a_composite_is_compared_with_its_prompt_and_a_ceiling_with_nothing():
    assert set(compared(made().values)) == {(MIXED, PROMPT, m) for m in ("accuracy", "log_prob", "choice")}
    frame = differences(made())
    assert set(frame.method) == {f"posterior - {PROMPT_ONLY}"} and set(frame.library) == {"full"}


def test_measures_that_no_question_of_a_group_has_are_not_there():
    questions = [replace(question, label="ab"[i % 2]) for i, question in enumerate(QUESTIONS)]
    frame = table(made(questions), questions)
    with_choice = frame[frame.measure == "choice"]
    assert set(with_choice.group) == {"all", "a"}, "those of b have no choices"
