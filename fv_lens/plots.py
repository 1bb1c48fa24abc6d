"""Figures of results with plotly: each function takes what a computing function returned and gives a `go.Figure`.

Text that comes from data is escaped, because plotly reads its text as HTML.
"""

import html
import math
import textwrap
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import torch
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from . import scores
from .effects import HeadEffects
from .errors import InputError, whole_number
from .evaluation import TOP_K, Evaluation, Result
from .scores import Score
from .sweeps import Sweep
from .vectors import FunctionVector

INK, MUTED, GRID = "#1f2933", "#667080", "#e4e8ed"
ACCENT, CONTROL = "#c2570c", "#2b6cb0"  # the vector, and what stands beside it
# Blue, white, orange: hues that stay apart in every common form of colour blindness.
DIVERGING = list(
    zip(
        (0, 0.15, 0.3, 0.42, 0.5, 0.58, 0.7, 0.85, 1),
        ("#08306b", "#2b6cb0", "#7fb0d9", "#d3e4f2", "#ffffff", "#fde3c4", "#f6a656", "#c2570c", "#6e2a04"),
    )
)
SEQUENTIAL = "Viridis"  # of ordered lines; its yellow end is too pale for a line
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SMALL = f"font-size:13px;color:{MUTED}"
UNITS = {"probability": "change in probability", "log_prob": "change in log-probability (nats)"}
CLIP = 0.995  # the quantile of absolute effects at which the colours end


def head_effects(effects: HeadEffects, chosen: Sequence = (), measure: object = "probability") -> go.Figure:
    """Heat map of the mean indirect effects, layer by head, white at 0; hovering shows a head's interval.

    Colours end at the 99.5th percentile of the absolute effects, so that one strong head does not make the rest pale.

    Args:
        chosen: (layer, head) to outline, such as a vector's `heads`.
        measure: "probability" or "log_prob".

    Raises:
        InputError: a chosen head outside the map, or another measure.

    Example:
        >>> head_effects(effects, chosen=effects.top(10)).show()
    """
    if measure not in UNITS:
        raise InputError(f"measure is {measure!r}; give 'probability' or 'log_prob'.")
    values = (effects.values if measure == "probability" else effects.log_prob_values).numpy()
    (n, n_layers, n_heads), mean, (low, high) = values.shape, values.mean(0), scores.interval(values)
    chosen = [_head(head, n_layers, n_heads) for head in chosen]
    limit, largest = float(np.quantile(np.abs(mean), CLIP)), float(np.abs(mean).max())
    limit = limit or largest or 1.0

    record, unit = effects.record, UNITS[measure]
    many = "relations" in record  # a mean over relations
    over = f"{n} {'relation' if many else 'prompt'}{'s' * (n > 1)}"
    shots = f" of {record['n_shots']} shots" if "n_shots" in record and not many else ""
    places = max(2, 2 - math.floor(math.log10(largest or 1.0)))

    def hover(at: int, head: int) -> str:
        shown = f"<b>L{at}H{head}</b>: {mean[at, head]:+.{places}f}"
        if n == 1:
            return f"{shown} ({unit}, no interval from {over})"
        return f"{shown} [{low[at, head]:.{places}f}, {high[at, head]:.{places}f}]<br>{unit}, 95 % over {over}"

    bar_title = "<br>".join(textwrap.wrap(unit, 15, break_on_hyphens=False))
    heatmap = go.Heatmap(
        z=mean, zmin=-limit, zmax=limit, zmid=0, colorscale=DIVERGING,
        xgap=int(n_heads <= 40), ygap=int(n_layers <= 40),
        text=[[hover(at, head) for head in range(n_heads)] for at in range(n_layers)], hoverinfo="text",
        colorbar=dict(title=dict(text=bar_title, font_size=13), thickness=12, tickformat=".2~g", nticks=9),
    )  # fmt: skip
    outlines = [
        dict(type="rect", x0=head - 0.5, x1=head + 0.5, y0=at - 0.5, y1=at + 0.5, line=dict(color=INK, width=1.5))
        for at, head in chosen
    ]
    figure = go.Figure(heatmap)
    figure.update_layout(shapes=outlines)
    figure.update_xaxes(title="head", **_whole(n_heads), showgrid=False, constrain="domain")
    figure.update_yaxes(title="layer (0 is the first)", **_whole(n_layers), showgrid=False)
    notes = []
    if chosen:
        notes.append(f"Outlined: the {len(chosen)} chosen heads." if len(chosen) > 1 else "Outlined: the chosen head.")
    if largest > limit:
        notes.append(f"Colours end at {limit:.2g}, the 99.5th percentile.")
    cell_height = min(36, max(7, 600 / n_layers))
    cell_width = min(36 if n_layers < 17 else 2 * cell_height, max(7, 560 / n_heads))
    return _finish(
        figure,
        f"Indirect effect of each head: {over if many else record.get('relation', '')}",
        [f"{record.get('model', '')}, mean over {over}{shots}", " ".join(notes)],
        height=max(200, round(cell_height * n_layers + 60)),
        width=max(460, round(cell_width * n_heads + 180)),
    )


def layer_sweep(sweep: Sweep, best: FunctionVector | None = None) -> go.Figure:
    """Accuracy over layers: a panel for each vector, a line with its interval for each strength.

    Args:
        best: the vector chosen from this sweep, such as `sweep.best()`; its point gets a star.

    Raises:
        InputError: `best` is no vector of the sweep at one of its layers and strengths.

    Example:
        >>> layer_sweep(grid, grid.best()).show()
    """
    star = None if best is None else _point(sweep, best)
    n, panels, order = len(sweep.ranks), len(sweep.vectors), np.argsort(sweep.layers)
    layers = [sweep.layers[layer] for layer in order]
    shades = sample_colorscale(SEQUENTIAL, np.linspace(0.05, 0.85, len(sweep.strengths)).tolist())
    height = 190
    figure = make_subplots(
        panels, 1, shared_xaxes=True, vertical_spacing=38 / (height * panels) if panels > 1 else 0,
        subplot_titles=[html.escape(name) for name in sweep.names],
    )  # fmt: skip
    plain = scores.proportion(sweep.plain[:, 0] == 0)
    for v in range(panels):
        first, at = v == 0, dict(row=v + 1, col=1)
        for s, (strength, shade) in enumerate(zip(sweep.strengths, shades)):
            group = dict(legendgroup=str(s), name=f"{strength:g}")
            line = [scores.proportion(sweep.ranks[:, v, layer, s] == 0) for layer in order]
            edge = [score.high for score in line] + [score.low for score in line[::-1]]
            band = dict(x=[*layers, *layers[::-1]], y=edge, fill="toself", line_width=0, mode="lines", hoverinfo="skip")
            figure.add_scatter(**band, fillcolor=shade, opacity=0.13, showlegend=False, **group, **at)
            text = [
                f"<b>layer {layer}, strength {strength:g}</b>: {score}<br>top-1, {n} validation words"
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
        score = scores.proportion(sweep.ranks[:, v, layer, s] == 0)
        where = f"layer {sweep.layers[layer]}, strength {sweep.strengths[s]:g}"
        figure.add_scatter(
            x=[sweep.layers[layer]], y=[score.value], mode="markers", name="chosen on validation",
            marker=dict(symbol="star", size=15, color=ACCENT, line=dict(color="white", width=1)),
            text=f"<b>chosen on validation: {where}</b><br>top-1 {score}, {n} words", hoverinfo="text",
            row=v + 1, col=1,
        )  # fmt: skip
    figure.update_annotations(x=0, xanchor="left", font=dict(size=13, color=INK))
    figure.update_yaxes(range=[-0.04, 1.04], tickvals=[0, 0.25, 0.5, 0.75, 1], ticktext=["0", "", "0.5", "", "1"])
    figure.update_yaxes(title="top-1", title_standoff=6)
    span = layers[-1] - layers[0] + 1
    figure.update_xaxes(**_whole(span), range=[layers[0] - 0.03 * span, layers[-1] + 0.03 * span])
    figure.update_xaxes(title="layer at which the vector is added", row=panels)
    figure.update_layout(legend_title=dict(text="strength", side="left", font_size=13))
    heading = f"Where to add the vector: {sweep.relation}"
    details = [f"top-1: share of {n} validation words answered right, with 95 % intervals"]
    return _finish(figure, heading, details, height * panels + 30, 860, n_labels=len(sweep.strengths) + 2)


def evaluation(evaluation: Evaluation) -> go.Figure:
    """Top-1 (and fainter, top-5) with intervals of what was evaluated and of every control; hovering shows the gains.

    Example:
        >>> evaluation(evaluate(model, "antonym", vector)).show()
    """
    rows = evaluation.rows
    n, hovers = evaluation.accuracy.n, [_row_hover(evaluation.name, name, row) for name, row in rows.items()]
    figure, marks = go.Figure(), ((TOP_K, "top_k", 0.2, 0.4, 8, "diamond"), (1, "accuracy", -0.1, 1, 11, "circle"))
    for k, part, shift, opacity, size, symbol in marks:
        line: list[Score] = [getattr(row, part) for row in rows.values()]
        # Two traces, as the error bars of one trace have one colour.
        for some, colour in ((slice(1, None), CONTROL), (slice(0, 1), ACCENT)):
            above, below = zip(*((s.high - s.value, s.value - s.low) for s in line[some])) if line[some] else ((), ())
            figure.add_scatter(
                x=[s.value for s in line[some]], y=np.arange(len(rows))[some] + shift, mode="markers", opacity=opacity,
                error_x=dict(type="data", array=above, arrayminus=below, thickness=2, width=0, color=colour),
                marker=dict(size=size, color=colour, symbol=symbol), text=hovers[some], hoverinfo="text",
                name=f"top-{k}", legendgroup=f"top-{k}", showlegend=colour == ACCENT,
            )  # fmt: skip
    names = [html.escape(name) for name in rows]
    figure.update_yaxes(tickvals=np.arange(len(rows)), ticktext=[f"<b>{names[0]}</b>", *names[1:]])
    figure.update_yaxes(range=[len(rows) - 0.4, -0.6], showgrid=False)
    figure.update_xaxes(title="share completed right", range=[-0.03, 1.03], dtick=0.2)
    figure.update_layout(legend_traceorder="reversed")
    heading = f"Words completed right: {evaluation.relation}"
    return _finish(figure, heading, [f"{n} test words, 95 % intervals"], 38 * len(rows) + 60, 860, n_labels=2)


def _row_hover(tested: str, name: str, row: Result) -> str:
    lines = [f"<b>{html.escape(name)}</b>", f"top-1 {row.accuracy}", f"top-{TOP_K} {row.top_k}"]
    lines.append(f"log-probability {row.log_prob} nats")
    if row.accuracy_gain:  # what was tested has none over itself
        lines += [f"gain of {html.escape(tested)}, paired:", f"top-1 {row.accuracy_gain.signed}"]
        lines.append(f"log-probability {row.log_prob_gain.signed} nats")
    return "<br>".join(lines)


def _finish(
    figure: go.Figure, heading: str, details: list[str], height: int, width: int, n_labels: int = 0
) -> go.Figure:
    """House fonts, margins and a title wrapped to fit a phone; `height` is that of the plot without its title."""
    lines = [html.escape(line) for line in textwrap.wrap(heading, 44)]
    small = [html.escape(line) for detail in details for line in textwrap.wrap(detail, 52)]
    title = "<br>".join([f"<b>{'<br>'.join(lines)}</b>", *(f'<span style="{SMALL}">{line}</span>' for line in small)])
    titled = 20 + 21 * len(lines) + 18 * len(small)
    top = titled + 10 + (30 + 22 * math.ceil(n_labels / 3)) * bool(n_labels)
    # Below the title, however far a narrow page wraps the labels.
    corner = dict(x=0, xref="container", yref="container", yanchor="top")
    legend = dict(corner, orientation="h", y=1 - titled / (height + top))
    figure.update_layout(
        template=pio.templates["plotly_white"], font=dict(family=FONT, size=13, color=INK), height=height + top,
        width=width, margin=dict(l=12, r=10, t=top, b=40), hoverlabel=dict(bgcolor="white", font_color=INK),
        title=dict(corner, text=title, font_size=16, y=1, pad_t=12), legend=legend,
    )  # fmt: skip
    for axes in (figure.update_xaxes, figure.update_yaxes):
        axes(gridcolor=GRID, zeroline=False, title_font_size=13, ticklabelstandoff=4)
    return figure


def _whole(n: int) -> dict:
    """Ticks at whole numbers on an axis of `n` of them; on longer axes plotly's own choice, which fits the width."""
    return dict(dtick=1) if n <= 12 else {}


def _head(head: object, n_layers: int, n_heads: int) -> tuple[int, int]:
    if not isinstance(head, Sequence) or len(head) != 2:
        raise InputError(f"{head!r} is no head; heads are (layer, head).")
    layer, index = whole_number("layer", head[0], least=0), whole_number("head", head[1], least=0)
    if layer >= n_layers or index >= n_heads:
        raise InputError(f"Head ({layer}, {index}) is outside the map of {n_layers} layers x {n_heads} heads.")
    return layer, index


def _point(sweep: Sweep, best: FunctionVector) -> tuple[int, int, int]:
    """Indices of the vector, layer and strength that `best` is."""
    for v, layer, s in np.ndindex(*sweep.ranks.shape[1:]):
        vector = sweep.vectors[v].vector
        if best.layer == sweep.layers[layer] and len(vector) == len(best.vector):
            if torch.allclose(sweep.strengths[s] * vector, best.vector, rtol=1e-4):
                return v, layer, s
    raise InputError(f"{best} is no vector of {sweep} at one of its layers and strengths; pass sweep.best().")
