"""How long things take, beside each other."""

import time
from dataclasses import dataclass
from typing import Any

import fv_lens


class Stopwatch:
    """Seconds spent in a `with` block, in which progress bars are hidden.

    Example:
        >>> with Stopwatch() as clock:
        ...     logits = model(tokens)
        >>> clock.seconds
        0.04
    """

    seconds: float

    def __enter__(self) -> "Stopwatch":
        self._hidden = fv_lens.no_progress()
        self._hidden.__enter__()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.seconds = time.perf_counter() - self._started
        self._hidden.__exit__(*exception)


@dataclass(frozen=True)
class Times:
    """The seconds for one of something, by the code of an exercise and by fv_lens, which a notebook shows."""

    what: str
    by_hand: float
    by_fv_lens: float

    def __repr__(self) -> str:  # without numbers, which are others in every run
        return f"Times of {self.what}, by hand and by fv_lens"

    def _repr_html_(self) -> str:
        ratio = self.by_hand / self.by_fv_lens
        times = f"{_in_words(self.by_hand)} by hand, {_in_words(self.by_fv_lens)} by fv_lens"
        return f"<p>{self.what}: {times}, which is {ratio:,.0f} times as fast.</p>"


def _in_words(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:,.0f} ms"
