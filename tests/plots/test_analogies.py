"""Analogies: every number with its interval, in the panel of its library, sorted by the first."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from fv_lens import plots
from fv_lens.ground.errors import InputError

from .drawn import drawn_texts, spans
from .made import HOSTILE, made_composite, made_matrix

LIBRARIES = ("full", "relation left out", "family left out")


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


FRAME = made_frame()


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


def test_models_are_beside_each_other_as_libraries_are():
    frame = FRAME[FRAME.library.isin(["", "full"])]
    both = pd.concat([frame.assign(library="one", value=frame.value / 2), frame.assign(library="two")])
    figure = plots.analogies(both, panel="model")
    text = drawn_texts(figure)
    assert panels(figure) == ["one", "two"] and "columns: the model" in text
    assert not any(word in text for word in ("library:", "with the library", "columns: the library"))
    found, own = dots(figure), frame[(frame.measure == "accuracy") & (frame.prompt == "one-shot")]
    for line in own.itertuples():
        assert [found[at, line.method, "one-shot"][0] for at in (0, 1)] == pytest.approx([line.value / 2, line.value])


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
