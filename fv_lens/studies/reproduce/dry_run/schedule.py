"""How long the units of a study take when several jobs share them: some wait for others, and one is the longest."""

import heapq
from collections.abc import Mapping, Sequence

from ...jobs.unit import Unit, Whole
from ..setup import Study
from .flops import Number


def needs_of(units: Sequence[Unit[Study] | Whole[Study]]) -> dict[str, list[str]]:
    """Which stages each stage of a study waits for; one of several parts waits for what these need."""
    return {unit.name: list(unit.parts[0].needs if isinstance(unit, Whole) else unit.needs) for unit in units}


def parts_of(units: Sequence[Unit[Study] | Whole[Study]]) -> dict[str, int]:
    """In how many equal parts each stage may be run by several jobs."""
    return {unit.name: len(unit.parts) if isinstance(unit, Whole) else 1 for unit in units}


def critical(seconds: Mapping[str, Number], needs: Mapping[str, Sequence[str]]) -> dict[str, Number]:
    """How long it takes from the start of each unit to the end of the last that waits for it, however many jobs.

    Example:
        >>> critical({"a": 1, "b": 2, "c": 5}, {"a": [], "b": ["a"], "c": []})
        {'c': 5, 'b': 2, 'a': 3}
    """
    behind: dict[str, Number] = {}
    for name in reversed(list(seconds)):  # each is after those that it needs
        later = [behind[other] for other in behind if name in needs[other]]
        behind[name] = seconds[name] + max(later, default=0)
    return behind


def makespan(
    seconds: Mapping[str, Number], needs: Mapping[str, Sequence[str]], parts: Mapping[str, int], n_jobs: int
) -> Number:
    """How long `n_jobs` take for all, each taking the unit on the longest remaining path among those that can begin.

    Args:
        seconds: name of each stage -> how long it takes one job; each stage is after those that it needs.
    """
    behind = critical({name: took / parts[name] for name, took in seconds.items()}, needs)
    left, waiting = dict(parts), sorted(seconds, key=lambda name: -behind[name])
    unfinished = dict(parts)
    running: list[tuple[Number, str]] = []
    now: Number = 0
    while waiting or running:
        for name in waiting:
            free = 0 if any(unfinished[other] for other in needs[name]) else n_jobs - len(running)
            for _ in range(min(left[name], free)):
                heapq.heappush(running, (now + seconds[name] / parts[name], name))
                left[name] -= 1
        waiting = [name for name in waiting if left[name]]
        now, done = heapq.heappop(running)
        unfinished[done] -= 1
    return now
