"""A worker: computes units of a graph that others compute as well, one at a time, until none is left."""

import time
import traceback
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import torch

from .graph import Graph
from .ledger import Ledger
from .unfinished import Reason

T = TypeVar("T")
BROKEN_GPU: Any = getattr(torch, "AcceleratorError", ())  # from torch 2.8 on
WAIT = 0.5  # seconds between two looks at what others have finished


def work(
    graph: Graph[T],
    subject: T,
    ledger: Ledger,
    tell: Callable[[str], None],
    among: Collection[str] | None = None,
) -> dict[str, Reason]:
    """Compute what is left and nobody else is at, and wait for what others are at.

    A unit that fails is tried again once, here or elsewhere. Then it and all that rests on it are left, and the rest
    goes on. A fault of the GPU ends the process, in which no unit could be computed any more.

    Args:
        subject: what the units are computed with.
        ledger: who is at which unit.
        tell: called with a line as a unit begins, ends or fails.
        among: the units to compute, with all that they need; by default every one.

    Returns:
        Why units are left, by name.

    Raises:
        torch.AcceleratorError: the GPU is out of order (from torch 2.8 on, which has this error).
    """
    graph.stages.refresh()
    waiting: list[str] = []
    while left := graph.left(among):
        given_up = [name for name in left if ledger.is_given_up(name)]
        hopeless = {*given_up, *graph.blocked(left, given_up)}
        if hopeless.issuperset(left):
            break
        for name in graph.ready(left):
            if name not in hopeless and ledger.claim(name):
                _compute(graph, name, subject, ledger, tell, len(left))
                break
        else:
            running = [name for name in left if (tries := ledger.tries(name)) and tries[-1].how == "running"]
            if running and running != waiting:
                tell(f"Waits for {', '.join(running)}, which others are at")
            waiting = running
            time.sleep(WAIT)
        graph.stages.refresh()
    return unfinished(graph, ledger, among)


def unfinished(graph: Graph[T], ledger: Ledger, among: Collection[str] | None = None) -> dict[str, Reason]:
    """Units that are left, and why."""
    left = graph.left(among)
    errors = {name: tries[-1].why for name in left if (tries := ledger.failures(name))}
    blocked = graph.blocked(left, [name for name in left if ledger.is_given_up(name)])
    return {name: Reason(errors.get(name, ""), blocked.get(name, "")) for name in left}


def _compute(graph: Graph[T], name: str, subject: T, ledger: Ledger, tell: Callable[[str], None], left: int) -> None:
    """Compute a unit that has been claimed, unless another has finished it in between."""
    unit, started = graph.units[name], time.perf_counter()
    try:
        if not graph.is_done(name):
            tell(f"{unit.what} ({name}); {left} units are left")
            unit.run(graph.stages, graph.kept, subject)
    except Exception as error:  # whatever it is, the units that do not rest on this one go on
        if isinstance(error, BROKEN_GPU) or not ledger.holds(name):  # or its job was stopped meanwhile
            raise
        line = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        ledger.end(name, line)
        tell(f"{name} failed after {time.perf_counter() - started:.0f} s:\n{traceback.format_exc()}")
    else:
        ledger.end(name)
        tell(f"{name}: {time.perf_counter() - started:.1f} s")
