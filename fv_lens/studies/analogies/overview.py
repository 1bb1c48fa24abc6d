"""What `fv-lens analogies` prints: methods by library, by group of analogies, and by model."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from ...analogies.differences import places_of_groups
from ...analogies.scores import LIBRARIES, AnalogyScores, Row
from ...datasets.question_groups import group_names
from ...datasets.questions import Question
from ...evaluation.pooled import POOLED
from ...ground.measures import MEASURES
from .several_page import scores_by_model


def overviews(
    scores: AnalogyScores, chosen: Sequence[str], asked: Sequence[Question], choices: bool
) -> Iterator[Table | Text]:
    """The tables of one model, and the lines on what was chosen.

    Args:
        asked: the questions, by which groups are divided.
        choices: whether choices are shown too, where there are any.
    """
    yield overview(scores, "accuracy")
    if choices and scores.chance is not None:
        yield overview(scores, "choice")
    if groups := places_of_groups(scores.questions, group_names(asked)):
        yield overview_of_groups(scores, groups)
    yield from map(Text, chosen)


def overview(scores: AnalogyScores, measure: str) -> Table:
    """One line per method and prompt, one column per library."""
    title = {
        "accuracy": f"{MEASURES['accuracy'].heading}, {len(scores.questions)} analogies",
        "choice": f"{MEASURES['choice'].heading}; chance {scores.chance or 0:.2f}",
    }[measure]
    table = _empty(f"{title}; 95 % intervals", list(LIBRARIES))
    names = dict.fromkeys((row.method, row.prompt) for row, values in scores.values.items() if measure in values)
    for method, prompt in names:
        cells = []
        for library in LIBRARIES:
            row = next((r for r in (Row(method, library, prompt), Row(method, "", prompt)) if r in scores.values), None)
            cells.append(str(scores.score(row, measure)) if row and measure in scores.values[row] else "")
        table.add_row(Text(method), Text(prompt), *cells)
    return table


def overview_of_groups(scores: AnalogyScores, groups: Mapping[str, Sequence[int]]) -> Table:
    """One line per method and prompt with the full library, one column per group of analogies."""
    title = f"{MEASURES['accuracy'].heading} in groups of analogies, full library; 95 % intervals"
    table = _empty(title, [f"{group} (n = {len(places)})" for group, places in groups.items()])
    parts = [scores.only(places) for places in groups.values()]
    for row, measures in scores.values.items():
        if "accuracy" in measures and row.library in ("", "full"):
            known = [not np.isnan(part.values[row]["accuracy"]).all() for part in parts]
            cells = [str(part.score(row)) if some else "" for part, some in zip(parts, known)]
            table.add_row(Text(row.method), Text(row.prompt), *cells)
    return table


def overviews_of_models(frame: pd.DataFrame, models: Sequence[str]) -> Iterator[Table | Text]:
    """Whole answers with the full library, for each model, and pooled with its interval."""
    lines = frame[(frame.part == "score") & (frame.measure == "accuracy") & frame.library.isin(["", "full"])]
    title = f"{MEASURES['accuracy'].heading}, full library; of all models with a 95 % interval over families"
    table = Table("", title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in (*models, POOLED):
        table.add_column(Text(name), no_wrap=name == POOLED)
    for row, scores in scores_by_model(lines).items():
        shown = [f"{scores[name].value:.2f}" if name in scores else "none" for name in models]
        table.add_row(Text(row), *shown, str(scores.get(POOLED, "")))
    yield table


def _empty(title: str, columns: list[str]) -> Table:
    table = Table("", "prompt", title=Text(title), title_justify="left", box=None, pad_edge=False)
    table.columns[1].no_wrap = True
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table
