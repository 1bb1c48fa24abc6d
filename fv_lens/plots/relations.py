"""Every relation beside the others."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..ground.errors import InputError
from ..ground.scores import Score
from .comparison import usual_shots
from .style import ACCENT, CONTROL, GRID, INK, LIGHT, MUTED, escaped, finish, tint
from .table import bars, checked, extent, lanes, measured, scores_of, share_axis

# Prompting is grey and blue, vectors are light and dark orange; the symbols tell them apart without any colour.
LOOKS = ((MUTED, "x-thin"), (CONTROL, "diamond"), (LIGHT, "square"), (ACCENT, "circle"), ("#5b4b8a", "triangle-up"))
MEAN = "mean"


def relations(
    frame: pd.DataFrame,
    categories: Mapping[str, str],
    rows: Sequence[str] | None = None,
    measure: str = "accuracy",
) -> go.Figure:
    """A point with its interval for each relation and row, grouped by category and sorted by the last row, best first.

    The mean over relations is on top. The figure grows with the number of relations.

    Args:
        frame: the table of results (see `plots.table.scores_of`), its part "score".
        categories: relation -> category, in the order to show; a relation that is not in it comes under "other".
        rows: at most five, such as "FV"; the last one sorts. By default zero-shot and few-shot prompts, FV and FFV.
        measure: "accuracy" (of whole answers), "first_token_accuracy" or "log_prob" (nats).

    Raises:
        InputError: a column, row or measure that the table lacks; no rows or too many.

    Example:
        >>> relations(frame, {"antonym": "lexicographic"}, rows=("10-shot", "FV")).show()
    """
    what, unit = measured(measure)
    scores = scores_of(frame, part="score", group="relation", measure=measure)
    checked(scores, (), f"scores of relations in {measure}")
    rows = main_rows(scores) if rows is None else rows
    if not 1 <= len(rows) <= len(LOOKS):
        raise InputError(f"rows is {rows!r}; give one to {len(LOOKS)} rows of the table")
    checked(scores, rows, f"scores of relations in {measure}")
    overall = scores_of(frame, part="score", group="all", measure=measure)

    best = scores[rows[-1]]
    names = {name: best[name].value if name in best else float("-inf") for row in rows for name in scores[row]}
    groups: dict[str, list[str]] = {category: [] for category in [*dict.fromkeys(categories.values()), "other"]}
    for name in sorted(names, key=names.__getitem__, reverse=True):
        groups[categories.get(name, "other")].append(name)
    groups = {category: members for category, members in groups.items() if members}
    places, ticks, labels, end = lanes(groups, height=26)
    start = 1.4  # the mean stands at 0

    figure, drawn = go.Figure(), []
    for at, (row, (colour, symbol)) in enumerate(zip(rows, LOOKS)):
        shift = 0.17 * (at - (len(rows) - 1) / 2)
        points = [(start + places[name], _hover(name, scores, categories, rows, unit), score)
                  for name, score in scores[row].items()]  # fmt: skip
        means = list(overall.get(row, {}).values())
        points += [(0.0, _hover(None, overall, categories, rows, unit), score) for score in means]
        line = [score for *_, score in points]
        drawn += line
        figure.add_scatter(
            x=[score.value for score in line], y=[place + shift for place, _, _ in points], mode="markers",
            name=escaped(row), error_x=dict(bars(line), thickness=1.5, width=0, color=tint(colour, 0.4)),
            marker=dict(
                size=[8] * len(scores[row]) + [11] * len(means), color=colour, symbol=symbol,
                opacity=1, line=dict(width=2 if symbol == "x-thin" else 0, color=colour),
            ),
            text=[text for _, text, _ in points], hoverinfo="text",
        )  # fmt: skip
    figure.update_yaxes(
        tickvals=[0, *(start + tick for tick in ticks)], ticktext=[f"<b>{MEAN}</b>", *labels],
        range=[start + end - 0.4, -0.7], gridcolor=GRID, fixedrange=True,
    )  # fmt: skip
    figure.update_xaxes(title=unit, side="top", title_standoff=6, **share_axis(measure, drawn))
    figure.add_hline(0.75, line=dict(color=INK, width=1))
    details = [extent(frame), f"95 % intervals; by category, best {rows[-1]} first"]
    return finish(figure, f"{what}, by relation", details, round(26 * end) + 80, 860, len(rows), above=30)


def main_rows(scores: Mapping[str, Any]) -> list[str]:
    """The usual rows, if present: zero-shot, the few-shot prompt of fewest shots, FV and FFV."""
    return [row for row in ("zero-shot", *usual_shots(scores), "FV", "FFV from FV") if row in scores]


def _hover(
    name: str | None,
    scores: Mapping[str, Mapping[str, Score]],
    categories: Mapping[str, str],
    rows: Sequence[str],
    unit: str,
) -> str:
    """Hover text of a relation, or of the mean (None)."""
    key, over = ("all", "relations") if name is None else (name, "words")
    title = MEAN if name is None else f"{name} ({categories.get(name, 'other')})"
    shown = {row: scores[row][key] for row in rows if key in scores.get(row, {})}
    lines = [f"<b>{escaped(title)}</b>", *(f"{escaped(row)}: {s}" for row, s in shown.items())]
    return "<br>".join([*lines, f"{unit}, 95 % over {next(iter(shown.values())).n:,} {over}"])
