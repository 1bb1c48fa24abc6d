"""The objects of other libraries, by what they have: nothing of those is imported for their types."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn


@runtime_checkable
class ControlVector(Protocol):
    """A `ControlVector` of repeng."""

    model_type: str
    directions: Mapping[int, np.ndarray]


@runtime_checkable
class SteeringVector(Protocol):
    """A `SteeringVector` of steering-vectors."""

    layer_type: str
    layer_activations: Mapping[int, Tensor]

    def apply(self, model: nn.Module, **how: Any) -> AbstractContextManager[None]:
        """Add it while the context lasts, at `token_indices`."""
