"""The sweep over layers and strengths."""

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from ..ground import scores
from ..ground.errors import InputError
from ..vectors.function_vector import FunctionVector
from ..vectors.sweeps import Sweep
from .style import ACCENT, CONTROL, INK, MUTED, escaped, finish, whole_ticks

SEQUENTIAL = [CONTROL, "#8a4f9e", ACCENT]  # of ordered lines; all of it is seen on white and on a dark page


def layer_sweep(sweep: Sweep, best: FunctionVector | None = None) -> go.Figure:
    """Accuracy over layers: a panel for each vector, a line with its interval for each strength.

    Args:
        best: the vector chosen from this sweep, such as `sweep.best()`; its point gets a star.

    Raises:
        InputError: `best` is not a vector of the sweep at one of its layers and strengths.

    Example:
        >>> layer_sweep(grid, grid.best()).show()
    """
    star = None if best is None else _point(sweep, best)
    n, panels, order = len(sweep.right), len(sweep.vectors), np.argsort(sweep.layers)
    layers = [sweep.layers[layer] for layer in order]
    shades = sample_colorscale(SEQUENTIAL, np.linspace(0, 1, len(sweep.strengths)).tolist())
    height = 190
    figure = make_subplots(
        panels, 1, shared_xaxes=True, vertical_spacing=38 / (height * panels) if panels > 1 else 0,
        subplot_titles=[escaped(name) for name in sweep.names],
    )  # fmt: skip
    plain = scores.proportion(sweep.plain[:, 0])
    highs = [plain.high]
    for v in range(panels):
        first, at = v == 0, dict(row=v + 1, col=1)
        for s, (strength, shade) in enumerate(zip(sweep.strengths, shades)):
            group = dict(legendgroup=str(s), name=f"{strength:g}")
            line = [scores.proportion(sweep.right[:, v, layer, s]) for layer in order]
            highs += [score.high for score in line]
            edge = [score.high for score in line] + [score.low for score in line[::-1]]
            band = dict(x=[*layers, *layers[::-1]], y=edge, fill="toself", line_width=0, mode="lines", hoverinfo="skip")
            figure.add_scatter(**band, fillcolor=shade, opacity=0.13, showlegend=False, **group, **at)
            text = [
                f"<b>layer {layer}, strength {strength:g}</b>: {score}<br>accuracy, {n} validation words"
                for layer, score in zip(layers, line)
            ]
            figure.add_scatter(
                x=layers, y=[score.value for score in line], mode="lines+markers", text=text, hoverinfo="text",
                line=dict(color=shade, width=2), marker=dict(color=shade, size=4), showlegend=first, **group, **at,
            )  # fmt: skip
        figure.add_scatter(
            x=layers, y=[plain.value] * len(layers), mode="lines", line=dict(color=MUTED, dash="dash", width=1.5),
            text=f"<b>no vector</b>: {plain}", hoverinfo="text",
            name="no vector", legendgroup="plain", showlegend=first, **at,
        )  # fmt: skip
    if star:
        v, layer, s = star
        score = scores.proportion(sweep.right[:, v, layer, s])
        where = f"layer {sweep.layers[layer]}, strength {sweep.strengths[s]:g}"
        figure.add_scatter(
            x=[sweep.layers[layer]], y=[score.value], mode="markers", name="chosen on validation",
            marker=dict(symbol="star", size=15, color=ACCENT, line=dict(color="white", width=1)),
            text=f"<b>chosen on validation: {where}</b><br>accuracy {score}, {n} words", hoverinfo="text",
            row=v + 1, col=1,
        )  # fmt: skip
    figure.update_annotations(x=0, xanchor="left", font=dict(size=13, color=INK))
    top = next((top for top in (0.25, 0.5) if max(highs) <= top), 1.0)
    ticks = [0, top / 4, top / 2, 3 * top / 4, top]
    figure.update_yaxes(
        range=[-0.04 * top, 1.04 * top], tickvals=ticks, ticktext=["0", "", f"{top / 2:g}", "", f"{top:g}"]
    )
    figure.update_yaxes(title="accuracy", title_standoff=6)
    span = layers[-1] - layers[0] + 1
    figure.update_xaxes(**whole_ticks(span), range=[layers[0] - 0.03 * span, layers[-1] + 0.03 * span])
    figure.update_xaxes(title="layer at which the vector is added", row=panels)
    figure.update_layout(legend_title=dict(text="strength", side="left", font_size=13))
    heading = f"Where to add the vector: {sweep.relation}"
    details = [f"accuracy: share of {n} validation words whose whole answer is completed, with 95 % intervals"]
    return finish(figure, heading, details, height * panels + 30, 860, n_labels=len(sweep.strengths) + 2)


def _point(sweep: Sweep, best: FunctionVector) -> tuple[int, int, int]:
    """Indices of the vector, layer and strength that `best` is."""
    for v, layer, s in np.ndindex(*sweep.right.shape[1:]):
        vector = sweep.vectors[v].vector
        if best.layer == sweep.layers[layer] and len(vector) == len(best.vector):
            if torch.allclose(sweep.strengths[s] * vector, best.vector, rtol=1e-4):
                return v, layer, s
    raise InputError(f"{best} is not a vector of {sweep} at one of its layers and strengths; pass sweep.best().")
