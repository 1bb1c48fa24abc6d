"""Pieces of HTML by which results show themselves in notebooks: small, escaped, without scripts.

Text takes the notebook's colour and every background lets the notebook's own show through, so that light and dark ones
can be read alike. Whatever is not yet `Markup` is escaped by every piece; the pieces' templates stand in `templates`.
"""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, SupportsFloat

import numpy as np
from markupsafe import Markup
from markupsafe import escape as escaped

WARM, COOL = "194, 87, 12", "43, 108, 176"  # orange and blue of the figures
LONGEST = 200  # characters of a text; user data may be of any length
MOST_LINES = 24  # of a table
MOST_CELLS, SHADES = 4000, 10  # of a map
CLIP = 0.995  # the quantile of absolute effects at which the colours of a map end


@cache
def _pieces() -> Any:
    """The macros of notebook.html."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # needed only once something is shown

    loader = PackageLoader("fv_lens.ground")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["short"] = escape
    return environment.get_template("notebook.html").module


def escape(value: Any, most: int = LONGEST) -> Markup:
    """The text of `value`, cut after `most` characters; a `Markup` as it is.

    Example:
        >>> escape("<b> & co")
        Markup('&lt;b&gt; &amp; co')
    """
    if isinstance(value, Markup):
        return value
    text = str(value)
    return escaped(text if len(text) <= most else text[: most - 1] + "…")


def number(value: SupportsFloat | None, form: str = "z.2f") -> Markup:
    """The number as `format` writes it, with a true minus sign; empty for None and NaN."""
    known = value is not None and value == value
    return minus(format(value, form)) if known else Markup("")


def minus(number: Any) -> Markup:
    """A number, or a score, as it is written, with a true minus."""
    return escaped(str(number).replace("-", "\N{MINUS SIGN}"))


def small(value: Any) -> Markup:
    """A note on what stands before it."""
    return Markup(_pieces().small(value))


def card(kind: str, title: Any, *parts: Any, note: Any = "") -> str:
    """A whole result: its title and kind, its parts (a paragraph each, unless they are `Markup`), and a note below."""
    return str(_pieces().card(kind, title, [*parts, note]))


def table(
    columns: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    *,
    words: bool = False,
    strong: Container[int] = (),
    most: int = MOST_LINES,
) -> Markup:
    """A table whose first column names the lines; numbers stand on the right.

    Args:
        columns: the headings; empty for a table without any.
        words: whether cells hold words, which are left-aligned and wrapped.
        strong: the lines in bold.
        most: lines shown; longer tables are cut after them.
    """
    rows = list(rows)
    if not rows:
        return Markup("")
    return Markup(_pieces().table(columns, rows[:most], words, strong, max(0, len(rows) - most)))


def facts(known: Mapping[str, Any]) -> Markup:
    """Names and values, without those that are None or empty."""
    return table([], [item for item in known.items() if item[1] not in (None, "")], words=True)


def side(*parts: Markup) -> Markup:
    """Parts side by side, where there is room."""
    return Markup(_pieces().side(parts))


def tint(content: Any, share: SupportsFloat) -> Markup:
    """A table's cell in orange, as strong as `share` of 1; in blue below 0."""
    share = float(share)
    strength = min(1.0, abs(share)) if share == share else 0.0
    return Markup(_pieces().tint(content, _colour(share, 0.6 * strength)))


def bar(share: SupportsFloat, width: SupportsFloat = 8) -> Markup:
    """A bar of `share` of `width` (in letters); blue below 0."""
    share = float(share)
    length = float(width) * min(1.0, abs(share)) if share == share else 0.0
    return Markup(_pieces().bar(f"{length:.2f}", _colour(share, 1)))


def bars(shares: Mapping[str, float | int], heading: str, most: int = 6) -> Markup:
    """A bar for each of the first shares, with its number."""
    rows = [(name, bar(share) + " " + number(share)) for name, share in shares.items()]
    return table([heading, "weight"], rows, words=True, most=most)


class _Text(NamedTuple):
    """A label beside a map, in pixels."""

    x: str
    y: str
    anchor: str
    value: Any


class _Outline(NamedTuple):
    """An outlined cell of a map."""

    x: int
    y: int
    title: str


class _Map(NamedTuple):
    """What a map is drawn from, in pixels; a cell is `wide` and `high`."""

    label: str
    left: int
    top: int
    below: int
    width: int
    height: int
    wide: int
    high: int
    strokes: list[tuple[str, str]]
    marked: list[_Outline]
    texts: list[_Text]


def grid(
    values: Sequence[Sequence[float | int]],
    limit: float | int,
    label: str,
    axes: tuple[str, str] | None = None,
    marked: Mapping[tuple[int, int], str] = {},
) -> Markup:
    """A map of `values` `[row][column]`, row 0 at the bottom: orange above 0, blue below, full colour at `limit`.

    In a large map only the cells with the largest numbers are drawn; the others would hardly be visible.

    Args:
        label: what the map shows, for screen readers.
        axes: names of rows and columns, which are numbered if these are given.
        marked: (row, column) -> what pointing at the outlined cell says.
    """
    n_rows, n_columns = len(values), len(values[0])
    wide, high = min(20, max(4, 420 // n_columns)), min(14, max(3, 320 // n_rows))
    width, height = n_columns * wide, n_rows * high
    outlines = [_Outline(column * wide, (n_rows - 1 - row) * high, text) for (row, column), text in marked.items()]
    texts: list[tuple[float, float, str, Any]] = []
    if axes:
        texts = [(-6, (n_rows - 1 - row + 0.5) * high + 4, "end", row) for row in _ticks(n_rows, high, 14)]
        texts += [((column + 0.5) * wide, height + 14, "middle", column) for column in _ticks(n_columns, wide, 24)]
        texts += [(-6, -7, "end", axes[0]), (width / 2, height + 30, "middle", axes[1])]
    labels = [_Text(f"{x:g}", f"{y:g}", anchor, text) for x, y, anchor, text in texts]
    room = (48, 18, 38) if axes else (1, 1, 1)
    drawing = _Map(label, *room, width, height, wide, high, _strokes(values, limit), outlines, labels)
    return Markup(_pieces().grid(drawing))


def _strokes(values: Sequence[Sequence[float | int]], limit: float | int) -> list[tuple[str, str]]:
    """(colour, path) of the cells of each shade: one stroke for all of them, so that large maps are small files."""
    n_rows, n_columns = len(values), len(values[0])
    largest = sorted((abs(x) for row in values for x in row if x == x), reverse=True)
    weakest = largest[MOST_CELLS - 1] if len(largest) > MOST_CELLS else 0.0
    strokes: dict[int, list[str]] = {}
    for row, line in enumerate(values):
        shades = [_shade(x, limit) if abs(x) >= weakest else 0 for x in line]  # NaN: no heads, and no colour
        start = 0
        for column in range(1, n_columns + 1):
            if column == n_columns or shades[column] != shades[start]:
                if shades[start]:
                    strokes.setdefault(shades[start], []).append(f"M{start} {n_rows - 1 - row}h{column - start}")
                start = column
    return [(_colour(shade, abs(shade) / SHADES), "".join(parts)) for shade, parts in sorted(strokes.items())]


def colour_limit(mean: np.ndarray) -> float:
    """The absolute effect at which the colours of a map end; cells that are NaN do not count."""
    return float(np.nanquantile(np.abs(mean), CLIP)) or float(np.nanmax(np.abs(mean))) or 1.0


def decimals(largest: float) -> int:
    """Decimals that show three significant figures of the largest effect; at least two."""
    return max(2, 2 - math.floor(math.log10(largest or 1.0)))


def scale(limit: str, below: str, above: str, unit: str) -> Markup:
    """The legend of a `grid`: what is below and above 0, and the number at which colours end."""
    colours = [f"rgba({colour}, {opacity})" for colour, opacity in ((COOL, 1), (COOL, 0), (WARM, 0), (WARM, 1))]
    return Markup(_pieces().scale(f"{below} \N{MINUS SIGN}{limit}", f"+{limit} {above}", colours, unit))


def _shade(value: float | int, limit: float | int) -> int:
    return round(SHADES * max(-1.0, min(1.0, value / limit))) if value == value else 0


def _colour(sign: float | int, opacity: float | int) -> str:
    return f"rgba({COOL if sign < 0 else WARM}, {opacity:.2g})"


def _ticks(n: int, size: int, room: int) -> range:
    """The labelled cells, far enough apart that labels of `room` pixels do not touch."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, n) if step * size >= room or step >= n)
    return range(0, n, step)
