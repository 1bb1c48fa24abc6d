"""The tidy table of results that several figures read: one measured number with its interval in each row."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..evaluation.table import COLUMNS
from ..ground.errors import InputError
from ..ground.measures import COMPLETED, MEASURES
from ..ground.scores import Score
from .style import wrapped


def scores_of(frame: pd.DataFrame, **where: str) -> dict[str, dict[str, Score]]:
    """Scores of the rows of the table in which `where` holds: row -> name -> score, both in the table's order.

    Args:
        frame: the columns `COLUMNS`; `low` and `high` may be missing (no interval). `n` is the number of words where
            `group` is "relation", of relations where it is "category" or "all".
        where: values of columns, as in `part="score", group="all"`.

    Raises:
        InputError: a column is missing.

    Example:
        >>> scores_of(frame, part="score", group="all", measure="accuracy")["FV"]["all"].value
        0.47
    """
    if missing := [column for column in COLUMNS if column not in frame]:
        raise InputError(f"the table lacks the column {missing[0]!r}; give one with the columns {', '.join(COLUMNS)}")
    for column, value in where.items():
        frame = frame[frame[column] == value]
    scores: dict[str, dict[str, Score]] = {}
    for line in frame.itertuples():
        scores.setdefault(str(line.row), {})[str(line.name)] = Score.of(line)
    return scores


def checked(scores: Mapping[Any, Any], rows: Sequence[str], what: str) -> None:
    """Raise an InputError if the table has no scores at all, or lacks one of the `rows`."""
    if not scores:
        raise InputError(f"the table has no {what}; give a table that has them")
    for row in rows:
        if row not in scores:
            raise InputError(f"the table has no row {row!r} among {what}; it has {', '.join(map(repr, scores))}")


def measured(measure: str) -> tuple[str, str]:
    """What is measured and its unit, as titles and axes say it."""
    if measure not in COMPLETED:
        raise InputError(f"measure is {measure!r}; give one of {', '.join(map(repr, COMPLETED))}")
    return MEASURES[measure].heading, MEASURES[measure].unit()


def extent(frame: pd.DataFrame) -> str:
    """How much was measured, in words: "47 relations, 1,880 test words"."""
    scores = scores_of(frame, part="score", group="relation")
    relations = {name: score.n for of_row in scores.values() for name, score in of_row.items()}
    if not relations:
        everywhere = scores_of(frame, part="score", group="all")
        counts = [score.n for of_row in everywhere.values() for score in of_row.values()]
        return number(max(counts), "relation") if counts else ""
    return f"{number(len(relations), 'relation')}, {number(sum(relations.values()), 'test word')}"


def number(n: int, what: str) -> str:
    """A count with its noun: "1 word", "1,880 test words"."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def bars(scores: Sequence[Score]) -> dict[str, Any]:
    """Lengths of plotly's error bars; none where there is no interval."""
    ends = np.array([[score.high - score.value, score.value - score.low] for score in scores]).reshape(-1, 2)
    above, below = np.where(np.isfinite(ends), ends.clip(0), 0).T
    return dict(type="data", array=above, arrayminus=below)


class Lanes(NamedTuple):
    """Rows of a figure, one under the other: the places of the members, all ticks with their labels, and the end."""

    places: dict[str, float]
    ticks: list[float]
    labels: list[str]
    end: float

    @property
    def range(self) -> list[float]:
        """The range of the axis, the first row on top."""
        return [self.end - 0.4, -0.6]


def lanes(groups: Mapping[str, Sequence[str]], width: int = 24, height: int = 25) -> Lanes:
    """Rows of the members, each group below its name in bold; long names are wrapped, and take more room.

    Args:
        width: letters in a line of a label.
        height: pixels of a row, which may hold more than one line.
    """
    places, ticks, labels, end = {}, [], [], 0.0
    for group, members in groups.items():
        for name in [None, *members] if group else members:
            lines = wrapped(group if name is None else name, width)
            extra = max(0.0, 17 * len(lines) / height - 1)  # of a row's height
            ticks.append(end + extra / 2)
            label = "<br>".join(lines)
            labels.append(f"<b>{label}</b>" if name is None else label)
            if name is not None:
                places[name] = ticks[-1]
            end += 1 + extra
    return Lanes(places, ticks, labels, end)


def share_axis(measure: str, scores: Sequence[Score]) -> dict[str, Any]:
    """Axis settings that fit all intervals tightly; for shares the axis begins at 0."""
    ends = np.array([[score.low, score.value, score.high] for score in scores])
    least, most = np.nanmin(ends), np.nanmax(ends)
    share = measure not in MEASURES or MEASURES[measure].share
    least = min(0.0, least) if share else least
    room = 0.03 * ((most - least) or 1.0)
    return dict(range=[float(least - room), float(most + room)], nticks=7)
