"""The table of a study: every score with its interval, and the paired differences between rows, as one tidy frame.

Columns: `part` (score, difference, shuffled, shuffled gain, curve, stability, decoding), `group` (relation, category,
all), `name` (of the relation or category, or "all"), `row`, `measure`, `value`, `low`, `high` (95 %), `n` (words for a
relation, relations for a group). Intervals over relations resample whole families, since siblings share an answer form.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..ground import scores
from ..ground.measures import COMPLETED, MEASURES
from ..ground.scores import ANY, GAIN, SHARE, Score
from .rows import COMPARISONS

COLUMNS = ("part", "group", "name", "row", "measure", "value", "low", "high", "n")
Row = Mapping[str, np.ndarray]  # measure -> [draw, word]


class Table:
    """The tidy frame of a study, collected part by part.

    Args:
        names, categories, families: of the relations, in order; rows are assigned to relations by index.
    """

    def __init__(self, names: Sequence[str], categories: Sequence[str], families: Sequence[str]):
        self.names, self.categories, self.families = list(names), list(categories), list(families)
        self.lines: list[tuple[Any, ...]] = []

    def frame(self) -> pd.DataFrame:
        """All lines so far."""
        return pd.DataFrame(self.lines, columns=list(COLUMNS))

    def scores(
        self, rows: Mapping[str, Row], owners: np.ndarray, part: str = "score"
    ) -> dict[tuple[str, str], np.ndarray]:
        """Add every row's scores; returns the value of each relation, (row, measure) -> `[relation]`.

        Words whose numbers are NaN (of a vector that broke) are left out, and their relation with them.
        """
        values = {}
        for row, measured in rows.items():
            for measure in [measure for measure in COMPLETED if measure in measured]:
                share = MEASURES[measure].share
                kind = scores.proportion if share else scores.mean
                by_relation = [measured[measure][:, owners == r] for r in range(len(self.names))]
                own = [None if np.isnan(x).any() else kind(x) for x in by_relation]
                for name, score in zip(self.names, own):
                    if score is not None:
                        self._add(part, "relation", name, row, measure, score)
                values[row, measure] = np.array([np.nan if s is None else s.value for s in own])
                self.groups(part, row, measure, values[row, measure], within=SHARE if share else ANY)
        return values

    def groups(
        self,
        part: str,
        row: str,
        measure: str,
        values: Float[np.ndarray, " relation"],
        within: tuple[float, float] = ANY,
    ) -> Score | None:
        """Add the mean over all relations, and over those of each category; returns the first. See `clustered_mean`."""
        known = ~np.isnan(values)
        overall = None
        for group, name, members in self._members():
            members = [r for r in members if known[r]]
            if members:
                score = scores.clustered_mean(values[members], [self.families[r] for r in members], within=within)
                overall = overall or score
                self._add(part, group, name, row, measure, score)
        return overall

    def differences(self, values: Mapping[tuple[str, str], np.ndarray], n_shots: int, n_pairs: int, n_all: int) -> None:
        """Add the `COMPARISONS` of rows, paired over relations."""
        # Two prompting rows with the same number of pairs are one row.
        for one, other in dict.fromkeys(comparison.names(n_shots, n_pairs, n_all) for comparison in COMPARISONS):
            for measure in COMPLETED:
                if (one, measure) in values and (other, measure) in values and one != other:
                    gap = values[one, measure] - values[other, measure]
                    within = GAIN if MEASURES[measure].share else ANY
                    self.groups("difference", f"{one} - {other}", measure, gap, within)

    def gains(self, values: Mapping[tuple[str, str], np.ndarray], over: str, part: str) -> None:
        """Add what every row gains over the row `over`, paired over relations."""
        for (row, measure), own in values.items():
            if row != over:
                within = GAIN if MEASURES[measure].share else ANY
                self.groups(part, row, measure, own - values[over, measure], within)

    def relations(self, part: str, row: str, measure: str, values: Mapping[str, float | int]) -> None:
        """Add a number without interval for each relation, by name."""
        for name, value in values.items():
            self._add(part, "relation", name, row, measure, Score(float(value), np.nan, np.nan, 1))

    def _members(self) -> Iterator[tuple[str, str, list[int]]]:
        yield "all", "all", list(range(len(self.names)))
        for category in dict.fromkeys(self.categories):
            yield "category", category, [r for r, of in enumerate(self.categories) if of == category]

    def _add(self, part: str, group: str, name: str, row: str, measure: str, score: Score) -> None:
        self.lines.append((part, group, name, row, measure, score.value, *score.ends, score.n))


def rows_of(tensors: Mapping[str, Tensor], places: Mapping[str, Sequence[int]]) -> dict[str, Row]:
    """The rows of a step that completed test words: name -> measure -> `[draw, word]`."""
    measured = {
        "accuracy": tensors["right"].double(),
        "first_token_accuracy": (tensors["rank"] == 0).double(),
        "log_prob": tensors["log_prob"].double(),
    }
    return {
        name: {measure: x[:, list(columns)].T.numpy() for measure, x in measured.items()}
        for name, columns in places.items()
    }


def without(row: Row, owners: np.ndarray, broken: Sequence[int]) -> Row:
    """The row with NaN for the words of relations that have no vector there."""
    mask = np.isin(owners, list(broken))
    return {measure: np.where(mask, np.nan, x) for measure, x in row.items()}


def cosines(
    a: Float[Tensor, "relation d_model"], b: Float[Tensor, "relation d_model"], centred: bool
) -> Float[np.ndarray, " relation"]:
    """Cosine of each relation's two vectors; `centred`: the mean over relations is subtracted from both sets first.

    A centred set of one vector is zero, and its cosine NaN.
    """
    if centred:
        a, b = (x - x.nanmean(0) if (~x.isnan().any(1)).sum() > 1 else x * torch.nan for x in (a, b))
    return torch.cosine_similarity(a.double(), b.double(), dim=1).numpy()


def write_csv(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """The frame as CSV, numbers to six digits, so that equal results give equal bytes."""
    frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")
