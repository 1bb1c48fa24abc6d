"""A composite's weights are drawn in order, the rest as one bar."""

from dataclasses import replace

import numpy as np
import pytest

from fv_lens import plots
from fv_lens.ground.errors import InputError

from .made import made_composite


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
