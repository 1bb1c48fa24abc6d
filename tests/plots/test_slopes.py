"""Slopes join each relation's two numbers, and count which way they go."""

import html
import re

import pytest

from fv_lens import plots
from fv_lens.ground.errors import InputError

from .made_table import FRAME, made_categories, pick


@pytest.mark.slow
def test_slopes_join_each_relations_two_numbers_and_count_which_way_they_go():
    categories = made_categories()
    figure = plots.slopes(FRAME, categories)
    lines = {html.unescape(re.match("<b>(.*?)</b>", line.text[0])[1]): line for line in figure.data}
    assert lines.keys() == {*FRAME[(FRAME.part == "score") & (FRAME.group == "relation")].name, "mean"}
    for name, line in lines.items():
        ends = [pick(row, "all" if name == "mean" else name).value for row in ("FV", "FFV from FV")]
        assert list(line.y) == pytest.approx(ends) and list(line.x) == [0, 1]
    kinds = {line.legendgroup: line.line.color for line in figure.data if line.legendgroup}
    assert len(set(kinds.values())) == len(kinds) == len(set(categories.values()))
    assert [line.legendgroup for line in figure.data if line.showlegend and line.legendgroup] == list(kinds)
    up = sum(line.y[1] > line.y[0] for name, line in lines.items() if name != "mean")
    assert f"higher after in {up} relations" in re.sub("<.*?>", " ", figure.layout.title.text)


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("measure", ["accuracy", "log_prob"])
def test_the_axis_of_slopes_holds_the_whole_interval_of_the_mean(measure):
    frame = FRAME.copy()
    wide = (frame.part == "score") & (frame.group == "all") & (frame.measure == measure)
    frame.loc[wide, ["low", "high"]] = -7.5, 2.5  # beyond every relation's
    low, high = plots.slopes(frame, made_categories(), measure=measure).layout.yaxis.range
    assert low < -7.5 and 2.5 < high


def test_slopes_of_a_row_that_is_not_there_are_an_error():
    with pytest.raises(InputError, match="no row 'FFV from nowhere'"):
        plots.slopes(FRAME, {}, ("FV", "FFV from nowhere"))
