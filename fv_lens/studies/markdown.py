"""Tables in GitHub's Markdown, for a README or a note: scores with intervals, differences in bold where shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.pooled import by_reason
from ..ground.markdown import MINUS, markdown_table, score_text
from ..ground.scores import Score


def score_table(
    first: str,
    columns: Sequence[str],
    rows: Mapping[str, Mapping[str, Score]],
    signed: bool = False,
    absent: str = "none",
) -> str:
    """A table with a row of scores by column; "" where there are no rows.

    Args:
        first: heading of the rows' names.
        rows: name -> column -> score; `absent` stands where there is none.
    """
    body = [
        [row.replace(" - ", MINUS), *(score_text(scores.get(name), signed, absent) for name in columns)]
        for row, scores in rows.items()
    ]
    return markdown_table([first, *columns], body) if body else ""


def missing_lines(gaps: Mapping[str, Mapping[str, str]]) -> str:
    """A line for each model that lacks rows, with the reason; "" where nothing is missing."""
    return "\n".join(
        f"- {model} lacks {', '.join(rows)}: {' '.join(why.split())}" for model, rows, why in by_reason(gaps)
    )


def versions_text(summary: Mapping[str, Any]) -> str:
    """Versions of the libraries, as a summary names them."""
    return ", ".join(f"{name} {version}" for name, version in summary["versions"].items())


def layers_text(summary: Mapping[str, Any]) -> str:
    """The models of a summary of several, each with the layer of its vectors."""
    return ", ".join(f"{name} (layer {facts['layer']})" for name, facts in summary["by model"].items())


def joined(parts: Sequence[str]) -> str:
    """The parts that say something, as one text."""
    return "\n\n".join(part for part in parts if part) + "\n"
