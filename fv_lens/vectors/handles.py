"""What `patch` and `FunctionVector.apply` return: vectors on a model, and the hooks that add them.

A hook adds the vector; `models.calls` and `models.positions` decide which tokens get it.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..ground.errors import InputError, ParityError
from ..models.calls import Watch
from ..models.lens import Lens
from ..models.network import Network, NetworkWatch, stream_of
from ..models.positions import as_at
from ..models.replaced import add_hook

if TYPE_CHECKING:
    from .function_vector import FunctionVector


def check_tokens(tokens: str) -> str:
    """`tokens` of a patch; an InputError unless it is "last" or "every"."""
    if tokens not in ("last", "every"):
        raise InputError(f"tokens is {tokens!r}; give 'last' (prompt token) or 'every' (generated tokens as well).")
    return tokens


class Patch:
    """Vectors on a model, from `patch`; a context manager that removes them at its end."""

    watch: Watch
    first = False  # of the hooks on a block

    def __init__(
        self,
        lens: Lens | Network,
        vectors: "Sequence[FunctionVector]",
        strength: float,
        every: bool,
        at: Tensor | None,
    ):
        self.lens, self.vectors, self.strength, self.every = lens, vectors, strength, every
        self._at, self._own = at, threading.local()
        self._undo: list[Callable[[], None]] = []
        with lens.state.lock:
            self.watch = lens.state.watch = lens.state.watch or Watch(lens)
            self.watch.hold([self])
            lens.patches.append(self)

    def __repr__(self) -> str:
        names = ", ".join(f"{(v.relation or v.method)!r} at layer {v.layer}" for v in self.vectors)
        n = len(self.lens.patches)
        state = f"active, {n} patch{'es' * (n > 1)} on the model" if self in self.lens.patches else "removed"
        return f"{type(self).__name__}({names}, strength {self.strength:g}; {state})"

    @property
    def at(self) -> Tensor | None:
        """The tokens that get the vector, see `patch`; None: each prompt's last. Each thread may set its own."""
        return getattr(self._own, "at", self._at)

    @at.setter
    def at(self, at: Any) -> None:
        self._own.at = as_at(at)

    def remove(self) -> None:
        """Take the vectors off the model; with the last patch, everything that patching put there is removed."""
        with self.lens.state.lock:
            if self in self.lens.patches:
                self.lens.patches.remove(self)
                self.watch.release([self])

    def __enter__(self) -> "Patch":
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def add_hooks(self) -> None:
        """Put the vectors' hooks on the model; called by the watch."""
        for vector in self.vectors:
            name = f"blocks.{vector.layer}.{vector.site}"
            add = partial(self._add, name, vector.vector)
            self._undo.append(add_hook(self.lens.points[name], add, owner=self.watch, first=self.first))

    def remove_hooks(self) -> None:
        """Undo `add_hooks`."""
        while self._undo:
            self._undo.pop()()

    def _add(self, name: str, vector: Tensor, module: nn.Module, inputs: tuple[Any, ...], x: Tensor) -> Tensor | None:
        tokens = self.watch.tokens_of(self)
        if tokens is None:  # a block that is called by itself runs no prompt
            self.watch.refuse_copies()
            return None
        self.watch.calls.reached.add(self)
        if self.strength == 0:
            return None
        ends, generated = tokens
        where = (ends | generated if self.every else ends).to(x.device)
        if x.shape[:-1] != where.shape:
            raise ParityError(f"{name} is {list(x.shape)} in a forward of [batch, pos] = {list(where.shape)} tokens.")
        return torch.where(where[..., None], x + (self.strength * vector).to(x), x)


class Application(Patch):
    """A vector on a plain Hugging Face model, from `FunctionVector.apply`; used as a `Patch`."""

    watch: NetworkWatch
    first = True  # hidden states that transformers collects have the vector

    def _add(self, name: str, vector: Tensor, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if self.watch.tokens_of(self) is None:
            self.watch.refuse_parts()
            return None
        x = super()._add(name, vector, module, inputs, stream_of(output))
        return (x, *output[1:]) if x is not None and isinstance(output, tuple) else x
