"""Scores question by question: what is written is what is read, and models are pooled as questions say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fv_lens.analogies.by_question import by_question, pooled, read_by_question
from fv_lens.analogies.differences import COLUMNS, GROUPED, table
from fv_lens.analogies.scores import PROMPT_ONLY, AnalogyScores, Row
from fv_lens.evaluation.pooled import OVER_MODELS, POOLED
from fv_lens.evaluation.table import write_csv
from fv_lens.ground.scores import clustered_mean

from .made import asked

PROMPT, MIXED, OTHER = Row(PROMPT_ONLY, "", "one-shot"), Row("a, b + c", "full", "one-shot"), Row("x", "", "")
QUESTIONS = [replace(asked(i, ("a", "c", None)[i % 3]), label=("near", "far")[i % 2]) for i in range(12)]


def made(seed: int, rows=(PROMPT, MIXED), left_out=()) -> AnalogyScores:
    rng, kept = np.random.default_rng(seed), [i for i in range(len(QUESTIONS)) if i not in left_out]
    values = {
        row: {
            "accuracy": rng.integers(0, 2, len(QUESTIONS))[kept].astype(float),
            "log_prob": rng.normal(size=len(QUESTIONS))[kept],
        }
        for row in rows
    }
    questions = [QUESTIONS[i] for i in kept]
    return AnalogyScores(values, questions, [q.kin or i for i, q in enumerate(questions)], len(left_out))


def saved(scores: AnalogyScores, path):
    write_csv(by_question(scores, QUESTIONS), path)
    return read_by_question(path, len(QUESTIONS))


def line(frame, model, row: Row, part="score", group="all", measure="accuracy"):
    at = (frame.model == model) & (frame.part == part) & (frame.group == group) & (frame.measure == measure)
    at &= (frame.method == row.method) & (frame.library == row.library) & (frame.prompt == row.prompt)
    assert at.sum() <= 1
    return frame[at].iloc[0] if at.any() else None


def test_what_is_written_is_read_and_questions_left_out_have_no_values(tmp_path):
    scores = made(0, (PROMPT, MIXED, OTHER), left_out=(2, 5))
    scores.values[OTHER]["accuracy"][3] = np.nan
    scores.values[OTHER]["log_prob"][:] = np.nan
    answers = saved(scores, tmp_path / "a.csv")
    kept = [i for i in range(12) if i not in (2, 5)]
    assert answers.keys() == {PROMPT, MIXED, OTHER} and list(answers[OTHER]) == ["accuracy"]
    for row, measures in answers.items():
        for measure, values in measures.items():
            assert np.isnan(values[[2, 5]]).all()
            np.testing.assert_allclose(values[kept], scores.values[row][measure], rtol=1e-5)


def test_a_line_has_the_words_of_its_question(tmp_path):
    frame = by_question(made(0, left_out=(0,)), QUESTIONS)
    assert frame.question.tolist() == list(range(2, 13))
    for at, question in enumerate(QUESTIONS[1:]):
        (a, b), (c, answers) = question.source, question.completion
        assert frame.iloc[at][["a", "b", "c", "d", "distance"]].tolist() == [a, b, c, answers[0], question.label]
    again = by_question(AnalogyScores(made(0).values, [q.shuffled(1) for q in QUESTIONS * 1], [0] * 12, 0), QUESTIONS)
    assert again.question.tolist() == list(range(1, 13))


def test_questions_that_are_asked_twice_keep_their_numbers():
    twice = [QUESTIONS[0], QUESTIONS[1], QUESTIONS[0]]
    values = {PROMPT: {"accuracy": np.array([1.0, 0.0, 1.0])}}
    assert by_question(AnalogyScores(values, twice, [0, 1, 2], 0), twice).question.tolist() == [1, 2, 3]


@pytest.mark.parametrize("n_models", [2, 3, 11])
def test_a_score_is_the_mean_over_models_question_by_question(n_models, tmp_path):
    models = [saved(made(seed), tmp_path / "a.csv") for seed in range(n_models)]
    frame = pooled(models, QUESTIONS)
    kin = [question.kin or i for i, question in enumerate(QUESTIONS)]
    for group, places in {"all": range(12), "near": range(0, 12, 2), "far": range(1, 12, 2)}.items():
        places = list(places)
        for part, row in (("score", PROMPT), ("score", MIXED), ("difference", MIXED)):
            values = np.array([of[row]["accuracy"] for of in models])
            if part == "difference":
                values -= [of[PROMPT]["accuracy"] for of in models]
            name = row._replace(method=f"{row.method} - {PROMPT_ONLY}") if part == "difference" else row
            limits = (-1.0, 1.0) if part == "difference" else (0.0, 1.0)
            part = part if group == "all" else GROUPED[part]
            # The same questions of all models are one long list, with their families drawn together.
            long = clustered_mean(values[:, places].mean(0), [kin[i] for i in places], within=limits)
            over = clustered_mean(values[:, places].mean(1), range(n_models), within=limits)
            for model, score in ((POOLED, long), (OVER_MODELS, over)):
                found = line(frame, model, name, part, group)
                assert found.value == pytest.approx(values[:, places].mean()) and found.models == n_models
                np.testing.assert_allclose([found.low, found.high], score.ends, atol=1e-9)
                assert found.n == (len(places) if model == POOLED else n_models)


@pytest.mark.parametrize("left_out", [(), (1, 2, 7)])
def test_one_model_pooled_is_the_model(tmp_path, left_out):
    scores = made(4, left_out=left_out)
    own = table(scores, QUESTIONS)
    frame = pooled([saved(scores, tmp_path / "a.csv")], QUESTIONS)
    frame = frame[frame.model == POOLED].reset_index(drop=True)
    columns = ["method", "library", "prompt", "measure", "part", "group", "n"]
    order = ["group", "part", *columns[:4]]
    one, other = (each.sort_values(order, ignore_index=True) for each in (own, frame))
    pd.testing.assert_frame_equal(one[columns], other[columns])
    np.testing.assert_allclose(one[["value", "low", "high"]], other[["value", "low", "high"]], atol=1e-4)
    assert frame.models.eq(1).all() and COLUMNS == [*columns[:4], "value", "low", "high", "n"]


def test_questions_that_one_model_leaves_out_are_pooled_on_none(tmp_path):
    parts = [saved(made(0, left_out=(0,)), tmp_path / "a.csv"), saved(made(1, left_out=(1, 2)), tmp_path / "a.csv")]
    found = line(pooled(parts, QUESTIONS), POOLED, MIXED)
    assert found.n == 9
    assert found.value == pytest.approx(np.mean([of[MIXED]["accuracy"][3:] for of in parts]))


def test_a_row_that_a_model_lacks_is_pooled_over_the_others_and_differences_stay_paired(tmp_path):
    parts = [saved(made(seed, rows), tmp_path / "a.csv") for seed, rows in enumerate([(PROMPT, MIXED), (PROMPT,)])]
    frame = pooled(parts, QUESTIONS)
    assert line(frame, POOLED, PROMPT).models == 2 and line(frame, POOLED, MIXED).models == 1
    gap = parts[0][MIXED]["accuracy"] - parts[0][PROMPT]["accuracy"]
    found = line(frame, POOLED, MIXED._replace(method=f"{MIXED.method} - {PROMPT_ONLY}"), "difference")
    assert found.models == 1 and found.value == pytest.approx(gap.mean())
