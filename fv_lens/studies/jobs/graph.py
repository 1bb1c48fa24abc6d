"""What is left of a graph of units: what is done, what may begin now, what cannot be done, and what matters most."""

from collections.abc import Collection, Mapping, Sequence
from typing import Generic, TypeVar

from ..stages import Stages
from .unit import Kept, Unit, Whole

T = TypeVar("T")


class Graph(Generic[T]):
    """Units and the stages on disk.

    Args:
        units: in an order in which each comes after those that it needs.
        stages: where their results are.
    """

    def __init__(self, units: Sequence[Unit[T] | Whole[T]], stages: Stages):
        self.kept, self.stages = Kept(stages), stages
        self.units: dict[str, Unit[T] | Whole[T]] = {}
        self._whole: dict[str, str] = {}  # part -> the stage that it becomes part of
        for unit in units:
            if isinstance(unit, Whole):
                self.units |= {part.name: part for part in unit.parts}
                self._whole |= {part.name: unit.name for part in unit.parts}
            self.units[unit.name] = unit
        self.ways = self._ways()
        self._done: set[str] = set()

    def is_done(self, name: str) -> bool:
        """Whether a unit is on disk, in its stage as a whole, or no part of this study."""
        if name not in self._done and self._look(name):
            self._done.add(name)
        return name in self._done

    def _look(self, name: str) -> bool:
        if self.stages.has(name) or (name in self._whole and self.stages.has(self._whole[name])):
            return True
        unit = self.units[name]
        return isinstance(unit, Unit) and self._may_begin(name) and not unit.applies(self.kept)

    def join(self) -> None:
        """Write the stages of which all parts are on disk, and remove parts of those that are written."""
        for unit in self.units.values():
            if isinstance(unit, Whole) and self._may_begin(unit.name):
                unit.run(self.stages, self.kept)

    def left(self, among: Collection[str] | None = None) -> list[str]:
        """Units that are not done, in order: all, or some and what they need."""
        wanted = set(self.units if among is None else among)
        left = []
        for name in reversed(self.units):
            if name in wanted and not self.is_done(name):
                left.append(name)
                wanted |= set(self.units[name].needs)
        return left[::-1]

    def ready(self, left: Collection[str]) -> list[str]:
        """Of the units that are left, those whose needs are done: what most work waits for comes first."""
        return sorted(filter(self._may_begin, left), key=lambda name: -self.ways[name])

    def blocked(self, left: Collection[str], given_up: Collection[str]) -> dict[str, str]:
        """Units that are left and cannot be done, by the one given up that they rest on."""
        because = {name: name for name in given_up}
        for name in self.units:
            if name in left and name not in because:
                for need in self.units[name].needs:
                    if need in because:
                        because[name] = because[need]
                        break
        return {name: cause for name, cause in because.items() if name not in given_up}

    def _may_begin(self, name: str) -> bool:
        return all(map(self.is_done, self.units[name].needs))

    def _ways(self) -> Mapping[str, float]:
        """Unit -> the work of the longest way from it to the end of the study."""
        ways = {name: unit.work for name, unit in self.units.items()}
        for name in reversed(self.units):
            for need in self.units[name].needs:
                ways[need] = max(ways[need], self.units[need].work + ways[name])
        return ways
