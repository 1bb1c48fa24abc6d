"""Cells of a map of heads: the figure and the page show the same numbers, colours and notes."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from fv_lens import plots
from fv_lens.plots.head_cells import HeadCells
from fv_lens.studies.page.head_map import head_map

from ..studies.pages import Page
from .made import made_effects


def without_heads(effects, layer=1):
    """The effects, as if a layer had no heads."""
    parts = {name: getattr(effects, name).clone() for name in ("values", "log_prob_values", "mean_z")}
    for name, part in parts.items():
        part[layer if name == "mean_z" else (slice(None), layer)] = torch.nan
    return replace(effects, **parts)


@pytest.mark.parametrize("measure", ["probability", "log_prob"])
@pytest.mark.parametrize("n", [6, 1])
def test_figure_and_page_give_a_head_the_same_effect_and_interval(measure, n):
    effects = without_heads(made_effects(n))
    hovers = plots.head_effects(effects, measure=measure).data[0].text
    shown = re.findall(r'"shown":\[(.*?)\],"shades"', head_map(effects))[measure == "log_prob"]
    of_page = re.findall(r'"(.*?)"', shown.replace("\N{MINUS SIGN}", "-"))
    for layer in (0, 2):
        for head in range(4):
            score = re.search(r"</b>: (.*?)<br>", hovers[layer][head])[1]
            assert of_page[4 * layer + head].startswith(score)
    assert of_page[4:8] == ["the layer has no heads"] * 4 and set(hovers[1]) == {"layer 1 has no heads"}


def test_figure_and_page_end_their_colours_at_the_same_effect_and_outline_the_same_heads():
    effects = made_effects(layers=30, heads=20)
    effects.values[:, 3, 4] = 100.0
    figure, page = plots.head_effects(effects, [(3, 4), (0, 1)]), Page(head_map(effects, [(3, 4), (0, 1)])).text
    assert f"+{figure.data[0].zmax:.2g}" in page.split()
    for note in ("Outlined: the 2 chosen heads.", "99.5th percentile"):
        assert note in page and note in figure.layout.title.text.replace("</span><br>", " ").replace(
            '<span style="font-size:13px;color:#667080">', ""
        )


def test_shades_are_even_about_zero_and_the_strongest_heads_are_those_of_largest_effect():
    values = np.array([[[-0.4, -0.1, 0.0, 0.1, 0.4]]])
    cells = HeadCells(values, "probability")
    assert cells.shades(9) == [0, 3, 4, 5, 8] and not cells.clipped
    assert cells.strongest(2) == {0, 4} and cells.strongest(99) == {0, 1, 2, 3, 4}
    assert HeadCells(np.array([[[np.nan, np.nan], [1.0, 2.0]]]), "log_prob").strongest(99) == {2, 3}
