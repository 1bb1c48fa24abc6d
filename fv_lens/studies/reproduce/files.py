"""Files of a study: the table, the summary, the vectors and the page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from ...evaluation.rows import LIBRARY_CONTROLS, TUNED, deal
from ...evaluation.similarity import mds, similarity_matrix
from ...evaluation.table import Row, Table, cosines, write_csv
from ...ground import storage
from ...models.identity import Identity
from ...vectors.function_vector import FunctionVector
from ...vectors.lessons import mean_validation_losses, training_frame
from ...vectors.library import Library
from ...vectors.library_scores import VECTOR
from ...vectors.sharing.files import library_files
from ..results import REPORT, RESULTS, SUMMARY
from ..stages import Step
from .outline import Outline
from .page import Portrait, write_table_report
from .readings import add_readings
from .steps import unpacked

VECTORS = "vectors"
SUMMED = "summed"
STARTS = {key: TUNED[key] for key in ("from-fv", "from-zero")}
ROW_OF = STARTS | {SUMMED: "FV"}  # kind of vectors -> its row in the table


@dataclass(frozen=True, eq=False)
class Found:
    """What the stages of a study found.

    Args:
        layer, losses: of the tuned vectors, and the `mean_validation_losses` of the layers that were tried.
        share_right: for each relation, of the intact prompts behind its head map, the share answered right.
        sums, tuning: tensors and record of the summed vectors, and of each kind of tuned ones.
        rows, shuffled, owners: row -> measure -> `[draw, word]`; the same in prompts with shuffled answers, of which
            that without a vector comes first; which relation each word is of, `[word]`.
        said: what `readings` found.
        beside: what is said of the baselines, where there are any: their costs, choices and gaps.
    """

    layer: int
    losses: Mapping[int, float]
    share_right: list[float]
    sums: Step
    tuning: Mapping[str, Step]
    rows: Mapping[str, Row]
    shuffled: Mapping[str, Row]
    owners: np.ndarray
    said: Mapping[str, Any]
    beside: Mapping[str, Any] | None = None

    @property
    def library(self) -> str:
        """The kind of tuned vectors whose mean validation loss is lower: those to use."""
        kinds = [key for key in ("from-zero", "from-fv") if key in self.tuning]
        losses = mean_validation_losses([unpacked(self.tuning[key]) for key in kinds])
        return kinds[int(np.argmin(losses))]


def table_of(study: Outline, found: Found) -> pd.DataFrame:
    """Every number of the study as a tidy frame, see `evaluation.table`."""
    settings, rows = study.settings, dict(found.rows)
    table = Table(study.names, study.categories, study.families)
    curve = {f"{n} pairs": rows.pop(f"{n} pairs") for n in settings.curve}
    deal_names = {deal(row, seed) for row in STARTS.values() for seed in range(1, settings.seeds)}
    deals = {row: rows.pop(row) for row in list(rows) if row in deal_names}
    values = table.scores(rows, found.owners)
    table.differences(values, *settings.shots)
    table.gains(table.scores(found.shuffled, found.owners, "shuffled"), next(iter(found.shuffled)), "shuffled gain")
    table.scores(curve | {f"{settings.n_pairs} pairs": rows["FFV from zero"]}, found.owners, "curve")
    _stability(table, {name: tensors["vectors"] for name, (tensors, _) in found.tuning.items()}, settings.seeds)
    table.scores(deals, found.owners, "stability")
    add_readings(table, found.said)
    return table.frame()


def write_outputs(
    study: Outline, out: Path, found: Found, frame: pd.DataFrame, plan: Mapping[str, Any], command: str,
    timings: Mapping[str, float],
) -> None:  # fmt: skip
    """Write `results.csv`, `summary.json`, `vectors/` and `report.html`, each whole or not at all."""
    with storage.written_whole(out / RESULTS) as partial:
        write_csv(frame, partial)
    chosen = _choices(found)
    summary = {
        "command": command, **plan, "chosen": chosen, "left_out": study.left_out,
        "broken": {name: record["broken"] for name, (_, record) in found.tuning.items() if record["broken"]},
        "share_right": dict(zip(study.names, found.share_right)), "readings": found.said["halves"],
        "sign_tests": found.said["tests"], "timings_s": timings,
        **({"baselines": found.beside} if found.beside else {}),
    }  # fmt: skip
    storage.save_json(out / SUMMARY, summary)
    vectors = _vectors(study, found)
    _save_vectors(out / VECTORS, _libraries(vectors, found, frame), found.library)
    write_table_report(
        out / REPORT, frame, dict(zip(study.names, study.categories)), _portrait(found, vectors),
        title=f"{len(study)} relations in {plan['model']}", summary=_facts(study, plan, chosen, timings),
        command=command, baselines=found.beside,
    )  # fmt: skip


def _choices(found: Found) -> dict[str, Any]:
    record = found.sums[1]
    return {
        "layer": found.layer, "vectors": STARTS[found.library],
        "validation losses of the layers": {at: x if np.isfinite(x) else None for at, x in found.losses.items()},
        "summed vectors": {key: record[key] for key in ("heads", "layer", "no_sums") if key in record},
        "distributed": {key: record[key] for key in ("distributed_heads", "no_distributed") if key in record},
    }  # fmt: skip


def _portrait(found: Found, vectors: Mapping[str, Mapping[str, FunctionVector]]) -> Portrait:
    """Training and map of the library, the words of all, and how alike the relations are as vectors of each kind.

    Two relations are not compared.
    """
    library = vectors[found.library]
    kinds = {"FV": vectors.get(SUMMED, {}), **{STARTS[key]: vectors[key] for key in STARTS if key in vectors}}
    shared = [name for name in library if all(name in by_name for by_name in kinds.values() if by_name)]
    alike = {kind: {name: by_name[name] for name in shared} for kind, by_name in kinds.items() if by_name}
    return Portrait(
        training={name: training_frame(vector) for name, vector in library.items()},
        decoding=pd.DataFrame(found.said["words"]),
        similarities={kind: similarity_matrix(by_name).to_frame() for kind, by_name in alike.items()}
        if len(shared) > 2
        else None,
        points=mds(similarity_matrix(library)) if len(library) > 2 else None,
    )


def _stability(table: Table, vectors: Mapping[str, Tensor], seeds: int) -> None:
    for key, row in STARTS.items():
        others = [vectors[f"{key}-seed-{seed}"] for seed in range(1, seeds) if f"{key}-seed-{seed}" in vectors]
        for centred in (False, True):
            if others:
                similarity = np.mean([cosines(vectors[key], other, centred) for other in others], axis=0)
                table.groups("stability", row, f"cosine over deals of pairs{', centred' * centred}", similarity)
    if "from-fv" in vectors:
        for centred in (False, True):
            similarity = cosines(vectors["from-zero"], vectors["from-fv"], centred)
            table.groups(
                "stability", "FFV from zero and from FV", f"cosine of the two{', centred' * centred}", similarity
            )


def _vectors(study: Outline, found: Found) -> dict[str, dict[str, FunctionVector]]:
    """Kind -> name of the relation -> its vector, where it has a whole one."""
    steps = {key: found.tuning[key] for key in STARTS if key in found.tuning}
    steps |= {SUMMED: found.sums} if "vectors" in found.sums[0] else {}
    return {
        kind: {n: vector for n, vector in zip(study.names, unpacked(step)) if isinstance(vector, FunctionVector)}
        for kind, step in steps.items()
    }


def vector_files(names: Sequence[str]) -> set[str]:
    """The files that vectors of these relations may have in `vectors`."""
    kinds = ("", f"{SUMMED}/", *(f"{key}/" for key in STARTS))
    return {f"{kind}{file}" for file in library_files(names) for kind in kinds}


def _libraries(
    vectors: Mapping[str, Mapping[str, FunctionVector]], found: Found, frame: pd.DataFrame
) -> dict[str, Library]:
    """The library of each kind of vectors, with what its row and the controls' scored, and the model on record."""
    lines = frame[(frame["part"] == "score") & (frame["group"] == "relation")]
    record = found.said.get("identity")  # studies that earlier versions began have none
    identity = None if record is None else Identity.model_validate(record)
    controls = [row for row in frame["row"].unique() if re.fullmatch("|".join(LIBRARY_CONTROLS), row)]
    libraries = {}
    for kind, by_name in vectors.items():
        if not by_name:  # all of them broke
            continue
        row = ROW_OF[kind]
        scores = lines[lines["row"].isin([row, *controls]) & lines["name"].isin(list(by_name))]
        scores = scores.assign(row=scores["row"].replace({row: VECTOR}))
        libraries[kind] = Library(by_name, scores=scores, identity=identity)
    return libraries


def _save_vectors(folder: Path, libraries: Mapping[str, Library], best: str) -> None:
    """The library to use, and every kind in a folder of its own."""
    for kind, library in libraries.items():
        library.save(folder / kind)
    if best in libraries:
        libraries[best].save(folder)


def _facts(
    study: Outline, plan: Mapping[str, Any], chosen: Mapping[str, Any], timings: Mapping[str, float]
) -> dict[str, Any]:
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
