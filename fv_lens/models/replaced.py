"""Temporary methods and hooks of fv_lens on a model's own objects, which no copy of the object takes along.

`copy.deepcopy` and pickle give a copy its owner's `__dict__`, and with it methods that are bound to the owner. So while
something of fv_lens is on an object, so is a `__getstate__` that leaves it out. A shallow copy shares the parts that
carry the hooks, so calling it raises an error that says so.
"""

import copy
import functools
import inspect
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, NoReturn

import torch
from torch import nn

from ..ground.errors import InputError
from .state import HOOKS, mark_as_own, modules

GETSTATE = "__getstate__"
Replacement = Callable[[Callable[[], Any], dict[str, Any]], Any]  # of a method that returns whatever it returns

_stance: Any = None
_depth, _stance_lock = 0, threading.Lock()


def replace_method(owner: nn.Module, name: str, replacement: Replacement) -> Callable[[], None]:
    """Send calls of a method through `replacement(run, given)`: the call as it was made, and its arguments.

    Returns a function that puts back what was there. torch.compile does not look inside: what runs there runs eagerly.
    """
    method, own = getattr(owner, name), owner.__dict__.get(name)
    _, *names = inspect.signature(getattr(type(owner), name)).parameters  # a method of the instance may hide them

    @torch.compiler.disable
    @functools.wraps(method)
    def through(*args: Any, **kwargs: Any) -> Any:
        return replacement(functools.partial(method, *args, **kwargs), dict(zip(names, args)) | kwargs)

    mark_as_own(through, before=own)
    owner.__dict__[name] = through
    _guard(owner)

    def restore() -> None:
        if own is None:
            del owner.__dict__[name]
        else:
            owner.__dict__[name] = own
        _unguard(owner)

    return restore


def add_hook(module: nn.Module, hook: Callable[..., Any], owner: Any, first: bool = False) -> Callable[[], None]:
    """Register a forward hook; returns a function that removes it. `reset_hooks()` does not, as it is PyTorch's own.

    `owner` is who put it there, see `has_hooks_of_others`. `first`: before hooks that are there already, such as those
    by which transformers collects hidden states, so that these see what it returns.
    """

    @torch.compiler.disable
    def run(*args: Any) -> Any:
        return hook(*args)

    mark_as_own(run, owner=owner)
    handle = module.register_forward_hook(run, prepend=first)
    _guard(module)

    def remove() -> None:
        handle.remove()
        _unguard(module)

    return remove


def has_hooks_of_others(owner: Any, *roots: nn.Module) -> bool:
    """Whether `add_hook` put a hook on one of the modules that is there still and has another owner."""
    hooks = (hook for module in modules(*roots) for hook in module._forward_hooks.values() if _is_own(hook))
    return any(getattr(hook, "owner", owner) is not owner for hook in hooks)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compiled parts of any model run eagerly meanwhile: they were traced without the hooks that are there now."""
    global _stance, _depth
    with _stance_lock:
        if _depth == 0:
            _stance = torch.compiler.set_stance("force_eager")
        _depth += 1
    try:
        yield
    finally:
        with _stance_lock:
            _depth -= 1
            if _depth == 0:
                _stance.__exit__(None, None, None)


class _Copied(dict[str, Any]):
    """The state of an object as a copy gets it: deep copies and pickles without what is fv_lens's."""

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return {name: copy.deepcopy(value, memo) for name, value in self._plain().items()}

    def __reduce__(self) -> tuple[Any, tuple[dict[str, Any]]]:
        return dict, (self._plain(),)

    def _plain(self) -> dict[str, Any]:
        plain = {}
        for name, value in self.items():
            if _is_own(value):
                while _is_own(value):  # one method may be replaced more than once
                    value = value.before
                if value is None:
                    continue
            elif name in HOOKS.values() and value:
                value = OrderedDict((key, hook) for key, hook in value.items() if not _is_own(hook))
            plain[name] = value
        return plain


class _Refusal:
    """Stands in a shallow copy where a replaced method was."""

    of_fv_lens = True

    def __init__(self, kind: str, before: Any):
        self.kind, self.before = kind, before

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise InputError(
            f"This {self.kind} is a shallow copy of a patched model and shares its layers with it. Call the patched "
            "model itself, or copy it with copy.deepcopy, which gives a model of its own, without the patch."
        )


def _guard(owner: nn.Module) -> None:
    """Put `__getstate__` on an object, or count one more reason for it to be there."""
    guard = owner.__dict__.get(GETSTATE)
    if guard is not None and hasattr(guard, "reasons"):
        guard.reasons += 1
        return
    reference = weakref.ref(owner)

    def getstate() -> _Copied:
        return _state_of(reference())

    mark_as_own(getstate, before=guard, reasons=1)
    owner.__dict__[GETSTATE] = getstate


def _unguard(owner: nn.Module) -> None:
    guard = owner.__dict__[GETSTATE]
    guard.reasons -= 1
    if guard.reasons == 0:
        del owner.__dict__[GETSTATE]


def _is_own(value: Any) -> bool:
    return isinstance(value, FunctionType | _Refusal) and getattr(value, "of_fv_lens", False)


def _state_of(owner: Any) -> _Copied:
    state = {name: value for name, value in owner.__dict__.items() if name != GETSTATE}
    for name, value in state.items():
        if _is_own(value):
            state[name] = _Refusal(type(owner).__name__, value.before)
    return _Copied(state)
