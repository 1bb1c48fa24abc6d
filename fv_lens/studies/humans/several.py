"""Vectors of several models against the same people: a folder for each, and a table, a summary and a page of all."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...datasets.ratings import PairRatings
from ...datasets.semeval import RatedRelation
from ...evaluation.pooled import OVER_MODELS, POOLED, both_scores
from ...evaluation.pooled_rho import pooled_difference, pooled_rho
from ...evaluation.rank_correlation import comparisons_error, matrices_error
from ...ground import storage
from ...ground.scores import Score
from ...models import load as loading
from ...models.lens import Model
from ...vectors.summed import Heads
from ..folders import OutputFolder
from ..names import DtypeName
from ..results import RESULTS, SUMMARY, read_result, read_summary, read_table, write_results
from ..several import EVERY_ROW, NO_NUMBERS, OneModel, study_each, vectors_of, with_results
from .several_page import write_page_of_models
from .study import BY_RELATION, COLUMNS, OWN, place, plan_of, study

WITHIN = (-1.0, 1.0)  # a mean of rhos


class Loaded(NamedTuple):
    """A model, where its vectors belong, and the plan of its study."""

    model: Model
    layer: int
    heads: Heads | None
    plan: dict[str, Any]


def plan_of_models(
    models: Mapping[str, str], dtype: DtypeName, relations: Mapping[str, RatedRelation], ratings: PairRatings, seed: int
) -> dict[str, Any]:
    """What the folder of all models is marked with; the folder of each has a plan of its own, with the weights."""
    rated = ratings.frame.to_csv(index=False)
    return {
        "models": dict(models), "dtype": dtype, "seed": seed, "versions": storage.versions(),
        "relations, SHA-256": hashlib.sha256(repr(sorted(relations.items())).encode()).hexdigest(),
        "ratings, SHA-256": hashlib.sha256(rated.encode()).hexdigest(),
    }  # fmt: skip


def study_models(
    folder: OutputFolder,
    plan: Mapping[str, Any],
    relations: Mapping[str, RatedRelation],
    ratings: PairRatings,
    of_models: Path | None,
    lines: Mapping[str, str],
    command: str,
    saved: list[Path],
) -> pd.DataFrame:
    """Compare the vectors of each model with people as `study` does, then write what all models show together.

    See `study_each`, also for what is resumed and what is left out.

    Args:
        plan: `plan_of_models`.
        of_models: the folder of a finished `reproduce --models`, for layers and heads; defaults without one.
        lines: folder -> the command line for that model alone.
        command: the command line, for the record.
    """
    models, seed = plan["models"], plan["seed"]

    def load(name: str) -> Loaded:
        vectors = None if of_models is None else vectors_of(of_models, models[name], name)
        model = loading.load_model(models[name], dtype=plan["dtype"])
        layer, heads = place(model, vectors)
        return Loaded(model, layer, heads, plan_of(model, relations, layer, heads, seed))

    one = OneModel(
        command="humans",
        load=load,
        claim=lambda loaded, part: part.claim(loaded.plan),
        study=lambda loaded, job: study(loaded.model, relations, ratings, loaded.layer, loaded.heads, job, seed),
        lines=lines,
        files=(BY_RELATION,),
    )
    folder.claim(plan)
    return study_each(folder.path, models, one, partial(write_together, folder.path, plan, command), saved)


def write_together(out: Path, plan: Mapping[str, Any], command: str, without: Mapping[str, str]) -> pd.DataFrame:
    """Write `results.csv`, `summary.json` and `report.html` of all models, from the files that each has left.

    Args:
        without: folder -> why the model has no results.

    Raises:
        InputError: no model has results, or files in a model's folder are damaged.
    """
    done = with_results(plan["models"], without)
    tables = {name: read_result(out / name / RESULTS, partial(read_table, columns=COLUMNS)) for name in done}
    parts = ["measure", "vectors", "relation", "what", "value"]
    by_relation = {name: read_result(out / name / BY_RELATION, partial(read_table, columns=parts)) for name in done}
    of_summary = partial(read_summary, keys=("human ceiling", "layer", "timings_s"))
    summaries = {name: read_result(out / name / SUMMARY, of_summary) for name in done}
    single = [table.assign(model=name, models=1) for name, table in tables.items()]
    together = pd.DataFrame(pooled(tables, by_relation), columns=["model", *COLUMNS, "models"])
    frame = pd.concat([*single, together], ignore_index=True)[["model", *COLUMNS, "models"]]
    gaps = {name: {EVERY_ROW: why} for name, why in without.items()} | gaps_of(tables)
    summary = {
        "command": command, **plan, "human ceiling": summaries[done[0]]["human ceiling"],
        "gaps": {name: gaps[name] for name in plan["models"] if gaps.get(name)},
        "by model": {name: _facts(summaries[name]) for name in done},
    }  # fmt: skip
    write_results(out, frame, summary, write_page_of_models)
    return frame


def pooled(tables: Mapping[str, pd.DataFrame], by_relation: Mapping[str, pd.DataFrame]) -> Iterator[tuple[Any, ...]]:
    """Every measure of several models together, over the models that have it: with an interval over relations, as for
    one model, and with one over the models; see `pooled_rho`.

    Args:
        tables: the table of each model.
        by_relation: of each model what the intervals are of.
    """
    keys = pd.concat([table[["measure", "vectors"]] for table in tables.values()]).drop_duplicates()
    for measure, vectors in keys.itertuples(index=False, name=None):
        own = [table[(table.measure == measure) & (table.vectors == vectors)] for table in tables.values()]
        parts = [part[(part.measure == measure) & (part.vectors == vectors)] for part in by_relation.values()]
        parts = [part for part, lines in zip(parts, own) if len(lines)]
        own = [lines.iloc[0] for lines in own if len(lines)]
        relations = parts[0].relation.tolist()
        values = np.array([part.set_index("relation").value.reindex(relations) for part in parts], dtype=float)
        means = np.array([line.value for line in own], dtype=float)
        what, n = parts[0].what.iloc[0], int(own[0].n)
        both = _both(what, measure, vectors, means, values, relations, n)
        for model, score in zip((POOLED, OVER_MODELS), both):
            yield model, measure, vectors, score.value, *score.ends, np.nan, score.n, len(own)


def _both(
    what: str, measure: str, vectors: str, means: np.ndarray, values: np.ndarray, relations: list[str], n: int
) -> tuple[Score, Score]:
    if what == OWN:
        return both_scores(values, relations, WITHIN)
    if " - " in vectors:
        return pooled_difference(means, values)
    return pooled_rho(means, values, n, comparisons_error if measure.startswith("pairs by ") else matrices_error)


def gaps_of(tables: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, str]]:
    """For each model the kinds of vectors that another has and it lacks, and why."""
    kinds = {name: dict.fromkeys(table.vectors) for name, table in tables.items()}
    every = dict.fromkeys(kind for own in kinds.values() for kind in own)
    return {name: {kind: NO_NUMBERS for kind in every if kind not in own} for name, own in kinds.items()}


def _facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of one model: its name and weights, where its vectors belong, seconds."""
    kept = {key: summary[key] for key in ("model", "weights, SHA-256", "layer")}
    return kept | {"seconds": round(sum(summary["timings_s"].values()))}
