"""The table of results as figures read it: its scores, their order, and the room that names and intervals take."""

import html
import re

import numpy as np
import pandas as pd
import pytest
import torch

from fv_lens import plots
from fv_lens.ground.errors import InputError
from fv_lens.ground.scores import Score
from fv_lens.plots.table import COLUMNS, extent, lanes, scores_of, share_axis
from fv_lens.vectors.function_vector import FunctionVector

from .made import made_evaluation
from .made_table import FRAME, LEVELS, made_frame, pick


def test_scores_are_those_of_the_lines_in_their_order():
    found = scores_of(FRAME, part="score", group="all", measure="accuracy")
    assert list(found) == list(LEVELS)
    expected = pick("FV")
    assert found["FV"]["all"] == Score(expected.value, expected.low, expected.high, 47)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(column):
    with pytest.raises(InputError, match=f"lacks the column '{column}'"):
        plots.comparison(FRAME.drop(columns=column))


def test_what_was_measured_is_counted_over_relations_and_their_words():
    assert extent(FRAME) == "47 relations, 940 test words"
    assert extent(FRAME[FRAME.group == "all"]) == "47 relations"
    assert extent(made_frame(1, 1)) == "1 relation, 1 test word"


def test_a_number_without_an_interval_says_so():
    for ends in ((np.nan, np.nan), (-np.inf, np.inf)):
        assert str(Score(0.25, *ends, 1)) == "0.25 (no interval)"
    assert Score(0.25, np.nan, np.nan, 1).signed == "+0.25 (no interval)"


def test_groups_stand_below_each_other_under_their_names():
    places, ticks, labels, end = lanes({"one": ["a", "b"], "two": ["c"]})
    assert labels == ["<b>one</b>", "a", "b", "<b>two</b>", "c"] and ticks == [0, 1, 2, 3, 4]
    assert places == {"a": 1, "b": 2, "c": 4} and end == 5


LONG = "a relation whose name is far longer than any line of a figure, and_a_word_that_is_longer_than_a_line_as_well"


def whole(label):
    """A label without its line breaks and spaces."""
    return html.unescape(re.sub(r"<.*?>|\s", "", label))


def test_a_long_name_is_wrapped_and_has_the_room_that_its_lines_take():
    rows = lanes({"": ["a", LONG, "b"]}, width=20, height=25)
    lines = rows.labels[1].split("<br>")
    assert whole(rows.labels[1]) == whole(LONG) and max(map(len, lines)) <= 20
    room = 25 * (rows.places["b"] - rows.places["a"])
    assert room >= 17 * len(lines) and rows.end == pytest.approx(1 + (room - 25) / 25 + 1)
    assert 25 * rows.places[LONG] == pytest.approx((25 * rows.places["a"] + 25 * rows.places["b"]) / 2)


def named(frame, old, new, column="name"):
    return frame.assign(**{column: frame[column].where(frame[column] != old, new)})


def test_no_figure_cuts_a_long_name():
    name = FRAME[FRAME.group == "relation"].name.iloc[0]
    matrix = pd.DataFrame(np.eye(3), [LONG, "b", "c"], [LONG, "b", "c"])
    points = pd.DataFrame({"x": [0.0, 1], "y": [1.0, 0]}, index=[LONG, "b"])
    words = dict(relation="r", vector="FV", token=[LONG, " b"], probability=[0.5, 0.1], is_name=[True, False])
    vector = FunctionVector(torch.zeros(4), 0, weights={LONG: 0.75, "b": 0.25}, method="composite")
    for figure in (
        plots.comparison(named(FRAME, "FV", LONG, "row")), plots.relations(named(FRAME, name, LONG), {}),
        plots.similarity({"people": matrix}), plots.relation_map(points, {}), plots.composition(vector),
        plots.evaluation(made_evaluation(controls=(LONG, "10-shot"))), plots.decoding(pd.DataFrame(words)),
    ):  # fmt: skip
        labels = [*(figure.layout.yaxis.ticktext or ()), *(text for of in figure.data for text in of.text or ())]
        shown = next((label for label in labels if whole(LONG) in whole(label)), None)
        assert shown is not None and shown.count("<br>") >= 2, figure.layout.title.text


def test_an_axis_holds_every_interval_and_a_share_begins_at_zero():
    some = [Score(0.5, 0.4, 0.6, 9), Score(0.3, np.nan, np.nan, 1)]
    low, high = share_axis("accuracy", some)["range"]
    assert low < 0 and 0.6 < high < 0.7
    low, high = share_axis("log_prob", [Score(-3.0, -4.0, -2.0, 9)])["range"]
    assert -4.2 < low < -4 and -2 < high < -1.8
