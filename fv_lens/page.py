"""Pieces of an HTML page that stands alone: figures with plotly.js once, tables of scores, facts, escaped text."""

import html
import json
import os
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from string import Template

import plotly.graph_objects as go

from .plots.table import shown
from .scores import Score
from .storage import written_whole


def write_page(path: str | os.PathLike, title: str, parts: Iterable[str]) -> None:
    """Write the `parts`, which are HTML, under the title; the page appears whole or not at all.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    page = Template((resources.files("fv_lens") / "data" / "report.html").read_text(encoding="utf-8"))
    with written_whole(path) as partial:
        partial.write_text(page.substitute(title=text(title), body="\n".join(parts)), encoding="utf-8")


def save_figures(folder: Path, figures: Mapping[str, go.Figure]) -> None:
    """Each figure as a page of its own, NAME.html, which works from disk."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawn in figures.items():
        with written_whole(folder / f"{name}.html") as partial:
            drawn.write_html(partial, include_plotlyjs=True, full_html=True)


def in_short(lines: Iterable[str]) -> str:
    """The box of sentences on top, or nothing where there are none."""
    short = "".join(f"<p>{_unbroken(text(line))}</p>" for line in lines)
    return f'<section class="short">{short}</section>' if short else ""


def figure(name: str, figure: go.Figure, caption: str, first: bool) -> str:
    """The figure with its caption; plotly.js comes with the `first` one of a page."""
    width, figure.layout.width = figure.layout.width, None  # the page narrows it on a small screen
    drawn = figure.to_html(
        full_html=False, include_plotlyjs=first, div_id=name, config={"responsive": True, "displayModeBar": False}
    )
    return f'<figure style="max-width: {width}px">{drawn}<figcaption>{text(caption)}</figcaption></figure>'


def table(columns: Iterable[str], rows: Mapping[str, Iterable[str]], note: str, first_bold: bool = True) -> str:
    """A table that scrolls where the page is narrow; its cells are HTML (see `cell`)."""
    head = "".join(f'<th scope="col">{text(label)}</th>' for label in ("", *columns))
    body = "".join(f'<tr><th scope="row">{text(name)}</th>{"".join(cells)}</tr>' for name, cells in rows.items())
    style = "" if first_bold else ' class="plain"'
    drawn = f"<table{style}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{drawn}</div><p class="note">{text(note)}</p>'


def cell(score: Score | None, gain: bool) -> str:
    """The score above its interval; a `gain` has its sign and is called not shown where its interval holds 0."""
    if score is None:
        return "<td></td>"
    value, interval = shown(score, signed=gain).split(" ", 1)
    note = "<small>not shown</small>" if gain and not differs(score) else ""
    return f"<td>{text(value)}<small>{text(interval)}</small>{note}</td>"


def differs(gain: Score, than: float = 0.0) -> bool:
    """Whether the whole interval lies on one side of `than`; without an interval nothing is shown."""
    return gain.low > than or gain.high < than


def how_made(facts: Mapping) -> str:
    """The list of facts, name -> value, where a value may be a mapping itself."""
    listed = "".join(_fact(name, value) for name, value in facts.items())
    return f"<h2>How it was made</h2><dl>{listed}</dl>" if listed else ""


def text(value: object) -> str:
    """Escaped for HTML, with a true minus before a number."""
    return re.sub(r"(?<![\w.\]-])-(?=\d)", "\N{MINUS SIGN}", html.escape(str(value)))


def _unbroken(line: str) -> str:
    """With intervals that stay on one line."""
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
