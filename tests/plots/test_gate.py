"""Gains at every coverage, as the curve has them, and the place of the gate."""

from dataclasses import replace

import numpy as np
import pytest

from fv_lens import plots
from fv_lens.analogies.gate import COVERAGES, GateCurve
from fv_lens.ground.errors import InputError

from .drawn import drawn_texts, traces
from .made import HOSTILE


def made_curve(n: int = 60, threshold: float | None = 0.3) -> GateCurve:
    rng = np.random.default_rng(0)
    values = rng.random(n)
    gained = np.where(rng.random(n) < values, 1.0, -1.0)
    return GateCurve("certainty of the weights", values, gained, [*np.arange(n) // 3], threshold)


def test_each_line_has_the_gains_of_its_curve():
    curves = {"full": made_curve(), "family left out": replace(made_curve(), gained=-made_curve().gained)}
    found = traces(plots.gate(curves))
    for name, curve in curves.items():
        np.testing.assert_allclose(found[name].x, [100 * coverage for coverage in COVERAGES])
        np.testing.assert_allclose(found[name].y, [curve.gain(coverage).value for coverage in COVERAGES])
    assert found["full"].line.color != found["family left out"].line.color


def test_a_star_is_where_the_gate_is_and_there_is_none_without_a_threshold():
    def stars(curve):
        return [trace for trace in plots.gate({"full": curve}).data if trace.marker.symbol == "star"]

    curve = made_curve()
    [star] = stars(curve)
    assert star.x[0] == pytest.approx(100 * curve.inserted.mean())
    assert star.y[0] == pytest.approx(curve.gained[curve.inserted].mean())
    assert stars(replace(curve, threshold=None)) == [] == stars(replace(curve, threshold=2.0))


def test_names_cannot_become_markup():
    text = drawn_texts(plots.gate({HOSTILE: made_curve()}))
    assert "&lt;script&gt;" in text and "<script" not in text


@pytest.mark.parametrize("n", [0, 5])
def test_no_curves_and_too_many_are_refused(n):
    with pytest.raises(InputError, match=f"^There are {n} curves; give one to 4"):
        plots.gate({str(i): made_curve() for i in range(n)})
