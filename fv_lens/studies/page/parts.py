"""Parts of an HTML page that stands alone: sections, figures, tables of scores, facts, downloads, escaped text.

Templates stand in `templates`; the style and the scripts, in `assets`, are written into every page. Nothing is loaded
from elsewhere, and the page's own content policy forbids it.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from html import unescape
from importlib import resources
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from ...ground.scores import Score
from ...ground.storage import written_whole
from ...plots.style import ACCENT, CONTROL, DARK, GRID, INK, MUTED, shades

N_SHADES = 41  # of the diverging scale, as the style's --shade-0 ... --shade-40
COLOURS = {"page": "#ffffff", "ink": INK, "muted": MUTED, "line": GRID, "accent": ACCENT, "control": CONTROL}
CLEAR = "rgba(0,0,0,0)"


@cache
def templates() -> Environment:
    """The templates of pages, which escape whatever is not `Markup`."""
    environment = Environment(
        loader=PackageLoader("fv_lens.studies.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["text"] = text
    return environment


def _part(name: str, *values: Any) -> Markup:
    """A macro of parts.html, filled."""
    return Markup(getattr(templates().get_template("parts.html").module, name)(*values))


def write_page(
    path: str | os.PathLike[str], title: str, parts: Iterable[str], *, downloads: Mapping[str, pd.DataFrame] = {}
) -> None:
    """Write the `parts` under the title; the page appears whole or not at all.

    Args:
        parts: `Markup`; what is not is escaped.
        downloads: name -> frame; each becomes a button at the end, which saves NAME.csv.

    Raises:
        InputError: the folder does not exist or cannot be written to.

    Example:
        >>> write_page("page.html", "antonym", [section("Heads", head_map(effects))], downloads={"heads": frame})
    """
    parts = [*parts, _downloads(downloads)]
    has_figures = any("plotly-graph-div" in part for part in parts)
    filled = templates().get_template("page.html").render(
        title=title, parts=parts, style=Markup(_theme() + _asset("report.css")),
        dark=embedded(DARK, id="dark-colours"), plotly=Markup(get_plotlyjs()) if has_figures else "",
        script=Markup(_asset("report.js") + _asset("head_map.js")),
    )  # fmt: skip
    with written_whole(path) as partial:
        partial.write_text(filled, encoding="utf-8")


def section(heading: str, *parts: str, note: str = "") -> Markup:
    """The parts under a heading, which the page's list of contents names; nothing where all parts are empty."""
    if not any(parts):
        return Markup("")
    slug = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
    return _part("section", slug, heading, parts, note)


def in_short(lines: Iterable[str]) -> Markup:
    """The box of sentences on top, or nothing where there are none."""
    short = [_unbroken(text(line)) for line in lines]
    return _part("in_short", short) if short else Markup("")


def figure(name: str, drawn: go.Figure, caption: str) -> Markup:
    """The figure with its caption, in the page's colours; the page draws it, with the plotly.js that it holds once.

    `name` is its id in the page. It can be hovered over, but not dragged, so that a finger on it scrolls the page.
    """
    drawn, width = go.Figure(drawn), drawn.layout.width  # the page narrows it on a small screen
    drawn.update_layout(width=None, paper_bgcolor=CLEAR, plot_bgcolor=drawn.layout.plot_bgcolor or CLEAR)
    drawn.update_layout(dragmode=False, legend_itemclick=False, legend_itemdoubleclick=False)
    source = Markup(drawn.to_json().replace("<", r"\u003c"))
    titled = re.search(r"<b>(.*?)</b>", drawn.layout.title.text or "")
    label = unescape(titled[1].replace("<br>", " ")) if titled else name
    return _part("figure", name, label, caption, source, width, drawn.layout.height)


def table(
    columns: Iterable[str],
    rows: Mapping[str, Iterable[Markup]] | Iterable[tuple[str, Iterable[Markup]]],
    note: str = "",
    first_bold: bool = True,
    name: str = "",
) -> Markup:
    """A table that scrolls where the page is narrow; its cells are made by `cell`, the name of a row is text.

    `name` is what a screen reader calls it; without one, its columns are named.
    """
    columns, rows = list(columns), rows.items() if isinstance(rows, Mapping) else rows
    return _part("table", columns, rows, note, first_bold, name or f"Table of {', '.join(columns)}")


def titled(heading: str, part: Markup) -> Markup:
    """A part of a section under a heading of its own."""
    return _part("titled", heading, part)


def paragraph(content: str) -> Markup:
    """A paragraph of text."""
    return _part("paragraph", content)


def opening(heading: str, *parts: str) -> Markup:
    """Parts that open below a heading."""
    return _part("opening", heading, parts)


def plain_cell(content: str) -> Markup:
    """A cell of text."""
    return _part("cell", content)


def meter(share: float) -> Markup:
    """A cell with a bar for a share of 1."""
    return _part("meter", f"{max(0.0, share):.3f}")


def cell(score: Score | None, gain: bool, form: str = "") -> Markup:
    """A cell with the score above its interval; a `gain` is signed, and marked "not shown" if the interval holds 0.

    `form`: the score's format, if another than its own.
    """
    if score is None:
        return plain_cell("")
    return _part("score", *score.written(form or "+" * gain), gain and not score.differs())


def how_made(facts: Mapping[str, Any]) -> Markup:
    """The list of facts, name -> value, where a value may be a mapping itself."""
    known = []
    for name, value in facts.items():
        as_it_is = "\n" in str(value) or name == "command"
        known.append((name, str(value) if as_it_is else _plain(value), as_it_is))
    return section("How it was made", _part("facts", known) if known else "")


def embedded(data: Any, **attributes: str) -> Markup:
    """The data as JSON inside a script element, for the page's scripts; no text in it can end the element."""
    source = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", r"\u003c")
    return _part("data", Markup(source), attributes)


def text(value: Any) -> Markup:
    """Escaped for HTML, with a true minus before a number; `Markup` as it is."""
    if isinstance(value, Markup):
        return value
    return Markup(re.sub(r"(?<![\w.\]-])-(?=\d)", "\N{MINUS SIGN}", escape(str(value))))


def _asset(name: str) -> str:
    return (resources.files("fv_lens.studies.page") / "assets" / name).read_text(encoding="utf-8")


def _theme() -> str:
    """The colours of the figures as variables of the style, light and dark; paper is always light."""

    def declared(dark: bool) -> str:
        named = {name: DARK[colour] if dark else colour for name, colour in COLOURS.items()}
        named |= {f"shade-{i}": colour for i, colour in enumerate(shades(N_SHADES, dark))}
        return f"color-scheme: {'dark' if dark else 'light'}; " + " ".join(f"--{k}: {v};" for k, v in named.items())

    dark = declared(True)
    return (
        f":root {{ {declared(False)} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ {dark} }} }}\n"
        f"@media screen {{ :root[data-theme=dark] {{ {dark} }} }}\n"
    )


def _downloads(frames: Mapping[str, pd.DataFrame]) -> Markup:
    files = [(n, embedded(frame.to_csv(index=False), id=f"csv-{i}")) for i, (n, frame) in enumerate(frames.items())]
    return section("Downloads", _part("downloads", files) if files else "")


def _unbroken(line: Markup) -> Markup:
    """The line, its intervals kept from breaking over two lines."""
    return Markup(re.sub(r"\[[^\]]*\]", lambda interval: interval[0].replace(" ", "&nbsp;"), line))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)
