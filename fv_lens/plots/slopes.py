"""Every relation before and after: two columns of points, a line for each relation."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..ground.scores import Score
from .relations import MEAN
from .style import ACCENT, CONTROL, INK, escaped, finish
from .table import bars, checked, extent, measured, scores_of, share_axis

# Hues and dashes, so that the categories are told apart without any colour.
LOOKS = ((CONTROL, "solid"), (ACCENT, "dash"), ("#1b7f5c", "dot"), ("#5b4b8a", "longdash"), ("#c2457a", "dashdot"))


def slopes(
    frame: pd.DataFrame,
    categories: Mapping[str, str],
    rows: tuple[str, str] = ("FV", "FFV from FV"),
    measure: str = "accuracy",
) -> go.Figure:
    """A line for each relation from one row to another, coloured by category, and a thick one for their mean.

    Args:
        frame: the table of results (see `plots.table.scores_of`), its part "score".
        categories: relation -> category; a relation that is not in it is under "other". Colours repeat after five
            categories.
        rows: where the lines begin and where they end.
        measure: "accuracy" (of whole answers), "first_token_accuracy" or "log_prob" (nats).

    Raises:
        InputError: a column, row or measure that the table lacks.

    Example:
        >>> slopes(frame, {"antonym": "lexicographic"}).show()
    """
    what, unit = measured(measure)
    scores = scores_of(frame, part="score", group="relation", measure=measure)
    checked(scores, rows, f"scores of relations in {measure}")
    before, after = (scores[row] for row in rows)
    names = [name for name in before if name in after]
    everywhere = scores_of(frame, part="score", group="all", measure=measure)
    overall = [everywhere[row]["all"] for row in rows if "all" in everywhere.get(row, {})]

    figure = go.Figure()
    kinds = list(dict.fromkeys(categories.get(name, "other") for name in names))
    for name in sorted(names, key=lambda name: kinds.index(categories.get(name, "other"))):
        kind, ends = categories.get(name, "other"), [before[name], after[name]]
        colour, dash = LOOKS[kinds.index(kind) % len(LOOKS)]
        figure.add_scatter(
            x=[0, 1], y=[end.value for end in ends], mode="lines+markers", name=escaped(kind), opacity=0.75,
            legendgroup=kind, showlegend=kind not in [trace.legendgroup for trace in figure.data],
            line=dict(color=colour, width=1.25, dash=dash), marker=dict(size=6, color=colour),
            text=[_hover(name, kind, ends, rows, unit)] * 2, hoverinfo="text",
        )  # fmt: skip
    if len(overall) == len(rows):
        figure.add_scatter(
            x=[0, 1], y=[end.value for end in overall], mode="lines+markers", name=f"{MEAN}, 95 % interval",
            line=dict(color=INK, width=3.5), marker=dict(size=10, color=INK), hoverinfo="text",
            error_y=dict(bars(overall), thickness=2, width=0, color=INK),
            text=[_hover(MEAN, _counted(overall), overall, rows, unit)] * 2,
        )  # fmt: skip
    figure.update_xaxes(tickvals=[0, 1], ticktext=[f"<b>{escaped(row)}</b>" for row in rows], range=[-0.2, 1.2])
    shown = [*before.values(), *after.values(), *overall]
    figure.update_yaxes(title=unit, title_standoff=6, **share_axis(measure, shown))
    up = np.sign([after[name].value - before[name].value for name in names])
    details = [extent(frame), f"higher after in {(up > 0).sum()} relations, lower in {(up < 0).sum()}"]
    heading = f"{what}: {' → '.join(rows)}"
    return finish(figure, heading, details, 460, 640, n_labels=len({trace.name for trace in figure.data}))


def _counted(means: Sequence[Score]) -> str:
    """Over how many relations; at either end where these differ."""
    return f"{' and '.join(dict.fromkeys(str(mean.n) for mean in means))} relations"


def _hover(name: str, of: str, ends: Sequence[Score], rows: tuple[str, str], unit: str) -> str:
    lines = [f"{escaped(row)}: {end}" for row, end in zip(rows, ends)]
    return "<br>".join([f"<b>{escaped(name)}</b> ({escaped(of)})", *lines, unit])
