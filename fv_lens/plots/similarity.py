"""Similarity of relations, as rated by people and as vectors: matrices side by side."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from ..ground.errors import InputError
from .style import DIVERGING, INK, MUTED, escaped, finish, wrapped
from .table import number

BLANK = "#a3a3a3"  # of cells without a number; no colour of the scale is like it
TINY = f"font-size:11px;color:{MUTED}"
CLIP = 0.995  # the quantile of distances from the mean at which the colours end


def similarity(matrices: Mapping[str, pd.DataFrame], order: Sequence[str] | None = None) -> go.Figure:
    """Square matrices as heat maps side by side, their rows and columns in one order.

    Each has its own colours, whose middle is the mean of its numbers off the diagonal: scales of any unit compare.

    Args:
        matrices: title -> frame `[name, name]`, such as "people", "FV" and "FFV"; NaN where a number is not known,
            which leaves the cell grey.
        order: names to show, in order; None for those of the first matrix, in the optimal leaf order of an
            average-linkage clustering of the first matrix without NaN (in their own order if there is none).

    Raises:
        InputError: no matrix; one that is not square, not of numbers, or lacks a name; a name twice.

    Example:
        >>> similarity({"people": ratings, "FFV": cosines}).show()
    """
    names = _names(matrices, order)
    values = {title: matrix.loc[names, names].to_numpy(float) for title, matrix in matrices.items()}
    values = {title: np.where(np.isfinite(of), of, np.nan) for title, of in values.items()}
    if order is None:
        leaves = _leaf_order(list(values.values()))
        names = [names[leaf] for leaf in leaves]
        values = {title: of[np.ix_(leaves, leaves)] for title, of in values.items()}

    n, columns = len(names), len(values)
    scales = {title: _scale(of) for title, of in values.items()}
    figure = make_subplots(
        1, columns, horizontal_spacing=min(0.04, 0.5 / columns), shared_yaxes=True,
        subplot_titles=[
            f"<b>{escaped(title)}</b><br><span style='{TINY}'>middle {_number_text(centre, reach)}</span>"
            for title, (centre, reach) in scales.items()
        ],
    )  # fmt: skip
    for column, (title, of) in enumerate(values.items(), 1):
        left, right = next(figure.select_xaxes(row=1, col=column)).domain
        centre, reach = scales[title]
        ends = [centre - 0.6 * reach, centre + 0.6 * reach]  # two, for on a phone there is no room for more
        figure.add_heatmap(
            z=of, zmin=centre - reach, zmid=centre, zmax=centre + reach, colorscale=DIVERGING,
            text=[[_hover(title, one, *other) for other in zip(names, row)] for one, row in zip(names, of)],
            hoverinfo="text", hoverongaps=False, row=1, col=column,
            colorbar=dict(
                orientation="h", x=(left + right) / 2, len=right - left, xpad=0, y=0, yanchor="top", ypad=8,
                thickness=10, tickvals=ends, ticktext=[_number_text(end, reach) for end in ends], tickangle=0,
                tickfont_size=11,
            ),
        )  # fmt: skip
    labels = [wrapped(name, 28) for name in names]
    cell = 30 if n <= 12 else 20 if n <= 25 else 13
    figure.update_annotations(font=dict(size=12, color=INK))
    figure.update_xaxes(showticklabels=False, showgrid=False)
    figure.update_yaxes(tickvals=list(range(n)), range=[n - 0.5, -0.5], showgrid=False)
    figure.update_yaxes(ticktext=["<br>".join(lines) for lines in labels], col=1)
    size = (cell - 2) / max(map(len, labels))  # letters are small rather than on one another
    figure.update_yaxes(tickfont_size=max(4, min(13, size)), col=1)
    figure.update_layout(plot_bgcolor=BLANK)
    details = [f"{number(n, 'relation')}, columns in the order of the rows; middle colour: mean off the diagonal"]
    if any(np.isnan(of).any() for of in values.values()):
        details.append("grey: not known")
    return finish(figure, "How alike relations are", details, cell * n + 60, 960, above=44)


def _names(matrices: Mapping[str, pd.DataFrame], order: Sequence[str] | None) -> list[str]:
    """The names to show, which every matrix has."""
    if not matrices:
        raise InputError("matrices is empty; give at least one, title -> square DataFrame")
    for title, matrix in matrices.items():
        _check(title, matrix)
    names = list(next(iter(matrices.values())).index if order is None else order)
    if not names:
        raise InputError("there are no names to show; give at least one")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{twice[0]!r} is named twice; give each name once")
    for title, matrix in matrices.items():
        if missing := [name for name in names if name not in matrix.index]:
            raise InputError(f"the matrix {title!r} lacks {missing[0]!r}; give matrices of the same names, or `order`")
    return names


def _check(title: str, matrix: pd.DataFrame) -> None:
    what = f"the matrix {title!r}"
    if not isinstance(matrix, pd.DataFrame) or list(matrix.index) != list(matrix.columns):
        raise InputError(f"{what} is not square with the same names on both sides; give a DataFrame that is")
    if not matrix.index.is_unique:
        raise InputError(f"{what} has {matrix.index[matrix.index.duplicated()][0]!r} twice; give each name once")
    if not all(pd.api.types.is_numeric_dtype(dtype) for dtype in matrix.dtypes):
        raise InputError(f"{what} holds something that is not a number; give numbers, NaN where one is not known")


def _leaf_order(matrices: Sequence[np.ndarray]) -> list[int]:
    n = len(matrices[0])
    whole = next((matrix for matrix in matrices if not np.isnan(matrix[~np.eye(n, dtype=bool)]).any()), None)
    if whole is None or n < 3:
        return list(range(n))
    apart = np.nanmax(whole) - (whole + whole.T) / 2
    np.fill_diagonal(apart, 0)
    tree = hierarchy.linkage(squareform(apart, checks=False), "average", optimal_ordering=True)
    return hierarchy.leaves_list(tree).tolist()


def _scale(values: np.ndarray) -> tuple[float, float]:
    """The mean off the diagonal, and how far from it the colours reach."""
    off = values[~np.eye(len(values), dtype=bool)]
    off = off[~np.isnan(off)]
    if not len(off):
        return 0.0, 1.0
    return float(off.mean()), float(np.quantile(np.abs(off - off.mean()), CLIP)) or 1.0


def _number_text(value: float, reach: float) -> str:
    """To as many places as the colours can tell apart."""
    places = max(0, 1 - math.floor(math.log10(reach)))
    return f"{value:z.{places}f}".replace("-", "\N{MINUS SIGN}")


def _hover(title: str, one: str, other: str, value: float) -> str:
    return f"<b>{escaped(str(one))}</b><br>{escaped(str(other))}<br>{escaped(title)}: {value:.3g}"
