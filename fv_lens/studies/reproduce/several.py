"""One study on several models: a folder for each, and a table, a summary and a page of all."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ...datasets.relations import Relation
from ...evaluation.pooled import Kin, side_by_side
from ...evaluation.rows import ROWS, TUNED
from ...evaluation.table import COLUMNS
from ...ground import storage
from ..folders import OutputFolder
from ..results import RESULTS, SUMMARY, read_result, read_summary, read_table, write_results
from ..several import EVERY_ROW, NO_NUMBERS, OneModel, study_each, with_results
from .files import vector_files
from .outline import Settings
from .setup import Study
from .several_page import write_page_of_models
from .study import plan_of, reproduce


def plan_of_models(
    folders: Mapping[str, str], relations: Sequence[Relation], settings: Settings, dtype: str
) -> dict[str, Any]:
    """What the folder of all models is marked with; the folder of each has a plan of its own, with the weights."""
    return {
        "models": dict(folders), "dtype": dtype, "settings": settings.to_dict(),
        "relations": {relation.name: relation.hash for relation in relations},
        "names and kin": {r.name: [r.category, r.family, *r.names] for r in relations},
        "versions": storage.versions(),
    }  # fmt: skip


def study_models(
    folder: OutputFolder,
    plan: Mapping[str, Any],
    load: Callable[[str], tuple[Study, dict[str, Any]]],
    lines: Mapping[str, str],
    command: str,
    saved: list[Path],
) -> pd.DataFrame:
    """Run the study on each model in a folder of its own, one after the other, then write what they show together.

    See `study_each`, also for what is resumed and what is left out.

    Args:
        plan: `plan_of_models`.
        load: the study of a model, and facts for its summary.
        lines: folder -> the command line for that model alone.
        command: the command line, for the record.
    """
    folder.claim(plan)
    one = OneModel(
        command="reproduce",
        load=lambda name: load(plan["models"][name]),
        claim=lambda loaded, part: part.claim(plan_of(*loaded), {"vectors": vector_files(loaded[0].names)}),
        study=lambda loaded, job: reproduce(loaded[0], job, loaded[1]),
        lines=lines,
    )
    return study_each(
        folder.path, plan["models"], one, lambda without: write_together(folder.path, plan, without, command), saved
    )


def write_together(out: Path, plan: Mapping[str, Any], without: Mapping[str, str], command: str) -> pd.DataFrame:
    """Write `results.csv`, `summary.json` and `report.html` of all models, from the files that each has left.

    Args:
        plan: `plan_of_models`.
        without: folder -> why the model has no results.

    Raises:
        InputError: no model has results, or files in a model's folder are damaged.
    """
    done = with_results(plan["models"], without)
    tables = {folder: read_result(out / folder / RESULTS, partial(read_table, columns=COLUMNS)) for folder in done}
    of_summary = partial(read_summary, keys=("chosen", "timings_s", "model"))
    summaries = {folder: read_result(out / folder / SUMMARY, of_summary) for folder in done}
    kin = {
        name: Kin(category or "other", family or name) for name, (category, family, *_) in plan["names and kin"].items()
    }
    frame = side_by_side(tables, kin)
    gaps = {name: {EVERY_ROW: why} for name, why in without.items()} | gaps_of(tables, summaries)
    summary = {
        "command": command, **plan, "gaps": {name: gaps[name] for name in plan["models"] if gaps.get(name)},
        "by model": {name: _facts(summaries[name]) for name in done},
    }  # fmt: skip
    write_results(out, frame, summary, write_page_of_models)
    return frame


def gaps_of(
    tables: Mapping[str, pd.DataFrame], summaries: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, str]]:
    """For each model the rows that it lacks, and why: those that another has, and sums that mean nothing on it."""
    rows = {name: dict.fromkeys(table.row[table.part == "score"]) for name, table in tables.items()}
    reasons = {name: _reasons(summary) for name, summary in summaries.items()}
    every = list(dict.fromkeys(row for of in rows.values() for row in of))
    return {
        name: {
            row: reasons[name].get(row, NO_NUMBERS) for row in dict.fromkeys([*every, *reasons[name]]) if row not in of
        }
        for name, of in rows.items()
    }


def _reasons(summary: Mapping[str, Any]) -> dict[str, str]:
    """Row -> why there is none, or none for some relations, as a study has recorded it."""
    chosen = summary["chosen"]
    no_sums = chosen["summed vectors"].get("no_sums")
    no_parts = chosen["distributed"].get("no_distributed")
    of_sums = [row.name for row in ROWS if row.place == "summed"] + [TUNED["from-fv"]]
    of_parts = [row.name for row in ROWS if row.place == "heads"]
    of_baselines = summary.get("baselines", {}).get("gaps", {})  # row -> relation -> why
    return {row: why for why, named in ((no_sums, of_sums), (no_parts, of_parts)) if why for row in named} | {
        row: "; ".join(dict.fromkeys(whys.values())) for row, whys in of_baselines.items()
    }


def _facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of one model: its name and weights, what was chosen on it, what was left out, seconds."""
    kept = {key: summary[key] for key in ("model", "weights, SHA-256", "left_out", "broken") if key in summary}
    chosen = summary["chosen"]
    kept |= {"layer": chosen["layer"], "layer of the summed vectors": chosen["summed vectors"].get("layer")}
    return kept | {"seconds": round(sum(summary["timings_s"].values()))}
