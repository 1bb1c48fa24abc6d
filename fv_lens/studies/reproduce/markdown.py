"""The results of a study as Markdown, for a README or a note: what was measured, with intervals, model and versions."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ...evaluation.rows import COMPARISONS
from ...ground.markdown import MINUS, markdown_table, score_text
from ...ground.measures import COMPLETED, MEASURES
from ...ground.scores import Score
from ..markdown import joined, versions_text


def markdown(frame: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    """Three tables of a study: every row, the paired differences, the names in vectors; a line on how they were made.

    The second column of numbers in the first table is the share of whole answers by category, each by its first letter.

    Args:
        frame: the content of results.csv.
        summary: the content of summary.json.
    """
    scores = frame[frame.part == "score"]
    categories = sorted(set(scores[scores.group == "category"].name) - {"other"})
    by_category = " / ".join(name[0].upper() for name in categories)
    accuracy, first_token, log_prob = (MEASURES[measure].column for measure in COMPLETED)
    rows = markdown_table(
        ["prompt, and what is added", accuracy, by_category, first_token],
        [_score_line(scores, row, categories) for row in scores.row.unique()],
    )
    compared = frame[(frame.part == "difference") & (frame.group == "all")]
    n_pairs, n_validation = (summary["settings"][name] for name in ("n_pairs", "n_validation"))
    shots = summary["settings"]["n_shots"], n_pairs, n_pairs + n_validation
    short = [" - ".join(comparison.names(*shots)) for comparison in COMPARISONS if comparison.short]
    shown = [row for row in dict.fromkeys(short) if row in set(compared.row)]
    differences = markdown_table(
        ["difference, paired over relations", accuracy, first_token, log_prob],
        [
            [row.replace(" - ", MINUS), *(_score_text(compared, row, of, signed=True) for of in COMPLETED)]
            for row in shown
        ],
    )
    parts = [_provenance(frame, summary), rows, differences]
    again, gained = (frame[(frame.part == part) & (frame.group == "all")] for part in ("shuffled", "shuffled gain"))
    if len(again):
        heads = [f"vector, in {again.row.iloc[0]} prompts", accuracy, "gain", first_token, "gain"]
        body = []
        for row in again.row.unique():
            both = [(_score_text(again, row, of), _score_text(gained, row, of, signed=True)) for of in COMPLETED[:2]]
            body.append([row, *both[0], *both[1]])
        parts.append(markdown_table(heads, body))
    if costs := summary.get("baselines", {}).get("costs"):
        heads = ["method, mean over relations", "numbers trained", "seconds", "MB"]
        body = [
            [name, f"{cost['parameters']:,.0f}", f"{cost['seconds']:,.1f}", f"{cost['memory'] / 1e6:,.0f}"]
            for name, cost in costs.items()
        ]
        parts.append(markdown_table(heads, body))
    said = frame[(frame.part == "decoding") & (frame.group == "all")]
    readings = [name for name in said.measure.unique() if name.startswith("name score")]
    if readings:
        heads = ["vector", *(name.removeprefix("name score, ") for name in readings)]
        body = [[kind, *(_score_text(said, kind, name) for name in readings)] for kind in said.row.unique()]
        parts.append(markdown_table(heads, body))
    return joined(parts)


def _provenance(frame: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    of = frame[(frame.part == "score") & (frame.group == "relation") & (frame.measure == "accuracy")]
    n, words = of.name.nunique(), int(of[of.row == of.row.iloc[0]].n.sum())
    chosen, settings = summary["chosen"], summary["settings"]
    return (
        f"{summary['model']} ({summary['dtype']}), {n} relation{'s' * (n > 1)}, {words} test words; vectors tuned on "
        f"{settings['n_pairs']} pairs at layer {chosen['layer']}, stopped on {settings['n_validation']}. "
        f"95 % intervals are over families of relations. {versions_text(summary)}."
    )


def _score_line(scores: pd.DataFrame, row: str, categories: Sequence[str]) -> list[str]:
    every = scores[scores.group == "all"]
    of = scores[(scores.group == "category") & (scores.row == row) & (scores.measure == "accuracy")].set_index("name")
    parts = " / ".join(f"{of.value.get(name, float('nan')):.2f}".removeprefix("0") for name in categories)
    return [row, _score_text(every, row, "accuracy"), parts, _score_text(every, row, "first_token_accuracy")]


def _score_text(frame: pd.DataFrame, row: str, measure: str, signed: bool = False) -> str:
    lines = frame[(frame.row == row) & (frame.measure == measure)]
    if not len(lines):
        return ""
    return score_text(Score.of(lines.iloc[0]), signed)
