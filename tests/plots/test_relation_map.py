"""Relations on a map are where they were put, and their labels apart."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from fv_lens import plots
from fv_lens.ground.errors import InputError
from fv_lens.plots.relation_map import FONT_SIZE, MARKER, SIDES

from .made import made_points


def labelled(figure):
    """Name -> (x, y), category, side of the label."""
    return {
        hover.split("<br>")[0][3:-4]: ((x, y), trace.name, side)
        for trace in figure.data
        for x, y, hover, side in zip(trace.x, trace.y, trace.hovertext, trace.textposition)
    }


def test_every_point_is_where_it_was_given_in_the_colour_of_its_category():
    points = made_points(12)
    categories = {name: ("second", "first")[i % 2] for i, name in enumerate(points.index[:10])}
    figure = plots.relation_map(points, categories)
    found = labelled(figure)
    assert set(found) == set(points.index)
    for name, (at, category, _) in found.items():
        np.testing.assert_allclose(at, points.loc[name])
        assert category == categories.get(name, "other")
    assert [trace.name for trace in figure.data] == ["second", "first", "other"]
    assert (
        len({trace.marker.color for trace in figure.data}) == len({trace.marker.symbol for trace in figure.data}) == 3
    )


def test_both_axes_have_one_scale_no_ticks_and_room_for_all():
    points = made_points()
    layout = plots.relation_map(points, {}).layout
    assert layout.yaxis.scaleanchor == "x" and not layout.xaxis.showticklabels and not layout.yaxis.showticklabels
    for axis, column in ((layout.xaxis, points.x), (layout.yaxis, points.y)):
        assert axis.range[0] < column.min() and column.max() < axis.range[1]


def covered(points: pd.DataFrame, figure, sides: dict) -> float:
    """Pixels of labels that lie on other labels, the slow way, on the map as the page draws it."""
    layout = figure.layout
    wide, high = np.ptp(layout.xaxis.range), np.ptp(layout.yaxis.range)
    scale = min(650 / wide, 520 / high)
    boxes = []
    for name, at in points.iterrows():
        across, up = SIDES[sides[name]]
        label = min(len(name), 22) * 0.56 * FONT_SIZE, FONT_SIZE + 2
        away = MARKER / 1.6 + 1
        x, y = at.x * scale + across * (label[0] / 2 + away), at.y * scale + up * (label[1] / 2 + away)
        boxes.append((x - label[0] / 2, x + label[0] / 2, y - label[1] / 2, y + label[1] / 2))
    total = 0.0
    for (a, b, c, d), (e, f, g, h) in combinations(boxes, 2):
        total += max(0.0, min(b, f) - max(a, e)) * max(0.0, min(d, h) - max(c, g))
    return total


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("seed", range(3))
def test_labels_cover_far_less_of_each_other_than_on_one_side(seed):
    points = made_points(seed=seed)
    figure = plots.relation_map(points, {})
    sides = {name: side for name, (_, _, side) in labelled(figure).items()}
    one_side = min(covered(points, figure, dict.fromkeys(sides, side)) for side in SIDES)
    assert covered(points, figure, sides) < 0.3 * one_side


def test_two_points_that_nearly_touch_have_labels_apart():
    points = pd.DataFrame({"x": [0, 0.01, 1.0], "y": [0, 0.0, 1.0]}, index=["one", "other", "third"])
    figure = plots.relation_map(points, {})
    sides = {name: side for name, (_, _, side) in labelled(figure).items()}
    assert sides["one"] != sides["other"] and covered(points, figure, sides) == 0


def test_one_point_or_equal_points_are_drawn():
    points = pd.DataFrame({"x": [1.0, 1.0], "y": [2.0, 2.0]}, index=["a", "b"])
    for some in (points, points[:1]):
        figure = plots.relation_map(some, {})
        assert len(labelled(figure)) == len(some) and np.ptp(figure.layout.xaxis.range) > 0


def test_more_categories_than_colours_still_differ():
    points = made_points(20)
    looks = [(trace.marker.color, trace.marker.symbol) for trace in
             plots.relation_map(points, {name: name for name in points.index}).data]  # fmt: skip
    assert len(set(looks)) == 20


def test_points_that_cannot_be_drawn_are_refused():
    with pytest.raises(InputError, match="lack the column 'y'"):
        plots.relation_map(made_points().drop(columns="y"), {})
    with pytest.raises(InputError, match="no points"):
        plots.relation_map(made_points()[:0], {})
    for bad in (np.nan, np.inf, "left"):
        points = made_points(3).astype(object)
        points.iloc[1, 0] = bad
        with pytest.raises(InputError, match=f"the point '{points.index[1]}' is at"):
            plots.relation_map(points, {})
