"""How long the units of a study take when several jobs share them: some wait for others, and one is the longest."""

import heapq
from collections.abc import Mapping, Sequence

from .flops import Number


def needs_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Which stages each stage waits for, of all that a study has, by name.

    Layers are chosen among vectors tuned from zero, and test words are asked once there are vectors of every kind.
    """
    grid = [name for name in names if name.startswith("tuned-from-zero-") and "seed" not in name]
    tuned = [name for name in names if name.startswith("tuned-")]

    def needs(name: str) -> list[str]:
        if name in grid or name in ("checks", "heads"):
            return []
        if name == "sums":
            return ["heads"]
        if name == "scores" or name.endswith("-shuffled") and name.startswith("shots-"):
            return ["sums", *tuned, "curve"]
        if name.startswith("shots-"):
            return []
        if name == "readings":
            return ["sums", *grid, "tuned-from-fv", "difference"]
        return [*(["sums"] if name.startswith("tuned-from-fv") else []), *grid]

    return {name: needs(name) for name in names}


def parts_of(names: Sequence[str], n_relations: int) -> dict[str, int]:
    """In how many equal parts each stage may be run by several jobs: head maps and few-shot prompts by relation."""
    return {name: n_relations if name == "heads" or name.startswith("shots-") else 1 for name in names}


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
    """How long `n_jobs` take for all, each taking the unit with the longest way behind it among those that can begin.

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
