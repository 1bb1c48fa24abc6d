"""The sweep shows accuracy by layer with its intervals, and where a vector was chosen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fv_lens import plots
from fv_lens.ground.errors import InputError

from .made import made_sweep


def lines(figure):
    return [trace for trace in figure.data if trace.mode == "lines+markers"]


def test_the_sweep_has_a_panel_per_vector_and_a_line_per_strength_in_order_of_layers():
    grid = made_sweep()
    figure = plots.layer_sweep(grid)
    assert [note.text for note in figure.layout.annotations] == ["1 heads", "2 heads"]
    assert [line.name for line in lines(figure)] == ["1", "2"] * 2 and figure.layout.legend.title.text == "strength"
    order = np.argsort(grid.layers)
    for line, accuracy in zip(lines(figure), grid.accuracy.transpose(0, 2, 1).reshape(4, 3)):
        assert list(line.x) == [0, 1, 2]
        np.testing.assert_allclose(line.y, accuracy[order])


def test_bands_are_the_intervals_and_a_dashed_line_the_plain_level():
    grid = made_sweep()
    figure = plots.layer_sweep(grid)
    frame = grid.to_frame().query("vector == '1 heads' and strength == 1").sort_values("layer")
    band = next(trace for trace in figure.data if trace.fill == "toself")
    np.testing.assert_allclose(band.y, [*frame.accuracy_high, *frame.accuracy_low[::-1]])
    plain = next(trace for trace in figure.data if trace.name == "no vector")
    assert set(plain.y) == {0.25} and plain.line.dash == "dash" and "0.25 [" in plain.text


@pytest.mark.parametrize("right, n, top", [(0, 40, "0.25"), (0, 8, "0.5"), (1, 8, "1")])
def test_the_axis_ends_above_every_interval(right, n, top):
    grid = made_sweep()
    right, plain = np.full((n, *grid.right.shape[1:]), right, dtype=bool), np.zeros((n, 2))
    axis = plots.layer_sweep(replace(grid, right=right, plain=plain)).layout.yaxis
    assert axis.ticktext[-1] == top and axis.tickvals[-1] == float(top) < axis.range[1]


def test_a_star_marks_the_choice_and_says_that_it_was_made_on_validation():
    grid = made_sweep()
    best = grid.best()
    star = plots.layer_sweep(grid, best).data[-1]
    assert star.marker.symbol == "star" and star.name == "chosen on validation"
    assert list(star.x) == [best.layer] and list(star.y) == [grid.accuracy.max()]
    assert f"layer {best.layer}, strength {best.strength:g}" in star.text
    assert all(trace.marker.symbol != "star" for trace in plots.layer_sweep(grid).data)


def test_a_vector_of_another_sweep_has_no_star():
    grid = made_sweep()
    for other in (
        replace(grid.best(), layer=7),
        grid.best().strengthened(1.5),
        replace(grid.best(), vector=torch.ones(5)),
    ):
        with pytest.raises(InputError, match=r"pass sweep\.best\(\)"):
            plots.layer_sweep(grid, other)


def test_a_sweep_of_one_point_is_drawn():
    grid = made_sweep(n=1, layers=(1,), strengths=(1.0,), heads=(1,))
    assert len(lines(plots.layer_sweep(grid, grid.best()))) == 1
