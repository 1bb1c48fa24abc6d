"""Where and how strongly to insert a vector: sweeps over layers and strengths on validation words, and the choice."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
import pandas as pd

from ..datasets.prompts import PromptTemplate, with_demonstrations
from ..datasets.relation_files import load_relation
from ..engine.batches import batch
from ..engine.completion import completions
from ..engine.whatif import Edit
from ..ground import display, scores
from ..ground.errors import InputError, finite_number, whole_number
from ..ground.progress import progress_bar
from ..models.lens import check_layer, lens_of
from .effects import HeadEffects, mean_head_outputs
from .function_vector import FunctionVector, as_vectors, own_template
from .summed import function_vector

HEAD_COUNTS, STRENGTHS = (5, 10, 20), (1, 2, 4)


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
        vector, layer, strength = self._best
        moved = replace(self.vectors[vector], layer=self.layers[layer])
        return moved.strengthened(self.strengths[strength])

    @property
    def _best(self) -> tuple[int, int, int]:
        log_prob = self.log_probs.mean(0)
        order = np.lexsort((log_prob.ravel(), self.accuracy.ravel()))
        return tuple(map(int, np.unravel_index(order[-1], log_prob.shape)))

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
    model: object,
    relation: object,
    vectors: object,
    layers: Sequence[int] | None = None,
    strengths: Sequence[Real] = STRENGTHS,
    progress: bool = True,
    *,
    template: PromptTemplate | None = None,
    split_seed: int = 0,
) -> Sweep:
    """Try each FunctionVector at each layer (None: all) and strength on zero-shot prompts of the validation part.

    Raises:
        InputError: no vectors, layers or strengths; a layer outside the model; a strength that is not finite.
    """
    lens, relation = lens_of(model), load_relation(relation)
    vectors = tuple(as_vectors(vectors))
    layers = range(lens.n_layers) if layers is None else layers
    layers = tuple(check_layer(lens, layer) for layer in layers)
    strengths = tuple(finite_number("strength", strength) for strength in strengths)
    for given, what in ((layers, "layers"), (strengths, "strengths")):
        if not given:
            raise InputError(f"There are no {what} to sweep over; give at least one.")
    for vector in vectors:
        for layer in layers:
            replace(vector, layer=layer).check(lens)
        vector.check_split(relation, split_seed)
    template = template or own_template(vectors)
    split = relation.split(split_seed)
    prompts = batch(lens, with_demonstrations(split.validation, split.train, 0), template)
    edits = [[Edit(at, s * vector.vector, site=vector.site)] for vector in vectors for at in layers for s in strengths]
    with progress_bar(total=len(prompts), desc="sweep on validation", unit="word", disable=not progress) as bar:
        measured = completions(lens, prompts, edits, progress=bar.update)
    shape = (len(prompts), len(vectors), len(layers), len(strengths))
    right, log_probs = (x[:, 1:].reshape(shape) for x in (measured.right, measured.log_prob))
    plain = np.stack([measured.right[:, 0], measured.log_prob[:, 0]], 1)
    names = tuple(f"{len(v.heads)} heads" if v.heads else f"{v.method} {i}" for i, v in enumerate(vectors))
    return Sweep(right, log_probs, plain, vectors, names, layers, strengths, relation.name)


def choose(
    model: object,
    relation: object,
    effects: HeadEffects,
    head_counts: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    strengths: Sequence[Real] = STRENGTHS,
    progress: bool = True,
) -> FunctionVector:
    """The summed vector that completes the validation words best, over head counts, layers (None: all) and strengths.

    Head counts are 5, 10 and 20 if not given, or as many heads as the model has.
    Its strength is multiplied in and recorded. Template and split are those of `effects`; test words are not looked at.

    Raises:
        InputError: as `function_vector` and `sweep`; a head count that the model does not have.
    """
    vectors = head_count_vectors(model, relation, effects, head_counts)
    split_seed = effects.record["split_seed"]
    return sweep(model, relation, vectors, layers, strengths, progress, split_seed=split_seed).best()


def head_count_vectors(
    model: object, relation: object, effects: HeadEffects, head_counts: Sequence[int] | None = None
) -> tuple[FunctionVector, ...]:
    """One summed vector per head count, of the heads of largest effect, at layer 0 until a sweep places it.

    Where `effects` are not of this relation (a map over relations, say), its own mean head outputs are computed.
    """
    relation = load_relation(relation)
    effects.check(lens_of(model))
    how = {"template": PromptTemplate.from_dict(effects.record["template"]), "split_seed": effects.record["split_seed"]}
    mean_z = effects.mean_z
    if effects.record["data_hash"] != relation.hash:
        drawn = {"n_prompts": effects.record["n_mean_prompts"], "n_shots": effects.record["n_shots"]}
        mean_z, _ = mean_head_outputs(model, relation, **drawn, **how)
    if head_counts is None:
        head_counts = sorted({min(count, effects.n_heads) for count in HEAD_COUNTS})
    counts = [whole_number("a head count", count, least=1) for count in head_counts]
    return tuple(function_vector(model, relation, effects.top(k), 0, mean_z, **how) for k in counts)
