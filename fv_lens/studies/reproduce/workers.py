"""A study, or those of several models, computed by several processes: workers that `--jobs` starts, and shards."""

import gc
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from ...ground import storage
from ...ground.errors import InputError, ParityError
from ...ground.progress import no_progress
from ..folders import JOBS, MARKER, OutputFolder, plan_in
from ..jobs.graph import Graph
from ..jobs.ledger import Ledger
from ..jobs.presence import has_begun, present
from ..jobs.worker import work
from ..several import BROKEN
from ..stages import Stages
from .files import vector_files
from .loading import Order
from .outline import Outline
from .setup import Study
from .study import finish, plan_of, prepare
from .units import units_of

OUTLINE, LEFT_OUT = "outline.json", "left_out.json"
UNITS = "units"
WAIT = 30.0  # seconds for another process that looks at a folder at the same moment
TURNS = 3  # of a job that end while the same model is loaded, until it is left out
ENOUGH = 0.5  # of a time limit: a unit cut off after more than this would not end in another turn either


@dataclass(frozen=True)
class Part:
    """One model's study: its folder, the model, and the command line of one process."""

    out: Path
    model: str
    command: str

    @property
    def jobs(self) -> Path:
        return self.out / JOBS

    def leave_out(self, error: Exception) -> None:
        """Say why the model is not studied."""
        self.jobs.mkdir(parents=True, exist_ok=True)
        kind = "ParityError" if isinstance(error, ParityError) else "InputError"
        storage.save_json(self.jobs / LEFT_OUT, {"kind": kind, "why": str(error)})

    def begin_again(self) -> None:
        """Forget what an earlier start said of the study, which may have been another one; results stay."""
        for name in (OUTLINE, LEFT_OUT):
            (self.jobs / name).unlink(missing_ok=True)
        if not OutputFolder(self.out, "reproduce").has_results:
            (self.out / MARKER).unlink(missing_ok=True)

    def ledger(self, worker: str) -> Ledger:
        """The tries at its units, as this worker makes them."""
        return Ledger(self.jobs / UNITS, worker)


@contextmanager
def loaded(part: Part, order: Order, worker: str, wait: float | None = None) -> Iterator[tuple[Graph[Study], Study]]:
    """The units of a study and its loaded model, for a worker or shard of this name.

    Args:
        wait: seconds to wait for another process in the study's folder, where that is one of several within the folder
            of all; None where it is that folder itself, which is held.

    Raises:
        InputError: the model cannot be loaded or studied; the folder is of another plan, or in use.
    """
    study, facts = order.load(part.model)
    plan = plan_of(study, facts)
    part.jobs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with ExitStack() as claiming:
            claiming.enter_context(FileLock(part.jobs / "plan.lock"))
            folder = OutputFolder(part.out, "reproduce", wait or 0, keep=True)
            if wait is not None:
                claiming.enter_context(folder)
                held.enter_context(present(part.out, worker))
            folder.claim(plan, {"vectors": vector_files(study.names)}, alone=False)
            stages = Stages(part.out / "stages", plan, FileLock(part.jobs / "timings.lock"))
        graph = Graph(units_of(study), stages)
        if graph.left():
            prepare(study)
        (part.jobs / LEFT_OUT).unlink(missing_ok=True)  # before the outline, without which its reason would be told
        storage.save_json(part.jobs / OUTLINE, study.to_dict() | {"command": part.command})
        yield graph, study


@dataclass
class Worker:
    """A job: computes units of each model's study, beginning with another model than its neighbours.

    submitit calls it, and `checkpoint` where the job is interrupted: by its time limit, or for another's sake.

    Args:
        name, number: among the workers.
        out: the folder of all.
        parts: the studies.
        order: what is studied on each model.
        start: the mark of the command that started it.
        minutes: the time limit of the job, if it has one.
        slow: for each turn in a row that ended while a model was loaded, the folder of its study.
    """

    name: str
    number: int
    out: Path
    parts: Sequence[Part]
    order: Order
    start: str
    minutes: int | None = None
    slow: tuple[Path, ...] = ()
    _at: Ledger | None = field(default=None, repr=False)
    _loading: Part | None = field(default=None, repr=False)
    _began: float = field(default=0.0, repr=False)

    def __call__(self) -> None:
        if self.minutes is None:  # on this machine SIGTERM ends it; submitit would pass over it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with present(self.out, self.name), no_progress(), (self.out / JOBS / f"{self.name}.log").open("a") as log:

            def tell(line: str) -> None:
                print(time.strftime("%Y-%m-%d %H:%M:%S"), line, file=log, flush=True)

            if not has_begun(self.out, self.start):
                tell("its command has ended, and another has begun: nothing to do")
                return
            first = self.number % max(1, len(self.parts))
            for part in [*self.parts[first:], *self.parts[:first]]:
                self._work_on(part, tell)
                gc.collect()  # hooks hold a model in circles, and two may not fit

    def _work_on(self, part: Part, tell: Callable[[str], None]) -> None:
        tell(f"{part.model} in {part.out}")
        self._at, self._loading, self._began = part.ledger(self.name), part, time.time()
        try:
            with loaded(part, self.order, self.name, None if part.out == self.out else WAIT) as (graph, study):
                self._loading, self.slow = None, tuple(path for path in self.slow if path != part.out)
                work(graph, study, self._at, tell)
        except BROKEN as error:
            tell(f"{part.model} is left out: {error}")
            part.leave_out(error)

    def checkpoint(self) -> Any:
        """What the job goes on with in its next turn: itself. Its unit is free for others until then."""
        from submitit.helpers import DelayedSubmission

        most = None if self.minutes is None else 60 * ENOUGH * self.minutes
        if self._at is not None:
            self._at.interrupt(most)
        parts, slow = self.parts, self.slow
        if self._loading is not None:
            late, took = self._loading, time.time() - self._began
            slow = (*slow, late.out)
            if slow.count(late.out) >= TURNS:  # at first it may have been fetched, too, or the job had to make room
                error = (
                    f"{late.model} was not loaded when its job was stopped, {TURNS} times, at last after {took:.0f} s"
                )
                late.leave_out(InputError(f"{error}; give more --minutes."))
                parts = [part for part in parts if part != late]
        again = Worker(self.name, self.number, self.out, parts, self.order, self.start, self.minutes, slow)
        return DelayedSubmission(again)


def check_left_out(part: Part) -> None:
    """Raise the error because of which a model was not studied, if there is one."""
    path = part.jobs / LEFT_OUT
    if path.is_file():
        said = json.loads(path.read_text(encoding="utf-8"))
        raise (ParityError if said["kind"] == "ParityError" else InputError)(said["why"])


def outline_of(part: Part) -> tuple[Outline, str]:
    """The outline left by the first process that loaded the model, and the command line of one process.

    Raises:
        InputError, ParityError: no process has loaded it: why, where that is known.
    """
    path = part.jobs / OUTLINE
    if not path.is_file():
        check_left_out(part)
        raise InputError(f"{str(part.out)!r} has no study that jobs or shards have begun; give the folder of one")
    record = json.loads(path.read_text(encoding="utf-8"))
    return Outline.of(record), record["command"]


def graph_of(part: Part) -> Graph[Study] | None:
    """The units of a study and what is on disk of them; None before its model has been loaded."""
    if not (part.jobs / OUTLINE).is_file() or (plan := plan_in(part.out)) is None:
        return None
    return Graph(units_of(outline_of(part)[0]), Stages(part.out / "stages", plan))


def finish_part(folder: OutputFolder, part: Part) -> pd.DataFrame:
    """Write the results of a study whose units are all there; returns the table."""
    (outline, command), plan = outline_of(part), plan_in(part.out)
    folder.claim(plan, {"vectors": vector_files(outline.names)})
    stages = Stages(part.out / "stages", plan)
    Graph(units_of(outline), stages).join()  # which removes parts that a killed process left beside their stage
    return finish(outline, part.out, plan, command, stages)
