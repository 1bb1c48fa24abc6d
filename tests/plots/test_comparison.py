"""The comparison has every row with its interval, and the learning curve its numbers of pairs in order."""

import numpy as np
import pytest

from fv_lens import plots
from fv_lens.ground.errors import InputError

from .drawn import spans, traces
from .made_table import FRAME, LEVELS, made_categories, pick


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("measure", ["accuracy", "first_token_accuracy", "log_prob"])
def test_the_comparison_has_every_row_with_its_interval(measure):
    figure = plots.comparison(FRAME, measure)
    ticks = dict(zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext))
    drawn = {ticks[y]: ends for trace in figure.data for y, ends in zip(trace.y, spans(trace))}
    assert len(drawn) == len(LEVELS)
    for row in LEVELS:
        expected = pick(row, measure=measure)[["value", "low", "high"]].astype(float)
        np.testing.assert_allclose(drawn[row], expected)


def test_rows_of_an_unknown_kind_come_last():
    frame = FRAME.replace({"row": {"FV": "something new"}})
    labels = plots.comparison(frame).layout.yaxis.ticktext
    assert list(labels[-2:]) == ["<b>other</b>", "something new"] and "FV" not in labels


def test_the_comparison_says_what_is_measured_and_on_how_much():
    title = plots.comparison(FRAME).layout.title.text
    assert "Whole answers right" in title and "47 relations, 940 test words" in title
    assert "nats" in plots.comparison(FRAME, "log_prob").layout.xaxis.title.text


@pytest.mark.slow
def test_rows_without_an_interval_are_drawn_without_bars():
    frame = FRAME.assign(low=np.nan, high=np.nan)
    for figure in (plots.comparison(frame), plots.relations(frame, made_categories())):
        assert all(not np.any(trace.error_x.array) for trace in figure.data)
        assert "(no interval)" in figure.data[0].text[0]
    assert not any(trace.fill for trace in plots.learning_curve(frame).data)


@pytest.mark.slow
@pytest.mark.parametrize("figure", [plots.comparison, plots.learning_curve])
def test_prompts_of_other_numbers_of_shots_stand_where_the_usual_do(figure):
    names = {"10-shot": "4-shot", "20-shot": "8-shot", "30-shot": "12-shot", "10-shot, shuffled": "4-shot, shuffled"}
    drawn, expected = figure(FRAME.replace({"row": names})).to_json(), figure(FRAME).to_json()
    for usual, other in list(names.items())[:3]:
        expected = expected.replace(usual, other)
    assert drawn == expected and "4-shot" in drawn


def test_the_learning_curve_is_in_the_order_of_numbers_with_its_band_and_levels():
    frame = FRAME.iloc[::-1]
    figure = plots.learning_curve(frame)
    curve, band = traces(figure)["fine-tuned"], figure.data[0]
    assert list(curve.x) == [1, 2, 3, 5, 10, 20]
    rows = [pick(f"{pairs} pairs", part="curve") for pairs in curve.x]
    np.testing.assert_allclose(curve.y, [row.value for row in rows])
    np.testing.assert_allclose(band.y, [row.high for row in rows] + [row.low for row in rows[::-1]])
    assert "<b>1 pair</b>:" in curve.text[0]
    for row in ("10-shot", "FV"):
        assert set(traces(figure)[row].y) == {pick(row).value} and traces(figure)[row].line.dash


def test_what_the_table_has_not_is_refused():
    with pytest.raises(InputError, match="no curve"):
        plots.learning_curve(FRAME[FRAME.part != "curve"])
    with pytest.raises(InputError, match="no scores over all relations"):
        plots.comparison(FRAME[FRAME.group == "relation"])
    with pytest.raises(InputError, match="no scores of relations"):
        plots.relations(FRAME[FRAME.group == "all"], {})
