"""The map of heads."""

import textwrap
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from ..ground import scores
from ..ground.errors import InputError, whole_number
from ..ground.markup import colour_limit, decimals
from ..ground.scores import Score
from ..vectors.effects import HeadEffects
from .style import DIVERGING, GRID, INK, finish, whole_ticks

UNITS = {"probability": "change in probability", "log_prob": "change in log-probability (nats)"}


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
    chosen = [checked_head(head, n_layers, n_heads) for head in chosen]
    limit, largest = colour_limit(mean), float(np.nanmax(np.abs(mean)))

    record, unit, over, places = effects.record, UNITS[measure], effects.over, decimals(largest)

    def hover(at: int, head: int) -> str:
        if np.isnan(mean[at, head]):
            return f"layer {at} has no heads"
        score = Score(*(float(values[at, head]) for values in (mean, low, high)), n)
        return f"<b>L{at}H{head}</b>: {score:+.{places}f}<br>{unit}, {'95 % over ' * score.known}{over}"

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
    across = dict(type="rect", x0=-0.5, x1=n_heads - 0.5, fillcolor=GRID, line_width=0, layer="below")
    absent = [dict(across, y0=at - 0.5, y1=at + 0.5) for at in np.flatnonzero(np.isnan(mean).all(1)).tolist()]
    figure.update_layout(shapes=[*absent, *outlines])
    figure.update_xaxes(title="head", **whole_ticks(n_heads), showgrid=False, constrain="domain")
    figure.update_yaxes(title="layer (0 is the first)", **whole_ticks(n_layers), showgrid=False)
    notes, of = outlined(chosen), over if effects.of_relations else record.get("relation")
    if largest > limit:
        notes.append(f"Colours end at {limit:.2g}, the 99.5th percentile.")
    if absent:
        notes.append("Grey: layers without heads.")
    cell_height = min(36, max(7, 600 / n_layers))
    cell_width = min(36 if n_layers < 17 else 2 * cell_height, max(7, 560 / n_heads))
    return finish(
        figure,
        ": ".join(filter(None, ["Indirect effect of each head", of])),
        [", ".join(filter(None, [record.get("model"), f"mean over {over}"])), " ".join(notes)],
        height=max(200, round(cell_height * n_layers + 60)),
        width=max(460, round(cell_width * n_heads + 180)),
    )


def outlined(chosen: Sequence) -> list[str]:
    """What the outlines mean, in a sentence; none where nothing is outlined."""
    some = f"the {len(chosen)} chosen heads" if len(chosen) > 1 else "the chosen head"
    return [f"Outlined: {some}."] if chosen else []


def checked_head(head: object, n_layers: int, n_heads: int) -> tuple[int, int]:
    """(layer, head) as whole numbers, or an InputError where it is none of the map's."""
    if not isinstance(head, Sequence) or len(head) != 2:
        raise InputError(f"{head!r} is not a head; heads are (layer, head).")
    layer, index = whole_number("layer", head[0], least=0), whole_number("head", head[1], least=0)
    if layer >= n_layers or index >= n_heads:
        raise InputError(f"Head ({layer}, {index}) is outside the map of {n_layers} layers x {n_heads} heads.")
    return layer, index
