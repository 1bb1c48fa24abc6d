"""Vectors that other libraries made, as function vectors."""

from collections import Counter
from collections.abc import Iterable

import torch
from numpy.typing import ArrayLike
from torch import nn
from transformers import PreTrainedModel

from ...ground.errors import InputError
from ...models.kinds import adapter_of
from ...models.lens import Lens, Model
from ...models.network import Network
from ..checks import are_two_models, check_model
from ..function_vector import FunctionVector

METHOD = "imported"
ModelOrName = Model | PreTrainedModel | nn.Module | str | None


def imported(directions: Iterable[tuple[int, ArrayLike | torch.Tensor]], model: ModelOrName) -> list[FunctionVector]:
    """The directions of layers as vectors of a model, lowest layer first; a negative layer counts from the last.

    Raises:
        InputError: none, two of one layer, one that is not a vector or does not fit the model.
    """
    target = None if model is None or isinstance(model, str) else adapter_of(model)
    name = target.name if target is not None else model
    vectors = []
    for layer, direction in directions:
        if layer < 0:
            if target is None:
                raise InputError(
                    f"A vector is of layer {layer}, counted from the last; give model=..., whose layers it counts."
                )
            layer += target.n_layers
        numbers = torch.as_tensor(direction).detach().float().cpu()
        vectors.append(FunctionVector(numbers.squeeze(), layer, model=str(name) if name else None, method=METHOD))
    vectors.sort(key=lambda vector: vector.layer)
    if not vectors:
        raise InputError("There is no vector in it; give one that has a direction for at least one layer.")
    layer, count = Counter(vector.layer for vector in vectors).most_common(1)[0]
    if count > 1:
        raise InputError(f"Layer {layer} has {count} vectors; give one for each layer.")
    check_target(vectors, target)
    return vectors


def check_target(vectors: Iterable[FunctionVector], target: Lens | Network | None) -> None:
    """Raise an InputError if a vector does not fit the model that it is for."""
    for vector in vectors:
        if target is not None:
            check_model(vector, target)


def check_names(vectors: Iterable[FunctionVector], model: ModelOrName) -> None:
    """Raise an InputError if vectors that know their model are for another than this one."""
    if isinstance(model, str):
        for vector in vectors:
            if are_two_models(vector.model, model):
                raise InputError(f"The vector was made on {vector.model!r}, and model is {model!r}; give that model.")
    elif model is not None:
        check_target(vectors, adapter_of(model))
