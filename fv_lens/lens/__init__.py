"""The seam to TransformerLens, the same for HookedTransformer and TransformerBridge; `lens_of(model)` gives it."""

from ..errors import InputError
from .base import Lens, Prefix
from .bridge import BridgeLens
from .hooked import HookedLens
from .state import State

__all__ = ["Lens", "Prefix", "lens_of"]


def lens_of(model: object) -> Lens:
    """The lens of a model, which keeps what was found out about it.

    Raises:
        InputError: `model` is neither a HookedTransformer nor a TransformerBridge.
    """
    missing = [name for name in ("cfg", "blocks", "hook_dict", "to_tokens") if not hasattr(model, name)]
    if missing:
        raise InputError(
            f"Expected a HookedTransformer or TransformerBridge, got {type(model).__name__} (no {missing[0]!r}). "
            "Wrap a Hugging Face model with TransformerBridge.boot_transformers(name, hf_model=model)."
        )
    state = model.__dict__.setdefault("_fv_lens", State())
    return BridgeLens(model, state) if hasattr(model, "original_model") else HookedLens(model, state)
