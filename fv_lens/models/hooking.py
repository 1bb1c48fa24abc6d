"""Hooks, and other forwards of blocks, that act in the thread that set them and in no other."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint as HookPoint  # for the rooms above


@runtime_checkable
class HookFunction(Protocol):
    """A hook function: takes a hook point's activation, returns a replacement or None."""

    def __call__(self, x: Tensor, /, hook: "HookPoint") -> Tensor | None: ...


Hook = tuple[str, HookFunction]
BlockRun = Callable[..., Any]  # (layer, the block's forward, its arguments) -> what the block returns: not one type


@contextmanager
def with_hooks(model: Any, hooks: Sequence[Hook]) -> Iterator[None]:
    """Run a model with `(name, function)` hooks, in forwards of this thread only."""
    here = threading.get_ident()

    def ours(function: HookFunction) -> HookFunction:
        return lambda x, hook: function(x, hook=hook) if threading.get_ident() == here else None

    with model.hooks(fwd_hooks=[(name, ours(function)) for name, function in hooks]):
        yield


@contextmanager
def blocks_through(model: Any, run: BlockRun) -> Iterator[None]:
    """Send every block's forward in this thread through `run(layer, forward, *args, **kwargs)`."""
    here = threading.get_ident()

    def through(layer: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        ours = threading.get_ident() == here
        return run(layer, forward, *args, **kwargs) if ours else forward(*args, **kwargs)

    before = [block.__dict__.get("forward") for block in model.blocks]
    for layer, block in enumerate(model.blocks):
        block.__dict__["forward"] = partial(through, layer, block.forward)
    try:
        yield
    finally:
        for block, forward in zip(model.blocks, before):
            del block.__dict__["forward"]
            block.__dict__ |= {} if forward is None else {"forward": forward}
