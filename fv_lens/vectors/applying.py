"""Function vectors on plain Hugging Face models, by PyTorch hooks: what `FunctionVector.apply` does."""

from typing import TYPE_CHECKING, Literal, SupportsFloat

from torch import nn
from transformers import PreTrainedModel

from ..ground.errors import InputError, finite_number
from ..models.network import network_of
from ..models.positions import At, as_at
from ..models.sites import STREAM
from .checks import check_model
from .handles import Application, check_tokens

if TYPE_CHECKING:
    from .function_vector import FunctionVector


def apply(
    fv: "FunctionVector",
    model: PreTrainedModel | nn.Module,
    strength: SupportsFloat,
    tokens: Literal["last", "every"],
    at: At,
) -> Application:
    """Put one vector on a Hugging Face model, see `FunctionVector.apply`."""
    network = network_of(model)
    if fv.site != STREAM:
        raise InputError(
            f"The vector is added at {fv.site!r}; on a plain Hugging Face model vectors are added at {STREAM!r} alone. "
            "Use fv_lens.patch on a TransformerBridge of the model, which has the other sites."
        )
    check_model(fv, network)
    strength, at = finite_number("strength", strength), as_at(at)
    return Application(network, [fv], strength, every=check_tokens(tokens) == "every", at=at)
