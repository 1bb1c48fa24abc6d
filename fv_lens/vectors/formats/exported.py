"""What other engines can be given: vectors at the residual stream of an unprocessed model, one for each layer."""

from collections.abc import Sequence

from ...ground.errors import InputError
from ...models.sites import STREAM
from ..checks import are_two_models
from ..function_vector import FunctionVector, as_vectors


def by_layer(fv: FunctionVector | Sequence[FunctionVector], engine: str) -> dict[int, FunctionVector]:
    """The vectors by their layer, lowest first.

    Raises:
        InputError: one at another site, or of centred weights; two of one layer, or of several models.
    """
    vectors = sorted(as_vectors(fv), key=lambda vector: vector.layer)
    first = vectors[0]
    for vector in vectors:
        if vector.site != STREAM:
            raise InputError(
                f"The vector is added at {vector.site!r}, and {engine} adds at the end of a block alone, {STREAM!r}. "
                "Give a sum, function_vector(...), or a tuned vector."
            )
        if vector.processing != "raw":
            raise InputError(
                f"The vector was made on {vector.processing} weights, and {engine} runs the weights as they are: their "
                "residual streams differ. Make the vector on a model that is not processed."
            )
        if are_two_models(first.model, vector.model) or len(first.vector) != len(vector.vector):
            raise InputError(
                f"The vectors are of {first.model!r} ({len(first.vector)} numbers) and {vector.model!r} "
                f"({len(vector.vector)}); give vectors of one model."
            )
    layers = {vector.layer: vector for vector in vectors}
    if len(layers) < len(vectors):
        raise InputError(
            f"{len(vectors)} vectors are of {len(layers)} layers, and {engine} has one for each layer; add those of "
            "one layer first: a + b."
        )
    return layers
