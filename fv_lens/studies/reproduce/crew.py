"""The process that starts workers for a study, shows how far they are, and writes the results when they have ended."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ...ground.errors import InputError
from ..console import notes
from ..folders import JOBS
from ..jobs.graph import Graph
from ..jobs.launch import Jobs, Machines
from ..jobs.presence import begin
from ..jobs.signals import terminated_as_interrupted
from ..jobs.unfinished import Reason
from ..jobs.watch import Board, State, state_of
from ..jobs.worker import unfinished
from .loading import Order
from .setup import Study
from .workers import Part, Worker, graph_of

LOOK = 0.5  # seconds between two looks at what workers have done
WATCHER = "watcher"
THE_MODEL = "the model"  # stands for all units where nobody has loaded it


def run_workers(
    out: Path, parts: Mapping[str, Part], order: Order, machines: Machines, tell: Callable[[str], None]
) -> tuple[dict[str, dict[str, Reason]], dict[str, str]]:
    """Start workers, and wait until they have ended; one that was killed in the middle of a unit is replaced.

    Args:
        out: the folder of all, held.
        parts: the studies, by their label.

    Returns:
        Study -> why units of it are left, and how workers ended that did not run to their end.

    Raises:
        InputError: submitit or Slurm is not here, or takes no job; workers of an earlier start are at work.
    """
    start = f"{time.time():.0f}-{os.getpid()}"
    begin(out, start)
    for part in parts.values():
        part.begin_again()
        part.ledger(WATCHER).forget()
    crew = _Crew(out, parts, order, machines, start)
    views = _Views(parts)
    with terminated_as_interrupted(), Board(notes, tell) as board:
        try:
            for place in range(machines.jobs):
                crew.start(place)
            how = "started" if machines.partition is None else f"submitted to {machines.partition}"
            tell(f"{', '.join(crew.jobs.running)}: {how}; each loads a model first")
            while crew.jobs.running:
                time.sleep(LOOK)
                crew.look(tell)
                board.show(views.states(), crew.jobs.running)
        except BaseException:
            crew.jobs.cancel()
            raise
        board.show(views.states())
    return views.left(), crew.ends


class _Crew:
    """The workers that have been started, and how those ended that did not run to their end."""

    def __init__(self, out: Path, parts: Mapping[str, Part], order: Order, machines: Machines, start: str):
        self._out, self._parts, self._order, self._start = out, list(parts.values()), order, start
        self._minutes = None if machines.partition is None else machines.minutes
        self.jobs, self.ends = Jobs(out / JOBS / "submitit" / start, machines), dict[str, str]()
        self._started, self._places, self._silent = 0, dict[str, int](), False

    def start(self, place: int) -> None:
        """Submit one more worker, on the GPU and with the first model of its place among them."""
        self._started += 1
        name = f"worker-{self._started}"
        self._places[name] = place
        worker = Worker(name, place, self._out, self._parts, self._order, self._start, self._minutes)
        self.jobs.start(name, place, worker)

    def look(self, tell: Callable[[str], None]) -> None:
        """Note who has ended, and replace workers that were killed in the middle of a unit."""
        ended, silence = self.jobs.ended(), self.jobs.silence
        if silence and not self._silent:
            tell(f"Slurm does not say how its jobs are: {silence}; they are waited for")
        self._silent = bool(silence)
        for name, how in ended.items():
            if how:
                self.ends[name] = how
                tell(f"{name}: {how} and {self._out / JOBS / f'{name}.log'}")
                if self._died_in_a_unit(name):
                    try:
                        self.start(self._places[name])
                        tell(f"worker-{self._started} takes its place")
                    except InputError as error:  # Slurm took no job; the others go on
                        tell(str(error))

    def _died_in_a_unit(self, name: str) -> bool:
        ledgers = [part.ledger(WATCHER) for part in self._parts]
        for ledger in ledgers:
            ledger.settle()
        return any(ledger.was_killed(name) for ledger in ledgers)


class _Views:
    """The graphs of studies, each from when a worker has loaded its model."""

    def __init__(self, parts: Mapping[str, Part]):
        self._parts, self._graphs = parts, dict[str, Graph[Study]]()

    def states(self) -> dict[str, State]:
        """How far each study is."""
        for label, part in self._parts.items():
            if label not in self._graphs and (graph := graph_of(part)) is not None:
                self._graphs[label] = graph
        return {label: state_of(graph, self._parts[label].ledger(WATCHER)) for label, graph in self._graphs.items()}

    def left(self) -> dict[str, dict[str, Reason]]:
        """Why units are left, of each study of which any are."""
        self.states()
        left: dict[str, dict[str, Reason]] = {}
        for label, part in self._parts.items():
            if label not in self._graphs:
                left[label] = {THE_MODEL: Reason()}
            elif reasons := unfinished(self._graphs[label], part.ledger(WATCHER)):
                left[label] = reasons
        return left
