"""The choice of head count, layer and strength on validation words, for one relation or for many.

Many relations share the head count and the layer; the strength is chosen for each.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat

from jaxtyping import Float
from torch import Tensor

from ..datasets.prompts import PromptTemplate
from ..datasets.relation_files import RelationLike, load_relation
from ..datasets.relations import Relation
from ..ground.errors import whole_number
from ..models.lens import Model, lens_of
from .effects import HeadEffects
from .function_vector import FunctionVector
from .mediation import mean_outputs
from .summed import function_vector
from .sweeps import STRENGTHS, Sweep, agreed, sweep_all

HEAD_COUNTS = (5, 10, 20)


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen on validation words, and the sweeps it was chosen from, one for each relation.

    `vector`, `layer`: places in the sweeps, the same for all relations; `strengths`: one for each.
    """

    sweeps: list[Sweep]
    vector: int
    layer: int
    strengths: list[int]

    @property
    def vectors(self) -> list[FunctionVector]:
        """Each relation's vector, at its layer, its strength multiplied in."""
        places = zip(self.sweeps, self.strengths)
        return [sweep.at(self.vector, self.layer, strength) for sweep, strength in places]

    @property
    def plain(self) -> list[FunctionVector]:
        """The same vectors at strength 1."""
        return [sweep.vectors[self.vector] for sweep in self.sweeps]


def choose(
    model: Model,
    relation: RelationLike,
    effects: HeadEffects,
    head_counts: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    strengths: Sequence[SupportsFloat] = STRENGTHS,
) -> FunctionVector:
    """The summed vector that completes the validation words best, over head counts, layers and strengths.

    Head counts default to 5, 10 and 20 (all heads if the model has fewer), layers to those of `sweep`. The vector's
    strength is multiplied in and recorded. Template and split are those of `effects`; test words are not used.

    Raises:
        InputError: as `function_vector` and `sweep`; a head count that the model does not have.
    """
    vectors = head_count_vectors(model, relation, effects, head_counts)
    relation = load_relation(relation).with_split(effects.record["split_seed"])
    (vector,) = choose_of(model, [relation], [[candidate] for candidate in vectors], layers, strengths).vectors
    return vector


def choose_of(
    model: Model,
    relations: Sequence[Relation],
    candidates: Sequence[Sequence[FunctionVector]],
    layers: Sequence[int] | None = None,
    strengths: Sequence[SupportsFloat] = STRENGTHS,
) -> Choice:
    """The best of some vectors (candidate -> relation -> vector), layers and strengths; see `agreed`."""
    sweeps = sweep_all(model, relations, candidates, layers, strengths)
    return Choice(sweeps, *agreed(sweeps))


def head_count_vectors(
    model: Model, relation: RelationLike, effects: HeadEffects, head_counts: Sequence[int] | None = None
) -> tuple[FunctionVector, ...]:
    """One summed vector per head count, of the heads of largest effect, at layer 0 until a sweep places it.

    If `effects` are not of this relation (a map over relations, say), its own mean head outputs are computed; with a
    warning, if they are of other pairs of this name.
    """
    relation = load_relation(relation).with_split(effects.record["split_seed"])
    effects.check(lens_of(model))
    template, means = PromptTemplate.from_dict(effects.record["template"]), means_of(model, relation, effects)
    counts = head_count_grid(effects) if head_counts is None else head_counts
    counts = [whole_number("a head count", count, least=1) for count in counts]
    return tuple(function_vector(model, relation, effects.top(k), 0, *means, template=template) for k in counts)


def means_of(
    model: Model, relation: Relation, effects: HeadEffects
) -> tuple[Float[Tensor, "layer head d_head"], Float[Tensor, " layer"] | None]:
    """Mean head outputs, and sizes of attention's outputs, of this relation: those of `effects`, if they are of it.

    Else they are computed as those were; with a warning, if `effects` are of other pairs of this name.
    """
    template = PromptTemplate.from_dict(effects.record["template"])
    if effects.record["data_hash"] != relation.hash:
        if effects.record["relation"] == relation.name:
            warnings.warn(
                f"The effects were measured on other pairs of {relation.name!r}, which may hold its test words; mean "
                "head outputs are computed again on these pairs. Measure the effects again.",
                stacklevel=3,
            )
        sizes = {"n_prompts": effects.record["n_mean_prompts"], "n_shots": effects.record["n_shots"]}
        means = mean_outputs(model, relation, **sizes, template=template)
        return means.z, means.attention_rms
    return effects.mean_z, effects.attention_rms


def head_count_grid(effects: HeadEffects, counts: Sequence[int] = HEAD_COUNTS) -> list[int]:
    """The head counts that are tried where the model has so many heads; else all of its heads."""
    return sorted({min(count, effects.n_heads) for count in counts})
