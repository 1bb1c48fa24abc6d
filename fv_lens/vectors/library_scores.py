"""What was measured of the vectors of a library: scores by vector, row and measure."""

import math
from collections.abc import Collection, Iterable, Iterator
from numbers import Real
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from ..ground.errors import InputError
from ..ground.scores import Score
from .sharing.record import ScoreLine

COLUMNS = tuple(ScoreLine.model_fields)
VECTOR = "vector"  # the row that is the vector's own; other rows are controls
_LINES = TypeAdapter(list[ScoreLine])


class Scores:
    """Scores by (name of the vector, row, measure), in the order they came in."""

    def __init__(self, scores: dict[tuple[str, str, str], Score]):
        self._scores = scores

    @classmethod
    def of_lines(cls, lines: Iterable[ScoreLine]) -> "Scores":
        """The scores of a record."""
        return cls({(line.name, line.row, line.measure): _score(line) for line in lines})

    @classmethod
    def of_frame(cls, frame: pd.DataFrame) -> "Scores":
        """The scores of a frame with the columns `COLUMNS`; without both ends there is no interval.

        Raises:
            InputError: something else than a frame, a column that is missing, or a value of another kind, such as NaN.
        """
        if not isinstance(frame, pd.DataFrame):
            raise InputError(f"scores is {type(frame).__name__}; give a DataFrame with {', '.join(COLUMNS)}.")
        if missing := [column for column in COLUMNS if column not in frame.columns]:
            raise InputError(f"scores have no column {missing[0]!r}; give {', '.join(COLUMNS)}.")
        lines = [_plain(line) for line in frame[list(COLUMNS)].astype(object).to_dict("records")]
        try:
            return cls.of_lines(_LINES.validate_python(lines))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place, *field = first["loc"]
            column = ".".join(map(str, field))
            raise InputError(f"scores, line {place}: {column} is {first['input']!r}: {first['msg']}.") from None

    def __or__(self, other: "Scores") -> "Scores":
        return Scores(self._scores | other._scores)

    @property
    def names(self) -> set[str]:
        """The vectors that have scores."""
        return {name for name, _, _ in self._scores}

    def rows(self, measure: str) -> list[str]:
        """The rows that have a measure."""
        return list(dict.fromkeys(row for _, row, of in self._scores if of == measure))

    def measures(self) -> list[str]:
        """The measures of the vectors themselves."""
        return list(dict.fromkeys(measure for _, row, measure in self._scores if row == VECTOR))

    def get(self, name: str, row: str, measure: str) -> Score | None:
        """A score; None where nothing was measured."""
        return self._scores.get((name, row, measure))

    def of(self, names: Collection[str]) -> "Scores":
        """Those of some vectors."""
        return Scores({key: score for key, score in self._scores.items() if key[0] in names})

    def lines(self) -> Iterator[dict[str, Any]]:
        """The scores as a record has them."""
        for key, score in self._scores.items():
            low, high = score.ends if score.known else (None, None)
            yield dict(zip(COLUMNS, (*key, score.value, low, high, score.n)))

    def to_frame(self) -> pd.DataFrame:
        """One line a score, with the columns `COLUMNS`."""
        lines = [(*key, score.value, *score.ends, score.n) for key, score in self._scores.items()]
        return pd.DataFrame(lines, columns=list(COLUMNS))


NO_SCORES = Scores({})


def _score(line: ScoreLine) -> Score:
    """The score of a line; its ends are infinite where there is no interval."""
    low = -math.inf if line.low is None else line.low
    high = math.inf if line.high is None else line.high
    return Score(line.value, low, high, line.n)


def _plain(line: dict[str, Any]) -> dict[str, Any]:
    """A line of a frame, whose numbers may be numpy's, and whose ends are NaN where there is no interval."""
    ends = [line["low"], line["high"]]
    known = all(isinstance(end, Real) and math.isfinite(end) for end in ends)
    line |= dict(zip(("low", "high"), map(float, ends) if known else (None, None)))
    if isinstance(line["value"], Real):
        line["value"] = float(line["value"])
    if isinstance(line["n"], Real) and float(line["n"]).is_integer():
        line["n"] = int(float(line["n"]))
    return line
