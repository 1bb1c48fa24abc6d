"""`SteeringVector` objects of the library steering-vectors (0.12).

It adds each layer's vector to what that decoder block puts out, blocks counted from 0, at the `token_indices` of
`apply` and `patch_activations`: columns of the current forward, or a mask `[batch, pos]` of it.
"""

from collections.abc import Sequence

from ...ground.errors import InputError
from ..function_vector import FunctionVector
from .exported import by_layer
from .imported import ModelOrName, imported
from .objects import SteeringVector

BLOCK = "decoder_block"


def as_steering_vector(fv: FunctionVector | Sequence[FunctionVector]) -> SteeringVector:
    """Vectors as one `SteeringVector` of the library steering-vectors.

    Its own `token_indices` say where it acts: `token_indices=[-1]` is the last token of prompts that are not padded on
    the right, as `patch` has it; a mask `[batch, pos]` is any token. (`apply` of version 0.12 takes them beside
    `min_token_index=None` alone.)

    Args:
        fv: a vector, or several of different layers.

    Raises:
        InputError: a vector at a site other than "hook_resid_post" or of centred weights; two of one layer or of two
            models; steering-vectors is not installed.

    Example:
        >>> steering = as_steering_vector(tuned)
        >>> with steering.apply(network, min_token_index=None, token_indices=[-1]):
        ...     logits = network(ids).logits
    """
    layers = by_layer(fv, "steering-vectors")
    try:
        import steering_vectors
    except ImportError as error:
        raise InputError(
            f"steering-vectors cannot be imported ({error}): pip install --no-deps steering-vectors, as it asks for "
            "an older transformers than it needs."
        ) from None
    return steering_vectors.SteeringVector({layer: vector.vector.clone() for layer, vector in layers.items()}, BLOCK)


def from_steering_vector(source: SteeringVector, model: ModelOrName = None) -> list[FunctionVector]:
    """The vectors of a `SteeringVector`; arguments and errors are those of `import_vectors`."""
    if source.layer_type != BLOCK:
        raise InputError(
            f"The SteeringVector is added at {source.layer_type!r}; only one at {BLOCK!r} is added where function "
            "vectors are. Train it with layer_type='decoder_block'."
        )
    return imported(source.layer_activations.items(), model)
