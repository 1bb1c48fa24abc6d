"""Top tokens of vectors, side by side."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..ground.errors import InputError, whole_number
from .style import ACCENT, CONTROL, INK, MUTED, escaped, finish, tint, wrapped

COLUMNS = ("relation", "vector", "token", "probability", "is_name")
LINE = 20  # letters of a token in a line, as many as half a phone holds


def decoding(words: pd.DataFrame, relations: Sequence[str] | None = None, k: int = 10) -> go.Figure:
    """The first `k` tokens of each vector as bars: a row for each relation, a column for each vector.

    Tokens that name the relation are in bold on orange. The bars of a relation share a scale.

    Args:
        words: a line for each token, with the columns `relation`, `vector` ("FV", "FFV from FV"; columns stand in their
            order), `token` (the strongest first), `probability` and `is_name`.
        relations: which to show, in their order; all if None.

    Raises:
        InputError: a column or relation that `words` lacks, or no words; `k` below 1.

    Example:
        >>> decoding(pd.DataFrame({"relation": "antonym", "vector": ["FV", "FFV"], "token": [" black", " opposite"],
        ...                        "probability": [0.2, 0.6], "is_name": [False, True]})).show()
    """
    if missing := [column for column in COLUMNS if column not in words]:
        raise InputError(f"the words lack the column {missing[0]!r}; give {', '.join(COLUMNS)}")
    k = whole_number("k", k, least=1)
    known, vectors = list(words.relation.unique()), list(words.vector.unique())
    relations = known if relations is None else list(relations)
    if not relations:
        raise InputError("there are no words to show; give those of at least one relation")
    for relation in relations:
        if relation not in known:
            raise InputError(f"there are no words of relation {relation!r}; choose from {', '.join(map(repr, known))}")

    n_lines = max(len(wrapped(_plain(token), LINE)) for token in words.token)
    n, heading, height = len(relations), 46, max(22, 15 * n_lines) * k
    figure = make_subplots(
        n, len(vectors), horizontal_spacing=0.04, vertical_spacing=heading / (n * (height + heading)) if n > 1 else 0,
        subplot_titles=[_title(relation, vector) for relation in relations for vector in vectors],
    )  # fmt: skip
    for r, relation in enumerate(relations, 1):
        panels = [words[(words.relation == relation) & (words.vector == vector)] for vector in vectors]
        tops = [panel.head(k) for panel in panels]
        most = max((top.probability.max() for top in tops if len(top)), default=1.0)
        for c, (vector, top) in enumerate(zip(vectors, tops), 1):
            _panel(figure, top, vector, dict(row=r, col=c))
            figure.update_xaxes(range=[0, 1.02 * most], row=r, col=c)
    figure.update_annotations(xanchor="left", align="left", font=dict(size=13, color=INK))
    for note, domain in zip(figure.layout.annotations, [axis.domain for axis in figure.select_xaxes()]):
        note.x = domain[0]
    figure.update_xaxes(showgrid=False, showticklabels=False)
    figure.update_yaxes(range=[k - 0.4, -0.6], showgrid=False, showticklabels=False)
    details = ["bars: probability, on one scale within a relation; bold on orange: a name of the relation"]
    total = n * height + (n - 1) * heading + 50
    return finish(figure, "The words that vectors are read as", details, total, 340 * len(vectors) + 60, above=heading)


def _panel(figure: go.Figure, top: pd.DataFrame, vector: str, at: dict[str, int]) -> None:
    places, names = list(range(len(top))), top.is_name.astype(bool)
    tokens = [escaped(_plain(token)) for token in top.token]
    figure.add_bar(
        x=top.probability, y=places, orientation="h", width=0.84, showlegend=False, hoverinfo="text",
        marker=dict(color=[tint(ACCENT, 0.45) if name else tint(CONTROL, 0.22) for name in names], line_width=0),
        hovertext=[
            f"<b>{token}</b>: probability {p:.3g}<br>{escaped(vector)}{', a name' * bool(name)}"
            for token, p, name in zip(tokens, top.probability, names)
        ],
        **at,
    )  # fmt: skip
    labels = ["<br>".join(wrapped(_plain(token), LINE)) for token in top.token]
    # Over the bars, however short they are.
    figure.add_scatter(
        x=[0] * len(top), y=places, mode="text", textposition="middle right", showlegend=False, hoverinfo="skip",
        text=[
            f"{f'<b>{label}</b>' if name else label} <span style='color:{MUTED};font-size:11px'>{p:.2g}</span>"
            for label, p, name in zip(labels, top.probability, names)
        ],
        **at,
    )  # fmt: skip


def _plain(token: str) -> str:
    """Without the space before a word; quoted where something else in it cannot be seen."""
    word = token.removeprefix(" ")
    return word if word.isprintable() and word == word.strip() and word else repr(token)


def _title(relation: str, vector: str) -> str:
    return f"<b>{escaped(relation)}</b><br>{escaped(vector)}"
