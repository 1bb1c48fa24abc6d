"""The seam to TransformerLens, the same for HookedTransformer and TransformerBridge; `lens_of(model)` gives it."""

from ..errors import InputError
from .base import Lens, Prefix
from .bridge import BridgeLens
from .hooked import HookedLens

__all__ = ["Lens", "Prefix", "lens_of"]


def lens_of(model: object) -> Lens:
    """The lens of a model; the model keeps it, and with it what was found out about the model.

    Raises:
        InputError: `model` is neither a HookedTransformer nor a TransformerBridge.
    """
    missing = [name for name in ("cfg", "blocks", "hook_dict", "to_tokens") if not hasattr(model, name)]
    if missing:
        raise InputError(
            f"Expected a HookedTransformer or TransformerBridge, got {type(model).__name__} (no {missing[0]!r}). "
            "Wrap a Hugging Face model with TransformerBridge.boot_transformers(name, hf_model=model)."
        )
    known = model.__dict__.get("_fv_lens")
    if known is None or known.made_on != known.state:  # the weights were processed since: what was found is void
        made = BridgeLens(model) if hasattr(model, "original_model") else HookedLens(model)
        made.patches = known.patches if known else []
        model.__dict__["_fv_lens"] = made
    return model.__dict__["_fv_lens"]
