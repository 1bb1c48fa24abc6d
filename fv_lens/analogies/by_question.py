"""Scores question by question: as a table, and of several models together, each question beside itself."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..datasets.question_groups import group_names
from ..datasets.questions import Question
from ..evaluation.pooled import OVER_MODELS, POOLED, both_scores
from ..ground.measures import MEASURES
from ..ground.scores import ANY, GAIN, SHARE
from .differences import COLUMNS, GROUPED, compared, difference_of, places_of_groups
from .scores import AnalogyScores, Row

BETWEEN = " | "  # of the parts of a column's name
Answers = Mapping[Row, Mapping[str, np.ndarray]]  # as `AnalogyScores.values`


def by_question(scores: AnalogyScores, asked: Sequence[Question]) -> pd.DataFrame:
    """A line for each question that was answered: its number among those asked, its words, and every row's values.

    The columns of values are called "method | library | prompt | measure"; a value that does not apply is missing.
    """
    completions = [question.completion for question in scores.questions]
    words: dict[str, list[Any]] = {
        "question": _numbers(scores.questions, asked),
        "a": [question.source[0] for question in scores.questions],
        "b": [question.source[1] for question in scores.questions],
        "c": [target for target, _ in completions],
        "d": [answers[0] for _, answers in completions],
        **{name: [getattr(question, name) for question in scores.questions] for name in ("relation", "family")},
        "distance": [question.label for question in scores.questions],
    }
    values = {
        BETWEEN.join((*row, measure)): numbers
        for row, measures in scores.values.items()
        for measure, numbers in measures.items()
        if not np.isnan(numbers).all()
    }
    return pd.DataFrame(words | values)


def _numbers(kept: Sequence[Question], asked: Sequence[Question]) -> list[int]:
    """The number of each question, from 1; those kept are in the order in which they were asked."""
    places = iter(enumerate(asked, 1))
    return [next(number for number, other in places if other.identity == question.identity) for question in kept]


def read_by_question(path: Path, n_asked: int) -> Answers:
    """The values in a file of `by_question` for every question that was asked, NaN where there are none.

    Raises:
        ValueError: the file is not such a table, or of more questions.
    """
    frame = pd.read_csv(path, float_precision="round_trip", keep_default_na=False, na_values=[""])
    if "question" not in frame or not frame.question.isin(range(1, n_asked + 1)).all():
        raise ValueError(f"it lacks the numbers of its questions, 1 to {n_asked}")
    frame = frame.set_index("question").reindex(range(1, n_asked + 1))
    answers: dict[Row, dict[str, np.ndarray]] = {}
    for column in frame.columns[frame.columns.str.contains(BETWEEN, regex=False)]:
        *row, measure = column.split(BETWEEN)
        answers.setdefault(Row(*row), {})[measure] = frame[column].to_numpy(float)
    if not answers:
        raise ValueError("it has no values")
    return answers


def pooled(models: Collection[Answers], asked: Sequence[Question]) -> pd.DataFrame:
    """Scores and differences of several models together, over all questions and in each of their groups.

    A row is pooled over the models that have it, on the questions that all of these answered with a number; `models`
    says how many there are. Every value comes twice, with the intervals of `evaluation.pooled.side_by_side`: under
    `POOLED`, for these models and other questions, families of questions are resampled, each with its numbers on all
    models, as for one model; under `OVER_MODELS` the interval is over the models. A difference is of each question on
    each model.

    Args:
        models: values of the same rows on the questions asked, see `read_by_question`.
    """
    answered = sorted({i for of in models for values in of.values() for x in values.values() for i in _known(x)})
    questions = [asked[i] for i in answered]
    kin = [question.kin or i for i, question in enumerate(questions)]  # as in `evaluate_analogies`
    every: dict[Row, dict[str, None]] = {}
    for of in models:
        for row, measured in of.items():
            every.setdefault(row, {}).update(dict.fromkeys(measured))
    lines: list[tuple[Any, ...]] = []

    def add(part: str, group: str, places: Sequence[int], name: Row, measure: str, values: list[np.ndarray]) -> None:
        numbers = np.array(values)[:, answered][:, places]
        known = ~np.isnan(numbers).any(0)
        if not known.any():
            return
        share = MEASURES[measure].share
        within = ANY if not share else GAIN if part == "difference" else SHARE
        named = part if group == "all" else GROUPED[part]
        scores = both_scores(numbers[:, known], [kin[place] for place in np.array(places)[known]], within)
        for model, score in zip((POOLED, OVER_MODELS), scores):
            lines.append((model, *name, measure, score.value, *score.ends, score.n, named, group, len(values)))

    groups = places_of_groups(questions, group_names(asked))
    for group, places in {"all": list(range(len(questions))), **groups}.items():
        for row, measures in every.items():
            for measure in measures:
                values = [of[row][measure] for of in models if measure in of.get(row, ())]
                add("score", group, places, row, measure, values)
        for row, other, measure in compared(every):
            both = [of for of in models if all(measure in of.get(one, ()) for one in (row, other))]
            apart = [of[row][measure] - of[other][measure] for of in both]
            if apart:
                add("difference", group, places, difference_of(row, other), measure, apart)
    return pd.DataFrame(lines, columns=["model", *COLUMNS, "part", "group", "models"])


def _known(values: np.ndarray) -> list[int]:
    return np.flatnonzero(~np.isnan(values)).tolist()
