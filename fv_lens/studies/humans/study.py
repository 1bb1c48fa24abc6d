"""The study of `fv-lens humans`: vectors (a resumable stage), comparison with people, and the files it writes."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...datasets.ratings import HumanMatrix, PairRatings
from ...datasets.semeval import RatedRelation
from ...evaluation.humans import difference
from ...evaluation.similarity import mds, similarity_matrix
from ...evaluation.table import write_csv
from ...ground import storage
from ...models.lens import Model, lens_of
from ...vectors.function_vector import FunctionVector
from ...vectors.summed import Heads
from ...vectors.sweeps import layer_grid
from ...vectors.tuning import DEPTHS
from ..job import Job
from ..stages import Stages, Step
from .page import write_human_report
from .pairs import pairs_measure
from .steps import CROSSED, HALVES, KINDS, RELATIONS, TYPICALITY, Comparison, Vectors, compare, human_vectors

BY_RELATION, LEFT_OUT, OWN = "by_relation.csv", "left out", "own"
COLUMNS = ["measure", "vectors", "value", "low", "high", "p", "n"]


def place(model: Model, folder: Path | None) -> tuple[int, list[tuple[int, int]] | None]:
    """The layer of the tuned vectors of a folder and the heads of its summed ones; defaults where there are none."""
    folders = () if folder is None else (folder, folder / "summed")
    tuned, summed = [sorted(path.glob("*.safetensors")) for path in folders] or ([], [])
    grid = layer_grid(lens_of(model), DEPTHS)
    layer = FunctionVector.load(tuned[0]).layer if tuned else grid[len(grid) // 2]
    return layer, list(FunctionVector.load(summed[0]).heads) if summed else None


def study(
    model: Model,
    relations: Mapping[str, RatedRelation],
    ratings: PairRatings,
    layer: int,
    heads: Heads | None,
    job: Job,
    seed: int = 0,
) -> pd.DataFrame:
    """Make the vectors, compare them with people and write `report.html`, `results.csv`, `by_relation.csv` and
    `summary.json`.

    Returns:
        One line per measure and kind of vectors: measure, vectors, value, low, high, p, n.

    Raises:
        InputError: people rated a relation without a vector; the folder holds a run of other data or another model.
    """
    tell, out = job.tell, job.folder.path
    plan = plan_of(model, relations, layer, heads, seed)
    job.folder.claim(plan)
    stages = Stages(out / "stages", plan)
    tell(f"Vectors of {len(relations)} relations, of all their pairs and of each half")
    tensors, record = stages.run("vectors", lambda: _packed(human_vectors(model, relations, layer, heads, seed=seed)))
    vectors = _unpacked(tensors, record)
    tell(f"{len(ratings)} rated comparisons")
    comparisons = compare(model, vectors, relations, ratings, seed)
    human = ratings.matrix(seed=seed)
    frame = _frame(comparisons, human)
    for name, each in {"results.csv": frame, BY_RELATION: by_relation(comparisons)}.items():
        with storage.written_whole(out / name) as partial:
            write_csv(each, partial)
    summary = {"command": job.command, **plan, "n_comparisons": len(ratings), "timings_s": stages.timings}
    summary["human ceiling"] = human.ceiling
    storage.save_json(out / "summary.json", summary)
    facts = {key: summary[key] for key in ("model", "dtype", "layer", "seed", "n_comparisons", "versions", "command")}
    facts |= {
        "weights, SHA-256": plan["weights, SHA-256"],
        "heads of FV": heads or "its own",
        "timings, s": stages.timings,
    }
    write_human_report(
        out / "report.html", frame, title=f"Vectors of {plan['model']} against people", ceiling=human.ceiling,
        facts=facts, **_page_data(comparisons, vectors, relations, human),
    )  # fmt: skip
    return frame


def plan_of(
    model: Model, relations: Mapping[str, RatedRelation], layer: int, heads: Heads | None, seed: int = 0
) -> dict[str, Any]:
    """The plan of `study` with the same arguments, which a later start must share to resume."""
    lens = lens_of(model)
    return {
        "model": lens.name, "weights, SHA-256": lens.weights_hash, "dtype": str(lens.dtype), "seed": seed,
        "layer": layer, "heads": heads, "threads": torch.get_num_threads(), "versions": storage.versions(),
        "relations, SHA-256": hashlib.sha256(repr(sorted(relations.items())).encode()).hexdigest(),
    }  # fmt: skip


def _frame(comparisons: Mapping[str, Comparison], human: HumanMatrix) -> pd.DataFrame:
    lines = []
    for kind, comparison in comparisons.items():
        whole = comparison.relations
        lines.append((RELATIONS, kind, whole.rho, whole.low, whole.high, whole.p, whole.n_relations))
        scored = {CROSSED: comparison.crossed, TYPICALITY: comparison.typicality}
        for name, groups in comparison.pairs.items():
            scored |= {pairs_measure(name, group): score for group, score in groups.items()}
        lines += [(name, kind, x.value, *x.ends, np.nan, x.n) for name, x in scored.items()]
    for other in [kind for kind in comparisons if kind != "FFV"]:
        score = difference(comparisons["FFV"].similarity, comparisons[other].similarity, human)
        lines.append((RELATIONS, f"FFV - {other}", score.value, *score.ends, np.nan, score.n))
    plain = comparisons["FFV"].plain_typicality
    lines.append((TYPICALITY, "no vector", plain.value, *plain.ends, np.nan, plain.n))
    return pd.DataFrame(lines, columns=COLUMNS)


def by_relation(comparisons: Mapping[str, Comparison]) -> pd.DataFrame:
    """What the intervals over relations are of: every rho with one relation left out, and each relation's typicality.

    Columns: `measure`, `vectors`, `relation`, `what` ("left out", or "own" for typicality), `value`.
    """
    lines: list[tuple[str, str, str, str, float]] = []
    for kind, comparison in comparisons.items():
        for measure, rhos in comparison.left_out.items():
            lines += [(measure, kind, relation, LEFT_OUT, rho) for relation, rho in rhos.items()]
        lines += [(TYPICALITY, kind, code, OWN, rho) for code, rho in comparison.typicalities[0].items()]
    for other in [kind for kind in comparisons if kind != "FFV"]:
        one, two = (comparisons[kind].left_out[RELATIONS] for kind in ("FFV", other))
        lines += [(RELATIONS, f"FFV - {other}", code, LEFT_OUT, rho - two[code]) for code, rho in one.items()]
    plain = comparisons["FFV"].typicalities[1]
    lines += [(TYPICALITY, "no vector", code, OWN, rho) for code, rho in plain.items()]
    return pd.DataFrame(lines, columns=["measure", "vectors", "relation", "what", "value"])


def _page_data(
    comparisons: Mapping[str, Comparison], vectors: Vectors, relations: Mapping[str, RatedRelation], human: HumanMatrix
) -> dict[str, Any]:
    """What the page draws: matrices of the rated relations, and the map of all."""
    titles = {code: f"{code} {relations[code].name}" for code in human.names}
    matrices = {"people": human.to_frame()} | {kind: one.similarity.to_frame() for kind, one in comparisons.items()}
    matrices = {title: frame.rename(index=titles, columns=titles) for title, frame in matrices.items()}
    points = mds(similarity_matrix(vectors["FFV"]["all"]))
    names = {code: f"{code} {one.name}" for code, one in relations.items()}
    categories = {names[code]: one.category.lower() for code, one in relations.items()}
    return {"matrices": matrices, "points": points.rename(index=names), "categories": categories}


def _packed(vectors: Vectors) -> Step:
    tensors: dict[str, Tensor] = {}
    record: dict[str, Any] = {}
    for kind, by_half in vectors.items():
        for half, by_code in by_half.items():
            tensors[f"{kind}/{half}"] = torch.stack([fv.vector for fv in by_code.values()])
            record[f"{kind}/{half}"] = {code: fv.record for code, fv in by_code.items()}
    return tensors, record


def _unpacked(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Vectors:
    vectors: Vectors = {}
    for kind in KINDS:
        for half in HALVES:
            if f"{kind}/{half}" in record:
                rows = zip(record[f"{kind}/{half}"].items(), tensors[f"{kind}/{half}"])
                vectors.setdefault(kind, {})[half] = {
                    code: FunctionVector.of_parts(x, saved) for (code, saved), x in rows
                }
    return vectors
