"""Parts of a page of several models: their numbers beside each other, and what is missing on which."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from ...evaluation.pooled import by_reason
from ...ground.scores import Score
from . import parts as page

Scores = Mapping[str, Mapping[str, Score]]  # row -> model -> score


def table_of_models(name: str, columns: Sequence[str], rows: Scores, gain: bool, note: str = "") -> Markup:
    """A row of scores, a column a model; nothing where there are no rows."""
    cells = {
        row.replace(" - ", " \N{MINUS SIGN} "): [
            page.cell(scores[model], gain) if model in scores else page.plain_cell("none") for model in columns
        ]
        for row, scores in rows.items()
    }
    return page.table(columns, cells, note, False, name) if cells else Markup("")


def pooling(of: str, over_models: bool) -> str:
    """How columns of all models are to be read; `of` is what they are measured on, such as relations."""
    pooled = (
        f"All models: the mean over models and {of}, each model with the same weight; the interval is over families of "
        "relations, each with its numbers on all models, and speaks of these models."
    )
    more = (
        " Mean over models: the same mean; its interval is over the models (Student's, if they are fewer than ten), "
        "and speaks of other models."
    )
    return pooled + more * over_models


def missing(gaps: Mapping[str, Mapping[str, str]]) -> Markup:
    """A line for each model and reason; nothing where nothing is missing."""
    rows = [(model, [page.plain_cell(", ".join(rows)), page.plain_cell(why)]) for model, rows, why in by_reason(gaps)]
    note = "A row that one model does not have is pooled over the others."
    return page.table(["rows", "why"], rows, note, False, "What is missing") if rows else Markup("")


def headed(tables: Mapping[str, Markup]) -> list[Markup]:
    """Tables under their headings; all but the first open."""
    drawn = {heading: table for heading, table in tables.items() if table}
    return [
        page.titled(heading, table) if at == 0 else page.opening(heading, table)
        for at, (heading, table) in enumerate(drawn.items())
    ]
