"""Completion shows accuracy with its intervals for a vector and its controls."""

import numpy as np

from fv_lens import plots

from .made import made_evaluation


def test_points_and_their_ends_are_the_scores_and_intervals():
    evaluation = made_evaluation()
    figure = plots.evaluation(evaluation)
    assert list(figure.layout.yaxis.ticktext) == ["<b>zero-shot + vector</b>", "zero-shot", "10-shot"]
    drawn = {
        (trace.name, y): (x, x - below, x + above)
        for trace in figure.data
        for x, y, below, above in zip(trace.x, np.round(trace.y), trace.error_x.arrayminus, trace.error_x.array)
    }
    for place, row in enumerate([evaluation, *evaluation.controls.values()]):
        shown = {"accuracy (whole answers)": row.accuracy, "first token alone": row.first_token_accuracy}
        assert row.accuracy != row.first_token_accuracy
        for name, score in shown.items():
            np.testing.assert_allclose(drawn[name, place], (score.value, score.low, score.high))


def test_the_first_tokens_accuracy_is_fainter_and_behind():
    first, *_, whole = plots.evaluation(made_evaluation()).data
    assert first.name == "first token alone" and first.opacity < whole.opacity and first.marker.size < whole.marker.size


def test_the_number_of_words_is_in_the_title_and_the_paired_gains_in_the_hover():
    evaluation = made_evaluation()
    figure = plots.evaluation(evaluation)
    assert "30 test words" in figure.layout.title.text
    controls = next(trace for trace in figure.data if len(trace.x) == 2)
    for text, row in zip(controls.text, evaluation.controls.values()):
        assert f"accuracy {row.accuracy}" in text and f"first token alone {row.first_token_accuracy}" in text
        assert f"accuracy {row.accuracy_gain.signed}" in text
        assert f"log-probability {row.log_prob_gain.signed} nats" in text


def test_an_evaluation_without_controls_is_drawn():
    assert sum(len(trace.x) for trace in plots.evaluation(made_evaluation(right=(5,), controls=())).data) == 2
