"""The whole table: many relations, every vector and control, in stages that a later start resumes.

`reproduce` runs the `steps` of a study in a folder, and `files` writes their results there.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...engine.parity import measure_ahead
from ...engine.whatif import WhatIf, without_patches
from ...evaluation.rows import ROWS, TUNED, deal
from ...evaluation.table import Row, rows_of, without
from ...ground import storage
from ...ground.streams import Stream, generator
from ...vectors.lessons import best_layer
from ...vectors.sweeps import layer_grid
from ...vectors.tuning import DEPTHS
from ..job import Job
from ..stages import Stages, Step
from . import baselines, steps
from .files import STARTS, Found, table_of, vector_files, write_outputs
from .readings import readings
from .setup import TEST, Study
from .steps import Starts, unpacked, whole

Stage = Callable[[str, str, Callable[[], Step]], Step]


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
    # Where longer prompts need another form of rows, the form is not to depend on the stage that a start begins with.
    without_patches(measure_ahead)(study.lens, study.longest_prompts())

    def stage(name: str, what: str, compute: Callable[[], Step]) -> Step:
        tell(what)
        return stages.run(name, compute)

    maps = stage("heads", "Head maps", lambda: steps.heads(study))
    what = "Summed vectors, chosen on validation"
    sums = stage("sums", what, lambda: steps.sums(study, maps[0]))
    layer, losses, tuning = _tuned_vectors(study, stage, sums)
    few, _ = stage("curve", "Tuning on fewer pairs", lambda: steps.curve(study, layer))
    rows, shuffled, owners = _completed_rows(study, stage, sums, tuning, few["vectors"], layer)
    others, beside = _baselines(study, stage, tuning, owners)
    said = _readings(study, stage, sums, tuning, layer)
    found = Found(layer, losses, maps[1]["share_right"], sums, tuning, rows | others, shuffled, owners, said, beside)
    frame = table_of(study, found)
    write_outputs(study, folder.path, found, frame, plan, job.command, stages.timings)
    return frame


def _tuned_vectors(study: Study, stage: Stage, sums: Step) -> tuple[int, dict[int, float], dict[str, Step]]:
    """The layer of lowest validation loss from zero, the losses of all layers, and every kind of tuned vector."""
    results: dict[str, Step] = {}

    def run(name: str, what: str, at: int, starts: Starts = "zero", *, seed: int = 0, shuffle: bool = False) -> None:
        compute = lambda: steps.tuned(study, at, starts, seed=seed, shuffle=shuffle, description=what)  # noqa: E731
        results[name] = stage(f"tuned-{name}", f"Tuning: {what}", compute)

    grid = layer_grid(study.lens, DEPTHS)
    for at in grid:
        run(f"from-zero-{at}", f"from zero, layer {at}", at)
    layer, losses = best_layer({at: unpacked(results[f"from-zero-{at}"]) for at in grid})
    results["from-zero"] = results[f"from-zero-{layer}"]
    summed = whole(sums) if "vectors" in sums[0] else None
    if summed:
        run("from-fv", "from the summed vectors", layer, summed)
    run("from-random", "from random directions", layer, "random")
    run("shuffled", "on shuffled pairs", layer, shuffle=True)
    what = "Tuning: one vector for all"
    results["pooled"] = stage("tuned-pooled", what, lambda: steps.pooled(study, layer, what))
    for seed in range(1, study.settings.seeds):
        run(f"from-zero-seed-{seed}", f"from zero, deal {seed}", layer, seed=seed)
        if summed:
            run(f"from-fv-seed-{seed}", f"from the summed vectors, deal {seed}", layer, summed, seed=seed)
    return layer, losses, results


def _completed_rows(
    study: Study, stage: Stage, sums: Step, tuning: Mapping[str, Step], few: Tensor, layer: int
) -> tuple[dict[str, Row], dict[str, Row], np.ndarray]:
    """Every row of the table, name -> measure -> `[draw, word]`, and which relation each test word is of.

    In the middle, the rows with a vector again, in prompts whose demonstrations have shuffled answers; that prompt by
    itself comes first.
    """
    vectors = {name: tensors["vectors"] for name, (tensors, _) in tuning.items()}
    whatifs, missing = _rows(study, *sums, vectors, few, layer)
    what = "Test words, zero-shot with each vector"
    zero, record = stage("scores", what, lambda: steps.scores(study, whatifs))
    owners = zero["owners"].numpy()
    rows = rows_of(zero, record["rows"])
    rows |= {name: without(rows[name], owners, broken) for name, broken in missing.items()}
    again = {name: of_row for name, of_row in whatifs.items() if name in {row.name for row in ROWS}}
    shuffled: dict[str, Row] = {}
    for row, how in study.settings.prompting.items():
        beside = again if how.get("shuffled") else {}
        name = f"shots-{how['n_shots']}{'-shuffled' if beside else ''}"
        compute = lambda how=how, beside=beside: steps.prompting(study, **how, whatifs=beside)  # noqa: E731
        completed, places = stage(name, f"Test words, {row}{' with each vector' if beside else ''}", compute)
        rows |= rows_of(completed, {row: [0]})
        if beside:
            shuffled = rows_of(completed, {row: [0]} | places["rows"])
            shuffled |= {name: without(shuffled[name], owners, missing.get(name, [])) for name in beside}
    return rows, shuffled, owners


def _baselines(
    study: Study, stage: Stage, tuning: Mapping[str, Step], owners: np.ndarray
) -> tuple[dict[str, Row], dict[str, Any] | None]:
    """The rows of other methods, and what is said of them; nothing where the settings leave them out."""
    if not study.settings.baselines:
        return {}, None
    vectors, results = unpacked(tuning["from-zero"]), []
    for r, name in enumerate(study.names):
        what = f"Baselines, relation {r + 1} of {len(study)}: {name}"
        results.append(stage(f"baselines-{r}", what, partial(baselines.of_relation, study, r, vectors)))
    return baselines.together(study.names, results, owners)


def _readings(study: Study, stage: Stage, sums: Step, tuning: Mapping[str, Step], layer: int) -> dict[str, Any]:
    """What the vectors say, beside two controls: mean differences of residuals, and random directions."""
    what = "Mean residual differences"
    difference, _ = stage("difference", what, lambda: ({"vectors": steps.mean_difference(study, layer)}, {}))
    kinds = {"FV": (sums[0]["vectors"], sums[1]["layer"])} if "vectors" in sums[0] else {}
    kinds |= {STARTS[key]: (tuning[key][0]["vectors"], layer) for key in STARTS if key in tuning}
    random = _directions(study, _norms(tuning["from-zero"][0]["vectors"]), 1, Stream.READ)[0]
    kinds |= {"mean difference": (difference["vectors"], layer), "random": (random, layer)}
    return stage("readings", "Reading the vectors", lambda: ({}, readings(study, kinds)))[1]


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


def _rows(
    study: Study,
    sums: Mapping[str, Tensor],
    record: Mapping[str, Any],
    vectors: Mapping[str, Tensor],
    few: Tensor,
    layer: int,
) -> tuple[dict[str, list[WhatIf]], dict[str, list[int]]]:
    """Every row that is asked zero-shot with a vector: name -> what-ifs, one per draw.

    Also name -> indices of the relations without a vector in that row: theirs broke, or another's that it needs, or
    there is no other relation.
    """
    rows: dict[str, list[WhatIf]] = {}
    missing: dict[str, list[int]] = {}

    def add(name: str, *draws: Tensor, where: int = layer) -> None:
        rows[name] = [[study.edit(drawn, TEST, where)] for drawn in draws]
        missing[name] = torch.stack(draws).isnan().any(2).any(0).nonzero()[:, 0].tolist()

    if "vectors" in sums:
        at = record["layer"]
        add("FV, strength 1", sums["plain"], where=at)
        add("FV", sums["vectors"], where=at)
        add("FV of own heads", sums["own"], where=at)
        if "random" in sums:
            add("FV of random heads", *sums["random"], where=at)
    if "distributed" in sums:
        parts = zip(sums["distributed"], record["distributed_places"])
        rows["distributed FV"] = [[study.edit(part, TEST, at, site=site) for part, (at, site) in parts]]
    for key, name in TUNED.items():
        if key in vectors:
            add(name, vectors[key])
    zero, draws = vectors["from-zero"], study.settings.draws
    add("mean of FFVs", _means_of_others(study, zero))
    add("pooled FFV", vectors["pooled"].expand(len(study), -1))
    alone = [torch.full_like(zero, torch.nan)]
    rivals = [zero[torch.from_numpy(indices)] for indices in study.rivals(draws)] if len(study) > 1 else alone
    add("another relation's FFV", *rivals)
    add("random vector", *_directions(study, zero.norm(dim=1), draws, Stream.RANDOM_VECTORS))
    for n, indices in zip(study.settings.curve, few):
        add(f"{n} pairs", indices)
    for seed in range(1, study.settings.seeds):
        for key in ("from-zero", "from-fv"):
            if (dealt := f"{key}-seed-{seed}") in vectors:
                add(deal(TUNED[key], seed), vectors[dealt])
    return rows, missing


def _means_of_others(study: Study, vectors: Tensor) -> Tensor:
    """For each relation the mean over the whole vectors of its others; NaN where they are fewer than two."""
    means, whole = torch.full_like(vectors, torch.nan), ~vectors.isnan().any(1)
    for r in range(len(study)):
        if len(others := [q for q in study.others(r) if whole[q]]) > 1:
            means[r] = vectors[others].mean(0)
    return means


def _norms(vectors: Tensor) -> Tensor:
    return vectors.norm(dim=1).nan_to_num(1.0)


def _directions(study: Study, norms: Tensor, draws: int, stream: Stream) -> Tensor:
    """Random vectors of given norms, `[draw, relation, d_model]`."""
    rng = generator(study.settings.split_seed, stream)
    noise = torch.from_numpy(rng.standard_normal((draws, len(study), study.lens.d_model))).float()
    return norms[None, :, None] * noise / noise.norm(dim=2, keepdim=True)
