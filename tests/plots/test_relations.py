"""Relations stand in their categories, sorted, each with its numbers and intervals."""

import numpy as np
import pytest

from fv_lens import plots
from fv_lens.ground.errors import InputError

from .drawn import spans, traces
from .made_table import FRAME, KINDS, made_categories, made_frame, pick


def test_each_relation_has_a_point_with_its_interval_for_each_row():
    figure = plots.relations(FRAME, made_categories())
    ticks = dict(zip(figure.layout.yaxis.ticktext, figure.layout.yaxis.tickvals))
    for row in ("zero-shot", "10-shot", "FV", "FFV from FV"):
        trace = traces(figure)[row]
        assert len(trace.x) == 47 + 1
        for name in ("antonym", "country - capital 2"):
            [at] = np.flatnonzero(np.abs(np.array(trace.y) - ticks[name]) < 0.5)
            expected = pick(row, name)
            np.testing.assert_allclose(spans(trace)[at], [expected.value, expected.low, expected.high])


def test_relations_are_in_categories_and_sorted_by_the_last_row():
    labels = list(plots.relations(FRAME, made_categories()).layout.yaxis.ticktext)
    assert [label[3:-4] for label in labels if label.startswith("<b>")] == ["mean", *KINDS]
    ours = labels[labels.index("<b>derivation</b>") + 1 : labels.index("<b>encyclopedic</b>")]
    assert set(ours) == {name for name, kind in made_categories().items() if kind == "derivation"}
    best = [pick("FFV from FV", name).value for name in ours]
    assert best == sorted(best, reverse=True)
    assert ours != sorted(ours, key=lambda name: -pick("10-shot", name).value)


def test_the_mean_stands_on_top():
    figure = plots.relations(FRAME, made_categories(), rows=("FV",))
    [trace] = figure.data
    [at] = np.flatnonzero(np.array(trace.y) == 0)
    assert min(trace.y) == 0 and figure.layout.yaxis.ticktext[0] == "<b>mean</b>"
    np.testing.assert_allclose(spans(trace)[at], pick("FV")[["value", "low", "high"]].astype(float))
    assert "95 % over 47 relations" in trace.text[at]


def test_a_relation_without_a_category_comes_under_other():
    categories = made_categories()
    del categories["un+adj_reg"]
    labels = list(plots.relations(FRAME, categories).layout.yaxis.ticktext)
    assert labels.index("un+adj_reg") > labels.index("<b>other</b>")


def test_a_relation_that_lacks_the_last_row_comes_last():
    frame = FRAME[~((FRAME.name == "antonym") & (FRAME.row == "FFV from FV"))]
    labels = list(plots.relations(frame, made_categories()).layout.yaxis.ticktext)
    assert labels[-1] == "antonym"


@pytest.mark.slow
def test_the_figure_grows_with_the_relations():
    heights = [plots.relations(made_frame(n), made_categories(n)).layout.height for n in (5, 25, 47)]
    assert heights[0] < heights[1] < heights[2] and (heights[2] - heights[1]) >= 20 * 22


def test_hovering_tells_all_rows_of_the_relation():
    trace = plots.relations(FRAME, made_categories()).data[0]
    text = next(text for text in trace.text if text.startswith("<b>antonym (other)</b>"))
    for row in ("10-shot", "FFV from FV"):
        value = pick(row, "antonym")
        assert f"{row}: {value.value:.2f} [{value.low:.2f}, {value.high:.2f}]" in text
    assert "95 % over 20 words" in text


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(rows=("FV", "FFVs")), "no row 'FFVs'"),
        (dict(measure="top-5"), "measure is 'top-5'"),
        (dict(rows=()), "rows"),
        (dict(rows=("10-shot",) * 6), "rows"),
    ],
)
def test_rows_and_measures_that_are_not_there_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        plots.relations(FRAME, made_categories(), **options)
