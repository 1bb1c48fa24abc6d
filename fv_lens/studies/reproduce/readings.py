"""What the vectors of a study say through the vocabulary: scores of the relations' names, and the strongest words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ...datasets.relations import Relation
from ...engine.whatif import without_patches
from ...evaluation.names import all_readings, choose_reading, halves, name_scores, rank_test
from ...evaluation.readings import name_tokens
from ...evaluation.table import Table
from ...ground.errors import InputError
from ...ground.scores import GAIN, SHARE
from ...models.identity import identity_of
from ...vectors.function_vector import FunctionVector
from .setup import Study

SHOWN = "model, centred"  # the reading whose words are shown; with one relation, centring leaves nothing
N_WORDS = 8


def readings(study: Study, kinds: Mapping[str, tuple[Float[Tensor, "relation d_model"], int]]) -> dict[str, Any]:
    """Name scores and strongest words of each kind of vector: kind -> (vectors, the layer they are added at).

    Returns plain JSON data: `scores`, a line per kind, reading and relation; `halves`, for each kind the reading chosen
    on half of the families and the scores of the other half; `words`, the strongest tokens; `tests`, of the ranks; and
    `identity`, the record of the model.
    """
    results: dict[str, Any] = {"scores": [], "halves": {}, "words": [], "tests": {}}
    scored = {}
    for kind, (vectors, layer) in kinds.items():
        whole = [r for r in range(len(study)) if not vectors[r].isnan().any()]
        if not whole:
            continue
        relations = [study.relations[r] for r in whole]
        kind_vectors = [
            FunctionVector.on(study.lens, vectors[r], layer, study.relations[r], study.template, method="reading")
            for r in whole
        ]
        read = all_readings(study.model, kind_vectors)
        results["words"] += _words(study, kind, relations, read)
        try:
            for name, reading in read.items():
                scored[kind, name] = name_scores(study.model, reading, relations)
                lines = scored[kind, name].per_relation.to_dict("records")
                results["scores"] += [{"kind": kind, "reading": name} | line for line in lines]
            choice = choose_reading(study.model, read, relations)
            others = halves(relations)[1]
            confirmed = name_scores(study.model, read[choice.reading][others], [relations[r] for r in others])
            score_by_relation = confirmed.per_relation.set_index("relation")["score"].to_dict()
            results["halves"][kind] = {
                "reading": choice.reading,
                "chosen": choice.chosen.value,
                "scores": score_by_relation,
            }
        except InputError as error:  # relations of one family, or without names: there is nothing to compare
            results["not scored"] = str(error)
    for kind in kinds:
        for name in dict.fromkeys(name for _, name in scored):
            if kind != "FV" and ("FV", name) in scored and (kind, name) in scored:
                test = rank_test(scored["FV", name], scored[kind, name])
                results["tests"][f"{kind} against FV, {name}"] = test._asdict()
    results["identity"] = without_patches(identity_of)(study.lens).model_dump()
    return results


def add_readings(table: Table, found: Mapping[str, Any]) -> None:
    """The lines of part "decoding", and the difference of the name scores on the half that chose nothing."""
    lines = pd.DataFrame(found["scores"])
    for (kind, reading), group in lines.groupby(["kind", "reading"], sort=False) if len(lines) else ():
        own, ranks = (dict(zip(group["relation"], group[column])) for column in ("score", "rank"))
        table.relations("decoding", kind, f"name score, {reading}", own)
        table.relations("decoding", kind, f"rank of name, {reading}", ranks)
        table.groups("decoding", kind, f"name score, {reading}", _by_relation(table, own), SHARE)
    confirmed = {}
    for kind, half in found["halves"].items():
        confirmed[kind] = _by_relation(table, half["scores"])
        table.groups("decoding", kind, "name score, chosen reading, other half", confirmed[kind], SHARE)
    for kind, values in confirmed.items():
        if kind != "FV" and "FV" in confirmed:
            table.groups("difference", f"{kind} - FV", "name score, other half", values - confirmed["FV"], GAIN)


def _by_relation(table: Table, values: Mapping[str, float]) -> np.ndarray:
    return torch.tensor(
        [values.get(name, torch.nan) for name in table.names], dtype=torch.float64, device="cpu"
    ).numpy()


def _words(study: Study, kind: str, relations: Sequence[Relation], read: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """The strongest tokens of each relation's vector, with their probability in the reading through the model."""
    lines = []
    shown = read[SHOWN if len(relations) > 1 else "model"]
    for r, relation in enumerate(relations):
        names = {token for ids in name_tokens(study.lens, relation.names, strict=False).values() for token in ids}
        for token in shown[r].topk(N_WORDS).indices.tolist():
            line = {"relation": relation.name, "vector": kind, "token": study.lens.text(token)}
            lines.append(line | {"probability": float(read["model"][r, token].exp()), "is_name": token in names})
    return lines
