"""Figures of composites, analogies and similarity draw what they are given, in the order they promise."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch

from fv_lens import plots
from fv_lens.ground.errors import InputError
from fv_lens.plots.relation_map import FONT_SIZE, MARKER, SIDES
from fv_lens.vectors.function_vector import FunctionVector

from .test_figures import HOSTILE
from .test_table import drawn_texts, spans

LIBRARIES = ("full", "relation left out", "family left out")


def made_composite(n=49, source=("hot", "cold"), seed=0) -> FunctionVector:
    """A composite whose weights do not stand in order, as those of a mapping of one's own may not."""
    weights = np.random.default_rng(seed).dirichlet(np.full(n, 0.3)).tolist()
    named = {f"relation-{i}": weight for i, weight in enumerate(weights)}
    return FunctionVector(torch.ones(4), 1, method="composite", weights=named, source=source)


def made_frame(measures=("accuracy", "choice", "log_prob")) -> pd.DataFrame:
    """Lines as `AnalogyScores.to_frame` gives them: two methods with a library, three without."""
    rng, lines = np.random.default_rng(0), []
    rows = [(method, library, prompt) for method in ("posterior", "a single vector, the best of the library")
            for library in LIBRARIES for prompt in ("zero-shot", "one-shot")]  # fmt: skip
    rows += [("prompt only", "", prompt) for prompt in ("zero-shot", "one-shot", "sentence")]
    rows += [("true relation", "", "one-shot"), ("weight profiles", "full", "")]
    for measure in measures:
        for row in rows:
            value = rng.uniform(0.1, 0.9) - 5 * (measure == "log_prob")
            lines.append((*row, measure, value, value - rng.uniform(0.01, 0.1), value + rng.uniform(0.01, 0.1), 336))
    return pd.DataFrame(lines, columns=["method", "library", "prompt", "measure", "value", "low", "high", "n"])


def made_matrix(names, seed=0) -> pd.DataFrame:
    points = np.random.default_rng(seed).normal(size=(len(names), 3))
    return pd.DataFrame(np.corrcoef(points), names, names)


def made_points(n=49, seed=0) -> pd.DataFrame:
    at = np.random.default_rng(seed).normal(size=(n, 2)) * [2.0, 1.0]
    return pd.DataFrame(at, [f"a relation of number {i}"[: 8 + i % 15] + str(i) for i in range(n)], ["x", "y"])


FRAME = made_frame()


# Composites


def test_the_largest_weights_are_bars_in_order_and_the_rest_is_one_bar():
    composite = made_composite()
    [bar] = plots.composition(composite, k=5).data
    largest = sorted(composite.weights.values(), reverse=True)
    np.testing.assert_allclose(bar.x[:5], largest[:5])
    assert bar.x[5] == pytest.approx(sum(largest[5:])) and sum(bar.x) == pytest.approx(1)
    labels = list(plots.composition(composite, k=5).layout.yaxis.ticktext)
    assert labels == [*sorted(composite.weights, key=lambda name: -composite.weights[name])[:5], "44 others"]
    assert bar.marker.color[5] != bar.marker.color[0]


def test_nothing_is_left_over_where_all_weights_fit():
    for n, last in ((3, None), (4, None), (5, "1 other")):
        labels = plots.composition(made_composite(n), k=4).layout.yaxis.ticktext
        assert len(labels) == min(n, 5) and (last is None or labels[-1] == last)


def test_the_source_pair_is_the_title():
    assert plots.composition(made_composite()).layout.title.text.startswith("<b>hot : cold</b>")
    assert "49 relations, in all 1.00" in plots.composition(made_composite()).layout.title.text
    unnamed = plots.composition(made_composite(source=())).layout.title.text
    assert unnamed.startswith("<b>Composite vector</b>")


def test_a_negative_weight_has_room_on_the_other_side():
    composite = replace(made_composite(), weights={"a": 1.5, "b": -0.5})
    figure = plots.composition(composite)
    assert list(figure.data[0].x) == [1.5, -0.5]
    assert figure.layout.xaxis.range[0] < -0.5 and figure.layout.xaxis.range[1] > 1.5


def test_a_small_weight_is_not_shown_as_nothing():
    composite = replace(made_composite(), weights={"a": 0.99, "b": 0.004, "c": 2e-6, "d": 0.0})
    assert list(plots.composition(composite).data[0].text) == ["0.99", "0.004", "&lt; 0.001", "0"]


@pytest.mark.parametrize("weights", [None, {}])
def test_a_vector_without_weights_is_refused(weights):
    with pytest.raises(InputError, match="has no weights; give a composite"):
        plots.composition(replace(made_composite(), weights=weights))


def test_at_least_one_weight_is_shown():
    with pytest.raises(InputError, match="k is 0"):
        plots.composition(made_composite(), k=0)


# Analogies


def dots(figure):
    """(panel, method, prompt) -> value and the ends of its interval, from what is drawn."""
    ticks = {place: label.replace("<br>", " ") for place, label in
             zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext)}  # fmt: skip
    axes = ["x", *(f"x{i}" for i in range(2, 9))]
    found = {}
    for trace in figure.data:
        if trace.error_x.array is None:
            continue
        for y, span in zip(trace.y, spans(trace)):
            key = axes.index(trace.xaxis), ticks[min(ticks, key=lambda tick: abs(tick - y))], trace.name
            assert key not in found
            found[key] = span
    return found


def panels(figure):
    return [note.text.replace("<br>", " ") for note in figure.layout.annotations]


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("measure", ["accuracy", "choice", "log_prob"])
def test_every_number_is_a_dot_with_its_interval_in_the_panel_of_its_library(measure):
    figure = plots.analogies(FRAME, measure)
    assert panels(figure) == list(LIBRARIES)
    found, expected = dots(figure), 0
    for line in FRAME[FRAME.measure == measure].itertuples():
        for panel, library in enumerate(LIBRARIES):
            if line.library in ("", library):
                span = found[panel, line.method, line.prompt or "no prompt"]
                np.testing.assert_allclose(span, [line.value, line.low, line.high])
                expected += 1
    assert len(found) == expected == 4 + 4 + 4 + 3 * 4 + 1


def test_dots_of_a_method_do_not_lie_on_each_other():
    figure = plots.analogies(FRAME)
    places = [(trace.xaxis, y) for trace in figure.data if trace.error_x.array is not None for y in trace.y]
    assert len(set(places)) == len(places)
    for (axis, one), (other_axis, other) in combinations(places, 2):
        assert axis != other_axis or abs(one - other) > 0.2


@pytest.mark.slow
def test_methods_are_sorted_by_their_best_number_in_the_first_panel():
    for libraries in (LIBRARIES, LIBRARIES[::-1]):
        figure = plots.analogies(FRAME, library=libraries)
        labels = [label.replace("<br>", " ") for label in figure.layout.yaxis.ticktext]
        split = labels.index("<b>without (paler)</b>")
        assert labels[0] == "<b>with the library</b>"
        found = dots(figure)
        for group in (labels[1:split], labels[split + 1 :]):
            best = [
                max((span[0] for key, span in found.items() if key[:2] == (0, label.replace("<br>", " "))), default=-9)
                for label in group
            ]
            assert best == sorted(best, reverse=True)
    assert "weight profiles" in labels[:split]


def test_what_uses_no_library_is_paler_in_every_panel():
    figure = plots.analogies(FRAME)
    colours = {}
    for trace in figure.data:
        if trace.error_x.array is not None and len(trace.y):
            pale = set(np.round(trace.y).astype(int)) <= set(range(4, 9))
            colours.setdefault((trace.name, pale), set()).add(trace.marker.color)
    labels = figure.layout.yaxis.ticktext
    assert labels.index("<b>without (paler)</b>") == 4
    assert all(len(of) == 1 for of in colours.values())
    assert colours["zero-shot", True] != colours["zero-shot", False] != colours["one-shot", False]
    shown = [trace for trace in figure.data if trace.showlegend is not False]
    assert [trace.name for trace in shown] == ["zero-shot", "one-shot", "sentence", "no prompt"]
    assert {shown[0].marker.color} == colours["zero-shot", False]


@pytest.mark.slow
def test_chance_is_a_dashed_line_in_every_panel_and_inside_the_axis():
    lines = [trace for trace in plots.analogies(FRAME, "choice", chance=0.97).data if trace.mode == "lines"]
    assert len(lines) == 3 and all(set(line.x) == {0.97} and line.line.dash == "dash" for line in lines)
    assert [line.showlegend for line in lines] == [True, False, False] and lines[0].name == "chance 0.97"
    assert plots.analogies(FRAME, "choice", chance=0.97).layout.xaxis.range[1] > 0.97
    assert not [trace for trace in plots.analogies(FRAME, "choice").data if trace.mode == "lines"]


def test_libraries_are_shown_as_asked_for():
    figure = plots.analogies(FRAME, library=["family left out", "full"])
    assert panels(figure) == ["family left out", "full"]
    posterior = FRAME[(FRAME.method == "posterior") & (FRAME.measure == "accuracy")].set_index(["library", "prompt"])
    for panel, library in enumerate(("family left out", "full")):
        value = dots(figure)[panel, "posterior", "zero-shot"][0]
        assert value == pytest.approx(posterior.value[library, "zero-shot"])


def test_without_any_library_there_is_one_panel():
    figure = plots.analogies(FRAME[FRAME.library == ""])
    assert len(dots(figure)) == 4 and "<b>" not in "".join(figure.layout.yaxis.ticktext)


def test_an_interval_without_ends_leaves_the_axis_finite():
    frame = FRAME.assign(low=-np.inf, high=np.inf)
    figure = plots.analogies(frame)
    assert np.isfinite(figure.layout.xaxis.range).all()
    assert all((span == span[0]).all() for span in dots(figure).values())
    assert "(no interval)" in drawn_texts(figure)


def test_hovering_names_the_method_library_prompt_unit_and_number():
    trace = next(trace for trace in plots.analogies(FRAME).data if trace.name == "one-shot" and trace.text)
    line = FRAME[(FRAME.measure == "accuracy") & (FRAME.prompt == "one-shot") & (FRAME.method == "posterior")].iloc[0]
    expected = f"<b>posterior</b>: {line.value:.2f} [{line.low:.2f}, {line.high:.2f}]<br>library: full, one-shot"
    assert f"{expected}<br>share of analogies, 95 %, 336 analogies" in trace.text


@pytest.mark.parametrize("column", FRAME.columns)
def test_a_missing_column_is_named(column):
    with pytest.raises(InputError, match=f"lacks the column '{column}'"):
        plots.analogies(FRAME.drop(columns=column))


def test_what_the_frame_does_not_hold_is_refused():
    with pytest.raises(InputError, match="measure is 'rank', .* it has 'accuracy', 'choice', 'log_prob'"):
        plots.analogies(FRAME, "rank")
    with pytest.raises(InputError, match="no library 'half'; there are 'full', 'relation left out'"):
        plots.analogies(FRAME, library=["half"])
    with pytest.raises(InputError, match="library is empty"):
        plots.analogies(FRAME, library=[])
    with pytest.raises(InputError, match="chance is nan"):
        plots.analogies(FRAME, chance=np.nan)


# Similarity


def heats(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


def test_matrices_are_drawn_in_the_order_asked_for():
    names = list("abcdef")
    given = {"people": made_matrix(names), "FFV": made_matrix(names[::-1], seed=1)}
    order = list("fbd")
    figure = plots.similarity(given, order)
    for heat, matrix in zip(heats(figure), given.values(), strict=True):
        np.testing.assert_array_equal(heat.z, matrix.loc[order, order])
    assert list(figure.layout.yaxis.ticktext) == order
    assert [note.text.split("<br>")[0] for note in figure.layout.annotations] == ["<b>people</b>", "<b>FFV</b>"]


def test_by_default_like_stands_beside_like_in_the_first_matrix_without_gaps():
    names = [f"{group}{i}" for i in range(4) for group in "abc"]
    blocks = np.array([[0.9 if one[0] == other[0] else 0.1 for other in names] for one in names])
    whole = pd.DataFrame(blocks, names, names)
    gaps = made_matrix(names)
    gaps.iloc[0, 1] = gaps.iloc[1, 0] = np.nan
    figure = plots.similarity({"people": gaps, "FV": whole, "FFV": made_matrix(names, seed=3)})
    order = list(figure.layout.yaxis.ticktext)
    assert sorted(order) == sorted(names)
    assert (
        len([1 for one, other in zip(order, order[1:]) if one[0] != other[0]]) == 2
    )  # three groups, each in one piece
    np.testing.assert_array_equal(heats(figure)[0].z, gaps.loc[order, order])
    np.testing.assert_array_equal(heats(figure)[1].z, whole.loc[order, order])


def test_where_no_matrix_is_complete_the_order_is_that_of_the_first():
    matrix = made_matrix(list("dcba"))
    matrix.iloc[0, 2] = np.nan
    assert list(plots.similarity({"people": matrix}).layout.yaxis.ticktext) == list("dcba")


@pytest.mark.parametrize("n", [1, 2])
def test_few_names_are_drawn_too(n):
    assert np.shape(heats(plots.similarity({"FV": made_matrix(list("ab")[:n])}))[0].z) == (n, n)


def test_colours_are_centred_at_the_mean_off_the_diagonal_of_each():
    names = list("abcde")
    given = {"people": 4 + 2 * made_matrix(names), "FV": made_matrix(names, seed=1)}
    figure = plots.similarity(given, names)
    for heat, matrix in zip(heats(figure), given.values()):
        off = matrix.to_numpy()[~np.eye(5, dtype=bool)]
        assert heat.zmid == pytest.approx(off.mean())
        assert heat.zmax - heat.zmid == pytest.approx(heat.zmid - heat.zmin)
        assert heat.zmax - heat.zmid == pytest.approx(np.quantile(np.abs(off - off.mean()), 0.995))
    assert heats(figure)[0].zmax - heats(figure)[0].zmid != heats(figure)[1].zmax - heats(figure)[1].zmid


def test_unknown_numbers_are_left_grey_and_said_to_be():
    matrix = made_matrix(list("abcd"))
    assert "not known" not in plots.similarity({"FV": matrix}).layout.title.text
    for gap in (np.nan, np.inf):
        matrix.iloc[0, 2] = gap
        figure = plots.similarity({"FV": matrix}, list("abcd"))
        assert np.isnan(heats(figure)[0].z[0][2]) and np.isfinite(heats(figure)[0].zmax)
        assert heats(figure)[0].hoverongaps is False and "grey: not known" in figure.layout.title.text


def test_hovering_a_cell_gives_both_names_and_the_number():
    matrix = made_matrix(list("abc"))
    text = heats(plots.similarity({"FV": matrix}, list("cba")))[0].text
    assert text[0][2] == f"<b>c</b><br>a<br>FV: {matrix.loc['c', 'a']:.3g}"


def test_a_constant_matrix_has_a_scale():
    matrix = pd.DataFrame(np.full((3, 3), 0.25), list("abc"), list("abc"))
    [heat] = heats(plots.similarity({"FV": matrix}))
    assert heat.zmin < 0.25 < heat.zmax


def test_a_matrix_that_cannot_be_drawn_is_refused():
    good = made_matrix(list("abc"))
    for bad, message in (
        (good.iloc[:2], "'FV' is not square with the same names on both sides"),
        (good[list("cab")], "'FV' is not square with the same names on both sides"),
        (made_matrix(list("aba")), "'FV' has 'a' twice"),
        (good.astype(str), "'FV' holds something that is not a number"),
        (made_matrix(list("abd")), "'FV' lacks 'c'"),
    ):
        with pytest.raises(InputError, match=message):
            plots.similarity({"people": good, "FV": bad})


def test_names_that_cannot_be_ordered_are_refused():
    good = made_matrix(list("abc"))
    with pytest.raises(InputError, match="matrices is empty"):
        plots.similarity({})
    with pytest.raises(InputError, match="'a' is named twice"):
        plots.similarity({"FV": good}, ["a", "b", "a"])
    with pytest.raises(InputError, match="'FV' lacks 'z'"):
        plots.similarity({"FV": good}, ["a", "z"])
    with pytest.raises(InputError, match="no names to show"):
        plots.similarity({"FV": good}, [])


# The map of relations


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


# All of them


@pytest.mark.slow
def test_text_from_data_cannot_become_markup():
    names = [HOSTILE, "b", "c"]
    composite = replace(made_composite(), weights=dict.fromkeys(names, 0.3), source=(HOSTILE, "b"))
    for figure in (
        plots.composition(composite),
        plots.analogies(FRAME.replace({"posterior": HOSTILE, "full": HOSTILE, "one-shot": HOSTILE})),
        plots.similarity({HOSTILE: made_matrix(names)}),
        plots.relation_map(pd.DataFrame({"x": [0, 1, 2], "y": [0, 1, 2]}, names), {"b": HOSTILE}),
    ):
        assert "&lt;script" in drawn_texts(figure)
        assert "<script" not in drawn_texts(figure)
