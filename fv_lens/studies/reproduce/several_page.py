"""One HTML page of a study on several models: side by side, pooled, and what is missing on which."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from ... import plots
from ...evaluation.pooled import OVER_MODELS, PAIRED, POOLED, pooled_over_fewer, scores_by_model
from ...ground.measures import COMPLETED, MEASURES
from ...plots.relations import main_rows
from ...plots.table import number
from ..page import parts as page
from ..page.models import headed, missing, pooling, table_of_models
from .page import WORDS

CAPTION = (
    "Zero-shot prompts with each vector added, beside prompting and controls, on the same test words for every model. "
    "A vector is made and chosen on each model by itself."
)


def write_page_of_models(path: str | os.PathLike[str], frame: pd.DataFrame, summary: Mapping[str, Any]) -> None:
    """Write the page; it appears whole or not at all.

    Args:
        frame: the table of `evaluation.pooled`.
        summary: the content of summary.json.
    """
    named = list(summary["models"])
    n = number(frame.name[frame.group == "relation"].nunique(), "relation")
    facts = {key: summary[key] for key in ("dtype", "settings", "versions", "command")}
    folders = {f"{name}": f"{name}/report.html" for name in summary["by model"]}
    parts = [
        page.in_short(_in_short(frame, named)),
        page.section(
            "How well", page.figure("models", plots.models(frame), CAPTION), *_tables(frame, named, "score"), note=WORDS
        ),
        page.section("Differences", *_tables(frame, named, "difference")),
        page.section("Gains in prompts with shuffled answers", *_tables(frame, named, "shuffled gain")),
        page.section("What is missing", missing(summary["gaps"])),
        page.how_made({"pages of the models": folders} | summary["by model"] | facts),
    ]
    page.write_page(path, f"{n} in {number(len(named), 'model')}", parts, downloads={"results": frame})


def _in_short(frame: pd.DataFrame, named: list[str]) -> Iterator[str]:
    few = pooled_over_fewer(frame, "score", len(named))
    levels = {row: of[POOLED] for row, of in scores_by_model(frame, "score", "accuracy").items() if POOLED in of}
    if clauses := [f"{row} {levels[row]}" for row in main_rows(levels) if row not in few]:
        yield f"{MEASURES['accuracy'].heading}, mean over {number(len(named), 'model')}: {'; '.join(clauses)}."
    for row, of in list(scores_by_model(frame, "difference", "accuracy").items())[:1]:
        together = [POOLED, OVER_MODELS] if POOLED in of and len(of) == len(named) + 2 else []
        clauses = [f"{model} {of[model].signed if model in of else 'none'}" for model in (*named, *together)]
        yield f"{_minus(row)}: {'; '.join(clauses)}."


def _tables(frame: pd.DataFrame, named: list[str], part: str) -> list[Markup]:
    """A table of whole answers, and tables of the other measures that open."""
    gain = part in PAIRED
    columns = [*named, POOLED, *([OVER_MODELS] if gain else [])]
    few = pooled_over_fewer(frame, part, len(named))
    note = pooling("relations", gain)
    if few:
        note += f" Pooled over fewer models: {', '.join(f'{_minus(row)} ({n})' for row, n in few.items())}."
    tables = {}
    for measure in COMPLETED:
        heading = MEASURES[measure].heading
        rows = scores_by_model(frame, part, measure)
        tables[heading] = table_of_models(f"{part}s: {heading}", columns, rows, gain, note)
    return headed(tables)


def _minus(row: str) -> str:
    return row.replace(" - ", " \N{MINUS SIGN} ")
