"""What other methods make of the same pairs, relation by relation, beside the vectors of a study."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ...datasets.instructions import instructions
from ...engine.completion import Completions
from ...evaluation.baselines.names import BASELINES, METHODS, TRAINED
from ...evaluation.baselines.rows import Measured
from ...evaluation.rows import BEST_BASELINE
from ...evaluation.table import Row, rows_of
from ...ground.errors import InputError
from ...ground.progress import no_progress
from ...models.adapters import check_adaptable
from ...vectors.function_vector import FunctionVector
from ..stages import Step
from .setup import Study
from .steps import as_tensors


def of_relation(study: Study, r: int, vectors: Sequence[FunctionVector | InputError]) -> Step:
    """The baselines of one relation, on the pairs that its vector was tuned on, and asked on its test words.

    Tensors are those of `Completions`, `[word, row]`. The record has the names of the `rows`, the `cost` of each and
    what was `chosen`, and why there are `gaps`.
    """
    relation, own = study.relations[r], vectors[r]
    if isinstance(own, InputError):
        return {}, {"rows": [], "cost": {}, "chosen": {}, "gaps": dict.fromkeys(BASELINES, str(own))}
    others = {study.names[q]: vectors[q] for q in study.others(r)}
    whole = {name: vector for name, vector in others.items() if isinstance(vector, FunctionVector)}
    methods: Sequence[str] = METHODS
    gaps: dict[str, str] = {}
    try:
        check_adaptable(study.lens)
    except InputError as error:
        methods = [name for name in METHODS if name not in TRAINED]
        gaps = dict.fromkeys(TRAINED, str(error))
    with no_progress():
        made = Measured(study.lens, relation, own, study.template, study.tuning, 0)
        rows, missing = made.rows(methods, whole, instructions().get(relation.name))
    rows = {name: rows[name] for name in BASELINES if name in rows}
    parts = [values for values, _, _ in rows.values()]
    record = {
        "rows": list(rows), "cost": {name: asdict(cost) for name, (_, cost, _) in rows.items()},
        "chosen": {name: chosen for name, (_, _, chosen) in rows.items()}, "gaps": gaps | missing,
    }  # fmt: skip
    if not parts:
        return {}, record
    joined = Completions(
        *(np.concatenate([getattr(part, name) for part in parts], axis=1) for name in Completions.__dataclass_fields__)
    )
    return as_tensors(joined, torch.full((len(joined.right),), r, device="cpu")), record


def together(
    names: Sequence[str], results: Sequence[Step], owners: np.ndarray
) -> tuple[dict[str, Row], dict[str, Any]]:
    """The rows of all relations, by their names, NaN where one has none, and last the best; what is said of them.

    The best is that of highest mean accuracy over relations, then of highest log-probability, of the rows that as many
    relations have as any, chosen in hindsight: that favours the baselines. Seconds and bytes are means over relations.
    """
    found = [
        rows_of(tensors, {name: [i] for i, name in enumerate(record["rows"])}) if tensors else {}
        for tensors, record in results
    ]
    rows: dict[str, Row] = {}
    for name in BASELINES:
        if any(name in some for some in found):
            parts = [some.get(name) for some in found]
            rows[name] = _filled(parts, [int((owners == r).sum()) for r in range(len(names))])
    said: dict[str, Any] = {"costs": _costs([record for _, record in results]), "gaps": {}}
    for relation, (_, record) in zip(names, results):
        for name, why in record["gaps"].items():
            said["gaps"].setdefault(name, {})[relation] = why
    said["chosen"] = {relation: record["chosen"] for relation, (_, record) in zip(names, results)}
    if rows:
        said["best"] = max(rows, key=lambda name: _standing(rows[name], owners))
        rows[BEST_BASELINE] = rows[said["best"]]
    return rows, said


def _filled(parts: Sequence[Row | None], sizes: Sequence[int]) -> Row:
    """One row of all relations, with NaN for the words of those that lack it."""
    measures = next(part for part in parts if part is not None)
    return {
        measure: np.concatenate(
            [np.full((1, n), np.nan) if part is None else part[measure] for part, n in zip(parts, sizes)], axis=1
        )
        for measure in measures
    }


def _standing(row: Row, owners: np.ndarray) -> tuple[int, float, float]:
    """How many relations have a row, and means over these of its accuracy and its log-probability."""
    accuracy, log_prob = (
        np.array([row[measure][:, owners == r].mean() for r in np.unique(owners)])
        for measure in ("accuracy", "log_prob")
    )
    return int(np.isfinite(accuracy).sum()), float(np.nanmean(accuracy)), float(np.nanmean(log_prob))


def _costs(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Row -> numbers trained, seconds and bytes, the mean over relations."""
    costs: dict[str, dict[str, float]] = {}
    for name in BASELINES:
        if known := [record["cost"][name] for record in records if name in record["cost"]]:
            costs[name] = {key: round(float(np.mean([cost[key] for cost in known])), 2) for key in known[0]}
    return costs
