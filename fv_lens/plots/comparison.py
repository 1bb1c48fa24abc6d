"""All vectors beside prompting and controls, and accuracy against the number of pairs."""

import re
from collections.abc import Iterable
from typing import get_args

import pandas as pd
import plotly.graph_objects as go

from ..evaluation.rows import FEW_SHOT, Kind, matching, of_kind
from ..ground.scores import Score
from .style import ACCENT, CONTROL, INK, LIGHT, MUTED, escaped, finish, tint
from .table import bars, checked, extent, lanes, measured, number, scores_of, share_axis

LOOKS = {
    "prompting": (CONTROL, "diamond"), "function vector": (LIGHT, "square"), "fine-tuned": (ACCENT, "circle"),
}  # fmt: skip
OTHER = (MUTED, "triangle-up")


def comparison(frame: pd.DataFrame, measure: str = "accuracy") -> go.Figure:
    """The mean over relations of every row, with its interval: prompting, vectors, fine-tuned vectors, controls.

    Args:
        frame: the table of results (see `plots.table.scores_of`), its part "score" and group "all".
        measure: "accuracy" (of whole answers), "first_token_accuracy" or "log_prob" (nats).

    Raises:
        InputError: a column or measure that the table lacks.

    Example:
        >>> comparison(frame, "log_prob").show()
    """
    what, unit = measured(measure)
    scores = {row: of["all"] for row, of in scores_of(frame, part="score", group="all", measure=measure).items()}
    checked(scores, (), f"scores over all relations in {measure}")
    groups = {kind: of_kind(kind, scores) for kind in get_args(Kind)}
    groups["other"] = [row for row in scores if not any(row in rows for rows in groups.values())]
    groups = {kind: rows for kind, rows in groups.items() if rows}
    rows_of = lanes(groups)

    figure = go.Figure()
    for kind, rows in groups.items():
        (colour, symbol), line = LOOKS.get(kind, OTHER), [scores[row] for row in rows]
        figure.add_scatter(
            x=[score.value for score in line], y=[rows_of.places[row] for row in rows], mode="markers", name=kind,
            marker=dict(size=10, color=colour, symbol=symbol), showlegend=False, hoverinfo="text",
            error_x=dict(bars(line), thickness=2, width=0, color=colour),
            text=[
                f"<b>{escaped(row)}</b>: {score}<br>{unit}, 95 % over {number(score.n, 'relation')}"
                for row, score in zip(rows, line)
            ],
        )  # fmt: skip
    figure.update_yaxes(tickvals=rows_of.ticks, ticktext=rows_of.labels, range=rows_of.range)
    figure.update_xaxes(title=unit, **share_axis(measure, list(scores.values())))
    details = [extent(frame), "mean over relations, with 95 % intervals"]
    return finish(figure, what, details, round(25 * rows_of.end) + 60, 860)


def learning_curve(frame: pd.DataFrame) -> go.Figure:
    """Accuracy of whole answers against the number of pairs a vector is fine-tuned on, with its band of intervals.

    Dashed lines are the prompts of fewest shots and the function vector, where the table has them.

    Args:
        frame: the table of results (see `plots.table.scores_of`); its part "curve" has rows "1 pairs", "2 pairs", ....

    Raises:
        InputError: a column that the table lacks, or no curve over all relations.

    Example:
        >>> learning_curve(frame).show()
    """
    what, unit = measured("accuracy")
    curve = curve_of(frame)
    checked(curve, (), "curve over all relations")
    pairs, line, n = list(curve), list(curve.values()), max(score.n for score in curve.values())
    figure = go.Figure()
    band = {k: score for k, score in curve.items() if score.known}
    if band:
        edge = [score.high for score in band.values()] + [score.low for score in reversed(band.values())]
        figure.add_scatter(
            x=[*band, *reversed(band)], y=edge, fill="toself", fillcolor=tint(ACCENT, 0.15), line_width=0, mode="lines",
            hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    figure.add_scatter(
        x=pairs, y=[score.value for score in line], mode="lines+markers", name="fine-tuned", hoverinfo="text",
        line=dict(color=ACCENT, width=2.5), marker=dict(color=ACCENT, size=8),
        text=[
            f"<b>{number(k, 'pair')}</b>: {score}<br>{unit}, 95 % over {number(score.n, 'relation')}"
            for k, score in curve.items()
        ],
    )  # fmt: skip
    levels = scores_of(frame, part="score", group="all", measure="accuracy")
    drawn = {row: levels[row]["all"] for row in (*usual_shots(levels), "FV") if row in levels}
    for (row, score), (colour, dash) in zip(drawn.items(), ((CONTROL, "dash"), (INK, "dot"))):
        figure.add_scatter(
            x=[min(pairs), max(pairs)], y=[score.value] * 2, mode="lines", name=row, hoverinfo="text",
            text=f"<b>{row}</b>: {score}<br>{unit}", line=dict(color=colour, dash=dash, width=1.75),
        )  # fmt: skip
    figure.update_xaxes(title="pairs to fine-tune on", tickvals=pairs, zeroline=False)
    figure.update_yaxes(title=unit, title_standoff=6, **share_axis("accuracy", [*line, *drawn.values()]))
    details = [f"mean over {number(n, 'relation')}{', with 95 % intervals' * bool(band)}"]
    return finish(figure, f"{what} after few pairs", details, 320, 860, n_labels=1 + len(drawn))


def usual_shots(rows: Iterable[str]) -> list[str]:
    """The row of intact prompts of fewest shots, if there is one."""
    return sorted(matching(FEW_SHOT, rows), key=lambda row: int(row.split("-")[0]))[:1]


def curve_of(frame: pd.DataFrame) -> dict[int, Score]:
    """Number of pairs -> score over all relations, in rising order."""
    rows = scores_of(frame, part="curve", name="all", measure="accuracy")
    scores = {int(match[1]): rows[row]["all"] for row in rows if (match := re.fullmatch(r"(\d+) pairs?", row))}
    return dict(sorted(scores.items()))
