"""One HTML page of vectors against people: how alike relations are to both, and how typical pairs are."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from ... import plots
from ...ground.scores import Score
from ..page import parts as page

CAPTIONS = {
    "similarity": "How alike the rated relations are: people's mean ratings (1 to 7), and cosines of vectors less "
    "their mean. All are in the order of the first matrix, like beside like.",
    "map": "Fine-tuned vectors of all relations by multidimensional scaling: near in the map, alike in centred cosine, "
    "as well as two dimensions can show.",
}
WORDS = (
    "FV: the sum of head outputs. FFV: tuned from zero. Mean difference: of the residual stream, few-shot less "
    "zero-shot. Cross-fitted: vectors of one half of the pairs against people's ratings of the other half, so that no "
    "pair has a part in both; the other rows share pairs. Relations: the cells between relations, p by Mantel's test. "
    "Pairs: single comparisons. Typicality: log P(B | A) with the vector against rated typicality, mean over relations."
)


def write_human_report(
    path: str | os.PathLike[str],
    frame: pd.DataFrame,
    *,
    title: str,
    matrices: Mapping[str, pd.DataFrame],
    points: pd.DataFrame,
    categories: Mapping[str, str],
    ceiling: float | None = None,
    facts: Mapping[str, Any] = {},
) -> None:
    """Write the page; it appears whole or not at all.

    Args:
        frame: a line per measure and kind of vectors: measure, vectors, value, low, high, p, n.
        matrices: title -> similarity of the rated relations, to people and as vectors.
        points, categories: the map of all relations, and the class of each.
        ceiling: how well one half of people agrees with the other, if known.
        facts: what "How it was made" says, name -> value.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    parts = [
        page.in_short(_in_short(frame, ceiling)),
        page.section("Agreement with people", _table(frame), note=WORDS),
        page.section(
            "Relations together",
            page.figure("similarity", plots.similarity(matrices), CAPTIONS["similarity"]),
            page.figure("map", plots.relation_map(points, categories), CAPTIONS["map"]),
        ),
        page.how_made(facts),
    ]
    named = {title: matrix.rename_axis("relation").reset_index() for title, matrix in matrices.items()}
    page.write_page(path, title, parts, downloads={"results": frame, **named})


def _in_short(frame: pd.DataFrame, ceiling: float | None) -> Iterator[str]:
    """For each measure the numbers of every kind of vectors; a difference whose interval holds 0 is not shown."""
    levels, apart = frame[~frame.vectors.str.contains(" - ")], frame[frame.vectors.str.contains(" - ")]
    for measure in ("relations", "relations, cross-fitted", "typicality, cross-fitted"):
        lines = levels[levels.measure == measure]
        parts = [
            f"{line.vectors} {Score.of(line)}" + (f", p = {line.p:.2g}" if pd.notna(line.p) else "")
            for line in lines.itertuples()
        ]
        if parts:
            yield f"Spearman's rho with people, {measure}: {'; '.join(parts)}."
    if ceiling is not None:
        yield f"People agree with themselves to {ceiling:.2f} (split halves)."
    for line in apart.itertuples():
        score, name = Score.of(line), line.vectors.replace(" - ", " \N{MINUS SIGN} ")
        yield f"{name}, {line.measure}: " + (f"{score.signed}." if score.differs() else f"not shown ({score.signed}).")


def _table(frame: pd.DataFrame) -> str:
    kinds = list(dict.fromkeys(frame.vectors))
    rows = {}
    for measure, lines in frame.groupby("measure", sort=False):
        line_by_kind = {line.vectors: line for line in lines.itertuples()}
        rows[measure] = [
            page.cell(Score.of(line_by_kind[kind]) if kind in line_by_kind else None, " - " in kind) for kind in kinds
        ]  # fmt: skip
    labels = [kind.replace(" - ", " \N{MINUS SIGN} ") for kind in kinds]
    note = "Spearman's rho; 95 % intervals over relations: by jackknife, and of mean typicality by resampling."
    return page.table(labels, rows, note, first_bold=False, name="Agreement with people")
