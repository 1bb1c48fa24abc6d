"""Every relation beside the others."""

import html
from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from ..errors import InputError
from ..scores import Score
from .style import ACCENT, CONTROL, GRID, INK, LIGHT, MUTED, finish, tint
from .table import bars, checked, extent, lanes, measured, scores_of, share_axis

ROWS = ("zero-shot", "10-shot", "FV", "FFV from FV")
# Prompting is grey and blue, vectors are light and dark orange; the symbols tell them apart without any colour.
LOOKS = ((MUTED, "x-thin"), (CONTROL, "diamond"), (LIGHT, "square"), (ACCENT, "circle"), ("#5b4b8a", "triangle-up"))
MEAN = "mean"


def relations(
    frame: pd.DataFrame, categories: Mapping[str, str], rows: Sequence[str] = ROWS, measure: str = "accuracy"
) -> go.Figure:
    """A point with its interval for each relation and row, by category, and within it by the last row, best first.

    The mean over relations stands on top. The figure grows with the number of relations.

    Args:
        frame: the table of results (see `plots.table.scores_of`), its part "score".
        categories: relation -> category, in the order to show; a relation that is not in it comes under "other".
        rows: at most five, such as "FV"; the last one sorts.
        measure: "accuracy" (of whole answers), "first_token_accuracy" or "log_prob" (nats).

    Raises:
        InputError: a column, row or measure that the table lacks; no rows or too many.

    Example:
        >>> relations(frame, {"antonym": "lexicographic"}, rows=("10-shot", "FV")).show()
    """
    what, unit = measured(measure)
    if not 1 <= len(rows) <= len(LOOKS):
        raise InputError(f"rows is {rows!r}; give one to {len(LOOKS)} rows of the table")
    scores = scores_of(frame, part="score", group="relation", measure=measure)
    checked(scores, rows, f"scores of relations in {measure}")
    overall = scores_of(frame, part="score", group="all", measure=measure)

    best = scores[rows[-1]]
    names = {name: best[name].value if name in best else float("-inf") for row in rows for name in scores[row]}
    groups = {category: [] for category in [*dict.fromkeys(categories.values()), "other"]}
    for name in sorted(names, key=names.__getitem__, reverse=True):
        groups[categories.get(name, "other")].append(name)
    groups = {category: members for category, members in groups.items() if members}
    places, ticks, labels = lanes(groups)
    start = 1.4  # the mean stands at 0

    figure, drawn = go.Figure(), []
    for at, (row, (colour, symbol)) in enumerate(zip(rows, LOOKS)):
        shift = 0.17 * (at - (len(rows) - 1) / 2)
        points = [(start + places[name], name, score) for name, score in scores[row].items()]
        points += [(0.0, MEAN, score) for score in overall.get(row, {}).values()]
        line = [score for _, _, score in points]
        drawn += line
        figure.add_scatter(
            x=[score.value for score in line], y=[place + shift for place, _, _ in points], mode="markers",
            name=html.escape(row), error_x=dict(bars(line), thickness=1.5, width=0, color=tint(colour, 0.4)),
            marker=dict(
                size=[11 if name is MEAN else 8 for _, name, _ in points], color=colour, symbol=symbol,
                opacity=1, line=dict(width=2 if symbol == "x-thin" else 0, color=colour),
            ),
            text=[_hover(name, overall if name is MEAN else scores, categories, rows, unit) for _, name, _ in points],
            hoverinfo="text",
        )  # fmt: skip
    figure.update_yaxes(
        tickvals=[0, *(start + tick for tick in ticks)], ticktext=[f"<b>{MEAN}</b>", *labels],
        range=[start + len(ticks) - 0.4, -0.7], gridcolor=GRID, fixedrange=True,
    )  # fmt: skip
    figure.update_xaxes(title=unit, side="top", title_standoff=6, **share_axis(measure, drawn))
    figure.add_hline(0.75, line=dict(color=INK, width=1))
    details = [extent(frame), f"95 % intervals; by category, best {rows[-1]} first"]
    return finish(figure, f"{what}, by relation", details, 26 * len(ticks) + 80, 860, len(rows), above=30)


def _hover(name: str, scores: Mapping[str, Mapping[str, Score]], categories: Mapping, rows: Sequence, unit: str) -> str:
    key, over = ("all", "relations") if name is MEAN else (name, "words")
    kind = "" if name is MEAN else f" ({categories.get(name, 'other')})"
    found = {row: scores[row][key] for row in rows if key in scores.get(row, {})}
    lines = [f"<b>{html.escape(name + kind)}</b>", *(f"{html.escape(row)}: {s}" for row, s in found.items())]
    return "<br>".join([*lines, f"{unit}, 95 % over {next(iter(found.values())).n:,} {over}"])
