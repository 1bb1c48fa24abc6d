"""The method of choice that does best on validation questions."""

from typing import Any

from ...analogies.scores import PROMPT_ONLY, TRUE, AnalogyScores, Row
from ...ground.measures import MEASURES


def best_method(tried: AnalogyScores, scores: AnalogyScores) -> tuple[dict[str, Any], list[str]]:
    """The method of choice that was best on validation, and its test score beside that of the best prompt there."""

    def best(method: str | None = None) -> tuple[Row, str]:
        return max(_choice_rows(tried, method), key=lambda way: tried.score(*way).value)

    (row, measure), (plain, plainly) = best(), best(PROMPT_ONLY)
    gain = scores.difference(row, plain, measure, plainly)
    lines = [
        f"Chosen on validation: {row} ({_title(measure)}): {scores.score(row, measure)}; chance {scores.chance:.2f}.",
        f"Over the best prompt alone there, {plain} ({_title(plainly)}, {scores.score(plain, plainly)}), "
        + (f"{gain.signed}." if gain.differs() else f"a gain is not shown ({gain.signed})."),
    ]
    return {"row": str(row), "measure": measure, "validation": tried.score(row, measure).value}, lines


def _title(measure: str) -> str:
    return MEASURES[measure].heading.lower()


def _choice_rows(scores: AnalogyScores, method: str | None = None) -> list[tuple[Row, str]]:
    """Every row with each of its measures of choice; only those of `method`, if given."""
    return [
        (row, measure)
        for row, measures in scores.values.items()
        for measure in measures
        if measure.startswith("choice") and method in (None, row.method) and row.method != TRUE
    ]
