"""The map says of every head what was measured and no more, and a head's words are those that decoding reads."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from fv_lens.evaluation.decoding import decode
from fv_lens.evaluation.head_words import head_words
from fv_lens.ground import scores
from fv_lens.ground.errors import InputError
from fv_lens.ground.markup import decimals
from fv_lens.models.arrival import arrival
from fv_lens.models.lens import lens_of
from fv_lens.plots.heads import head_effects
from fv_lens.studies.page.head_map import EMBEDDED, head_map
from fv_lens.studies.page.parts import N_SHADES, write_page
from fv_lens.vectors.effects import HeadEffects, mean_effects
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.mediation import mean_head_outputs

from ...plots.made import HOSTILE, made_effects
from ..pages import Page


def made(means, spread=0.0, n=8):
    """Effects of given means `[layer, head]`, each prompt's above or below them by the spread."""
    means, apart = torch.tensor(means), spread * torch.tensor([1.0, -1.0] * (n // 2))
    values = means + apart[:, None, None]
    return replace(made_effects(n, *means.shape), values=values, log_prob_values=7 * values)


def cells(text):
    """(layer, head) -> its cell's attributes."""
    found = [parts for _, parts in Page(text).tags if parts.get("role") == "gridcell"]
    return {tuple(map(int, re.findall(r"\d+", of["aria-label"])[:2])): of for of in found}


def names(text):
    return {head: of["aria-label"].replace("\N{MINUS SIGN}", "-") for head, of in cells(text).items()}


def shades(text):
    return {head: int(re.search(r"shade-(\d+)", of["style"])[1]) for head, of in cells(text).items()}


def data(text):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', text, re.S)[1])


def test_a_head_is_named_by_its_place_its_effect_and_interval():
    effects = made_effects()
    low, high = effects.confidence_interval()
    told = names(head_map(effects, [(2, 1)]))
    assert len(told) == 12
    for (layer, head), name in told.items():
        at = layer, head
        start = f"layer {layer}, head {head}: {effects.mean[at]:+.5f} [{low[at]:.5f}, {high[at]:.5f}]"
        assert name.startswith(start) and name.endswith(", chosen") == (at == (2, 1))


def test_a_head_is_called_writer_or_canceller_only_where_its_interval_leaves_out_zero():
    told = names(head_map(made([[0.3, -0.3, 0.01]], spread=0.1)))
    kinds = [name.split("], ")[1] for name in told.values()]
    assert kinds == ["writer", "canceller", "not shown to differ from 0"]


def test_one_prompt_has_no_interval_and_no_kind():
    text = head_map(made_effects(n=1))
    assert all(name.endswith("(no interval)") for name in names(text).values())
    assert "Intervals" not in text


def test_shades_follow_the_mean_effect_and_are_even_about_zero():
    effects = made([[-0.4, -0.2, 0.0, 0.2, 0.4]])
    seen = list(shades(head_map(effects)).values())
    assert seen[2] == N_SHADES // 2 and seen == sorted(seen) and len(set(seen)) == 5
    assert [N_SHADES - 1 - shade for shade in reversed(seen)] == seen


def test_colours_end_at_the_percentile_so_that_one_head_does_not_pale_the_rest():
    effects = made_effects(layers=30, heads=20)
    strong = effects.values.clone()
    strong[:, 3, 4] = 100.0
    text = head_map(replace(effects, values=strong))
    limit = np.quantile(strong.mean(0).abs(), 0.995)
    assert shades(text)[3, 4] == N_SHADES - 1 and len(set(shades(text).values())) > 20
    assert data(text)["measures"]["probability"]["limit"] == f"{limit:.2g}" and "99.5th percentile" in text
    assert "99.5th percentile" not in head_map(made([[0.1, 0.1]]))


def test_effects_of_zero_are_all_the_middle():
    assert set(shades(head_map(made_effects(scale=0.0))).values()) == {N_SHADES // 2}


def test_the_last_layer_is_on_top_and_the_strongest_head_comes_first_with_the_tab_key():
    effects = made([[0.1, 0.2], [0.1, -0.5]])
    text = head_map(effects)
    assert list(cells(text)) == [(1, 0), (1, 1), (0, 0), (0, 1)]
    assert [head for head, of in cells(text).items() if of["tabindex"] == "0"] == [(1, 1)]


def test_the_data_has_every_effect_in_both_measures():
    effects = made_effects()
    measures = data(head_map(effects))["measures"]
    for values, name in ((effects.values, "probability"), (effects.log_prob_values, "log_prob")):
        each = torch.tensor(measures[name]["each"]).T.reshape(values.shape)
        torch.testing.assert_close(each, values, rtol=5e-3, atol=0)
        mean, (low, high), p = (
            values.mean(0),
            scores.interval(values.numpy()),
            decimals(float(values.mean(0).abs().max())),
        )
        told = f"{mean[1, 2]:+.{p}f} [{low[1, 2]:.{p}f}, {high[1, 2]:.{p}f}]"
        assert measures[name]["shown"][6].replace("\N{MINUS SIGN}", "-").startswith(told)


def test_what_was_asked_is_the_prompts_word_or_the_relation():
    assert data(head_map(made_effects()))["asked"] is None
    mean = head_map(mean_effects([made_effects(relation="a"), made_effects(relation=HOSTILE)]))
    assert data(mean)["asked"] == ["a", HOSTILE] and data(mean)["of"] == "relation"
    assert "mean over 2 relations" in mean and "bootstrap over relations" in mean


def test_the_note_says_that_intervals_are_not_corrected_for_the_choice():
    assert "not corrected for picking the largest of 12 heads" in head_map(made_effects())


def test_nothing_of_the_data_is_markup():
    effects = made_effects(relation=HOSTILE)
    text = head_map(effects, words={(0, 1): (HOSTILE, "</script><!--", '"&')})
    assert "<script>alert" not in text and text.count("</script>") == 1 and "<!--" not in text
    assert data(text)["words"] == {"1": [HOSTILE, "</script><!--", '"&']}
    assert HOSTILE in Page(text).text


@pytest.mark.slow
def test_the_largest_models_map_leaves_the_page_small(tmp_path):
    effects = made_effects(100, 80, 64)
    text = head_map(effects, words={(layer, head): (" a word",) * 8 for layer in range(80) for head in range(64)})
    write_page(tmp_path / "page.html", "a title", [text, '<div class="plotly-graph-div">'])
    assert (tmp_path / "page.html").stat().st_size < 8e6
    each = data(text)["measures"]["probability"]["each"]
    kept = {divmod(i, 64) for i, of in enumerate(each) if of is not None}
    strongest = effects.mean.abs().flatten().topk(EMBEDDED // 100).indices.tolist()
    assert kept == {divmod(i, 64) for i in strongest} and f"the {len(kept)} strongest heads" in text


@pytest.mark.parametrize("given", [dict(chosen=[(3, 0)]), dict(words={(0, 4): ()}), dict(chosen=[5])])
def test_a_head_outside_the_map_is_refused(given):
    with pytest.raises(InputError, match="outside the map|is not a head"):
        head_map(made_effects(), **given)


# Words


def measured(model, words) -> HeadEffects:
    lens, made = lens_of(model), made_effects(2, 3, 4)
    mean_z, share = mean_head_outputs(model, words, 4, 2)
    record = {"model": lens.name, "processing": lens.processing, "bos": lens.bos}
    return replace(made, mean_z=mean_z, share_right=share, record=record)


def test_a_heads_words_are_those_that_its_write_is_decoded_to(model, words):
    lens, effects = lens_of(model), measured(model, words)
    read = head_words(model, effects, k=5)
    assert set(read) == {(layer, head) for layer in range(lens.n_layers) for head in range(lens.n_heads)}
    for layer, head in [(0, 1), (2, 3)]:
        write = (effects.mean_z[layer, head].to(lens.dtype) @ model.blocks[layer].attn.W_O[head]).detach().float().cpu()
        gain = arrival(lens, layer).gain
        write = write if gain is None else gain * write
        vector = FunctionVector(write, layer, model=lens.name, processing=lens.processing, bos=lens.bos)
        assert read[layer, head] == tuple(token.token for token in decode(model, vector, k=5).top)


def test_words_of_another_models_effects_and_too_many_are_refused(llama, words):
    effects = measured(llama, words)
    with pytest.raises(InputError, match="Measure them again"):
        head_words(llama, replace(effects, record=effects.record | {"model": "another"}))
    for k in (0, 10_000):
        with pytest.raises(InputError, match="k is"):
            head_words(llama, effects, k)


def without_heads(layer=1):
    """Effects of a model whose layer has no heads."""
    effects = made_effects()
    values, log_prob_values, mean_z = (x.clone() for x in (effects.values, effects.log_prob_values, effects.mean_z))
    values[:, layer] = log_prob_values[:, layer] = torch.nan
    mean_z[layer] = torch.nan
    return replace(effects, values=values, log_prob_values=log_prob_values, mean_z=mean_z)


def test_layers_without_heads_have_no_colour_and_no_number():
    effects = without_heads()
    text = head_map(effects, effects.top(2))
    for (layer, _), parts in cells(text).items():
        assert (
            ("the layer has no heads" in parts["aria-label"]) == (layer == 1) == ("background:none" in parts["style"])
        )
    assert "Cells without a colour: layers without heads" in text and "largest of 8 heads" in text
    for measure in data(text)["measures"].values():
        assert [shade is None for shade in measure["shades"]] == [False] * 4 + [True] * 4 + [False] * 4
        assert [each is None for each in measure["each"]] == [False] * 4 + [True] * 4 + [False] * 4
    assert "NaN" not in text and "nan" not in re.sub(r"[a-z]*nan[a-z]+|[a-z]+nan[a-z]*", "", text)


def test_layers_without_heads_are_grey_in_the_figure_and_absent_from_the_list():
    effects = without_heads()
    figure = head_effects(effects, effects.top(2))
    assert np.isnan(figure.data[0].z[1]).all() and np.isfinite(figure.data[0].z[[0, 2]]).all()
    (grey,) = [shape for shape in figure.layout.shapes if shape.layer == "below"]
    assert (grey.y0, grey.y1) == (0.5, 1.5) and "Grey: layers without heads" in figure.layout.title.text.replace(
        "<br>", " "
    )
    assert set(figure.data[0].text[1]) == {"layer 1 has no heads"}
    assert effects.n_heads == 8 and "the largest of 8;" in effects._repr_html_() and "L1H" not in effects._repr_html_()
