"""Units: the independent pieces of a study, each a file in `stages` that rests on those of others.

    heads = Unit("heads", "Head maps", lambda kept: stacked(...), needs=[part.name for part in parts], parts=parts)
    in_order([heads, ...], stages, tell)  # one process; several share the same units in `worker`
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...ground.progress import no_progress, progress_bar
from ..stages import Stages, Step


class Kept(Mapping[str, Step]):
    """The results of finished units, by name, each read from disk once."""

    def __init__(self, stages: Stages):
        self._stages = stages
        self._read: dict[str, Step] = {}

    def __getitem__(self, name: str) -> Step:
        if name not in self._read:
            if not self._stages.has(name):
                raise KeyError(name)
            self._read[name] = self._stages.read(name)
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._stages.has(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stages.finished)

    def __len__(self) -> int:
        return len(self._stages.finished)


@dataclass(frozen=True, eq=False)
class Unit:
    """One piece of a study.

    Args:
        name: of its file in `stages`.
        what: said before it is computed.
        compute: its result, from those of the units that it needs; gives the same bits whoever computes it.
        needs: names of units that come before it.
        work: how long it takes beside others, about; the longest way through the graph is begun first.
        applies: whether it is part of the study at all, given what it needs.
        parts: units of their own that `compute` brings together, after which their files go; `each` is what they are
            of: "relation".
    """

    name: str
    what: str
    compute: Callable[[Kept], Step]
    needs: Sequence[str] = ()
    work: float = 0.0
    applies: Callable[[Kept], bool] = lambda kept: True
    parts: Sequence["Unit"] = ()
    each: str = "relation"

    def run(self, stages: Stages, kept: Kept) -> None:
        """Compute it and write it, unless it is on disk."""
        stages.run(self.name, lambda: self.compute(kept), [part.name for part in self.parts])


def in_order(units: Sequence[Unit], stages: Stages, tell: Callable[[str], None]) -> None:
    """Compute what is not on disk, one unit after the other."""
    kept = Kept(stages)
    for unit in units:
        if not unit.applies(kept):
            continue
        tell(unit.what)
        if unit.parts and not stages.has(unit.name):
            for part in progress_bar(unit.parts, desc=unit.what, unit=unit.each):
                with no_progress():
                    part.run(stages, kept)
        unit.run(stages, kept)
