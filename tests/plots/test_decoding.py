"""The words of vectors stand side by side, names among them marked."""

import numpy as np
import pytest

from fv_lens import plots
from fv_lens.ground.errors import InputError

from .made_table import made_words


def test_the_words_of_vectors_stand_side_by_side_with_names_marked():
    words = made_words()
    figure = plots.decoding(words, k=8)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [note.text for note in figure.layout.annotations] == [
        f"<b>{relation}</b><br>{vector}" for relation in words.relation.unique() for vector in words.vector.unique()
    ]
    for bar, (_, top) in zip(bars, words.groupby(["relation", "vector"], sort=False)):
        np.testing.assert_allclose(bar.x, top.probability[:8])
        colours = np.array(bar.marker.color)
        assert len(set(colours[top.is_name[:8]])) == 1 and not set(colours[top.is_name[:8]]) & set(
            colours[~top.is_name[:8]]
        )
    labels = [trace for trace in figure.data if trace.type == "scatter"][0].text
    assert labels[0].startswith("<b>opposite</b>") and labels[2].startswith("black ")
    assert labels[1].startswith("' the\\n'")  # what cannot be seen is quoted


def test_bars_of_a_relation_share_a_scale():
    axes = {axis.anchor: axis.range for axis in plots.decoding(made_words()).select_xaxes()}
    assert axes["y"] == axes["y2"] and axes["y"][1] >= 0.3


def test_relations_are_shown_in_the_order_asked_for():
    words = made_words(("a", "b", "c"))
    figure = plots.decoding(words, relations=["c", "a"])
    assert [note.text[3] for note in figure.layout.annotations] == ["c", "c", "a", "a"]
    with pytest.raises(InputError, match="relation 'd'; choose from 'a', 'b', 'c'"):
        plots.decoding(words, relations=["d"])


def test_words_that_cannot_be_drawn_are_refused():
    with pytest.raises(InputError, match="lack the column 'is_name'"):
        plots.decoding(made_words().drop(columns="is_name"))
    with pytest.raises(InputError, match="no words"):
        plots.decoding(made_words()[:0])
    with pytest.raises(InputError, match="k is 0"):
        plots.decoding(made_words(), k=0)
