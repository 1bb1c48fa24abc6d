"""The results of a study on several models as Markdown: each model beside the others, and pooled."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ...evaluation.pooled import OVER_MODELS, POOLED, by_reason, pooled_over_fewer, scores_by_model
from ...evaluation.rows import COMPARISONS
from ...ground.measures import MEASURES
from ...ground.scores import Score
from .markdown import markdown_table

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
            shown = [row for row in rows if part != "difference" or row in short]
            body = [
                [row.replace(" - ", " − "), *(_text(rows[row].get(name), part) for name in columns)] for row in shown
            ]
            if body:
                parts.append(markdown_table([f"{MEASURES[measure].column}{WHAT[part]}", *columns], body))
    few = pooled_over_fewer(frame, "score", len(named))
    parts += [f"Pooled over fewer models: {', '.join(f'{row} ({n})' for row, n in few.items())}."] * bool(few)
    lines = [
        f"- {model} lacks {', '.join(rows)}: {' '.join(why.split())}" for model, rows, why in by_reason(summary["gaps"])
    ]
    return "\n\n".join([*parts, *(["\n".join(lines)] if lines else [])]) + "\n"


def _provenance(frame: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    n = frame.name[frame.group == "relation"].nunique()
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    layers = ", ".join(f"{name} (layer {facts['layer']})" for name, facts in summary["by model"].items())
    settings = summary["settings"]
    return (
        f"{n} relation{'s' * (n != 1)} in {layers}, {summary['dtype']}; vectors tuned on {settings['n_pairs']} pairs, "
        f"stopped on {settings['n_validation']}. 95 % intervals: of a model and of {POOLED}, over families of "
        f"relations; of the {OVER_MODELS}, over the models. {versions}."
    )


def _text(score: Score | None, part: str) -> str:
    if score is None:
        return "none"
    signed = part != "score"
    value, interval = score.written("+" * signed)
    value = f"**{value}**" if signed and score.differs() else value
    return f"{value} {interval}" if score.known else value
