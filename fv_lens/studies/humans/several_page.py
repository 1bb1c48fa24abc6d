"""One HTML page of several models' vectors against people: side by side, pooled, and what is missing on which."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from ...evaluation.pooled import OVER_MODELS, POOLED
from ...ground.scores import Score
from ...plots.table import number
from ..page import parts as page
from ..page.models import Scores, headed, missing, table_of_models
from .page import WORDS

NOTE = (
    "Spearman's rho; 95 % intervals. Of a model and of all models: over relations, each with its numbers on all "
    "models; they speak of these models. Of the mean over models: over the models (Student's, if fewer than ten); it "
    "speaks of other models. Both are of the same mean, which is on Fisher's z where it is of rhos."
)


def write_page_of_models(path: str | os.PathLike[str], frame: pd.DataFrame, summary: Mapping[str, Any]) -> None:
    """Write the page; it appears whole or not at all.

    Args:
        frame: the content of results.csv.
        summary: the content of summary.json.
    """
    named = list(summary["by model"])
    facts = {key: summary[key] for key in ("seed", "versions", "command")}
    folders = {name: f"{name}/report.html" for name in named}
    parts = [
        page.in_short(_in_short(frame, named, summary["human ceiling"])),
        page.section("Agreement with people", *_tables(frame, named), note=WORDS),
        page.section("What is missing", missing(summary["gaps"])),
        page.how_made({"pages of the models": folders} | summary["by model"] | facts),
    ]
    title = f"Vectors of {number(len(named), 'model')} against people"
    page.write_page(path, title, parts, downloads={"results": frame})


def scores_by_model(lines: pd.DataFrame) -> Scores:
    """Kind of vectors -> model -> score, in the order of the lines, which are of one measure."""
    rows: dict[str, dict[str, Score]] = {}
    for line in lines.itertuples():
        rows.setdefault(str(line.vectors), {})[str(line.model)] = Score.of(line)
    return rows


def _in_short(frame: pd.DataFrame, named: Sequence[str], ceiling: float | None) -> Iterator[str]:
    for kind, scores in scores_by_model(frame[frame.measure == "relations"]).items():
        gain, models = " - " in kind, [model for model in (*named, POOLED, OVER_MODELS) if model in scores]
        clauses = "; ".join(f"{model} {scores[model].signed if gain else scores[model]}" for model in models)
        yield f"Spearman's rho with people over relations, {kind.replace(' - ', ' minus ')}: {clauses}."
    if ceiling is not None:
        yield f"People agree with themselves to {ceiling:.2f} (split halves)."


def _tables(frame: pd.DataFrame, named: Sequence[str]) -> list[Markup]:
    """For each measure a table of the kinds of vectors, and one of their differences."""
    tables, columns = {}, [*named, POOLED, OVER_MODELS]
    for measure, lines in frame.groupby("measure", sort=False):
        gains = lines.vectors.str.contains(" - ", regex=False)
        for heading, some, gain in ((measure, lines[~gains], False), (f"{measure}, differences", lines[gains], True)):
            tables[heading] = table_of_models(f"Agreement: {heading}", columns, scores_by_model(some), gain, NOTE)
    return headed(tables)
