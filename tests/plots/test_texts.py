"""Texts in figures are shown as they are, are never markup, and have the room that they take."""

import re
from dataclasses import replace

import pandas as pd
import pytest

from fv_lens import plots

from .drawn import drawn_texts
from .made import HOSTILE, made_effects, made_evaluation, made_sweep
from .made_table import FRAME, made_training, made_words


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


@pytest.mark.slow
def test_text_from_the_table_cannot_become_markup():
    frame = FRAME.replace({"name": {"antonym": HOSTILE}, "row": {"zero-shot": HOSTILE}})
    words = made_words((HOSTILE,)).assign(token=HOSTILE, vector=HOSTILE)
    for figure in (
        plots.relations(frame, {HOSTILE: HOSTILE}, rows=(HOSTILE, "FV")),
        plots.comparison(frame),
        plots.training({HOSTILE: made_training(1).popitem()[1]}),
        plots.decoding(words),
    ):
        assert "&lt;script&gt;" in drawn_texts(figure)
        assert "<script" not in drawn_texts(figure)
