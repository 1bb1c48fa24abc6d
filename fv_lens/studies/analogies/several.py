"""The same analogies answered by several models: a folder for each, and a table, a summary and a page of all."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ...analogies.by_question import pooled, read_by_question
from ...analogies.differences import COLUMNS
from ...analogies.scores import SUMMED, Row
from ...datasets.published import Published
from ...datasets.questions import Question, digest
from ...ground import storage
from ...models import load as loading
from ...models.lens import Model
from ..folders import OutputFolder
from ..names import DtypeName
from ..results import RESULTS, SUMMARY, read_result, read_summary, read_table, write_results
from ..several import EVERY_ROW, NO_NUMBERS, OneModel, model_folder, study_each, vectors_of, with_results
from .files import BY_QUESTION
from .library import Vectors, load_libraries
from .several_page import write_page_of_models
from .study import Asked, claim, of_sets, plan_of, solve_all

TABLE = (*COLUMNS, "part", "group")
NO_SUMS = "there are no summed vectors for it"


class Loaded(NamedTuple):
    """A model with its library, the plan of its study, and the folder of an earlier one with its composites."""

    model: Model
    vectors: Vectors | None
    summed: Vectors | None
    plan: dict[str, Any]
    composites: Path | None


def plan_of_models(
    models: Mapping[str, str], dtype: DtypeName, asked: Asked, choices: bool, seed: int, sets: Sequence[Published] = ()
) -> dict[str, Any]:
    """What the folder of all models is marked with; that of each has a plan of its own, with weights and vectors."""
    return {
        "models": dict(models), "dtype": dtype, "seed": seed, "choices": choices,
        "questions, SHA-256": digest([[repr(question) for question in part] for part in asked]),
        "versions": storage.versions(), **of_sets(sets),
    }  # fmt: skip


def solve_all_by_models(
    folder: OutputFolder,
    plan: Mapping[str, Any],
    asked: Asked,
    studies: Sequence[Path],
    lines: Mapping[str, str],
    command: str,
    saved: list[Path],
    sets: Sequence[Published] = (),
    composites: Path | None = None,
) -> pd.DataFrame:
    """Answer the questions by each model as `solve_all` does, then write what all show together.

    See `study_each`, also for what is resumed and what is left out.

    Args:
        plan: `plan_of_models`.
        studies: folders of finished `reproduce --models`, with the vectors of each model; none to tune them.
        lines: folder -> the command line for that model alone.
        command: the command line, for the record.
        sets: whose relations the tuned libraries have as well.
        composites: the folder of an earlier study of these models, as in `solve_all`.
    """
    models, seed = plan["models"], plan["seed"]

    def load(name: str) -> Loaded:
        folders = [vectors_of(study, models[name], name) for study in studies]
        model = loading.load_model(models[name], dtype=plan["dtype"])
        vectors, summed = load_libraries(folders, model) if folders else (None, None)
        earlier = None if composites is None else model_folder(composites, models[name], name)
        return Loaded(model, vectors, summed, plan_of(model, vectors, asked, summed, seed, sets), earlier)

    one = OneModel(
        command="analogies",
        load=load,
        claim=lambda loaded, part: claim(part, loaded.plan, sets),
        study=lambda loaded, job: solve_all(
            loaded.model, loaded.vectors, asked, job, loaded.summed, plan["choices"], seed, sets, loaded.composites
        ),
        lines=lines,
        files=(BY_QUESTION,),
    )
    folder.claim(plan)
    together = partial(write_together, folder.path, plan, asked.test, command)
    return study_each(folder.path, models, one, together, saved)


def write_together(
    out: Path, plan: Mapping[str, Any], test: Sequence[Question], command: str, without: Mapping[str, str]
) -> pd.DataFrame:
    """Write `results.csv`, `summary.json` and `report.html` of all models, from the files that each has left.

    Args:
        without: folder -> why the model has no results.

    Raises:
        InputError: no model has results, or files in a model's folder are damaged.
    """
    done = with_results(plan["models"], without)
    answers = {name: read_result(out / name / BY_QUESTION, partial(read_by_question, n_asked=len(test)))
               for name in done}  # fmt: skip
    tables = {name: read_result(out / name / RESULTS, partial(read_table, columns=TABLE)) for name in done}
    of_summary = partial(read_summary, keys=("chance", "vectors", "timings_s", "layer"))
    summaries = {name: read_result(out / name / SUMMARY, of_summary) for name in done}
    columns = ["model", *TABLE, "models"]
    parts = [*(table.assign(model=name, models=1) for name, table in tables.items()), pooled(answers.values(), test)]
    frame = pd.concat([part[columns] for part in parts], ignore_index=True)
    gaps = {name: {EVERY_ROW: why} for name, why in without.items()} | gaps_of(tables)
    summary = {
        "command": command, **plan, "chance": summaries[done[0]]["chance"],
        "gaps": {name: gaps[name] for name in plan["models"] if gaps.get(name)},
        "by model": {name: _facts(summaries[name]) for name in done},
    }  # fmt: skip
    write_results(out, frame, summary, write_page_of_models)
    return frame


def gaps_of(tables: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, str]]:
    """For each model the rows that another has and it lacks, and why."""
    rows = {
        name: {Row(*row): None for row in table.loc[table.part == "score", ["method", "library", "prompt"]].to_numpy()}
        for name, table in tables.items()
    }
    every = dict.fromkeys(row for own in rows.values() for row in own)
    return {
        name: {str(row): NO_SUMS if row.method == SUMMED else NO_NUMBERS for row in every if row not in own}
        for name, own in rows.items()
    }


def _facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of one model: its name and weights, its library, questions and seconds."""
    kept = {key: summary[key] for key in ("model", "weights, SHA-256", "layer", "questions")}
    return kept | {"vectors": len(summary["vectors"]), "seconds": round(sum(summary["timings_s"].values()))}
