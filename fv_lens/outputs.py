"""What a study leaves in its folder: the table, the summary, the vectors and the page."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from . import results, storage
from .protocol import Step
from .readings import add_readings
from .results import Table
from .study import Study
from .table_report import write_table_report

RESULTS, SUMMARY, REPORT, VECTORS = "results.csv", "summary.json", "report.html", "vectors"
STARTS = {"from-fv": "FFV from FV", "from-zero": "FFV from zero"}


@dataclass(frozen=True, eq=False)
class Found:
    """What the stages of a study found.

    Args:
        layer, losses: of the tuned vectors, and the mean validation loss at each layer that was tried.
        share_right: for each relation, of the intact prompts behind its head map, the share answered right.
        sums, tuning: tensors and record of the summed vectors, and of each kind of tuned ones.
        rows, owners: row -> measure -> `[draw, word]`, and which relation each word is of, `[word]`.
        said: what `readings` found.
    """

    layer: int
    losses: Mapping[int, float]
    share_right: list[float]
    sums: Step
    tuning: Mapping[str, Step]
    rows: Mapping
    owners: np.ndarray
    said: Mapping

    @property
    def library(self) -> str:
        """The kind of tuned vectors whose mean validation loss is lower: those to use."""
        from_fv = self.tuning.get("from-fv")
        better = from_fv is not None and mean_validation_loss(from_fv) < self.losses[self.layer]
        return "from-fv" if better else "from-zero"


def table_of(study: Study, found: Found) -> pd.DataFrame:
    """Every number of the study as a tidy frame, see `results`."""
    settings, rows = study.settings, dict(found.rows)
    table = Table(study.names, [relation.category or "other" for relation in study.relations], study.families)
    curve = {f"{n} pairs": rows.pop(f"{n} pairs") for n in settings.curve}
    deals = {row: rows.pop(row) for row in list(rows) if ", deal " in row}
    values = table.scores(rows, found.owners)
    table.differences(values, *settings.shots)
    table.scores(curve | {f"{settings.n_pairs} pairs": rows["FFV from zero"]}, found.owners, "curve")
    _stability(table, {name: tensors["vectors"] for name, (tensors, _) in found.tuning.items()}, settings.seeds)
    table.scores(deals, found.owners, "stability")
    add_readings(table, found.said)
    return table.frame()


def write_outputs(
    study: Study, out: Path, found: Found, frame: pd.DataFrame, plan: Mapping, command: str, timings: Mapping
) -> None:
    """Write `results.csv`, `summary.json`, `vectors/` and `report.html`, each whole or not at all."""
    with storage.written_whole(out / RESULTS) as partial:
        results.write_csv(frame, partial)
    chosen = _chosen(found)
    summary = {
        "command": command, **plan, "chosen": chosen, "left_out": study.left_out,
        "broken": {name: record["broken"] for name, (_, record) in found.tuning.items() if record["broken"]},
        "share_right": dict(zip(study.names, found.share_right)), "readings": found.said["halves"],
        "sign_tests": found.said["tests"], "timings_s": timings,
    }  # fmt: skip
    with storage.written_whole(out / SUMMARY) as partial:
        partial.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _save_vectors(study, out / VECTORS, found)
    write_table_report(
        out / REPORT, frame, {r.name: r.category or "other" for r in study.relations},
        title=f"{len(study)} relations in {study.lens.name}", summary=_shown(study, plan, chosen, timings),
        training={name: _training(found.tuning[found.library], r) for r, name in enumerate(study.names)},
        decoding=pd.DataFrame(found.said["words"]), command=command,
    )  # fmt: skip


def mean_validation_loss(tuned: Step) -> float:
    """Mean validation loss at the chosen step, over the relations that have a vector; infinite if none has."""
    tensors, record = tuned
    whole = (~tensors["vectors"].isnan().any(1)).nonzero()[:, 0].tolist()
    losses = [float(tensors["validation_losses"][r, record["steps"][r]]) for r in whole]
    return round(float(np.mean(losses)), 6) if losses else np.inf


def _chosen(found: Found) -> dict:
    record = found.sums[1]
    return {
        "layer": found.layer, "vectors": STARTS[found.library],
        "validation losses of the layers": {at: x if np.isfinite(x) else None for at, x in found.losses.items()},
        "summed vectors": {key: record[key] for key in ("heads", "layer", "no_sums") if key in record},
        "distributed": {key: record[key] for key in ("distributed_heads", "no_distributed") if key in record},
    }  # fmt: skip


def _stability(table: Table, vectors: Mapping, seeds: int) -> None:
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


def _training(tuned: Step, r: int) -> pd.DataFrame:
    """Losses of a relation's vector, as `plots.training` takes them."""
    tensors, record = tuned
    losses, validation = tensors["losses"][r].tolist(), tensors["validation_losses"][r].tolist()
    steps = range(len(validation))
    columns = {"step": steps, "loss": [*losses, np.nan], "validation_loss": validation}
    return pd.DataFrame(columns | {"chosen": [step == record["steps"][r] for step in steps]})


def _save_vectors(study: Study, folder: Path, found: Found) -> None:
    """The library as NAME.safetensors, and every kind in a folder of its own."""
    sums, record = found.sums
    kinds = {key: found.tuning[key] for key in STARTS if key in found.tuning}
    for key in [*kinds, *(["summed"] if "strong" in sums else [])]:
        (folder / key).mkdir(parents=True, exist_ok=True)
    for r, (relation, name) in enumerate(zip(study.relations, _file_names(study.names))):
        summed = None
        if "strong" in sums:
            how = {"heads": [tuple(head) for head in record["heads"]], "strength": record["strengths"][r]}
            summed = study.vector(relation, sums["strong"][r], record["layer"], "sum", **how)
            summed.save(folder / "summed" / name)
        for key, tuned in kinds.items():
            values = tuned[0]["vectors"][r]
            if not values.isnan().any():
                parents = [(tuned[1]["strengths"][r], summed.record)] if key == "from-fv" and summed else ()
                how = {"training": _told(study, tuned, r), "parents": parents}
                vector = study.vector(relation, values, found.layer, "tuned", **how)
                vector.save(folder / key / name)
                if key == found.library:
                    vector.save(folder / name)


def _file_names(names: Sequence[str]) -> list[str]:
    """A file name for each relation's vector, numbered where two would have the same."""
    plain = [re.sub(r"[^\w.-]+", "-", name) for name in names]
    numbered = [f"{name}-{plain[:i].count(name) + 1}" if name in plain[:i] else name for i, name in enumerate(plain)]
    return [f"{name}.safetensors" for name in numbered]


def _told(study: Study, tuned: Step, r: int) -> dict:
    """The `training` of a relation's vector: words, losses and chosen step as `finetune` records them, no settings."""
    (train, validation), frame, step = study.pairs(study.relations[r]), _training(tuned, r), tuned[1]["steps"][r]
    seen = [[i, round(x, 6)] for i, x in enumerate(frame.validation_loss) if np.isfinite(x)]
    return {
        "n_pairs": len(train), "n_validation": len(validation), "chosen_step": step,
        "validation_loss": dict(seen)[step], "losses": [round(x, 6) for x in frame.loss[:-1]],
        "validation_losses": seen, "train_words": list(train.words), "validation_words": list(validation.words),
    }  # fmt: skip


def _shown(study: Study, plan: Mapping, chosen: Mapping, timings: Mapping) -> dict:
    """The facts of the page."""
    heads = chosen["summed vectors"].get("heads", [])
    return {
        "model": plan["model"], **{k: plan[k] for k in ("weights, SHA-256",) if k in plan}, "dtype": plan["dtype"],
        "layer of the tuned vectors": chosen["layer"],
        "validation losses of the layers": chosen["validation losses of the layers"],
        "layer of the summed vectors": chosen["summed vectors"].get("layer", "none"),
        "heads": " ".join(f"L{layer}H{head}" for layer, head in heads), "settings": plan["settings"],
        "left out": study.left_out or "none", "versions": plan["versions"], "timings, s": timings,
    }  # fmt: skip
