"""A model of either library behind its adapter, and what transformers calls its kind."""

from typing import cast

from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..ground.errors import InputError
from .lens import Lens, Model, lens_of, unwrapped
from .network import Network, network_of


def adapter_of(model: Model | PreTrainedModel | nn.Module) -> Lens | Network:
    """The `Lens` of a model of TransformerLens, the `Network` of one of Hugging Face.

    Raises:
        InputError: any other model, see `lens_of` and `network_of`.
    """
    inner = unwrapped(model)
    return network_of(inner) if isinstance(inner, PreTrainedModel) else lens_of(cast(Model, model))


def model_type(adapter: Lens | Network) -> str:
    """What transformers calls the kind of a model, such as "llama": `config.model_type`.

    Raises:
        InputError: a HookedTransformer that does not say which architecture it is.
    """
    config = getattr(getattr(adapter.model, "original_model", adapter.model), "config", None)
    if config is not None:
        return config.model_type
    architecture = getattr(adapter.model.cfg, "original_architecture", None)
    for kind, names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        if architecture in ([names] if isinstance(names, str) else names):
            return kind
    raise InputError(
        f"{adapter.name} does not say which architecture it is (cfg.original_architecture is {architecture!r}); name "
        "its model type in transformers instead of the model, such as 'llama'."
    )
