"""What a method costs: the numbers it trains, the seconds it takes and the memory it holds at most."""

import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ...ground.progress import no_progress

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """What a method costs before it can be used.

    Args:
        parameters: the numbers that it trains; 0 for prompts and for vectors that are measured.
        seconds: of training, or of measuring and choosing; 0 where there is nothing to prepare, NaN where not known.
        memory: the most bytes that tensors made meanwhile held together, the model's weights not counted; NaN where
            not known.
    """

    parameters: int
    seconds: float = 0.0
    memory: float = 0.0


def timed(run: Callable[[], T]) -> tuple[T, float]:
    """What `run` returns, and the seconds it took."""
    started = time.perf_counter()
    value = run()
    return value, time.perf_counter() - started


def prepared(run: Callable[[], T]) -> tuple[T, float, float]:
    """What `run` returns, the seconds it took, and the most bytes its tensors held together.

    It runs twice: with each operation counted it takes longer.
    """
    with memory_held() as most, no_progress(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same come again
        run()
    return *timed(run), most()


@contextmanager
def memory_held() -> Iterator[Callable[[], float]]:
    """The most bytes that tensors made in this block hold together, by a function to call at its end.

    Counted by torch's own operations, so it is the same on each machine; the scratch memory of kernels is not in it.
    """
    count = _Count()
    with count:
        yield lambda: float(count.most)


class _Count(TorchDispatchMode):
    """Counts the bytes of each new storage until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # nothing is compiled here, and torch would import its compiler, for seconds
        return False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for x in (out,) if isinstance(out, Tensor) else tree_iter(out):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in self.known:
                self._add(x.untyped_storage(), [args, kwargs])
        return out

    def _add(self, storage: UntypedStorage, given: Any) -> None:
        """Count a storage, unless it was there before: that of a weight of which this is a view, say."""
        key, size = storage._cdata, storage.nbytes()
        if any(isinstance(x, Tensor) and x.untyped_storage()._cdata == key for x in tree_iter(given)):
            return
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
