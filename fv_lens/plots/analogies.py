"""Methods on analogies side by side, with libraries from which more and more is left out."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..analogies.scores import Row
from ..ground.errors import InputError, finite_number
from ..ground.measures import MEASURES
from ..ground.scores import Score
from .style import ACCENT, CONTROL, INK, LIGHT, escaped, finish, tint, wrapped
from .table import bars, lanes, share_axis

COLUMNS = ("method", "library", "prompt", "measure", "value", "low", "high", "n")
LOOKS = {  # by prompt; the symbols tell them apart without any colour
    "zero-shot": (ACCENT, "circle"), "one-shot": (CONTROL, "diamond"), "sentence": (LIGHT, "square"),
    "": ("#5b4b8a", "triangle-up"),
}  # fmt: skip
OTHER = (INK, "cross")
WITH, WITHOUT = "with the library", "without (paler)"


def analogies(
    frame: pd.DataFrame,
    measure: str = "accuracy",
    chance: float | None = None,
    library: Sequence[str] | None = None,
    panel: str = "library",
) -> go.Figure:
    """A row of dots with their intervals for each method, coloured by prompt; a panel for each library.

    Methods stand in the order of their best number in the first panel, best first. What uses no library is in every
    panel, paler.

    Args:
        frame: the columns `COLUMNS`, as `AnalogyScores.to_frame` gives them; `library` is "" where none is used.
        measure: one of the frame's, such as "accuracy" (of whole words), "choice" or "log_prob" (nats).
        chance: the score of guessing, such as `AnalogyScores.chance`, drawn as a dashed line.
        library: the libraries to show, in their order; all of the frame if None.
        panel: what the frame's column `library` holds: "model" for models beside each other.

    Raises:
        InputError: a column, measure or library that the frame lacks; a chance that is not a number.

    Example:
        >>> analogies(scores.to_frame(), "choice", chance=scores.chance, library=["full", "family left out"]).show()
    """
    chance = None if chance is None else finite_number("chance", chance)
    scores = _scores(frame, measure)
    known = list(dict.fromkeys(of for _, of, _ in scores if of))
    panels = (known or [""]) if library is None else list(library)
    if not panels:
        raise InputError("library is empty; name at least one, or leave it out for all")
    for name in panels:
        if name not in known and library is not None:
            raise InputError(f"there is no library {name!r}; there are {', '.join(map(repr, known)) or 'none'}")
    scores = {row: score for row, score in scores.items() if row[1] in ("", *panels)}

    rows = lanes(_groups(scores, panels[0], panel), 15, height=32)
    what = MEASURES[measure].heading if measure in MEASURES else measure
    unit = MEASURES[measure].unit("analogies") if measure in MEASURES else measure
    prompts = sorted({row[2] for row in scores}, key=lambda p: (list(LOOKS).index(p) if p in LOOKS else len(LOOKS), p))
    heights = _heights(scores, rows.places, prompts)
    titles = ["<br>".join(wrapped(name, 10)) for name in panels]
    n_lines = max(2, *(title.count("<br>") + 1 for title in titles))
    figure = make_subplots(1, len(panels), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=titles)
    for prompt in prompts:  # legend entries, in full colour
        colour, symbol = LOOKS.get(prompt, OTHER)
        figure.add_scatter(
            x=[None], y=[None], mode="markers", marker=dict(size=8, color=colour, symbol=symbol),
            name=escaped(prompt or "no prompt"), legendgroup=escaped(prompt),
        )  # fmt: skip
    for column, of in enumerate(panels, 1):
        for prompt in prompts:
            _dots(figure, scores, of, prompt, heights, (panel, unit), dict(row=1, col=column))
        if chance is not None:
            figure.add_scatter(
                x=[chance] * 2, y=rows.range[::-1], mode="lines", line=dict(color=INK, dash="dash", width=1.5),
                name=f"chance {chance:.2f}", text=f"<b>chance</b>: {chance:.3f}", hoverinfo="text",
                legendgroup="chance", showlegend=column == 1, row=1, col=column,
            )  # fmt: skip
    figure.update_annotations(font=dict(size=13 if len(panels) < 4 else 10, color=INK), yanchor="bottom")
    figure.update_yaxes(tickvals=rows.ticks, range=rows.range)
    figure.update_yaxes(ticktext=rows.labels, tickfont_size=12, col=1)
    drawn = [*scores.values(), *([] if chance is None else [Score(chance, np.nan, np.nan, 1)])]
    ticks_fit = dict(nticks=4 if len(panels) > 1 else 7, tickangle=0, tickfont_size=11)
    figure.update_xaxes(**share_axis(measure, drawn) | ticks_fit)
    figure.update_xaxes(title=unit, col=(len(panels) + 1) // 2)
    most = max(score.n for score in scores.values())
    details = [f"{most:,} analogies, 95 % intervals{f'; columns: the {panel}' * bool(known)}"]
    n_labels = len(prompts) + (chance is not None)
    return finish(figure, what, details, round(32 * rows.end) + 60, 860, n_labels, above=18 * n_lines)


def _groups(scores: Mapping[Row, Score], first: str, panel: str) -> dict[str, list[str]]:
    """Methods with and without the library, each group by its best number in the first panel."""
    uses = {method: False for method, _, _ in scores} | {method: True for method, of, _ in scores if of}
    best = dict.fromkeys(uses, -np.inf)
    for (method, of, _), score in scores.items():
        if of in ("", first):
            best[method] = max(best[method], score.value)
    ordered = sorted(uses, key=lambda method: -best[method])
    if panel != "library" or not any(uses.values()):
        return {"": ordered}
    groups = {WITH: [m for m in ordered if uses[m]], WITHOUT: [m for m in ordered if not uses[m]]}
    return {group: methods for group, methods in groups.items() if methods}


def _heights(
    scores: Mapping[Row, Score], places: Mapping[str, float], prompts: Sequence[str]
) -> dict[tuple[str, str], float]:
    """(method, prompt) -> height of its dots: the prompts of a method are spread about its place."""
    heights = {}
    for method, place in places.items():
        of_method = [prompt for prompt in prompts if any(row[::2] == (method, prompt) for row in scores)]
        for i, prompt in enumerate(of_method):
            heights[method, prompt] = place + 0.22 * (i - (len(of_method) - 1) / 2)
    return heights


def _scores(frame: pd.DataFrame, measure: str) -> dict[Row, Score]:
    """(method, library, prompt) -> score; an infinite end becomes NaN, since an axis cannot show it."""
    if missing := [column for column in COLUMNS if column not in frame]:
        raise InputError(f"the frame lacks the column {missing[0]!r}; give one with the columns {', '.join(COLUMNS)}")
    lines = frame[(frame.measure == measure) & frame.value.notna()]
    if not len(lines):
        known = ", ".join(map(repr, frame.measure.unique())) or "none"
        raise InputError(f"measure is {measure!r}, which the frame does not have; it has {known}")
    scores = {}
    for line in lines.itertuples():
        low, high = (float(end) if np.isfinite(end) else np.nan for end in (line.low, line.high))
        method, library, prompt = ("" if pd.isna(x) else str(x) for x in (line.method, line.library, line.prompt))
        scores[Row(method, library, prompt)] = Score(float(line.value), low, high, int(line.n))
    return scores


def _dots(
    figure: go.Figure,
    scores: Mapping[Row, Score],
    of: str,
    prompt: str,
    heights: Mapping[tuple[str, str], float],
    named: tuple[str, str],
    at: dict[str, int],
) -> None:
    """One prompt's dots in one panel: with its library, and paler without any."""
    colour, symbol = LOOKS.get(prompt, OTHER)
    for library in dict.fromkeys([of, ""]):
        rows = {row: score for row, score in scores.items() if row[1:] == (library, prompt)}
        line, paint = list(rows.values()), colour if library == of else tint(colour, 0.4)
        figure.add_scatter(
            x=[score.value for score in line], y=[heights[method, prompt] for method, *_ in rows], mode="markers",
            marker=dict(size=8, color=paint, symbol=symbol), name=escaped(prompt or "no prompt"),
            error_x=dict(bars(line), thickness=2, width=0, color=paint), legendgroup=escaped(prompt),
            showlegend=False, hoverinfo="text", text=[_hover(row, score, *named) for row, score in rows.items()], **at,
        )  # fmt: skip


def _hover(row: Row, score: Score, panel: str, unit: str) -> str:
    method, library, prompt = row
    where = ", ".join(part for part in (f"{panel}: {library}" if library else f"no {panel}", prompt) if part)
    head = f"<b>{escaped(method)}</b>: {score}<br>{escaped(where)}"
    return f"{head}<br>{unit}, 95 %, {score.n:,} analogies"
