"""The results of `fv-lens analogies` as Markdown: of one model by library, of several by model and pooled."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd

from ...analogies.scores import LIBRARIES, PROMPT_ONLY
from ...evaluation.pooled import OVER_MODELS, POOLED
from ...ground.measures import MEASURES
from ...ground.scores import Score
from ..markdown import joined, layers_text, missing_lines, score_table, versions_text
from .several_page import scores_by_model

SHOWN = ("accuracy", "first_token_accuracy", "choice", "choice_both_ways")
METHOD = "method, prompt"
Rows = Mapping[str, Mapping[str, Score]]


def markdown(frame: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    """How it was made; every method by library, and what each gains over the prompt alone, for each measure.

    Args:
        frame: the content of results.csv.
        summary: the content of summary.json.
    """
    n, seen = summary["questions"]["test"], len(summary["vectors"])
    said = (
        f"{summary['model']} ({summary['dtype']}), {n} test analogies, {seen} vectors at layer {summary['layer']}. "
        f"95 % intervals are over families of relations. {versions_text(summary)}."
    )
    tables = _tables(frame, lambda lines: [(METHOD, list(LIBRARIES), _by_library(lines), "")])
    return joined([said, *tables])


def markdown_of_models(frame: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    """As `markdown`, a table for each library with a column a model; and what is missing on which model."""
    named = list(summary["by model"])
    n = int(frame[(frame.model == POOLED) & (frame.group == "all")].n.max())
    said = (
        f"{n} test analogies in {layers_text(summary)}. 95 % intervals are over families of relations; of the "
        f"{OVER_MODELS}, over the models. {versions_text(summary)}."
    )

    def by_model(lines: pd.DataFrame) -> Iterator[tuple[str, list[str], Rows, str]]:
        gain = bool((lines.part == "difference").any())
        for library in [name for name in LIBRARIES if (lines.library == name).any()]:
            rows = scores_by_model(lines[lines.library.isin([library, ""])])
            yield f"{METHOD}; {library}", [*named, POOLED, *[OVER_MODELS] * gain], rows, "none"

    return joined([said, *_tables(frame, by_model), missing_lines(summary["gaps"])])


def _tables(frame: pd.DataFrame, divided: Callable[[pd.DataFrame], Any]) -> Iterator[str]:
    """For each measure its tables of scores, and of gains over the prompt alone."""
    whole = frame[frame.group == "all"]
    for measure in SHOWN:
        for part in ("score", "difference"):
            lines = whole[(whole.part == part) & (whole.measure == measure)]
            gain = part == "difference"
            if gain:
                lines = lines[lines.method.str.endswith(f" - {PROMPT_ONLY}")]
            for first, columns, rows, absent in divided(lines):
                if table := score_table(first, columns, rows, gain, absent):
                    yield f"{MEASURES[measure].heading}{', gain over the one-shot prompt' * gain}:"
                    yield table


def _by_library(lines: pd.DataFrame) -> dict[str, dict[str, Score]]:
    """Method and prompt -> library -> score; one that uses no library stands below the first."""
    rows: dict[str, dict[str, Score]] = {}
    for line in lines.itertuples():
        row = ", ".join(part for part in (str(line.method), str(line.prompt)) if part)
        rows.setdefault(row, {})[str(line.library) or next(iter(LIBRARIES))] = Score.of(line)
    return rows
