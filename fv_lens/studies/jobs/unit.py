"""Units: the independent pieces of a study, each a file in `stages` that rests on those of others.

    parts = [Unit(f"{PARTS}/heads-{r}", "Head map", partial(head_map, r)) for r in range(8)]
    in_order([Whole("heads", "Head maps", parts, stacked), ...], study, stages, tell)  # in one process

Several processes share the same units in `worker`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from ...ground.progress import no_progress, progress_bar
from ..stages import Stages, Step

T = TypeVar("T")  # what the units are computed with: a study, its model loaded


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
class Unit(Generic[T]):
    """One piece of a study.

    Args:
        name: of its file in `stages`.
        what: said before it is computed.
        compute: its result, from those of the units that it needs; gives the same bits whoever computes it.
        needs: names of units that come before it.
        work: how long it takes beside others, about; the longest way through the graph is begun first.
        applies: whether it is part of the study at all, given what it needs.
    """

    name: str
    what: str
    compute: Callable[[T, Kept], Step]
    needs: Sequence[str] = ()
    work: float = 0.0
    applies: Callable[[Kept], bool] = lambda kept: True

    def run(self, stages: Stages, kept: Kept, subject: T) -> None:
        """Compute it and write it, unless it is on disk."""
        stages.run(self.name, lambda: self.compute(subject, kept))


@dataclass(frozen=True, eq=False)
class Whole(Generic[T]):
    """A stage of several units, which are brought together when all are there; their files then go.

    Args:
        name: of its file in `stages`.
        what: said before its parts are computed.
        parts: its units.
        join: the stage, from the results of its parts.
        each: what a part is of.
    """

    name: str
    what: str
    parts: Sequence[Unit[T]]
    join: Callable[[Sequence[Step]], Step]
    each: str = "relation"
    work: ClassVar[float] = 0.0  # beside that of its units

    @property
    def needs(self) -> list[str]:
        return [part.name for part in self.parts]

    def run(self, stages: Stages, kept: Kept, subject: T | None = None) -> None:
        """Write it, unless it is on disk; nothing is computed with the subject."""
        stages.run(self.name, lambda: self.join([kept[name] for name in self.needs]), self.needs)


def in_order(units: Sequence[Unit[T] | Whole[T]], subject: T, stages: Stages, tell: Callable[[str], None]) -> None:
    """Compute what is not on disk, one unit after the other."""
    kept = Kept(stages)
    for unit in units:
        if isinstance(unit, Unit):
            if unit.applies(kept):
                tell(unit.what)
                unit.run(stages, kept, subject)
            continue
        tell(unit.what)
        if not stages.has(unit.name):
            for part in progress_bar(unit.parts, desc=unit.what, unit=unit.each):
                with no_progress():
                    part.run(stages, kept, subject)
        unit.run(stages, kept)
