"""The results of a study on several models as Markdown: each model beside the others, and pooled."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ...evaluation.pooled import OVER_MODELS, POOLED, pooled_over_fewer, scores_by_model
from ...evaluation.rows import COMPARISONS
from ...ground.measures import MEASURES
from ..markdown import joined, layers_text, missing_lines, score_table, versions_text

MEASURED = ("accuracy", "first_token_accuracy")
WHAT = {"score": "", "difference": ", difference", "shuffled gain": ", gain in prompts with shuffled answers"}


def markdown_of_models(frame: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    """How it was made; every row and the differences, by model and pooled; and what is missing on which model.

    Args:
        frame: the content of results.csv.
        summary: the content of summary.json.
    """
    named, settings = list(summary["models"]), summary["settings"]
    shots = settings["n_shots"], settings["n_pairs"], settings["n_pairs"] + settings["n_validation"]
    short = dict.fromkeys(" - ".join(each.names(*shots)) for each in COMPARISONS if each.short)
    parts = [_provenance(frame, summary)]
    together = [*named, POOLED, OVER_MODELS]
    for part, columns in (("score", [*named, POOLED]), ("difference", together), ("shuffled gain", together)):
        for measure in MEASURED:
            rows = scores_by_model(frame, part, measure)
            shown = {row: rows[row] for row in rows if part != "difference" or row in short}
            parts.append(score_table(f"{MEASURES[measure].column}{WHAT[part]}", columns, shown, part != "score"))
    few = pooled_over_fewer(frame, "score", len(named))
    parts += [f"Pooled over fewer models: {', '.join(f'{row} ({n})' for row, n in few.items())}."] * bool(few)
    return joined([*parts, missing_lines(summary["gaps"])])


def _provenance(frame: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    n = frame.name[frame.group == "relation"].nunique()
    settings = summary["settings"]
    return (
        f"{n} relation{'s' * (n != 1)} in {layers_text(summary)}, {summary['dtype']}; vectors tuned on "
        f"{settings['n_pairs']} pairs, stopped on {settings['n_validation']}. 95 % intervals: of a model and of "
        f"{POOLED}, over families of relations; of the {OVER_MODELS}, over the models. {versions_text(summary)}."
    )
