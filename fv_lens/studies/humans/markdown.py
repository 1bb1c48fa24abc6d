"""The results of `fv-lens humans` as Markdown: of one model by kind of vectors, of several by model and pooled."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ...evaluation.pooled import OVER_MODELS, POOLED
from ...ground.scores import Score
from ..markdown import joined, layers_text, missing_lines, score_table, versions_text
from .several_page import scores_by_model


def markdown(frame: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    """How it was made; every measure of agreement by kind of vectors, and the differences between kinds.

    Args:
        frame: the content of results.csv.
        summary: the content of summary.json.
    """
    said = (
        f"Spearman's rho with people: {summary['model']} ({summary['dtype']}), vectors at layer {summary['layer']}, "
        f"{summary['n_comparisons']:,} rated comparisons. 95 % intervals are over relations. {versions_text(summary)}."
    )
    parts = [said]
    for gains, lines in _halves(frame):
        rows: dict[str, dict[str, Score]] = {}
        for line in lines.itertuples():
            rows.setdefault(str(line.measure), {})[str(line.vectors)] = Score.of(line)
        kinds = list(dict.fromkeys(lines.vectors))
        parts.append(score_table("difference in agreement" if gains else "agreement", kinds, rows, gains, absent=""))
    return joined([*parts, _ceiling(summary)])


def markdown_of_models(frame: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    """As `markdown`, a table for each measure with a column a model; and what is missing on which model."""
    named = list(summary["by model"])
    parts = [
        f"Spearman's rho with people, vectors of {layers_text(summary)}. 95 % intervals are over relations; of the "
        f"{OVER_MODELS}, over the models. {versions_text(summary)}."
    ]
    for gains, lines in _halves(frame):
        for measure, of in lines.groupby("measure", sort=False):
            columns = [*named, POOLED, OVER_MODELS]
            parts.append(score_table(f"{measure}{', difference' * gains}", columns, scores_by_model(of), gains))
    return joined([*parts, _ceiling(summary), missing_lines(summary["gaps"])])


def _halves(frame: pd.DataFrame) -> list[tuple[bool, pd.DataFrame]]:
    """The lines of kinds of vectors, and those of their differences."""
    gains = frame.vectors.str.contains(" - ", regex=False)
    return [(False, frame[~gains]), (True, frame[gains])]


def _ceiling(summary: Mapping[str, Any]) -> str:
    ceiling = summary["human ceiling"]
    return "" if ceiling is None else f"People agree with themselves to {ceiling:.2f} (split halves)."
