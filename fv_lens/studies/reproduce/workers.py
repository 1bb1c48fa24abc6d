"""A study, or those of several models, computed by several processes: workers that `--jobs` starts, and shards."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from ...ground import storage
from ...ground.errors import InputError, ParityError
from ...ground.progress import no_progress
from ..folders import JOBS, OutputFolder, plan_in
from ..jobs.graph import Graph
from ..jobs.ledger import Ledger
from ..jobs.presence import present
from ..jobs.shards import Shard
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

    def ledger(self, worker: str) -> Ledger:
        """The tries at its units, as this worker makes them."""
        return Ledger(self.jobs / UNITS, worker)


def compute(
    part: Part, order: Order, ledger: Ledger, tell: Callable[[str], None], shard: Shard | None = None
) -> dict[str, str]:
    """Load the model, and compute units of its study until none is left, or none of a shard's.

    Returns:
        Why units are left, see `work`.

    Raises:
        InputError: the model cannot be loaded or studied, or the folder is of another plan.
    """
    study, facts = order.load(part.model)
    plan = plan_of(study, facts)
    part.jobs.mkdir(parents=True, exist_ok=True)
    with FileLock(part.jobs / "plan.lock"):
        OutputFolder(part.out, "reproduce").claim(plan, {"vectors": vector_files(study.names)}, alone=False)
        storage.save_json(part.jobs / OUTLINE, study.to_dict() | {"command": part.command})
        stages = Stages(part.out / "stages", plan, FileLock(part.jobs / "timings.lock"))
    (part.jobs / LEFT_OUT).unlink(missing_ok=True)
    prepare(study)
    graph = Graph(units_of(study), stages)
    return work(graph, study, ledger, tell, None if shard is None else shard.own(list(graph.units)))


@dataclass
class Worker:
    """A job: computes units of each model's study, beginning with another model than its neighbours.

    submitit calls it, and `checkpoint` where the job is interrupted: by its time limit, or for another's sake.

    Args:
        name, number: among the workers.
        out: the folder of all.
        parts: the studies.
        order: what is studied on each model.
        minutes: the time limit of the job, if it has one.
    """

    name: str
    number: int
    out: Path
    parts: Sequence[Part]
    order: Order
    minutes: int | None = None
    _at: Ledger | None = field(default=None, repr=False)

    def __call__(self) -> None:
        with present(self.out, self.name), no_progress(), (self.out / JOBS / f"{self.name}.log").open("a") as log:

            def tell(line: str) -> None:
                print(time.strftime("%Y-%m-%d %H:%M:%S"), line, file=log, flush=True)

            first = self.number % len(self.parts)
            for part in [*self.parts[first:], *self.parts[:first]]:
                self._work_on(part, tell)

    def _work_on(self, part: Part, tell: Callable[[str], None]) -> None:
        tell(f"{part.model} in {part.out}")
        self._at = part.ledger(self.name)
        try:
            compute(part, self.order, self._at, tell)
        except BROKEN as error:
            tell(f"{part.model} is left out: {error}")
            part.leave_out(error)

    def checkpoint(self) -> Any:
        """What the job goes on with in its next turn: itself. Its unit is free for others until then."""
        from submitit.helpers import DelayedSubmission

        if self._at is not None:
            self._at.interrupt(None if self.minutes is None else 60 * ENOUGH * self.minutes)
        again = Worker(self.name, self.number, self.out, self.parts, self.order, self.minutes)
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
    plan = plan_in(part.out)
    if plan is None or not (part.jobs / OUTLINE).is_file():
        return None
    return Graph(units_of(outline_of(part)[0]), Stages(part.out / "stages", plan))


def finish_part(folder: OutputFolder, part: Part) -> pd.DataFrame:
    """Write the results of a study whose units are all there; returns the table."""
    (outline, command), plan = outline_of(part), plan_in(part.out)
    folder.claim(plan, {"vectors": vector_files(outline.names)})
    return finish(outline, part.out, plan, command, Stages(part.out / "stages", plan))
