"""What a model is to those who read types and to tools that check them: one of TransformerLens' two classes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    class HookedTransformer(Protocol):
        """The class of TransformerLens 3, told by what it has: 4 lacks it, and with a missing class all would pass."""

        cfg: Any

        @property
        def W_E(self) -> Tensor: ...

        @property
        def hook_dict(self) -> Mapping[str, nn.Module]: ...

    Model = HookedTransformer | TransformerBridge
else:
    Model = nn.Module  # nothing of TransformerLens is imported for this; `lens_of` looks closer
