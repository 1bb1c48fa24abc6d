"""One HTML page of a study on several models: side by side, pooled, and what is missing on which."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from ... import plots
from ...evaluation.pooled import OVER_MODELS, PAIRED, POOLED, by_reason, pooled_over_fewer, scores_by_model
from ...ground.measures import COMPLETED, MEASURES
from ...ground.scores import Score
from ...plots.relations import main_rows
from ...plots.table import number
from ..page import parts as page
from .page import WORDS

CAPTION = (
    "Zero-shot prompts with each vector added, beside prompting and controls, on the same test words for every model. "
    "A vector is made and chosen on each model by itself."
)
POOLED_NOTE = (
    "All models: the mean over models and relations, each model with the same weight; the interval is over families of "
    "relations, each with its numbers on all models, and speaks of these models."
)
OVER_MODELS_NOTE = (
    "Mean over models: the same mean; its interval is over the models (Student's, if they are fewer than ten), and "
    "speaks of other models."
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
        page.section("What is missing", _gaps(summary["gaps"])),
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
    note = [POOLED_NOTE, OVER_MODELS_NOTE * gain]
    note += [f"Pooled over fewer models: {', '.join(f'{_minus(row)} ({n})' for row, n in few.items())}."] * bool(few)
    tables = {}
    for measure in COMPLETED:
        rows = scores_by_model(frame, part, measure)
        cells = {_minus(row): [_cell(of.get(model), gain) for model in columns] for row, of in rows.items()}
        heading = MEASURES[measure].heading
        if cells:
            tables[heading] = page.table(columns, cells, " ".join(filter(None, note)), False, f"{part}s: {heading}")
    return [
        page.titled(heading, drawn) if at == 0 else page.opening(heading, drawn)
        for at, (heading, drawn) in enumerate(tables.items())
    ]


def _cell(score: Score | None, gain: bool) -> Markup:
    return page.plain_cell("none") if score is None else page.cell(score, gain)


def _gaps(gaps: Mapping[str, Mapping[str, str]]) -> Markup:
    """A line for each model and reason; nothing where nothing is missing."""
    rows = [(model, [page.plain_cell(", ".join(rows)), page.plain_cell(why)]) for model, rows, why in by_reason(gaps)]
    note = "A row that one model does not have is pooled over the others."
    return page.table(["rows", "why"], rows, note, False, "What is missing") if rows else Markup("")


def _minus(row: str) -> str:
    return row.replace(" - ", " \N{MINUS SIGN} ")
