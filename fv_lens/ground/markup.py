"""Pieces of HTML by which results show themselves in notebooks: small, escaped, without scripts.

Text takes the notebook's colour and every background lets the notebook's own show through, so that light and dark ones
can be read alike. Whatever is not yet `Html` is escaped by every piece.
"""

import html
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from numbers import Real

import numpy as np

WARM, COOL = "194, 87, 12", "43, 108, 176"  # orange and blue of the figures
LONGEST = 200  # characters of a text; user data may be of any length
MOST_LINES = 24  # of a table
MOST_CELLS, SHADES = 4000, 10  # of a map
CLIP = 0.995  # the quantile of absolute effects at which the colours of a map end
FAINT = "rgba(128, 128, 128, .35)"
# Notebooks style tables with one class and one element, and striped rows with more.
STYLE = f"""<style>
.fv-lens {{ font-size: 13px; line-height: 1.45; color: inherit; background: transparent; overflow-x: auto }}
.fv-lens table {{ border: none; border-collapse: collapse; margin: 6px 0; font-size: 1em; table-layout: auto }}
.fv-lens tbody tr:nth-child(n), .fv-lens td, .fv-lens th {{ background: transparent; color: inherit }}
.fv-lens td, .fv-lens th {{ border: none; border-bottom: 1px solid {FAINT}; padding: 2px 10px; font-weight: normal;
  line-height: 1.3; text-align: right; vertical-align: top; white-space: nowrap }}
.fv-lens thead th {{ border-bottom: 1px solid currentColor; vertical-align: bottom; white-space: normal }}
.fv-lens td:first-child, .fv-lens th:first-child, .fv-lens .words td, .fv-lens .words th {{ text-align: left }}
.fv-lens tbody th {{ max-width: 30em; overflow: hidden; text-overflow: ellipsis }}
.fv-lens .words tbody * {{ overflow-wrap: break-word; white-space: normal }}
.fv-lens .strong > * {{ font-weight: bold }}
.fv-lens small {{ font-size: .85em; font-weight: normal; opacity: .75 }}
.fv-lens p {{ margin: 4px 0; max-width: 60em; opacity: .85 }}
.fv-lens .side {{ display: flex; flex-wrap: wrap; gap: 0 28px }}
.fv-lens .tint {{ display: block; margin: -2px -10px; padding: 2px 10px }}
.fv-lens .bar {{ display: inline-block; height: .7em }}
.fv-lens svg {{ display: block; margin: 6px 0; max-width: none }}
</style>"""


class Html(str):
    """Text that is HTML already, and is not escaped again."""


def escape(value: object, most: int = LONGEST) -> Html:
    """The text of `value`, cut after `most` characters; an `Html` as it is.

    Example:
        >>> escape("<b> & co")
        '&lt;b&gt; &amp; co'
    """
    if isinstance(value, Html):
        return value
    text = str(value)
    return Html(html.escape(text if len(text) <= most else text[: most - 1] + "…"))


def number(value: Real | None, form: str = "z.2f") -> Html:
    """As `format` writes it, with a true minus; nothing for None or NaN."""
    known = value is not None and value == value
    return minus(format(value, form)) if known else Html("")


def minus(number: object) -> Html:
    """A number, or a score, as it is written, with a true minus."""
    return Html(str(number).replace("-", "\N{MINUS SIGN}"))


def small(value: object) -> Html:
    """A note on what stands before it."""
    return Html(f"<small>{escape(value)}</small>")


def card(kind: str, title: object, *parts: object, note: object = "") -> str:
    """A whole result: its title and kind, its parts (a paragraph each, unless they are `Html`), and a note below."""
    drawn = "".join(
        part if isinstance(part, Html) else f"<p>{escape(part, 1000)}</p>" for part in (*parts, note) if part
    )
    return f'<div class="fv-lens">{STYLE}<div><b>{escape(title)}</b> {small(kind)}</div>{drawn}</div>'


def table(
    columns: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    words: bool = False,
    strong: Container[int] = (),
    most: int = MOST_LINES,
) -> Html:
    """A table whose first column names the lines; numbers stand on the right.

    Args:
        columns: their headings; none for a table without.
        words: whether it holds words, which stand on the left and are wrapped.
        strong: the lines in bold.
        most: of what is longer the first lines are shown.
    """
    rows = list(rows)
    if not rows:
        return Html("")
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    lines = []
    for i, (name, *cells) in enumerate(rows[:most]):
        drawn = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr{_named("strong", i in strong)}><th scope="row">{escape(name)}</th>{drawn}</tr>')
    left = f"<p>and {len(rows) - most} more</p>" if len(rows) > most else ""
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return Html(f"<table{_named('words', words)}>{head}<tbody>{''.join(lines)}</tbody></table>{left}")


def facts(known: Mapping[str, object]) -> Html:
    """Names and values, without those that are None or empty."""
    return table([], [item for item in known.items() if item[1] not in (None, "")], words=True)


def side(*parts: Html) -> Html:
    """Parts side by side, where there is room."""
    return Html(f'<div class="side">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>')


def tint(content: object, share: Real) -> Html:
    """A table's cell in orange, as strong as `share` of 1; in blue below 0."""
    strength = min(1.0, abs(share)) if share == share else 0.0
    return Html(f'<span class="tint" style="background: {_colour(share, 0.6 * strength)}">{escape(content)}</span>')


def bar(share: Real, width: Real = 8) -> Html:
    """A bar of `share` of `width` (in letters); blue below 0."""
    length = width * min(1.0, abs(share)) if share == share else 0.0
    return Html(f'<span class="bar" style="width: {length:.2f}em; background: {_colour(share, 1)}"></span>')


def bars(shares: Mapping[str, float | int], heading: str, most: int = 6) -> Html:
    """A bar for each of the first shares, with its number."""
    rows = [(name, Html(f"{bar(share)} {number(share)}")) for name, share in shares.items()]
    return table([heading, "weight"], rows, words=True, most=most)


def grid(
    values: Sequence[Sequence[Real]],
    limit: Real,
    label: str,
    axes: tuple[str, str] | None = None,
    marked: Mapping[tuple[int, int], str] = {},
) -> Html:
    """A map of `values` `[row][column]`, row 0 at the bottom: orange above 0, blue below, full colour at `limit`.

    In a large map only the cells with the largest numbers are drawn; the others would hardly be visible.

    Args:
        label: what the map shows, for those who do not see it.
        axes: what rows and columns are, which are then numbered.
        marked: (row, column) -> what pointing at the outlined cell says.
    """
    n_rows, n_columns = len(values), len(values[0])
    wide, high = min(20, max(4, 420 // n_columns)), min(14, max(3, 320 // n_rows))
    largest = sorted((abs(x) for row in values for x in row if x == x), reverse=True)
    weakest = largest[MOST_CELLS - 1] if len(largest) > MOST_CELLS else 0.0
    strokes: dict[int, list[str]] = {}
    for row, line in enumerate(values):
        shades = [
            _shade(x, limit) if abs(x) >= weakest else 0 for x in line
        ]  # NaN: the layer has no heads, and the cell no colour
        start = 0
        for column in range(1, n_columns + 1):
            if column == n_columns or shades[column] != shades[start]:
                if shades[start]:  # cells of one shade are one stroke, so that large maps are small files
                    strokes.setdefault(shades[start], []).append(f"M{start} {n_rows - 1 - row}h{column - start}")
                start = column
    paths = "".join(
        f'<path d="{"".join(parts)}" stroke="{_colour(shade, abs(shade) / SHADES)}"/>'
        for shade, parts in sorted(strokes.items())
    )
    outlines = "".join(
        f'<rect x="{column * wide}" y="{(n_rows - 1 - row) * high}" width="{wide}" height="{high}" '
        f'fill="transparent" stroke="currentColor"><title>{escape(text)}</title></rect>'
        for (row, column), text in marked.items()
    )
    width, height = n_columns * wide, n_rows * high
    texts = []
    if axes:
        texts = [(-6, (n_rows - 1 - row + 0.5) * high + 4, "end", row) for row in _ticks(n_rows, high, 14)]
        texts += [((column + 0.5) * wide, height + 14, "middle", column) for column in _ticks(n_columns, wide, 24)]
        texts += [(-6, -7, "end", axes[0]), (width / 2, height + 30, "middle", axes[1])]
    ticks = "".join(
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>' for x, y, anchor, text in texts
    )
    left, top, below = (48, 18, 38) if axes else (1, 1, 1)
    return Html(
        f'<svg role="img" aria-label="{escape(label)}" width="{width + left + 8}" '
        f'height="{height + top + below}" font-size="11" fill="currentColor"><g transform="translate({left} {top})">'
        f'{ticks}<g transform="scale({wide} {high}) translate(0 .5)" fill="none" shape-rendering="crispEdges">'
        f'{paths}</g><rect width="{width}" height="{height}" fill="none" stroke="{FAINT}"/>{outlines}</g></svg>'
    )


def colour_limit(mean: np.ndarray) -> float:
    """The absolute effect at which the colours of a map end; cells that are NaN do not count."""
    return float(np.nanquantile(np.abs(mean), CLIP)) or float(np.nanmax(np.abs(mean))) or 1.0


def decimals(largest: float) -> int:
    """How many show three figures of the largest effect, and two at least."""
    return max(2, 2 - math.floor(math.log10(largest or 1.0)))


def scale(limit: str, below: str, above: str, unit: str) -> Html:
    """The legend of a `grid`: what is below and above 0, and the number at which colours end."""
    ends = ", ".join(f"rgba({colour}, {opacity})" for colour, opacity in ((COOL, 1), (COOL, 0), (WARM, 0), (WARM, 1)))
    strip = f'<span class="bar" style="width: 9em; background: linear-gradient(to right, {ends})"></span>'
    low, high = (escape(x) for x in (f"{below} \N{MINUS SIGN}{limit}", f"+{limit} {above}"))
    return Html(f"<div>{low} {strip} {high} {small(unit)}</div>")


def _shade(value: Real, limit: Real) -> int:
    return round(SHADES * max(-1.0, min(1.0, value / limit))) if value == value else 0


def _colour(sign: Real, opacity: Real) -> str:
    return f"rgba({COOL if sign < 0 else WARM}, {opacity:.2g})"


def _ticks(n: int, size: int, room: int) -> range:
    """The labelled cells, far enough apart that labels of `room` pixels do not touch."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, n) if step * size >= room or step >= n)
    return range(0, n, step)


def _named(name: str, given: bool) -> str:
    return f' class="{name}"' if given else ""
