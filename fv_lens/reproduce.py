"""The whole table: forty relations, every vector and control, in stages that a later start goes on with.

`reproduce` runs a study (see `study`, `protocol`) in a folder and leaves there `results.csv`, `summary.json`,
`vectors/` and `report.html`.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import protocol, results, storage
from .readings import add_readings, readings
from .results import Table, rows_of, without
from .stages import Stages
from .study import TEST, Study
from .table_report import write_table_report
from .tuning import layer_grid

RESULTS, SUMMARY, REPORT, VECTORS = "results.csv", "summary.json", "report.html", "vectors"
STARTS = {"from-fv": "FFV from FV", "from-zero": "FFV from zero"}


def reproduce(
    study: Study, out: Path, facts: Mapping, command: str, tell: Callable[[str], None], progress: bool = True
) -> pd.DataFrame:
    """Run the stages of a study that are not yet in `out`, and write the results; returns the table.

    Args:
        facts: what else the summary says, such as the weights' hash; part of the plan that a later start must share.
        tell: called with a line before each stage.

    Raises:
        InputError: `out` holds a run of another plan, or cannot be written to.
    """
    plan = _plan(study, facts)
    stages = Stages(out / "stages", plan)

    def stage(name: str, what: str, compute: Callable) -> tuple[dict[str, Tensor], dict]:
        tell(what)
        return stages.run(name, compute)

    settings = study.settings
    maps, maps_record = stage("heads", "Head maps", lambda: protocol.heads(study, progress))
    what = "Summed vectors, chosen on validation"
    sums, sums_record = stage("sums", what, lambda: protocol.sums(study, maps, progress))
    vectors, tuning = {}, {}

    def tuned(name: str, what: str, *args: object, **how: object) -> None:
        compute = lambda: protocol.tuned(study, *args, progress=progress, description=what, **how)  # noqa: E731
        tuning[name] = stage(f"tuned-{name}", f"Tuning: {what}", compute)
        vectors[name] = tuning[name][0]["vectors"]

    for layer in layer_grid(study.lens):
        tuned(f"from-zero-{layer}", f"from zero, layer {layer}", layer)
    losses = {layer: _best_loss(*tuning[f"from-zero-{layer}"]) for layer in layer_grid(study.lens)}
    layer = min(losses, key=lambda at: losses[at])
    vectors["from-zero"], tuning["from-zero"] = vectors[f"from-zero-{layer}"], tuning[f"from-zero-{layer}"]
    strong = sums.get("strong")
    if strong is not None:
        tuned("from-fv", "from the summed vectors", layer, strong)
    norms = (vectors["from-zero"] if strong is None else strong).norm(dim=1).nan_to_num(1.0)
    tuned("from-random", "from random vectors of the same norm", layer, _directions(study, norms, 1)[0])
    tuned("shuffled", "on shuffled pairs", layer, shuffle=True)
    tuned("pooled", "one vector for all", layer, pooled=True)
    for seed in range(1, settings.seeds):
        tuned(f"from-zero-seed-{seed}", f"from zero, deal {seed}", layer, seed=seed)
        if strong is not None:
            tuned(f"from-fv-seed-{seed}", f"from the summed vectors, deal {seed}", layer, strong, seed=seed)
    few, few_record = stage("curve", "Tuning on fewer pairs", lambda: protocol.curve(study, layer, progress))

    whatifs, missing = _rows(study, sums, sums_record, vectors, few["vectors"], layer)
    zero, zero_record = stage(
        "scores", "Test words, zero-shot with each vector", lambda: protocol.scores(study, whatifs, progress)
    )
    owners = zero["owners"].numpy()
    rows = rows_of(zero, zero_record["rows"])
    rows |= {name: without(rows[name], owners, broken) for name, broken in missing.items()}
    n_shots, n_pairs = settings.n_shots, settings.n_pairs
    n_all = n_pairs + settings.n_validation
    shots = {f"{n_shots}-shot": (n_shots, {}), f"{n_shots}-shot, shuffled": (n_shots, {"shuffled": True})}
    shots |= {f"{n_pairs}-shot": (n_pairs, {}), f"{n_all}-shot": (n_all, {"validation": True})}
    for row, (n, how) in shots.items():
        prompted, _ = stage(
            f"shots-{n}{'-shuffled' if how.get('shuffled') else ''}", f"Test words, {row}",
            lambda n=n, how=how: protocol.prompting(study, n, progress, **how),
        )  # fmt: skip
        rows |= rows_of(prompted, {row: [0]})
    difference, _ = stage(
        "difference", "Mean residual differences", lambda: ({"vectors": protocol.mean_difference(study, layer)}, {})
    )
    kinds = {"FV": (strong, sums_record.get("layer"))} if strong is not None else {}
    kinds |= {STARTS[key]: (vectors[key], layer) for key in STARTS if key in vectors}
    kinds["mean difference"] = (difference["vectors"], layer)
    kinds["random"] = (_directions(study, vectors["from-zero"].norm(dim=1).nan_to_num(1.0), 1, stream=22)[0], layer)
    _, said = stage("readings", "Reading the vectors", lambda: ({}, readings(study, kinds)))

    table = Table(study.names, [relation.category or "other" for relation in study.relations], study.families)
    curve = {f"{n} pairs": rows.pop(f"{n} pairs") for n in settings.curve}
    seeds = {row: rows.pop(row) for row in [row for row in rows if ", deal " in row]}
    values = table.scores(rows, owners)
    table.differences(values, n_shots, n_pairs, n_all)
    table.scores(curve | {f"{n_pairs} pairs": rows["FFV from zero"]}, owners, "curve")
    _stability(table, vectors, settings.seeds)
    table.scores(seeds, owners, "stability")
    add_readings(table, said)
    frame = table.frame()
    with storage.written_whole(out / RESULTS) as partial:
        results.write_csv(frame, partial)
    library = "from-fv" if "from-fv" in vectors and _best_loss(*tuning["from-fv"]) < losses[layer] else "from-zero"
    chosen = {
        "layer": layer, "vectors": STARTS[library],
        "validation losses of the layers": {at: x if np.isfinite(x) else None for at, x in losses.items()},
        "summed vectors": {key: sums_record[key] for key in ("heads", "layer", "no_sums") if key in sums_record},
        "distributed": {k: sums_record[k] for k in ("distributed_heads", "no_distributed") if k in sums_record},
    }  # fmt: skip
    summary = {
        "command": command, **plan, "chosen": chosen, "left_out": study.left_out,
        "broken": {name: record["broken"] for name, (_, record) in tuning.items() if record["broken"]},
        "share_right": dict(zip(study.names, maps_record["share_right"])), "readings": said["halves"],
        "sign_tests": said["tests"], "timings_s": stages.timings,
    }  # fmt: skip
    with storage.written_whole(out / SUMMARY) as partial:
        partial.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _save_vectors(study, out / VECTORS, sums, sums_record, tuning, library, layer)
    write_table_report(
        out / REPORT, frame, {r.name: r.category or "other" for r in study.relations},
        title=f"{len(study)} relations in {study.lens.name}", summary=_shown(study, plan, chosen, stages),
        training={name: _training(*tuning[library], r) for r, name in enumerate(study.names)},
        decoding=pd.DataFrame(said["words"]), command=command,
    )  # fmt: skip
    return frame


NAMES = {
    "from-zero": "FFV from zero", "from-fv": "FFV from FV", "from-random": "FFV from random",
    "shuffled": "FFV of shuffled pairs",
}  # fmt: skip


def _plan(study: Study, facts: Mapping) -> dict:
    lens = study.lens
    return {
        "model": lens.name, "processing": lens.processing, "bos": lens.bos, "dtype": str(lens.dtype),
        "device": lens.device.type, "template": study.template.to_dict(), "settings": study.settings.to_dict(),
        "relations": {relation.name: relation.hash for relation in study.relations},
        "names and kin": {r.name: [r.category, r.family, *r.names] for r in study.relations},
        "threads": torch.get_num_threads(), "versions": storage.versions(), **facts,
    }  # fmt: skip


def _rows(study: Study, sums: Mapping, record: Mapping, vectors: Mapping, few: Tensor, layer: int) -> tuple[dict, dict]:
    """Every row that is asked zero-shot with a vector: name -> what-ifs, one per draw.

    Also name -> numbers of the relations that have no vector there: it broke, or that of another relation did.
    """
    rows, missing = {}, {}

    def add(name: str, *draws: Tensor, where: int = layer) -> None:
        rows[name] = [[study.edit(drawn, TEST, where)] for drawn in draws]
        missing[name] = torch.stack(draws).isnan().any(2).any(0).nonzero()[:, 0].tolist()

    if "strong" in sums:
        at = record["layer"]
        add("FV, strength 1", sums["plain"], where=at)
        add("FV", sums["strong"], where=at)
        add("FV of own heads", sums["own"], where=at)
        add("FV of random heads", *sums["random"], where=at)
    if "distributed" in sums:
        parts = zip(sums["distributed"], record["distributed_places"])
        rows["distributed FV"] = [[study.edit(part, TEST, at, site=site) for part, (at, site) in parts]]
    for key, name in NAMES.items():
        if key in vectors:
            add(name, vectors[key])
    zero, draws = vectors["from-zero"], study.settings.draws
    add("mean of FFVs", _means_of_others(study, zero))
    add("pooled FFV", vectors["pooled"].expand(len(study), -1))
    add("another relation's FFV", *(zero[torch.from_numpy(others)] for others in study.rivals(draws)))
    add("random vector", *_directions(study, zero.norm(dim=1), draws, stream=23))
    for n, some in zip(study.settings.curve, few):
        add(f"{n} pairs", some)
    for key in vectors:
        if found := re.fullmatch(r"(from-\w+)-seed-(\d+)", key):
            add(f"{STARTS[found[1]]}, deal {found[2]}", vectors[key])
    return rows, missing


def _means_of_others(study: Study, vectors: Tensor) -> Tensor:
    """For each relation, the mean vector over the other families (with one family alone, over all)."""
    means = []
    for family in study.families:
        others = [q for q, of in enumerate(study.families) if of != family] or list(range(len(study)))
        means.append(vectors[others].nanmean(0))
    return torch.stack(means)


def _directions(study: Study, norms: Tensor, draws: int, stream: int = 21) -> Tensor:
    """Random vectors of given norms, `[draw, relation, d_model]`."""
    rng = np.random.default_rng([study.settings.split_seed, stream])
    drawn = torch.from_numpy(rng.standard_normal((draws, len(study), study.lens.d_model))).float()
    return norms[None, :, None] * drawn / drawn.norm(dim=2, keepdim=True)


def _best_loss(tensors: Mapping[str, Tensor], record: Mapping) -> float:
    """Mean validation loss at the chosen step, over the relations that have a vector."""
    whole = (~tensors["vectors"].isnan().any(1)).nonzero()[:, 0].tolist()
    losses = [float(tensors["validation_losses"][r, record["steps"][r]]) for r in whole]
    return round(float(np.mean(losses)), 6) if losses else np.inf


def _stability(table: Table, vectors: Mapping[str, Tensor], seeds: int) -> None:
    for key, row in STARTS.items():
        others = [vectors[f"{key}-seed-{seed}"] for seed in range(1, seeds) if f"{key}-seed-{seed}" in vectors]
        for centred in (False, True):
            if others:
                found = np.mean([results.cosines(vectors[key], other, centred) for other in others], axis=0)
                table.groups("stability", row, f"cosine over deals of pairs{', centred' * centred}", found)
    if "from-fv" in vectors:
        for centred in (False, True):
            found = results.cosines(vectors["from-zero"], vectors["from-fv"], centred)
            table.groups("stability", "FFV from zero and from FV", f"cosine of the two{', centred' * centred}", found)


def _training(tensors: Mapping[str, Tensor], record: Mapping, r: int) -> pd.DataFrame:
    losses, validation = tensors["losses"][r].tolist(), tensors["validation_losses"][r].tolist()
    steps = range(len(validation))
    columns = {"step": steps, "loss": [*losses, np.nan], "validation_loss": validation}
    return pd.DataFrame(columns | {"chosen": [step == record["steps"][r] for step in steps]})


def _save_vectors(study: Study, folder: Path, sums, sums_record, tuning, library: str, layer: int) -> None:
    """The library as NAME.safetensors, and every kind in a folder of its own."""
    kinds = {key: tuning[key] for key in STARTS if key in tuning}
    for key in [*kinds, *(["summed"] if "strong" in sums else [])]:
        (folder / key).mkdir(parents=True, exist_ok=True)
    for r, relation in enumerate(study.relations):
        file = re.sub(r"[^\w.-]+", "-", relation.name) + ".safetensors"
        if "strong" in sums:
            how = {"heads": [tuple(head) for head in sums_record["heads"]], "strength": sums_record["strengths"][r]}
            study.vector(relation, sums["strong"][r], sums_record["layer"], "sum", **how).save(folder / "summed" / file)
        for key, (tensors, record) in kinds.items():
            if record["steps"][r] is None or tensors["vectors"][r].isnan().any():
                continue
            train, validation = study.pairs(relation)
            training = _training(tensors, record, r)
            told = {
                "n_pairs": len(train), "n_validation": len(validation), "chosen_step": record["steps"][r],
                "validation_loss": round(float(training.validation_loss[record["steps"][r]]), 6),
                "losses": [round(x, 6) for x in training.loss[:-1].tolist()],
                "validation_losses": [[i, round(x, 6)] for i, x in enumerate(training.validation_loss) if x == x],
                "train_words": list(train.words), "validation_words": list(validation.words),
            }  # fmt: skip
            vector = study.vector(relation, tensors["vectors"][r], layer, "tuned", training=told)
            vector.save(folder / key / file)
            if key == library:
                vector.save(folder / file)


def _shown(study: Study, plan: Mapping, chosen: Mapping, stages: Stages) -> dict:
    """The facts of the page."""
    heads = chosen["summed vectors"].get("heads", [])
    return {
        "model": plan["model"], **{k: plan[k] for k in ("weights, SHA-256",) if k in plan}, "dtype": plan["dtype"],
        "layer of the tuned vectors": chosen["layer"],
        "validation losses of the layers": chosen["validation losses of the layers"],
        "layer of the summed vectors": chosen["summed vectors"].get("layer", "none"),
        "heads": " ".join(f"L{layer}H{head}" for layer, head in heads), "settings": plan["settings"],
        "left out": study.left_out or "none", "versions": plan["versions"],
        "timings, s": stages.timings,
    }  # fmt: skip
