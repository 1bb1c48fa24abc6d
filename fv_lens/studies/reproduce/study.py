"""The whole table: many relations, every vector and control, in stages that a later start resumes.

`reproduce` computes the `units` of a study in a folder, and `finish` writes their results there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...engine.parity import measure_ahead
from ...engine.whatif import without_patches
from ...evaluation.rows import ROWS
from ...evaluation.table import Row, rows_of, without
from ...ground import storage
from ..job import Job
from ..jobs.graph import Graph
from ..jobs.unit import Kept, in_order
from ..stages import Stages
from . import baselines
from .files import Found, table_of, vector_files, write_outputs
from .outline import Outline
from .setup import Study
from .units import layer_of, rows_with_vectors, shots_name, tuned_vectors, units_of


def reproduce(
    study: Study,
    job: Job,
    facts: Mapping[str, Any],
) -> pd.DataFrame:
    """Run the stages of a study that are not yet in its folder, and write the results; returns the table.

    It gets `results.csv`, `summary.json`, `vectors/`, `report.html`, and `stages/`, where a later start goes on.

    Args:
        facts: what else the summary says, such as the weights' hash; part of the plan that a later start must share.

    Raises:
        InputError: the folder is of another plan or holds a stage of another, or cannot be written to.
    """
    plan, folder, tell = plan_of(study, facts), job.folder, job.tell
    folder.claim(plan, {"vectors": vector_files(study.names)})
    stages = Stages(folder.path / "stages", plan)
    if n := len(stages.finished):
        tell(f"{n} stage{'s were' if n > 1 else ' was'} there already")
    units = units_of(study)
    if Graph(units, stages).left():
        prepare(study)
    in_order(units, study, stages, tell)
    return finish(study, folder.path, plan, job.command, stages)


def prepare(study: Study) -> None:
    """Choose the forms of rows by the longest prompts, so that they do not depend on the unit that comes first."""
    without_patches(measure_ahead)(study.lens, study.longest_prompts())


def finish(study: Outline, out: Path, plan: Mapping[str, Any], command: str, stages: Stages) -> pd.DataFrame:
    """Write the results of a study whose units are all on disk; returns the table. No model is needed."""
    kept = Kept(stages)
    names = [unit.name for unit in units_of(study) if unit.name in kept]
    for name in names:
        kept[name]  # which tells how long it took
    found = found_in(study, kept)
    frame = table_of(study, found)
    # Of a stage whose process was killed before it could write it down, the time is not known.
    timings = {name: stages.timings[name] for name in names if name in stages.timings}
    write_outputs(study, out, found, frame, plan, command, timings)
    stages.tidy()
    return frame


def found_in(study: Outline, kept: Kept) -> Found:
    """What the units of a study found."""
    (layer, losses), tuning = layer_of(study, kept), tuned_vectors(study, kept)
    zero, record = kept["scores"]
    owners, missing = zero["owners"].numpy(), rows_with_vectors(study, kept).missing
    rows = rows_of(zero, record["rows"])
    rows |= {name: without(rows[name], owners, broken) for name, broken in missing.items()}
    shuffled: dict[str, Row] = {}
    for row, how in study.settings.prompting.items():
        completed, places = kept[shots_name(how)]
        rows |= rows_of(completed, {row: [0]})
        if how.get("shuffled"):
            shuffled = rows_of(completed, {row: [0]} | places["rows"])
            shuffled |= {name: without(shuffled[name], owners, missing.get(name, [])) for name in places["rows"]}
    others, beside = _baselines(study, kept, owners)
    share_right = kept["heads"][1]["share_right"]
    said = kept["readings"][1]
    return Found(layer, losses, share_right, kept["sums"], tuning, rows | others, shuffled, owners, said, beside)


def _baselines(study: Outline, kept: Kept, owners: np.ndarray) -> tuple[dict[str, Row], dict[str, Any] | None]:
    """The rows of other methods, and what is said of them; nothing where the settings leave them out."""
    if not study.settings.baselines:
        return {}, None
    return baselines.together(study.names, [kept[f"baselines-{r}"] for r in range(len(study))], owners)


def plan_of(study: Study, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder of the study is marked with: model, relations, settings, versions."""
    lens = study.lens
    return {
        "model": lens.name, "processing": lens.processing, "bos": lens.bos, "dtype": str(lens.dtype),
        "device": lens.device.type, "template": study.template.to_dict(), "settings": study.settings.to_dict(),
        "relations": {relation.name: relation.hash for relation in study.relations},
        "names and kin": {r.name: [r.category, r.family, *r.names] for r in study.relations},
        "rows": [row.name for row in ROWS],
        "threads": torch.get_num_threads(), "versions": storage.versions(), **facts,
    }  # fmt: skip
