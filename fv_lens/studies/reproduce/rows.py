"""The rows of the table that add a vector: which vectors, where, and which relations have none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...engine.edits import RESIDUAL
from ...engine.whatif import WhatIf
from ...evaluation.rows import TUNED, deal
from ...ground.streams import Stream, generator
from ..stages import Step
from .outline import Outline
from .setup import TEST, Study

Place = tuple[Tensor, int, str]  # a vector for each relation, `[relation, d_model]`; the layer and site it is added at


@dataclass
class VectorRows:
    """Every row that is asked with a vector.

    Args:
        draws: row -> what is added together, once for each draw.
        missing: row -> indices of the relations without a vector in it: theirs broke, or another's that it needs, or
            there is no other relation.
    """

    draws: dict[str, list[list[Place]]] = field(default_factory=dict)
    missing: dict[str, list[int]] = field(default_factory=dict)

    def add(self, name: str, *draws: Tensor, layer: int) -> None:
        """A row whose draws each add one vector to the residual stream after a layer."""
        self.draws[name] = [[(drawn, layer, RESIDUAL)] for drawn in draws]
        self.missing[name] = torch.stack(draws).isnan().any(2).any(0).nonzero()[:, 0].tolist()

    def whatifs(self, study: Study) -> dict[str, list[WhatIf]]:
        """The rows as what-ifs of the test words."""
        return {
            name: [[study.edit(vectors, TEST, at, site=site) for vectors, at, site in places] for places in draws]
            for name, draws in self.draws.items()
        }


def vector_rows(study: Outline, sums: Step, vectors: Mapping[str, Tensor], few: Tensor, layer: int) -> VectorRows:
    """The rows of summed, distributed and tuned vectors, of controls, of fewer pairs and other deals, in order.

    Args:
        sums: tensors and record of the summed vectors.
        vectors: of each kind of tuned ones, `[relation, d_model]`.
        few: those tuned on fewer pairs, `[size, relation, d_model]`.
        layer: of the tuned vectors.
    """
    rows, (tensors, record) = VectorRows(), sums
    if "vectors" in tensors:
        at = record["layer"]
        rows.add("FV, strength 1", tensors["plain"], layer=at)
        rows.add("FV", tensors["vectors"], layer=at)
        rows.add("FV of own heads", tensors["own"], layer=at)
        if "random" in tensors:
            rows.add("FV of random heads", *tensors["random"], layer=at)
    if "distributed" in tensors:
        parts = zip(tensors["distributed"], record["distributed_places"])
        rows.draws["distributed FV"] = [[(part, at, site) for part, (at, site) in parts]]
    for key, name in TUNED.items():
        if key in vectors:
            rows.add(name, vectors[key], layer=layer)
    _add_controls(rows, study, vectors, layer)
    for n, tuned_on_few in zip(study.settings.curve, few):
        rows.add(f"{n} pairs", tuned_on_few, layer=layer)
    for seed in range(1, study.settings.seeds):
        for key in ("from-zero", "from-fv"):
            if (dealt := f"{key}-seed-{seed}") in vectors:
                rows.add(deal(TUNED[key], seed), vectors[dealt], layer=layer)
    return rows


def _add_controls(rows: VectorRows, study: Outline, vectors: Mapping[str, Tensor], layer: int) -> None:
    """Vectors of other relations, of all, and random ones."""
    zero, draws = vectors["from-zero"], study.settings.draws
    rows.add("mean of FFVs", means_of_others(study, zero), layer=layer)
    rows.add("pooled FFV", vectors["pooled"].expand(len(study), -1), layer=layer)
    alone: Sequence[Tensor] = [torch.full_like(zero, torch.nan)]
    rivals = [zero[torch.from_numpy(indices)] for indices in study.rivals(draws)] if len(study) > 1 else alone
    rows.add("another relation's FFV", *rivals, layer=layer)
    rows.add("random vector", *directions(study, zero.norm(dim=1), draws, Stream.RANDOM_VECTORS), layer=layer)


def means_of_others(study: Outline, vectors: Tensor) -> Tensor:
    """For each relation the mean over the whole vectors of its others; NaN where they are fewer than two."""
    means, whole = torch.full_like(vectors, torch.nan), ~vectors.isnan().any(1)
    for r in range(len(study)):
        if len(others := [q for q in study.others(r) if whole[q]]) > 1:
            means[r] = vectors[others].mean(0)
    return means


def directions(study: Outline, norms: Tensor, draws: int, stream: Stream) -> Tensor:
    """Random vectors of given norms, `[draw, relation, d_model]`."""
    rng = generator(study.settings.split_seed, stream)
    noise = torch.from_numpy(rng.standard_normal((draws, len(study), study.d_model))).float()
    return norms[None, :, None] * noise / noise.norm(dim=2, keepdim=True)
