"""The map of heads."""

import textwrap
from collections.abc import Sequence
from typing import Literal

import plotly.graph_objects as go

from ..ground.errors import InputError
from ..vectors.effects import HeadEffects
from .head_cells import UNITS, HeadCells, checked_head, outlined
from .style import DIVERGING, GRID, INK, finish, whole_ticks


def head_effects(
    effects: HeadEffects,
    chosen: Sequence[tuple[int, int]] = (),
    measure: Literal["probability", "log_prob"] = "probability",
) -> go.Figure:
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
    cells = HeadCells.of(effects, measure)
    n_layers, n_heads = cells.mean.shape
    chosen = [checked_head(head, n_layers, n_heads) for head in chosen]
    record, over = effects.record, effects.over

    def hover(layer: int, head: int) -> str:
        if (score := cells.score(layer, head)) is None:
            return f"layer {layer} has no heads"
        return f"<b>L{layer}H{head}</b>: {cells.written(score)}<br>{cells.unit}, {'95 % over ' * score.known}{over}"

    bar_title = "<br>".join(textwrap.wrap(cells.unit, 15, break_on_hyphens=False))
    heatmap = go.Heatmap(
        z=cells.mean, zmin=-cells.limit, zmax=cells.limit, zmid=0, colorscale=DIVERGING,
        xgap=int(n_heads <= 40), ygap=int(n_layers <= 40),
        text=[[hover(layer, head) for head in range(n_heads)] for layer in range(n_layers)], hoverinfo="text",
        colorbar=dict(title=dict(text=bar_title, font_size=13), thickness=12, tickformat=".2~g", nticks=9),
    )  # fmt: skip
    outlines = [
        dict(type="rect", x0=head - 0.5, x1=head + 0.5, y0=at - 0.5, y1=at + 0.5, line=dict(color=INK, width=1.5))
        for at, head in chosen
    ]
    figure = go.Figure(heatmap)
    across = dict(type="rect", x0=-0.5, x1=n_heads - 0.5, fillcolor=GRID, line_width=0, layer="below")
    absent = [dict(across, y0=at - 0.5, y1=at + 0.5) for at in cells.absent]
    figure.update_layout(shapes=[*absent, *outlines])
    figure.update_xaxes(title="head", **whole_ticks(n_heads), showgrid=False, constrain="domain")
    figure.update_yaxes(title="layer (0 is the first)", **whole_ticks(n_layers), showgrid=False)
    notes, of = outlined(chosen), over if effects.of_relations else record.get("relation")
    if cells.clipped:
        notes.append(f"Colours end at {cells.limit:.2g}, the 99.5th percentile.")
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
