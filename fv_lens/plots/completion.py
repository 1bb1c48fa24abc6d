"""Word completion of one relation, with its controls."""

import numpy as np
import plotly.graph_objects as go

from ..evaluation.evaluate import Evaluation, Result
from ..ground.scores import Score
from .style import ACCENT, CONTROL, escaped, finish
from .table import bars, lanes


def evaluation(evaluation: Evaluation, vector: str = "") -> go.Figure:
    """Accuracy with intervals of what was evaluated and of every control, for whole answers and first tokens.

    Hovering shows the gains.

    `vector`: what to call the vector in the title, such as "fine-tuned vector".

    Example:
        >>> evaluation(evaluate(model, "antonym", vector)).show()
    """
    rows = evaluation.rows
    n, hovers = evaluation.accuracy.n, [_row_hover(evaluation.name, name, row) for name, row in rows.items()]
    below = lanes({"": list(rows)}, height=38)
    marks = (
        ("first token alone", "first_token_accuracy", 0.2, 0.4, 8, "diamond"),
        ("accuracy (whole answers)", "accuracy", -0.1, 1, 11, "circle"),
    )
    figure = go.Figure()
    for label, part, shift, opacity, size, symbol in marks:
        line: list[Score] = [getattr(row, part) for row in rows.values()]
        # Two traces, as the error bars of one trace have one colour.
        for span, colour in ((slice(1, None), CONTROL), (slice(0, 1), ACCENT)):
            figure.add_scatter(
                x=[s.value for s in line[span]], y=np.array(below.ticks)[span] + shift, mode="markers", opacity=opacity,
                error_x=dict(bars(line[span]), thickness=2, width=0, color=colour),
                marker=dict(size=size, color=colour, symbol=symbol), text=hovers[span], hoverinfo="text",
                name=label, legendgroup=part, showlegend=colour == ACCENT,
            )  # fmt: skip
    labels = [f"<b>{below.labels[0]}</b>", *below.labels[1:]]
    figure.update_yaxes(tickvals=below.ticks, ticktext=labels, range=below.range, showgrid=False)
    figure.update_xaxes(title="share of words", range=[-0.03, 1.03], dtick=0.2)
    figure.update_layout(legend_traceorder="reversed")
    heading = ", ".join(filter(None, (f"Words completed right: {evaluation.relation}", vector)))
    return finish(figure, heading, [f"{n} test words, 95 % intervals"], round(38 * below.end) + 60, 860, n_labels=2)


def _row_hover(tested: str, name: str, row: Result) -> str:
    lines = [f"<b>{escaped(name)}</b>", f"accuracy {row.accuracy}"]
    lines += [f"first token alone {row.first_token_accuracy}", f"log-probability {row.log_prob} nats"]
    if row.accuracy_gain and row.log_prob_gain:  # what was tested has none over itself
        lines += [f"gain of {escaped(tested)}, paired:", f"accuracy {row.accuracy_gain.signed}"]
        lines.append(f"log-probability {row.log_prob_gain.signed} nats")
    return "<br>".join(lines)
