"""Sweeps over layers and strengths on validation words, and the choice of where and how strongly to add a vector.

One relation or many, there is one sweep: every vector at every layer and strength, in zero-shot prompts of the
validation words of all relations together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import SupportsFloat

import numpy as np
import pandas as pd
import torch

from ..datasets.prompts import PromptTemplate, with_demonstrations
from ..datasets.relation_files import RelationLike, load_relation
from ..datasets.relations import Relation
from ..engine.batches import batch
from ..engine.completion import Completions, completions
from ..engine.edits import Edit, WhatIf
from ..ground import display, scores
from ..ground.errors import InputError, finite_number
from ..ground.progress import progress_bar
from ..models.lens import Lens, Model, check_layer, lens_of
from .function_vector import FunctionVector, as_vectors, own_template

DEPTHS = (0.25, 0.35, 0.45, 0.55, 0.65, 0.75)  # shares of the layers where vectors are tried
STRENGTHS = (1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, eq=False)
class Sweep:
    """Zero-shot completion of validation words with each vector at each layer and strength.

    `right`, `log_probs`: `[word, vector, layer, strength]`, whether a whole answer is completed, and the
    log-probability of the whole first listed one. `plain`: `[word, 2]`, the same without a vector.
    """

    right: np.ndarray
    log_probs: np.ndarray
    plain: np.ndarray
    vectors: tuple[FunctionVector, ...]
    names: tuple[str, ...]
    layers: tuple[int, ...]
    strengths: tuple[float, ...]
    relation: str

    def __repr__(self) -> str:
        n, *grid = self.right.shape
        return f"Sweep({self.relation!r}, {' x '.join(map(str, grid))} vectors x layers x strengths, n = {n})"

    def _repr_html_(self) -> str:
        score, plain = scores.proportion(self.right[:, *self._best]), float(self.plain[:, 0].mean())
        grid = self.names, self.layers, self.strengths, self.accuracy
        return display.sweep(self.relation, *grid, self._best, score, plain)

    @property
    def accuracy(self) -> np.ndarray:
        """Share of words that are completed right, `[vector, layer, strength]`."""
        return self.right.mean(0)

    def best(self) -> FunctionVector:
        """The vector of highest accuracy (then log-probability), moved to its layer, its strength multiplied in."""
        return self.at(*self._best)

    def at(self, vector: int, layer: int, strength: int) -> FunctionVector:
        """The vector at these indices of the grid: moved to the layer, with the strength multiplied in."""
        moved = replace(self.vectors[vector], layer=self.layers[layer])
        return moved.strengthened(self.strengths[strength])

    @property
    def _best(self) -> tuple[int, int, int]:
        vector, layer, (strength,) = agreed([self])
        return vector, layer, strength

    @property
    def quality(self) -> np.ndarray:
        """Accuracy, and the mean log-probability that breaks ties, `[vector, layer, strength]`.

        As complex numbers, see `ordered`.
        """
        return ordered(self.accuracy, self.log_probs.mean(0))

    def to_frame(self) -> pd.DataFrame:
        """One line per vector, layer and strength: accuracy and log-probability, each with its interval."""
        lines = []
        for v, at, s in np.ndindex(*self.accuracy.shape):
            accuracy = scores.proportion(self.right[:, v, at, s])
            line = {"vector": self.names[v], "layer": self.layers[at], "strength": self.strengths[s]}
            line |= {"accuracy": accuracy.value, "accuracy_low": accuracy.low, "accuracy_high": accuracy.high}
            lines.append(line)
        frame = pd.DataFrame(lines)
        low, high = scores.interval(self.log_probs)
        return frame.assign(
            log_prob=self.log_probs.mean(0).ravel(), log_prob_low=low.ravel(), log_prob_high=high.ravel()
        )


def sweep(
    model: Model,
    relation: RelationLike,
    vectors: FunctionVector | Sequence[FunctionVector],
    layers: Sequence[int] | None = None,
    strengths: Sequence[SupportsFloat] = STRENGTHS,
    *,
    template: PromptTemplate | None = None,
) -> Sweep:
    """Try each FunctionVector at each layer and strength on zero-shot prompts of the validation part.

    Args:
        vectors: a FunctionVector, or a list of them.
        layers: by default six, at .25 to .75 of the depth; `range(model.cfg.n_layers)` tries all.
        template: the prompts' form; None for the vectors' own, or the default.

    Raises:
        InputError: no vectors, layers or strengths; a layer outside the model; a strength that is not finite.
    """
    candidates = [[vector] for vector in as_vectors(vectors)]
    return sweep_all(model, [load_relation(relation)], candidates, layers, strengths, template=template)[0]


def sweep_all(
    model: Model,
    relations: Sequence[Relation],
    candidates: Sequence[Sequence[FunctionVector]],
    layers: Sequence[int] | None = None,
    strengths: Sequence[SupportsFloat] = STRENGTHS,
    *,
    template: PromptTemplate | None = None,
) -> list[Sweep]:
    """`sweep` for many relations at once; each candidate has a vector for each relation, in their order."""
    lens = lens_of(model)
    layers = tuple(check_layer(lens, layer) for layer in (layer_grid(lens) if layers is None else layers))
    factors = tuple(finite_number("strength", strength) for strength in strengths)
    for values, what in ((candidates, "vectors"), (layers, "layers"), (factors, "strengths")):
        if not values:
            raise InputError(f"{what} is empty; give at least one to sweep over.")
    for vectors in candidates:
        for vector, relation in zip(vectors, relations):
            for layer in layers:
                replace(vector, layer=layer).check(lens)
            vector.check_split(relation)
    template = template or own_template([vector for vectors in candidates for vector in vectors])
    grid = [
        [[replace(vector, layer=layer, vector=strength * vector.vector)] for vector in vectors]
        for vectors in candidates for layer in layers for strength in factors
    ]  # fmt: skip
    measured = on_validation(lens, relations, grid, template, "sweep")
    shape = (len(candidates), len(layers), len(factors))
    sweeps = []
    for r, (relation, completed) in enumerate(zip(relations, measured)):
        vectors = tuple(own[r] for own in candidates)
        names = tuple(f"{len(v.heads)} heads" if v.heads else f"{v.method} {i}" for i, v in enumerate(vectors))
        right, log_probs = (x[:, 1:].reshape(len(x), *shape) for x in (completed.right, completed.log_prob))
        plain = np.stack([completed.right[:, 0], completed.log_prob[:, 0]], 1)
        sweeps.append(Sweep(right, log_probs, plain, vectors, names, layers, factors, relation.name))
    return sweeps


def agreed(sweeps: Sequence[Sweep]) -> tuple[int, int, list[int]]:
    """The best vector and layer for all relations, and the best strength for each: their places in the sweeps.

    Best in mean accuracy over relations, then in mean log-probability; the first where both are equal.
    """
    quality = np.stack([candidate.quality for candidate in sweeps])  # [relation, vector, layer, strength]
    mean = mean_quality(quality.max(-1))
    vector, layer = map(int, np.unravel_index(mean.argmax(), mean.shape))
    return vector, layer, quality[:, vector, layer].argmax(-1).tolist()


def ordered(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Complex numbers, which numpy compares by their real parts (`first`) and then by the others."""
    numbers = np.empty(first.shape, complex)
    numbers.real, numbers.imag = first, second  # `first + 1j * second` is NaN where `second` is infinite
    return numbers


def quality_of(measured: Completions) -> np.ndarray:
    """As `Sweep.quality`, of each row of completions, `[row]`."""
    return ordered(measured.right.mean(0), measured.log_prob.mean(0))


def mean_quality(quality: np.ndarray) -> np.ndarray:
    """The mean over relations; equal shares stay equal, so that rounding does not choose between them."""
    return quality.mean(0).round(9)


def on_validation(
    lens: Lens,
    relations: Sequence[Relation],
    added: Sequence[Sequence[Sequence[FunctionVector]]],
    template: PromptTemplate,
    what: str,
) -> list[Completions]:
    """Completions of each relation's validation words, plain and with vectors added, all relations in one batch.

    Args:
        added: candidate -> relation -> the vectors that are added together, which belong at the same layers and sites
            for every relation.
    """
    parts = [relation.split().validation for relation in relations]
    prompts = batch(lens, [prompt for part in parts for prompt in with_demonstrations(part, part, 0)], template)
    owners = torch.arange(len(parts), device="cpu").repeat_interleave(torch.tensor([len(part) for part in parts]))
    whatifs = [edits_for(vectors, owners) for vectors in added]
    with progress_bar(total=len(prompts), desc=f"{what} on validation", unit="word") as bar:
        measured = completions(lens, prompts, whatifs, progress=bar.update)
    return [measured.prompts((owners == r).numpy()) for r in range(len(parts))]


def edits_for(vectors: Sequence[Sequence[FunctionVector]], owners: torch.Tensor) -> WhatIf:
    """The what-if that adds to each prompt the vectors of its owner, `vectors[owner]`, each at its layer and site."""
    edits = []
    for of_owners in zip(*vectors, strict=True):
        (place,) = {(vector.layer, vector.site) for vector in of_owners}
        edits.append(Edit(place[0], torch.stack([vector.vector for vector in of_owners])[owners], site=place[1]))
    return edits


def layer_grid(lens: Lens, depths: Sequence[float] = DEPTHS) -> list[int]:
    """Layers at fixed shares of the depth."""
    return sorted({min(lens.n_layers - 1, int(depth * lens.n_layers + 0.5)) for depth in depths})
