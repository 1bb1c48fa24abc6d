"""The map of heads shows mean effects with their intervals and chosen heads; and refuses what it cannot draw."""

import numpy as np
import pytest

from fv_lens import plots
from fv_lens.ground import scores
from fv_lens.ground.errors import InputError
from fv_lens.vectors.effects import mean_effects

from .made import made_effects


def test_the_map_shows_the_mean_effects_on_a_scale_centred_at_zero():
    effects = made_effects()
    heat = plots.head_effects(effects).data[0]
    np.testing.assert_allclose(heat.z, effects.mean, rtol=1e-4)
    assert heat.zmid == 0 and heat.zmin == -heat.zmax
    assert heat.zmax == pytest.approx(np.quantile(effects.mean.abs(), 0.995))
    assert heat.colorscale[len(heat.colorscale) // 2] == (0.5, "#ffffff")


def test_hovering_shows_the_effect_with_its_interval_unit_and_number_of_prompts():
    effects = made_effects()
    low, high = effects.confidence_interval()
    text = plots.head_effects(effects).data[0].text[2][1]
    assert f"L2H1</b>: {effects.mean[2, 1]:+.5f} [{low[2, 1]:.5f}, {high[2, 1]:.5f}]" in text
    assert "change in probability, 95 % over 6 corrupted prompts of 10 shots" in text


def test_the_other_measure_is_the_log_probability_in_nats():
    effects = made_effects()
    figure = plots.head_effects(effects, measure="log_prob")
    np.testing.assert_allclose(figure.data[0].z, effects.log_prob_values.mean(0), rtol=1e-4)
    low, high = scores.interval(effects.log_prob_values.numpy())
    assert f"[{low[0, 0]:.4f}, {high[0, 0]:.4f}]" in figure.data[0].text[0][0]
    assert "(nats)" in figure.data[0].colorbar.title.text


def test_chosen_heads_are_outlined_and_counted():
    figure = plots.head_effects(made_effects(), chosen=[(2, 3), (0, 1)])
    boxes = [(box.x0, box.x1, box.y0, box.y1) for box in figure.layout.shapes]
    assert boxes == [(2.5, 3.5, 1.5, 2.5), (0.5, 1.5, -0.5, 0.5)]
    assert "2 chosen heads" in figure.layout.title.text
    assert not plots.head_effects(made_effects()).layout.shapes


def test_one_prompt_has_no_interval():
    figure = plots.head_effects(made_effects(n=1))
    text = figure.data[0].text[0][0]
    assert "(no interval)" in text and "1 corrupted prompt of 10 shots" in text and "95 %" not in text
    assert "[" not in str(figure.data[0].text[0][0])


def test_effects_of_zero_leave_the_map_white():
    heat = plots.head_effects(made_effects(scale=0.0)).data[0]
    assert not np.any(heat.z) and heat.zmax > 0


def test_a_mean_over_relations_says_so():
    mean = mean_effects([made_effects(relation="a"), made_effects(relation="b")])
    figure = plots.head_effects(mean)
    assert "2 relations" in figure.layout.title.text and "prompts" not in figure.layout.title.text
    assert "95 % over 2 relations" in figure.data[0].text[0][0]


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("layers, heads", [(3, 4), (30, 9), (12, 12), (32, 32), (80, 64)])
def test_maps_of_all_sizes_fit_a_page_with_cells_that_are_about_square(layers, heads):
    layout = plots.head_effects(made_effects(2, layers, heads)).layout
    assert 400 <= layout.width <= 1000 and 200 <= layout.height <= 900
    cell_width, cell_height = (layout.width - 180) / heads, (layout.height - layout.margin.t - 60) / layers
    assert 0.5 <= cell_width / cell_height <= 2.1


@pytest.mark.parametrize(
    "chosen, message",
    [
        ([(3, 0)], r"Head \(3, 0\) is outside the map of 3 layers x 4 heads"),
        ([(0, 4)], r"Head \(0, 4\) is outside"),
        ([(-1, 0)], "layer is -1"),
        ([(0, 1.5)], "head is 1.5"),
        ([5], "5 is not a head"),
        (["L0H1"], "'L0H1' is not a head"),
    ],
)
def test_a_chosen_head_outside_the_map_is_refused(chosen, message):
    with pytest.raises(InputError, match=message):
        plots.head_effects(made_effects(), chosen)


@pytest.mark.parametrize("measure", ["logit", "", None, 3])
def test_an_unknown_measure_is_refused(measure):
    with pytest.raises(InputError, match="give 'probability' or 'log_prob'"):
        plots.head_effects(made_effects(), measure=measure)
