"""Controls, measured on the same words as a vector, to show what the score would be without it.

`vector_controls` are what-ifs in place of the vector, `prompt_controls` are other prompts without any vector. A control
added to one of them gets a row in every table, figure and page of an evaluation.
"""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.prompts import FewShot, PromptTemplate, with_demonstrations
from ..datasets.relations import Relation
from ..engine.whatif import Edit, WhatIf
from ..ground.errors import InputError, whole_number
from ..ground.progress import no_progress
from ..ground.streams import Stream, generator
from ..models.lens import Lens
from ..vectors.function_vector import FunctionVector
from ..vectors.mediation import mean_outputs
from ..vectors.summed import check_means, distributed_vectors, head_sum, normed_layers

CONTROL_SHOTS = 10
RANDOM_VECTOR, RANDOM_HEADS, SAME_NORM = RANDOM = ("random vector", "random heads", "random heads, same norm")


@dataclass(frozen=True, eq=False)
class Controls:
    """Random vectors that are measured in place of the one under test.

    Args:
        draws: number of draws of each random control, over which its scores are averaged.
        mean_z: mean head outputs `[layer, head, d_head]` for sums of random heads, such as `effects.mean_z`; computed
            if they are needed and left out.
        attention_rms: `[layer]`, such as `effects.attention_rms`, beside `mean_z`; needed, and computed, as that is, in
            models with norms behind attention alone.

    Raises:
        InputError: draws below 1, or not a whole number; a `mean_z` or `attention_rms` that is not a tensor.
    """

    draws: int = 5
    mean_z: Float[Tensor, "layer head d_head"] | None = None
    attention_rms: Float[Tensor, " layer"] | None = None

    def __post_init__(self) -> None:
        whole_number("draws", self.draws, least=1)
        for name in ("mean_z", "attention_rms"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, Tensor):
                raise InputError(f"{name} is {type(given).__name__}; give a tensor, such as effects.{name}")

    @classmethod
    def of(cls, value: "Controls | bool") -> "Controls | None":
        """What `evaluate` is given: True is the usual controls, False (None here) no controls.

        Raises:
            InputError: anything else.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, bool):
            return cls() if value else None
        raise InputError(f"controls is {reprlib.repr(value)}; give True, False or Controls(mean_z=..., draws=...)")


def vector_controls(
    lens: Lens,
    relation: Relation,
    vectors: Sequence[FunctionVector],
    controls: Controls,
    seed: int,
    template: PromptTemplate,
) -> dict[str, list[WhatIf]]:
    """What-ifs with random vectors in place of those under test, one per draw: name of the row -> its what-ifs.

    Random heads are drawn from those that the vectors do not use; vectors not summed from heads have no such control.
    """
    rng = generator(seed, Stream.CONTROLS)
    whatifs = {RANDOM_VECTOR: in_place_of(vectors, [random_directions(v, rng, controls.draws) for v in vectors])}
    if not all(vector.heads for vector in vectors):
        return whatifs
    taken = {head for vector in vectors for head in vector.heads}
    heads = [(layer, head) for layer in lens.head_layers for head in range(lens.n_heads)]
    mean_z, attention_rms = controls.mean_z, controls.attention_rms
    summed = any(vector.method != "distributed" for vector in vectors)
    if mean_z is None or (attention_rms is None and summed and normed_layers(lens, heads)):
        shots = min(CONTROL_SHOTS, len(relation.split().train) - 1)
        with no_progress():
            means = mean_outputs(lens.model, relation, n_shots=shots, seed=seed, template=template)
        mean_z = means.z if mean_z is None else mean_z
        attention_rms = means.attention_rms if attention_rms is None else attention_rms
    free = [head for head in heads if head not in taken]

    def drawn(n: int) -> list[list[tuple[int, int]]]:
        return [[free[i] for i in rng.permutation(len(free))[:n]] for _ in range(controls.draws)]

    if all(vector.method == "distributed" for vector in vectors):
        if len(free) >= len(taken):
            draws = [distributed_vectors(lens.model, relation, some, mean_z) for some in drawn(len(taken))]
            whatifs[RANDOM_HEADS] = [edits_of([part * vectors[0].strength for part in parts]) for parts in draws]
    elif len(free) >= max(len(vector.heads) for vector in vectors):
        draws_of = [drawn(len(vector.heads)) for vector in vectors]
        check_means(lens, mean_z, attention_rms)
        sums = [
            [vector.strength * head_sum(lens, some, mean_z, attention_rms) for some in draws]
            for vector, draws in zip(vectors, draws_of)
        ]
        whatifs[RANDOM_HEADS] = in_place_of(vectors, sums)
        whatifs[SAME_NORM] = in_place_of(vectors, [
            [total * vector.vector.norm() / total.norm().clamp(min=1e-30) for total in totals]
            for vector, totals in zip(vectors, sums)
        ])  # fmt: skip
    return whatifs


def prompt_controls(test: Relation, train: Relation, n_shots: int, seed: int) -> dict[str, Sequence[FewShot]]:
    """Prompts without any vector, by the name of their row: zero-shot, n-shot, n-shot with shuffled answers."""
    shots = n_shots or min(CONTROL_SHOTS, len(train) - 1)
    prompts: dict[str, Sequence[FewShot]] = {"zero-shot": with_demonstrations(test, train, 0, seed)}
    if shots > 0:
        prompts[f"{shots}-shot"] = with_demonstrations(test, train, shots, seed)
    if shots > 1:
        prompts[f"{shots}-shot, shuffled"] = with_demonstrations(test, train, shots, seed, shuffled=True)
    return prompts


def edits_of(vectors: Sequence[FunctionVector]) -> WhatIf:
    """The what-if that adds all the vectors, each at its own layer and site."""
    return [Edit(vector.layer, vector.vector, site=vector.site) for vector in vectors]


def in_place_of(vectors: Sequence[FunctionVector], others: Sequence[Sequence[Tensor]]) -> list[WhatIf]:
    """What-ifs, one per draw, with other vectors in place of the given ones: `others` holds the draws for each."""
    return [[Edit(v.layer, draws[i], site=v.site) for v, draws in zip(vectors, others)] for i in range(len(others[0]))]


def random_directions(vector: FunctionVector, rng: np.random.Generator, draws: int) -> list[Tensor]:
    """Random directions `[d_model]` of the vector's norm, one per draw."""
    directions = torch.from_numpy(rng.standard_normal((draws, len(vector.vector)))).float()
    return [vector.vector.norm() * direction / direction.norm() for direction in directions]
