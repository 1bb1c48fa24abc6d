"""Figures say what the results say: values, intervals, chosen points; and refuse what they cannot draw."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fv_lens import plots
from fv_lens.evaluation.evaluate import Evaluation, Result
from fv_lens.ground import scores
from fv_lens.ground.errors import InputError
from fv_lens.vectors.effects import HeadEffects, mean_effects
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.sweeps import Sweep

HOSTILE = "<script>alert(1)</script>"


def made_effects(n=6, layers=3, heads=4, relation="antonym", scale=0.01) -> HeadEffects:
    values = scale * torch.randn(n, layers, heads, generator=torch.Generator().manual_seed(0))
    record = {"relation": relation, "model": "a model", "n_shots": 10, "data_hash": "0"}
    return HeadEffects(values, 7 * values, torch.full((n,), 0.5), torch.zeros(layers, heads, 2), 0.5, None, record)


def made_sweep(n=20, layers=(2, 0, 1), strengths=(1.0, 2.0), heads=(1, 2), relation="antonym") -> Sweep:
    rng = np.random.default_rng(0)
    chosen = [tuple((0, head) for head in range(k)) for k in heads]
    vectors = tuple(FunctionVector(torch.randn(8), 0, heads=of, model="a model") for of in chosen)
    shape = (n, len(heads), len(layers), len(strengths))
    right, names = rng.integers(0, 2, shape) == 1, tuple(f"{k} heads" for k in heads)
    plain = np.stack([np.arange(n) % 4 == 0, -np.ones(n)], 1)
    return Sweep(right, -rng.random(shape), plain, vectors, names, layers, strengths, relation)


def made_evaluation(right=(18, 2, 15), n=30, relation="antonym", controls=("zero-shot", "10-shot")) -> Evaluation:
    """The vector is right on the first `right[0]` words, the controls on the first `right[1:]`; all begin 2 more."""
    hits = [np.arange(n) < k for k in right]
    log_probs = [np.where(hit, -1.0, -5.0) - 0.01 * np.arange(n) for hit in hits]
    rows = [
        Result(
            scores.proportion(hit), scores.proportion(np.arange(n) < hit.sum() + 2),
            scores.proportion(np.arange(n) < hit.sum() + 5), scores.mean(log_prob),
            scores.paired_difference(hits[0], hit.astype(float)), scores.paired_difference(log_probs[0], log_prob),
        )
        for hit, log_prob in zip(hits, log_probs)
    ]  # fmt: skip
    words = {"word": [str(i) for i in range(n)], "right": hits[0], "log_prob": log_probs[0], "rank": 0}
    tested, named = rows[0], dict(zip(controls, rows[1:]))
    own = tested.accuracy, tested.first_token_accuracy, tested.top_k, tested.log_prob
    return Evaluation(*own, named, "zero-shot + vector", relation, pd.DataFrame(words))


# The map of heads


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


# The sweep


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


# The evaluation


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


# All of them


@pytest.mark.slow
def test_text_from_data_cannot_become_markup():
    evaluation = replace(made_evaluation(relation=HOSTILE, controls=(HOSTILE, "10-shot")), name=HOSTILE)
    grid = replace(made_sweep(relation=HOSTILE), names=(HOSTILE, "2 heads"))
    for figure in (
        plots.head_effects(made_effects(relation=HOSTILE)),
        plots.layer_sweep(grid),
        plots.evaluation(evaluation),
    ):
        assert "&lt;script&gt;" in str(figure.to_dict())
        assert "<script" not in str(figure.to_dict())


def test_a_long_title_is_wrapped_and_given_room():
    short, long = (plots.evaluation(made_evaluation(relation=name)).layout for name in ("a", "a long name " * 9))
    assert max(map(len, long.title.text.split("<br>")[:2])) < 60
    assert long.margin.t > short.margin.t and long.height > short.height


# Entities that plotly.js reads in texts; it shows others, such as &quot;, as they are.
ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "nbsp": "\xa0", "times": "×", "plusmn": "±", "deg": "°", "mu": "μ"}


def as_plotly_shows(text: str) -> str:
    return re.sub(r"&([a-z]+);", lambda match: ENTITIES.get(match[1], match[0]), re.sub("<[^>]*>", "", text))


def test_tokens_are_shown_as_they_are():
    tokens = ['"', "'", 'a"b', "<b>", "&", "&quot;", "&lt;", "&#34;", "->", "µ"]
    shown = {
        "relation": 'a "relation" & <more>',
        "vector": 'F"V',
        "token": tokens,
        "probability": 0.1,
        "is_name": False,
    }
    figure = plots.decoding(pd.DataFrame(shown))
    bars, texts = figure.data
    assert [as_plotly_shows(text.split(" <span")[0]) for text in texts.text] == tokens
    assert [as_plotly_shows(text).split(":")[0] for text in bars.hovertext] == tokens
    assert as_plotly_shows(figure.layout.annotations[0].text) == 'a "relation" & <more>F"V'


@pytest.mark.slow
def test_no_figure_has_an_entity_that_plotly_does_not_know():
    evaluation = replace(made_evaluation(relation="\"'", controls=("\"'", "10-shot")), name="\"'")
    grid = replace(made_sweep(relation="\"'"), names=("\"'", "2 heads"))
    for figure in (
        plots.head_effects(made_effects(relation="\"'")),
        plots.layer_sweep(grid),
        plots.evaluation(evaluation),
    ):
        found = set(re.findall(r"&(#?\w+);", figure.to_json()))
        assert found <= ENTITIES.keys(), found
