"""Running methods and their owners, looked up in a thread's stack frames when no argument says who called."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any


def method_at_work(frame: Any, owners: Sequence[Any], names: Sequence[str]) -> str | None:
    """Which of the owners' own methods is at work in a frame, or in one that it was called from."""
    at_work = methods_at_work(frame, owners, names)
    return next((name for caller, name in at_work if any(caller is owner for owner in owners)), None)


def methods_at_work(frame: Any, kinds: Sequence[Any], names: Sequence[str]) -> Iterator[tuple[Any, str]]:
    """Objects of the same kinds whose methods are at work in a frame and those it was called from, innermost first."""
    methods = [inspect.unwrap(getattr(type(o), name)) for o in kinds for name in names if hasattr(type(o), name)]
    codes = {method.__code__ for method in methods}
    while frame is not None:
        if frame.f_code in codes:
            yield frame.f_locals.get("self"), frame.f_code.co_name
        frame = frame.f_back


def owners_at_work(frame: Any, method: Any) -> Iterator[Any]:
    """Objects on which a method is at work in a frame and those it was called from, innermost first."""
    code = inspect.unwrap(method).__code__
    while frame is not None:
        if frame.f_code is code:
            yield frame.f_locals.get("self")
        frame = frame.f_back


def shared_parts(*models: Any) -> set[int]:
    """Ids of the modules that models are made of, by which shared layers are recognised."""
    parts = [*models, *(getattr(model, "original_model", None) for model in models)]
    parts += [part for model in models for part in model._modules.values()]
    return {id(part) for part in parts if part is not None}
