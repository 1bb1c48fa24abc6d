"""Studies of the same relations on several models, side by side and together, as one tidy frame.

Columns are those of a study's table behind `model`, the name of the model; and `models`, the number of models behind a
value. Two names stand for all models together: `POOLED` and `OVER_MODELS`, see `side_by_side`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from ..ground.measures import COMPLETED, MEASURES
from ..ground.scores import ANY, GAIN, SHARE, Score, clustered_mean

POOLED, OVER_MODELS = "all models", "mean over models"  # no folder of a model has a space in its name
ROUNDED = 3e-6  # tables are read from files with numbers of six digits
PARTS = ("score", "curve", "shuffled")  # whose values are of relations
PAIRED = ("difference", "shuffled gain")

Key = tuple[str, str, str]  # part, row, measure


class Kin(NamedTuple):
    """The category and the family of a relation."""

    category: str
    family: str


def side_by_side(tables: Mapping[str, pd.DataFrame], kin: Mapping[str, Kin]) -> pd.DataFrame:
    """The tables of several models, and their scores (shuffled prompts too), curves and differences together.

    A row is pooled over the models that have it, and over the relations for which all of these have a number: each
    model weighs the same, and a comparison of models is one of the same words. `models` says how many there are. The
    value is the mean over relations of their means over models, which is the mean over models as well. It comes with
    two intervals, which answer two questions:

    - `POOLED`, for these models and other relations. Relations are resampled by whole families, each with its numbers
      on all models: a relation that is easy for one model is often easy for the others. This is `clustered_mean` of
      each relation's mean over models, the method of a single study; `n` is the number of relations.
    - `OVER_MODELS`, for other models and these relations. It is `clustered_mean` with every model a group: Student's
      interval of the models' means if they are fewer than ten, else their bootstrap; `n` is the number of models. With
      three models it is wide; one model has none.

    Differences are paired: of each relation on each model, then pooled in the same way.

    Args:
        tables: by the name of the model, each with the columns of `evaluation.table`.
        kin: category and family of every relation, by name.

    Example:
        >>> frame = side_by_side({"one": frame, "other": another}, {"antonym": Kin("lexicographic", "opposite")})
        >>> frame[(frame.model == POOLED) & (frame.row == "FV") & (frame.group == "all")].models.item()
        2
    """
    names = [name for name in kin if any((table.name == name).any() for table in tables.values())]
    by_model = [_values(table, names) for table in tables.values()]
    lines: list[tuple[object, ...]] = []
    for part, row, measure in _keys(tables.values()):
        if part in PAIRED:
            one, other = _compared(part, row, measure, tables)
            values = [of[one] - of[other] for of in by_model if one in of and other in of]
            within = GAIN if MEASURES[measure].share else ANY
        else:
            values = [of[part, row, measure] for of in by_model if (part, row, measure) in of]
            within = SHARE if MEASURES[measure].share else ANY
        if values:
            for model, group, name, score in _together(np.array(values), names, kin, within):
                lines.append((model, part, group, name, row, measure, score.value, *score.ends, score.n, len(values)))
    single = [table.assign(model=model, models=1) for model, table in tables.items()]
    columns = ["model", *next(iter(tables.values())).columns, "models"]
    return pd.concat([*single, pd.DataFrame(lines, columns=columns)])[columns].reset_index(drop=True)


def both_scores(
    values: Float[np.ndarray, "model value"], groups: Sequence[Any], within: tuple[float, float] = ANY
) -> tuple[Score, Score]:
    """The mean over values of their means over models, with the interval over groups and with that over models."""
    return (
        clustered_mean(values.mean(0), groups, within=within, alike=ROUNDED),
        clustered_mean(values.mean(1), range(len(values)), within=within, alike=ROUNDED),
    )


def scores_by_model(frame: pd.DataFrame, part: str, measure: str) -> dict[str, dict[str, Score]]:
    """Row -> model -> score over all relations, both in the order of the frame; pooled ones as well."""
    lines = frame[(frame.part == part) & (frame.group == "all") & (frame.measure == measure)]
    rows: dict[str, dict[str, Score]] = {}
    for line in lines.itertuples():
        rows.setdefault(str(line.row), {})[str(line.model)] = Score.of(line)
    return rows


def pooled_over_fewer(frame: pd.DataFrame, part: str, n_models: int) -> dict[str, int]:
    """The rows that are pooled over fewer than all models, and over how many."""
    lines = frame[(frame.model == POOLED) & (frame.part == part) & (frame.models < n_models)]
    return {str(row): int(n) for row, n in zip(lines.row, lines.models)}


def by_reason(gaps: Mapping[str, Mapping[str, str]]) -> list[tuple[str, list[str], str]]:
    """Model, rows and reason; rows of one reason are together."""
    return [
        (model, [row for row, other in rows.items() if other == why], why)
        for model, rows in gaps.items()
        for why in dict.fromkeys(rows.values())
    ]


def _compared(part: str, row: str, measure: str, tables: Mapping[str, pd.DataFrame]) -> tuple[Key, Key]:
    """What a difference is of; a gain in shuffled prompts is over that prompt by itself, the first row of its part."""
    if part == "difference":
        one, _, other = row.partition(" - ")
        return ("score", one, measure), ("score", other, measure)
    prompt = next(str(name) for table in tables.values() for name in table.row[table.part == "shuffled"])
    return ("shuffled", row, measure), ("shuffled", prompt, measure)


def _keys(tables: Iterable[pd.DataFrame]) -> list[Key]:
    """What is pooled, in the order of the tables: scores, curves, and differences of what is completed."""
    frames = [table.loc[table.measure.isin(COMPLETED), ["part", "row", "measure"]] for table in tables]
    every = pd.concat(frames).drop_duplicates()
    return [key for part in (*PARTS, *PAIRED) for key in every[every.part == part].itertuples(index=False, name=None)]


def _values(table: pd.DataFrame, names: Sequence[str]) -> dict[Key, Float[np.ndarray, " relation"]]:
    """The value of each relation, NaN where the model has none."""
    lines = table[(table.group == "relation") & table.part.isin(PARTS)]
    return {
        (str(part), str(row), str(measure)): some.set_index("name").value.reindex(names).to_numpy(float)
        for (part, row, measure), some in lines.groupby(["part", "row", "measure"], sort=False)
    }


def _together(
    values: Float[np.ndarray, "model relation"],
    names: Sequence[str],
    kin: Mapping[str, Kin],
    within: tuple[float, float],
) -> Iterator[tuple[str, str, str, Score]]:
    """Both scores over all relations, and over those of each category, that every one of the models has."""
    known = ~np.isnan(values).any(0)
    groups = [("all", "all", list(range(len(names))))]
    for category in dict.fromkeys(kin[name].category for name in names):
        groups.append(("category", category, [r for r, name in enumerate(names) if kin[name].category == category]))
    for group, label, members in groups:
        if shared := [r for r in members if known[r]]:
            pooled, over_models = both_scores(values[:, shared], [kin[names[r]].family for r in shared], within)
            yield POOLED, group, label, pooled
            yield OVER_MODELS, group, label, over_models
