"""What a composite vector is made of."""

import plotly.graph_objects as go

from ..ground.errors import InputError, whole_number
from ..vectors.function_vector import FunctionVector
from .style import ACCENT, MUTED, escaped, finish, tint
from .table import lanes, number


def composition(fv: FunctionVector, k: int = 12) -> go.Figure:
    """The `k` largest weights of a composite as bars, largest first, and the rest in one; its source pair on top.

    Args:
        fv: a vector with `weights` and `source`, as `compose` returns it.

    Raises:
        InputError: a vector without weights; `k` below 1.

    Example:
        >>> composition(compose(model, vectors, ("hot", "cold"))).show()
    """
    k = whole_number("k", k, least=1)
    if not fv.weights:
        raise InputError(f"{fv} has no weights; give a composite of a library of vectors, as `compose` returns it.")
    shares = sorted(fv.weights.items(), key=lambda share: -share[1])
    top, rest = shares[:k], shares[k:]
    names, weights = [name for name, _ in top], [weight for _, weight in top]
    hovers = [f"<b>{escaped(name)}</b>: {_weight_text(weight)}" for name, weight in top]
    if rest:
        weights.append(sum(weight for _, weight in rest))
        others = f"{len(rest)} other{'s' * (len(rest) > 1)}"
        hovers.append(f"<b>{others}</b>: {_weight_text(weights[-1])} in all<br>the largest {_weight_text(rest[0][1])}")

    rows = lanes({"": [*names, *([others] if rest else [])]})
    places, least, most = list(rows.ticks), min(0.0, *weights), max(0.0, *weights)
    room = 0.16 * ((most - least) or 1.0)  # for the numbers at the ends of the bars
    figure = go.Figure(
        go.Bar(
            x=weights, y=places, orientation="h", width=0.72, text=[_weight_text(weight) for weight in weights],
            textposition="outside", cliponaxis=False, hovertext=hovers, hoverinfo="text",
            marker=dict(color=[ACCENT] * len(top) + [tint(MUTED, 0.5)] * bool(rest), line_width=0),
        )
    )  # fmt: skip
    figure.update_yaxes(tickvals=places, ticktext=rows.labels, range=rows.range, showgrid=False)
    figure.update_xaxes(title="weight", range=[least - room * (least < 0), most + room], nticks=6)
    heading = " : ".join(fv.source) or fv.relation or "Composite vector"
    total = sum(weight for _, weight in shares)
    details = [f"weights of {number(len(shares), 'relation')}, in all {total:.2f}"]
    return finish(figure, heading, details, round(25 * rows.end) + 60, 640)


def _weight_text(weight: float) -> str:
    if not weight:
        return "0"
    if abs(weight) < 0.001:
        return "&lt; 0.001" if weight > 0 else "&gt; -0.001"
    return f"{weight:.2f}" if abs(weight) >= 0.01 else f"{weight:.3f}"
