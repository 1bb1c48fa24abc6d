"""Several models beside each other, row by row."""

from typing import get_args

import pandas as pd
import plotly.graph_objects as go

from ..evaluation.pooled import OVER_MODELS, POOLED
from ..evaluation.rows import Kind, of_kind
from ..ground.errors import InputError
from .style import ACCENT, CONTROL, INK, LIGHT, MUTED, escaped, finish
from .table import bars, checked, lanes, measured, number, scores_of, share_axis

LOOKS = (
    (CONTROL, "diamond"), (LIGHT, "square"), (ACCENT, "circle"), ("#5b4b8a", "triangle-up"), ("#1b7f5c", "cross"),
    ("#c2457a", "star"), (MUTED, "triangle-down"),
)  # fmt: skip
ALL = (INK, "line-ns-open")
STEP = 13  # pixels between the models of a row


def models(frame: pd.DataFrame, measure: str = "accuracy") -> go.Figure:
    """The mean over relations of every row, for each model and for all together, with intervals.

    Args:
        frame: the table of several models (`results.csv` of `fv-lens reproduce --models`), its part "score".
        measure: "accuracy" (of whole answers), "first_token_accuracy" or "log_prob" (nats).

    Raises:
        InputError: a column or measure that the table lacks.

    Example:
        >>> models(frame, "first_token_accuracy").show()
    """
    what, unit = measured(measure)
    if "model" not in frame:
        raise InputError("the table lacks the column 'model'; give one of several models")
    where = dict(part="score", group="all", measure=measure)
    scores = {
        model: {row: of["all"] for row, of in scores_of(some, **where).items()}
        for model, some in frame[frame.model != OVER_MODELS].groupby("model", sort=False)
    }
    scores = {model: by_row for model, by_row in scores.items() if by_row}
    checked(scores, (), f"scores over all relations in {measure}")
    rows = list(dict.fromkeys(row for by_row in scores.values() for row in by_row))
    groups = {kind: of_kind(kind, rows) for kind in get_args(Kind)}
    groups["other"] = [row for row in rows if not any(row in listed for listed in groups.values())]
    height = STEP * (len(scores) + 1)
    rows_of = lanes({kind: listed for kind, listed in groups.items() if listed}, height=height)

    figure, looks = go.Figure(), iter(LOOKS * len(scores))
    for at, (model, by_row) in enumerate(scores.items()):
        colour, symbol = ALL if model == POOLED else next(looks)
        listed, line = list(by_row), list(by_row.values())
        aside = (at - (len(scores) - 1) / 2) * STEP / height
        figure.add_scatter(
            x=[score.value for score in line], y=[rows_of.places[row] + aside for row in listed], mode="markers",
            name=escaped(model), hoverinfo="text",
            marker=dict(size=9, color=colour, symbol=symbol, line=dict(width=2, color=colour)),
            error_x=dict(bars(line), thickness=1.75, width=0, color=colour),
            text=[
                f"<b>{escaped(model)}, {escaped(row)}</b>: {score}<br>{unit}, 95 % over {number(score.n, 'relation')}"
                for row, score in by_row.items()
            ],
        )  # fmt: skip
    figure.update_yaxes(tickvals=rows_of.ticks, ticktext=rows_of.labels, range=rows_of.range)
    figure.update_xaxes(title=unit, **share_axis(measure, [score for of in scores.values() for score in of.values()]))
    details = ["mean over relations, with 95 % intervals over their families"]
    return finish(figure, what, details, round(height * rows_of.end) + 60, 860, n_labels=len(scores))
