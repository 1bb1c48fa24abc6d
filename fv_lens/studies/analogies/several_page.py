"""One HTML page of analogies answered by several models: side by side, pooled, and what is missing on which."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from ... import plots
from ...analogies.differences import GROUPED
from ...analogies.scores import LIBRARIES, PROMPT_ONLY
from ...analogies.selection import BEST
from ...evaluation.pooled import OVER_MODELS, POOLED
from ...ground.measures import MEASURES
from ...ground.scores import Score
from ...plots.table import number
from ..page import parts as page
from ..page.models import Scores, headed, missing, pooling, table_of_models
from .page import GROUPS, LEFT_OUT

CAPTION = "With the full library. Composites are fitted and chosen on each model by itself."


def write_page_of_models(path: str | os.PathLike[str], frame: pd.DataFrame, summary: Mapping[str, Any]) -> None:
    """Write the page; it appears whole or not at all.

    Args:
        frame: the content of results.csv: `analogies.by_question.pooled` below the table of every model.
        summary: the content of summary.json.
    """
    named = list(summary["by model"])
    n = int(frame[(frame.model == POOLED) & (frame.group == "all")].n.max())
    facts = {key: summary[key] for key in ("seed", "versions", "command")}
    folders = {name: f"{name}/report.html" for name in named}
    parts = [
        page.in_short(_in_short(frame, named)),
        page.section("Completed", *_figure(frame, "accuracy", None), *_tables(frame, named, "score", ["accuracy"])),
        page.section(
            "Chosen among answers", *_figure(frame, "choice", summary["chance"]),
            *_tables(frame, named, "score", [name for name in MEASURES if name.startswith("choice")]),
        ),
        page.section("Differences", *_tables(frame, named, "difference", ["accuracy"])),
        page.section("Groups of analogies", *_groups(frame, named), note=GROUPS),
        page.section("What is missing", missing(summary["gaps"])),
        page.section("More numbers", *_tables(frame, named, "score", ["first_token_accuracy", "log_prob"])),
        page.how_made({"pages of the models": folders} | summary["by model"] | facts),
    ]  # fmt: skip
    title = f"{n:,} analogies in {number(len(named), 'model')}"
    page.write_page(path, title, parts, downloads={"results": frame})


def scores_by_model(lines: pd.DataFrame) -> Scores:
    """Method and prompt -> model -> score, in the order of the lines, which are of one part, measure and library."""
    rows: dict[str, dict[str, Score]] = {}
    for line in lines.itertuples():
        row = ", ".join(part for part in (str(line.method), str(line.prompt)) if part)
        rows.setdefault(row, {})[str(line.model)] = Score.of(line)
    return rows


def _in_short(frame: pd.DataFrame, named: Sequence[str]) -> Iterator[str]:
    """What the best composite gains over the prompt, in each library, by model and together."""
    lines = frame[(frame.part == "difference") & (frame.measure == "accuracy") & (frame.prompt == "one-shot")]
    method = BEST if (lines.method == f"{BEST} - {PROMPT_ONLY}").any() else "posterior"
    for library in LIBRARIES:
        some = lines[(lines.method == f"{method} - {PROMPT_ONLY}") & (lines.library == library)]
        for scores in scores_by_model(some).values():
            known = [model for model in (*named, POOLED, OVER_MODELS) if model in scores]
            clauses = "; ".join(f"{model} {scores[model].signed}" for model in known)
            yield f"{method} over the prompt alone, one-shot, {library}: {clauses}."


def _figure(frame: pd.DataFrame, measure: str, chance: float | None) -> Iterator[Markup]:
    """The models beside each other, with the full library."""
    lines = frame[(frame.part == "score") & (frame.measure == measure) & (frame.model != OVER_MODELS)]
    lines = lines[lines.library.isin(["", "full"])]
    if len(lines):
        drawn = plots.analogies(lines.assign(library=lines.model), measure, chance, panel="model")
        yield page.figure(measure, drawn, CAPTION)


def _tables(frame: pd.DataFrame, named: Sequence[str], part: str, measures: Sequence[str]) -> list[Markup]:
    """A table for each measure and library; all but the first open."""
    gain = part == "difference"
    columns = [*named, POOLED, *([OVER_MODELS] if gain else [])]
    lines, tables = frame[(frame.part == part) & frame.measure.isin(measures)], {}
    for measure in measures:
        of_measure = lines[lines.measure == measure]
        for library in [name for name in LIBRARIES if (of_measure.library == name).any()]:
            heading = f"{MEASURES[measure].heading}, {library}"
            rows = scores_by_model(of_measure[of_measure.library.isin([library, ""])])
            note = (LEFT_OUT if library != "full" else "") + pooling("analogies", gain)
            tables[heading] = table_of_models(f"{part}s: {heading}", columns, rows, gain, note)
    return headed(tables)


def _groups(frame: pd.DataFrame, named: Sequence[str]) -> list[Markup]:
    """For each group, with the full library, a table of what methods gain over the prompt, and one of scores."""
    lines, tables = frame[(frame.measure == "accuracy") & frame.library.isin(["", "full"])], {}
    groups = list(dict.fromkeys(lines.group[lines.group != "all"]))
    for part, gain in (("difference", True), ("score", False)):
        some = lines[lines.part == GROUPED[part]]
        if gain:
            some = some[some.method.str.endswith(f" - {PROMPT_ONLY}")]
        for group in groups:
            heading = f"{group}, gains over the prompt" if gain else group
            rows = scores_by_model(some[some.group == group])
            columns = [*named, POOLED, *([OVER_MODELS] if gain else [])]
            tables[heading] = table_of_models(f"Groups: {heading}", columns, rows, gain, pooling("analogies", gain))
    return headed(tables)
