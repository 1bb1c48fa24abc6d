"""Scores of every method on analogies: one number per question, with intervals and paired differences over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ..datasets.questions import Question
from ..ground import display, scores
from ..ground.errors import InputError
from ..ground.measures import MEASURES
from ..ground.scores import Score
from .basis import Exclusion

LibraryName = Literal["full", "relation left out", "family left out"]
LIBRARIES: dict[LibraryName, Exclusion | None] = {
    "full": None, "relation left out": "relation", "family left out": "family"
}  # fmt: skip
PROMPT_ONLY, TRUE, PROFILES = "prompt only", "true relation", "weight profiles"
SUMMED = "summed vectors, posterior"
TIE = 1e-5  # scores that are nearer than rounding can tell apart


def exclusion(library: LibraryName) -> Exclusion | None:
    """What is left out of the library for each question; an InputError for an unknown library."""
    if library not in LIBRARIES:
        raise InputError(f"library is {library!r}; choose from {', '.join(LIBRARIES)}.")
    return LIBRARIES[library]


class Row(NamedTuple):
    """A row of the results: the method, the library it may use ("" if it uses none), and the prompt."""

    method: str
    library: str = ""
    prompt: str = ""

    def __str__(self) -> str:
        return ", ".join(part for part in self if part)


@dataclass(frozen=True, eq=False)
class AnalogyScores:
    """Scores of every method on the questions.

    `values`: `Row` -> measure -> one number per question, NaN where the measure does not apply to it. Measures of
    completion: `accuracy` (the whole word), `first_token_accuracy`, `log_prob` of the usual answer in nats; of choice:
    whether the right one scores highest by log P(D | C) (`choice`), by what the vector adds to that
    (`choice_minus_plain`), by the sum with log P(C | D) and the vector of B:A (`choice_both_ways`).
    `groups`: of each question; intervals are over groups. `left_out`: questions whose pairs a vector was tuned on.
    """

    values: Mapping[Row, Mapping[str, np.ndarray]] = field(repr=False)
    questions: Sequence[Question] = field(repr=False)
    groups: Sequence[Any] = field(repr=False)
    left_out: int

    @property
    def chance(self) -> float | None:
        """Expected share of right choices by guessing; None without choices."""
        chances = [question.chance for question in self.questions if question.chance is not None]
        return float(np.mean(chances)) if chances else None

    def score(self, row: tuple[str, ...], measure: str = "accuracy") -> Score:
        """The mean of a row over the questions it applies to, with its interval."""
        return self._mean(self._of(row, measure), measure)

    def difference(
        self, row: tuple[str, ...], other: tuple[str, ...], measure: str = "accuracy", other_measure: str | None = None
    ) -> Score:
        """A row minus another, paired over questions; the other by a measure of its own, if given."""
        apart = self._of(row, measure) - self._of(other, other_measure or measure)
        return self._mean(apart, measure, scores.GAIN)

    def only(self, places: Sequence[int]) -> "AnalogyScores":
        """The scores on some of the questions, by their places."""
        values = {
            row: {measure: values[list(places)] for measure, values in measures.items()}
            for row, measures in self.values.items()
        }
        questions, groups = ([every[i] for i in places] for every in (self.questions, self.groups))
        return AnalogyScores(values, questions, groups, self.left_out)

    def _repr_html_(self) -> str:
        return display.analogies(self.to_frame(), self.chance, len(self.questions), self.left_out)

    def to_frame(self) -> pd.DataFrame:
        """One line per row and measure: method, library, prompt, measure, value, low, high, n."""
        lines = []
        for row, measures in self.values.items():
            for measure, values in measures.items():
                if not np.isnan(values).all():
                    score = self._mean(values, measure)
                    lines.append((*row, measure, score.value, *score.ends, score.n))
        return pd.DataFrame(lines, columns=["method", "library", "prompt", "measure", "value", "low", "high", "n"])

    def _of(self, row: tuple[str, ...], measure: str) -> np.ndarray:
        row = Row(*row)
        if measure not in self.values.get(row, {}):
            raise InputError(f"There is no {measure!r} of {str(row)!r}; `to_frame()` lists all rows and measures.")
        return self.values[row][measure]

    def _mean(self, values: np.ndarray, measure: str, within: tuple[float, float] = scores.SHARE) -> Score:
        known = ~np.isnan(values)
        groups = [group for group, is_known in zip(self.groups, known) if is_known]
        return scores.clustered_mean(values[known], groups, within=within if MEASURES[measure].share else scores.ANY)
