"""What a composite gains where its gate inserts it."""

from collections.abc import Mapping

import plotly.graph_objects as go

from ..analogies.gate import COVERAGES, GateCurve
from ..ground.errors import InputError
from .style import ACCENT, CONTROL, INK, MUTED, escaped, finish, tint

COLOURS = (ACCENT, CONTROL, "#1b7f5c", "#8a4f9e")


def gate(curves: Mapping[str, GateCurve]) -> go.Figure:
    """Gain over the prompt against coverage, a line with its band of intervals for each curve, from few to all.

    A star stands where the threshold of the curve's gate is; there is none if the gate never inserts.

    Args:
        curves: name -> curve, such as the library -> what `Gate.curve` returned; at most four.

    Raises:
        InputError: no curves, or more than four.

    Example:
        >>> gate({"full": fit_gate(model, vectors, validation).curve(model, vectors, test)}).show()
    """
    if not 0 < len(curves) <= len(COLOURS):
        raise InputError(f"There are {len(curves)} curves; give one to {len(COLOURS)}.")
    figure, coverages = go.Figure(), [100 * coverage for coverage in COVERAGES]
    for (name, curve), colour in zip(curves.items(), COLOURS):
        scores = {100 * coverage: curve.gain(coverage) for coverage in COVERAGES}
        known = {x: score for x, score in scores.items() if score.known}
        edge = [score.high for score in known.values()] + [score.low for score in reversed(known.values())]
        figure.add_scatter(
            x=[*known, *reversed(known)], y=edge, fill="toself", fillcolor=tint(colour, 0.13), line_width=0,
            mode="lines", hoverinfo="skip", showlegend=False, legendgroup=escaped(name),
        )  # fmt: skip
        figure.add_scatter(
            x=coverages, y=[score.value for score in scores.values()], mode="lines+markers", name=escaped(name),
            line=dict(color=colour, width=2.5), marker=dict(color=colour, size=7), legendgroup=escaped(name),
            hoverinfo="text",
            text=[
                f"<b>{escaped(name)}</b>, {x:.0f} % of analogies: {score.signed}<br>{escaped(curve.signal)}"
                for x, score in scores.items()
            ],
        )  # fmt: skip
        if curve.threshold is not None and curve.inserted.any():
            share = float(curve.inserted.mean())
            score = curve.gain(share)
            figure.add_scatter(
                x=[100 * share], y=[score.value], mode="markers", showlegend=False, legendgroup=escaped(name),
                marker=dict(symbol="star", size=15, color=colour, line=dict(color=INK, width=1)), hoverinfo="text",
                text=f"<b>{escaped(name)}, gate</b>: {score.signed} where it inserts, {curve.gated.signed} over all",
            )  # fmt: skip
    figure.add_hline(y=0, line=dict(color=MUTED, width=1, dash="dash"))
    figure.update_xaxes(title="% of analogies, those of the largest signal first", range=[5, 103], tickvals=coverages)
    figure.update_yaxes(title="gain over the prompt", title_standoff=6)
    n = max(len(curve.values) for curve in curves.values())
    signals = " / ".join(dict.fromkeys(curve.signal for curve in curves.values()))
    details = [f"by the {signals}", f"{n:,} analogies, 95 % intervals"]
    return finish(figure, "Where composites help", details, 320, 860, n_labels=len(curves))
