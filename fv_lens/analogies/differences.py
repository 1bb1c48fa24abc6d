"""What methods gain over the baselines that they have to beat, over all questions and in groups of them."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..datasets.question_groups import group_names
from ..datasets.questions import Question
from .fit_affine import AFFINE
from .scores import PROMPT_ONLY, SUMMED, TRUE, AnalogyScores, Row

COLUMNS = ["method", "library", "prompt", "measure", "value", "low", "high", "n"]
MEASURED = ("accuracy", "first_token_accuracy", "choice", "log_prob")
GROUPED = {"score": "score of a group", "difference": "difference in a group"}  # parts of a table


def compared(measures: Mapping[Row, Collection[str]]) -> Iterator[tuple[Row, Row, str]]:
    """Every composite with the baselines that it has to beat, in the same prompt and library, and the measure.

    Args:
        measures: of each row.
    """
    for row in measures:
        if row.method in (PROMPT_ONLY, TRUE, SUMMED) or not row.prompt:
            continue
        others = [Row(PROMPT_ONLY, "", "one-shot")]
        others += [Row(name, row.library, row.prompt) for name in ("single best", "uniform", "shared alone")]
        if row.method in AFFINE:
            others += [Row(name, row.library, row.prompt) for name in ("posterior", "shared + fitted")]
            others += [Row("fitted", "", row.prompt)]
        for other in others:
            for measure in MEASURED:
                if other != row and all(measure in measures.get(one, ()) for one in (row, other)):
                    yield row, other, measure


def differences(scores: AnalogyScores) -> pd.DataFrame:
    """The differences of `compared`, paired over questions, as the columns `COLUMNS`; the method is "one - other"."""
    lines: list[tuple[Any, ...]] = []
    for row, other, measure in compared(scores.values):
        if not np.isnan(scores.values[row][measure] - scores.values[other][measure]).all():
            score = scores.difference(row, other, measure)
            lines.append((*difference_of(row, other), measure, score.value, *score.ends, score.n))
    return pd.DataFrame(lines, columns=COLUMNS)


def difference_of(row: Row, other: Row) -> Row:
    """What a difference is called in a table."""
    return row._replace(method=f"{row.method} - {other.method}")


def table(scores: AnalogyScores, asked: Collection[Question]) -> pd.DataFrame:
    """Scores and differences over all questions, and in each of their groups, with the columns `part` and `group`.

    Args:
        asked: the questions by which groups are divided (`group_names`), those left out of the scores among them.
    """
    groups = places_of_groups(scores.questions, group_names(list(asked)))
    frames = []
    for group, places in {"all": None, **groups}.items():
        some = scores if places is None else scores.only(places)
        for part, frame in {"score": some.to_frame(), "difference": differences(some)}.items():
            frames.append(frame.assign(part=part if places is None else GROUPED[part], group=group))
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)


def places_of_groups(questions: Collection[Question], names: Mapping[str, str]) -> dict[str, list[int]]:
    """Group -> the places of its questions; groups without any are not there."""
    groups = {
        group: [i for i, question in enumerate(questions) if names.get(question.label) == group]
        for group in dict.fromkeys(names.values())
    }
    return {group: places for group, places in groups.items() if places}
