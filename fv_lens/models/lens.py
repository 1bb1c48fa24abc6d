"""The adapter for a model, the same for HookedTransformer and TransformerBridge; `lens_of(model)` returns it."""

import threading
from typing import TYPE_CHECKING, Any

from ..ground.errors import InputError, whole_number
from .base import Lens, Prefix
from .bridge import BridgeLens
from .hooked import HookedLens
from .model import Model
from .state import State

if TYPE_CHECKING:
    from .network import Network

__all__ = ["Lens", "Model", "Prefix", "check_layer", "lens_of", "unwrapped"]

# Class -> the chain of attributes that leads to the wrapped model. By name, as not all these classes are installed.
WRAPPERS = {
    "OptimizedModule": ("_orig_mod",),
    "DataParallel": ("module",),
    "DistributedDataParallel": ("module",),
    "PeftModel": ("base_model", "model"),
}

_lock = threading.Lock()


def lens_of(model: Model) -> Lens:
    """The lens of a model, with what is already known about it; a wrapper counts as the model it wraps.

    Raises:
        InputError: `model` is neither a HookedTransformer nor a TransformerBridge, nor a wrapper of one.
    """
    inner = unwrapped(model)
    missing = [name for name in ("cfg", "blocks", "hook_dict") if not hasattr(inner, name)]
    missing += [] if hasattr(type(inner), "to_tokens") else ["to_tokens"]  # wrappers may pass attributes on
    if missing:
        what = type(model).__name__
        cure = "Wrap a Hugging Face model with TransformerBridge.boot_transformers(name, hf_model=model); to add a "
        cure += "vector alone, FunctionVector.apply takes it as it is."
        if inner is not model:
            what += f" around {type(inner).__name__}"
            cure = "Give the TransformerBridge itself: what wraps the network under it acts there as well."
        raise InputError(f"Expected a HookedTransformer or TransformerBridge, got {what} (no {missing[0]!r}). {cure}")
    with _lock:
        state = inner.__dict__.get("_fv_lens")
        if state is None or not state.is_of(inner):  # a shallow copy has the state of its original
            state = inner.__dict__["_fv_lens"] = State(inner)
    return BridgeLens(inner, state) if hasattr(inner, "original_model") else HookedLens(inner, state)


def check_layer(lens: "Lens | Network", layer: int) -> int:
    """`layer` as an int; an InputError if the model has no such layer."""
    if whole_number("layer", layer, least=0) >= lens.n_layers:
        raise InputError(
            f"Layer {layer} is outside 0..{lens.n_layers - 1} of {lens.name or type(lens.model).__name__}."
        )
    return int(layer)


def unwrapped(model: Any) -> Any:
    """The model inside torch.compile's, torch's parallel and PEFT's wrappers, or the model itself.

    Raises:
        InputError: a wrapper that changes what its model is given, or runs copies of it.
    """
    while wrapper := next((cls.__name__ for cls in type(model).__mro__ if cls.__name__ in WRAPPERS), None):
        if wrapper == "DataParallel" and len(getattr(model, "device_ids", None) or ()) > 1:
            raise InputError(
                f"DataParallel over {len(model.device_ids)} devices runs copies of its model, which hooks of fv_lens "
                "do not reach. Give model.module, or put the model on one device."
            )
        if wrapper == "PeftModel" and getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise InputError(
                f"This {type(model).__name__} puts virtual tokens before the prompts, which shifts all token "
                "positions. Give the model inside, model.get_base_model(), or use an adapter such as LoRA."
            )
        for name in WRAPPERS[wrapper]:
            model = model._modules[name]
    return model
