"""The house style of the figures: colours that stay apart for the colour-blind, fonts, margins, wrapped titles."""

import html
import math
import textwrap

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

INK, MUTED, GRID = "#1f2933", "#667080", "#e4e8ed"
ACCENT, LIGHT, CONTROL = "#c2570c", "#b8860b", "#2b6cb0"  # the vector, one before tuning, and what stands beside it
# Blue, white, orange: hues that stay apart in every common form of colour blindness.
DIVERGING = list(
    zip(
        (0, 0.15, 0.3, 0.42, 0.5, 0.58, 0.7, 0.85, 1),
        ("#08306b", "#2b6cb0", "#7fb0d9", "#d3e4f2", "#ffffff", "#fde3c4", "#f6a656", "#c2570c", "#6e2a04"),
    )
)
# Light colour -> its counterpart on a dark page, with the same contrast to the page; the middle of the diverging
# scale is the page colour in both.
DARK = {
    "#ffffff": "#14181d", INK: "#e6ebf0", MUTED: "#a3afbc", GRID: "#2c343d", ACCENT: "#f08a3c", LIGHT: "#f2cd82",
    CONTROL: "#6aaef0", "#08306b": "#cfe6ff", "#7fb0d9": "#33699f", "#d3e4f2": "#1d3147", "#fde3c4": "#3d2917",
    "#f6a656": "#96561b", "#6e2a04": "#ffdcb8", "#5b4b8a": "#a99be0", "#1b7f5c": "#4cc497", "#8a4f9e": "#c58ad9",
    "#8a6a00": "#d0ab2c", "#1f7fa6": "#6cbfe0", "#c2457a": "#ee82ae", "#6d4c41": "#c9a090",
    "#6b7280": "#aab4c0", "#a3a3a3": "#5c636b",
    "#2a3f5f": "#e6ebf0", "#ebf0f8": "#2c343d", "#c8d4e3": "#2c343d",  # of plotly's own template
}  # fmt: skip
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SMALL = f"font-size:13px;color:{MUTED}"


def finish(
    figure: go.Figure, heading: str, details: list[str], height: int, width: int, n_labels: int = 0, above: int = 0
) -> go.Figure:
    """House fonts, margins and a title wrapped to fit a phone; `height` is that of the plot without its title.

    `n_labels` are in the legend, and `above` pixels are kept for an axis over the plot.
    """
    lines = wrapped(heading, 36)
    small = [line for detail in filter(None, details) for line in wrapped(detail, 52)]
    title = "<br>".join([f"<b>{'<br>'.join(lines)}</b>", *(f'<span style="{SMALL}">{line}</span>' for line in small)])
    titled = 20 + 21 * len(lines) + 18 * len(small)
    top = titled + 10 + (30 + 22 * math.ceil(n_labels / 3)) * bool(n_labels) + above
    # Below the title, however far a narrow page wraps the labels.
    corner = dict(x=0, xref="container", yref="container", yanchor="top")
    legend = dict(corner, orientation="h", y=1 - titled / (height + top))
    figure.update_layout(
        template=pio.templates["plotly_white"], font=dict(family=FONT, size=13, color=INK), height=height + top,
        width=width, margin=dict(l=12, r=10, t=top, b=40), hoverlabel=dict(bgcolor="white", font_color=INK),
        title=dict(corner, text=title, font_size=16, y=1, pad_t=12), legend=legend,
    )  # fmt: skip
    for axes in (figure.update_xaxes, figure.update_yaxes):
        axes(gridcolor=GRID, zeroline=False, title_font_size=13, ticklabelstandoff=4)
    return figure


def escaped(text: str) -> str:
    """Text for a figure. Plotly reads it as HTML, but knows few entities: `&quot;` would be shown as it is."""
    return html.escape(text, quote=False)


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, escaped; none of it is cut, and a word longer than a line is broken."""
    return [escaped(line) for line in textwrap.wrap(text, width)] or [""]


def shades(n: int, dark: bool = False) -> list[str]:
    """`n` colours of the diverging scale at even distances, from one end to the other."""
    at = [place for place, _ in DIVERGING]
    channels = np.array([list(bytes.fromhex((DARK[colour] if dark else colour)[1:])) for _, colour in DIVERGING])
    sampled = [np.interp(np.linspace(0, 1, n), at, channel).round().astype(int) for channel in channels.T]
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in zip(*sampled)]


def whole_ticks(n: int) -> dict[str, int]:
    """Ticks at whole numbers on an axis of `n` of them; on longer axes plotly's own choice, which fits the width."""
    return dict(dtick=1) if n <= 12 else {}


def tint(colour: str, opacity: float) -> str:
    """`colour`, "#rrggbb", that lets what lies behind show through."""
    red, green, blue = bytes.fromhex(colour[1:])
    return f"rgba({red}, {green}, {blue}, {opacity})"
