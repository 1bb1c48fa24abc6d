"""Progress: a bar in terminals and notebooks; elsewhere, in a log file or CI, one line when the work is done."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, Never, TypeVar, overload

from tqdm.auto import tqdm

T = TypeVar("T")
_hidden = ContextVar("hidden", default=False)


@contextmanager
def no_progress() -> Iterator[None]:
    """Hide progress bars in this block; TQDM_DISABLE=1 in the environment hides them everywhere.

    Example:
        >>> with fv_lens.no_progress():
        ...     effects = fv_lens.indirect_effects(model, "antonym")
    """
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


@overload
def progress_bar(
    iterable: None = None, *, total: int | None = None, desc: str = "", unit: str = "it"
) -> "tqdm[Never] | _Line[Never]": ...


@overload
def progress_bar(
    iterable: Iterable[T], *, total: int | None = None, desc: str = "", unit: str = "it"
) -> "tqdm[T] | _Line[T]": ...


def progress_bar(
    iterable: Iterable[T] | None = None,
    *,
    total: int | None = None,
    desc: str = "",
    unit: str = "it",
) -> "tqdm[T] | _Line[T]":
    """A tqdm bar, or one line at the end unless standard error is a terminal or a notebook; arguments are tqdm's."""
    disable = _hidden.get() or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    if disable or _draws(sys.stderr):
        return tqdm(iterable, total=total, desc=desc, unit=unit, disable=disable)
    return _Line(iterable, total, desc)


def _draws(stream: Any) -> bool:
    notebook = type(stream).__module__.startswith("ipykernel")
    return notebook or (stream is not None and hasattr(stream, "isatty") and stream.isatty())


class _Line(Generic[T]):
    """A counter that prints one line at the end, unless an error ended the loop."""

    def __init__(self, iterable: Iterable[T] | None, total: int | None, desc: str):
        self.iterable: Iterable[T] = () if iterable is None else iterable
        self.desc, self.n = desc, 0
        self.total = len(iterable) if total is None and isinstance(iterable, Sized) else total
        self.started = time.perf_counter()

    def update(self, n: int = 1) -> None:
        self.n += n

    def close(self) -> None:
        if sys.stderr is None:
            return
        of = "" if self.total is None else f" of {self.total}"
        print(f"{self.desc}: {self.n}{of}, {time.perf_counter() - self.started:.1f} s", file=sys.stderr, flush=True)

    def __iter__(self) -> Iterator[T]:
        for item in self.iterable:
            yield item
            self.update()
        self.close()

    def __enter__(self) -> "_Line[T]":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self.close()
