"""Relations as points: near each other where they are alike."""

import html
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..ground.errors import InputError
from .style import ACCENT, CONTROL, GRID, INK, escaped, finish, wrapped
from .table import number

COLOURS = (CONTROL, ACCENT, "#1b7f5c", "#8a4f9e", "#8a6a00", "#1f7fa6", "#c2457a", INK, "#6d4c41", "#6b7280")
SYMBOLS = (
    "circle", "diamond", "square", "triangle-up", "cross", "star", "triangle-down", "hexagon", "pentagon", "bowtie",
)  # fmt: skip
# Where a label stands: textposition -> the side of the point, across and up.
SIDES = {
    "middle right": (1, 0), "middle left": (-1, 0), "top center": (0, 1), "bottom center": (0, -1),
    "top right": (1, 1), "bottom right": (1, -1), "top left": (-1, 1), "bottom left": (-1, -1),
}  # fmt: skip
FONT_SIZE, MARKER = 11, 9
SIZES = {(650, 520): 1.0, (360, 520): 0.1}  # size of the map in pixels -> its weight in placing labels
ROOM = (0.13, 0.04)  # margins, as shares of the larger extent
PASSES = 10


def relation_map(points: pd.DataFrame, categories: Mapping[str, str]) -> go.Figure:
    """Points with their names, coloured by category; only distances mean anything, so both axes have one scale.

    Labels go to the side of their point where they overlap least with other labels and points.

    Args:
        points: name -> `x`, `y`, as multidimensional scaling gives them.
        categories: relation -> category, in the order to show; a relation that is not in it comes under "other".

    Raises:
        InputError: no points, a column that is missing, or a coordinate that is not a finite number.

    Example:
        >>> relation_map(pd.DataFrame({"x": [0, 1], "y": [1, 0]}, index=["antonym", "synonym"]), {}).show()
    """
    if missing := [column for column in ("x", "y") if column not in points]:
        raise InputError(f"the points lack the column {missing[0]!r}; give name -> x, y")
    if not len(points):
        raise InputError("there are no points to show; give at least one")
    names = [str(name) for name in points.index]
    at = points[["x", "y"]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    for name, place in zip(names, at):
        if not np.isfinite(place).all():
            raise InputError(f"the point {name!r} is at {tuple(place.tolist())}; give finite numbers")
    labels = [wrapped(name, 22) for name in names]
    sides = _sides(at, labels)

    kinds = [categories.get(name, "other") for name in names]
    present = [kind for kind in dict.fromkeys([*categories.values(), "other"]) if kind in kinds]
    figure = go.Figure()
    for which, kind in enumerate(present):
        members = [i for i, of in enumerate(kinds) if of == kind]
        colour, turn = COLOURS[which % len(COLOURS)], which // len(COLOURS)
        figure.add_scatter(
            x=at[members, 0], y=at[members, 1], mode="markers+text", name=escaped(kind),
            text=["<br>".join(labels[i]) for i in members],
            textposition=[sides[i] for i in members], textfont=dict(size=FONT_SIZE, color=colour), cliponaxis=False,
            marker=dict(size=MARKER, color=colour, symbol=SYMBOLS[(which + turn) % len(SYMBOLS)]), hoverinfo="text",
            hovertext=[f"<b>{escaped(names[i])}</b><br>{escaped(kind)}" for i in members],
        )  # fmt: skip
    (left, low), (right, high) = _frame(at).tolist()
    edge = dict(showticklabels=False, showgrid=False, showline=True, mirror=True, linecolor=GRID, constrain="domain")
    figure.update_xaxes(range=[left, right], **edge)
    figure.update_yaxes(range=[low, high], scaleanchor="x", constraintoward="top", **edge)
    details = [f"{number(len(names), 'relation')}; the nearer, the more alike"]
    return finish(figure, "Map of relations", details, 560, 680, n_labels=len(present))


def _frame(at: np.ndarray) -> np.ndarray:
    """Ends of both axes `[end, axis]`, with room for labels."""
    least, most = at.min(0), at.max(0)
    room = np.array(ROOM) * ((most - least).max() or 1.0)
    return np.stack([least - room, most + room])


def _sides(at: np.ndarray, labels: Sequence[Sequence[str]]) -> list[str]:
    """The side of each point on which its label covers least; one label after another moves, until all stay.

    A map is drawn in more than one size (on a page, on a phone), so what is covered is summed over `SIZES`.
    """
    letters = np.array([max(len(html.unescape(line)) for line in lines) for lines in labels])
    heights = (FONT_SIZE + 2.0) * np.array([len(lines) for lines in labels])
    label = np.stack([0.56 * FONT_SIZE * letters + 4, heights], 1)
    away = (label / 2 + MARKER / 1.6 + 1)[:, None] * np.array(list(SIDES.values()))  # plotly's own distance
    frame, chosen, every = _frame(at), np.zeros(len(at), int), np.arange(len(at))

    def covered(i: int) -> np.ndarray:
        """Area `[side]` that label `i` would cover of others and of points, or lose at the edge."""
        total = 0.01 * np.arange(len(SIDES))
        for (width, height), weight in SIZES.items():
            scale = min(np.array([width, height]) / (frame[1] - frame[0]))
            dots, ends = at * scale, frame * scale
            own, labels = dots[i] + away[i], dots + away[every, chosen]
            half = label[i] / 2
            lost = np.clip(ends[0] - own + half, 0, None) + np.clip(own + half - ends[1], 0, None)
            on_labels = _overlap(own, label[i], labels, label) * (every != i)
            on_dots = _overlap(own, label[i], dots, np.full(2, float(MARKER)))
            total = total + weight * (on_labels.sum(1) + 2 * on_dots.sum(1) + (lost * label[i][::-1]).sum(1))
        return total

    for _ in range(PASSES):
        before = chosen.copy()
        for i in range(len(at)):
            chosen[i] = covered(i).argmin()
        if (chosen == before).all():
            break
    return [list(SIDES)[side] for side in chosen]


def _overlap(some: np.ndarray, size: np.ndarray, others: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Area `[some, other]` that boxes around centres `[box, axis]` share."""
    shared = (size + sizes) / 2 - np.abs(some[:, None] - others)
    return np.prod(np.clip(np.minimum(shared, np.minimum(size, sizes)), 0, None), axis=2)
