"""Pieces of an HTML page that stands alone: sections, figures, tables of scores, facts, downloads, escaped text.

The frame is in data: report.html, its style and its scripts, which are written into every page. Nothing is loaded from
elsewhere, and the page's own content policy forbids it.
"""

import html
import json
import os
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from string import Template

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from ...ground.scores import Score
from ...ground.storage import written_whole
from ...plots.style import ACCENT, CONTROL, DARK, GRID, INK, MUTED, shades

N_SHADES = 41  # of the diverging scale, as the style's --shade-0 ... --shade-40
COLOURS = {"page": "#ffffff", "ink": INK, "muted": MUTED, "line": GRID, "accent": ACCENT, "control": CONTROL}
GRAPH = 'class="plotly-graph-div"'
CLEAR = "rgba(0,0,0,0)"


def write_page(
    path: str | os.PathLike, title: str, parts: Iterable[str], *, downloads: Mapping[str, pd.DataFrame] = {}
) -> None:
    """Write the `parts`, which are HTML, under the title; the page appears whole or not at all.

    Args:
        downloads: name -> frame; each becomes a button at the end, which saves NAME.csv.

    Raises:
        InputError: the folder does not exist or cannot be written to.

    Example:
        >>> write_page("page.html", "antonym", [section("Heads", head_map(effects))], downloads={"heads": frame})
    """
    body = "\n".join([*filter(None, parts), _downloads(downloads)])
    filled = Template(_data("report.html")).substitute(
        title=text(title), body=body, style=_theme() + _data("report.css"), dark=embedded(DARK, id="dark-colours"),
        plotly=f"<script>{get_plotlyjs()}</script>" if GRAPH in body else "",
        script=_data("report.js") + _data("head_map.js"),
    )  # fmt: skip
    with written_whole(path) as partial:
        partial.write_text(filled, encoding="utf-8")


def section(heading: str, *parts: str, note: str = "") -> str:
    """The parts under a heading, which the page's list of contents names; nothing where all parts are empty."""
    if not any(parts):
        return ""
    slug = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
    below = f'<p class="note">{text(note)}</p>' if note else ""
    return f'<section id="section-{slug}"><h2>{text(heading)}</h2>{below}{"".join(parts)}</section>'


def in_short(lines: Iterable[str]) -> str:
    """The box of sentences on top, or nothing where there are none."""
    short = "".join(f"<p>{_unbroken(text(line))}</p>" for line in lines)
    return f'<section class="short">{short}</section>' if short else ""


def figure(name: str, drawn: go.Figure, caption: str) -> str:
    """The figure with its caption, in the page's colours; the page draws it, with the plotly.js that it holds once.

    `name` is its id in the page. It can be hovered over, but not dragged, so that a finger on it scrolls the page.
    """
    drawn, width = go.Figure(drawn), drawn.layout.width  # the page narrows it on a small screen
    drawn.update_layout(width=None, paper_bgcolor=CLEAR, plot_bgcolor=drawn.layout.plot_bgcolor or CLEAR)
    drawn.update_layout(dragmode=False, legend_itemclick=False, legend_itemdoubleclick=False)
    source = drawn.to_json().replace("<", r"\u003c")
    titled = re.search(r"<b>(.*?)</b>", drawn.layout.title.text or "")
    label = html.escape(html.unescape(titled[1].replace("<br>", " ")) if titled else name)
    room = f' style="height: {drawn.layout.height}px"' if drawn.layout.height else ""
    return (
        f'<figure style="max-width: {width}px">'
        f'<div role="img" aria-label="{label}" aria-describedby="{name}-caption"><div id="{name}" {GRAPH}{room}></div>'
        f'</div><script type="application/json" data-figure="{name}">{source}</script>'
        f'<figcaption id="{name}-caption">{text(caption)}</figcaption></figure>'
    )


def table(
    columns: Iterable[str],
    rows: Mapping[str, Iterable[str]] | Iterable[tuple[str, Iterable[str]]],
    note: str,
    first_bold: bool = True,
    name: str = "",
) -> str:
    """A table that scrolls where the page is narrow; its cells are HTML (see `cell`), the name of a row is text.

    `name` is what a screen reader calls it; without one, its columns are named.
    """
    columns, rows = list(columns), rows.items() if isinstance(rows, Mapping) else rows
    head = "".join(f'<th scope="col">{text(label)}</th>' for label in columns)
    body = "".join(f'<tr><th scope="row">{text(of)}</th>{"".join(cells)}</tr>' for of, cells in rows)
    style = "" if first_bold else ' class="plain"'
    drawn = f"<table{style}><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"
    label = text(name or f"Table of {', '.join(columns)}")
    box = f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">{drawn}</div>'
    return box + (f'<p class="note">{text(note)}</p>' if note else "")


def cell(score: Score | None, gain: bool, form: str = "") -> str:
    """The score above its interval; a `gain` has its sign and is called not shown where its interval holds 0.

    `form`: the score's format, if another than its own.
    """
    if score is None:
        return "<td></td>"
    value, interval = score.written(form or "+" * gain)
    note = "<small>not shown</small>" if gain and not score.differs() else ""
    return f"<td>{text(value)}<small>{text(interval)}</small>{note}</td>"


def how_made(facts: Mapping) -> str:
    """The list of facts, name -> value, where a value may be a mapping itself."""
    listed = "".join(_fact(name, value) for name, value in facts.items())
    return section("How it was made", f"<dl>{listed}</dl>" if listed else "")


def embedded(data: object, **attributes: str) -> str:
    """The data as JSON inside a script element, for the page's scripts; no text in it can end the element."""
    source = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", r"\u003c")
    named = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())
    return f'<script type="application/json"{named}>{source}</script>'


def text(value: object) -> str:
    """Escaped for HTML, with a true minus before a number."""
    return re.sub(r"(?<![\w.\]-])-(?=\d)", "\N{MINUS SIGN}", html.escape(str(value)))


def _data(name: str) -> str:
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


def _downloads(frames: Mapping[str, pd.DataFrame]) -> str:
    buttons = "".join(
        f'<button type="button" data-csv="csv-{i}" data-name="{html.escape(name)}.csv">Download {html.escape(name)}.csv'
        f"</button>{embedded(frame.to_csv(index=False), id=f'csv-{i}')}"
        for i, (name, frame) in enumerate(frames.items())
    )
    return section("Downloads", f'<div class="downloads">{buttons}</div>' if buttons else "")


def _unbroken(line: str) -> str:
    """The line, its intervals kept from breaking over two lines."""
    return re.sub(r"\[[^\]]*\]", lambda interval: interval[0].replace(" ", "&nbsp;"), line)


def _fact(name: str, value: object) -> str:
    drawn = f"<pre>{html.escape(str(value))}</pre>" if "\n" in str(value) or name == "command" else text(_plain(value))
    return f"<dt>{text(name)}</dt><dd>{drawn}</dd>"


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)
