"""The `Model` type, for readers and type checkers: either of TransformerLens' two model classes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    class HookedTransformer(Protocol):
        """Structural type of TransformerLens 3's class: 4 lacks it, and a missing class would accept anything."""

        cfg: Any

        @property
        def W_E(self) -> Tensor: ...

        @property
        def hook_dict(self) -> Mapping[str, nn.Module]: ...

    Model = HookedTransformer | TransformerBridge
else:
    Model = nn.Module  # nothing of TransformerLens is imported for this; `lens_of` looks closer
