"""A worker of a toy graph, one unit of which takes for ever: for jobs that are stopped in the middle."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fv_lens.studies.jobs.graph import Graph
from fv_lens.studies.jobs.ledger import Ledger
from fv_lens.studies.jobs.unit import Unit
from fv_lens.studies.jobs.worker import work
from fv_lens.studies.stages import Stages


def endless(subject, kept):
    time.sleep(600)


def toy_graph(out: Path) -> Graph:
    first = Unit("first", "A quick unit", lambda subject, kept: ({"x": torch.ones(1)}, {}), work=3.0)
    slow = Unit("slow", "An endless unit", endless, ["first"])
    return Graph([first, slow, Unit("after", "What rests on it", endless, ["slow"])], Stages(out / "stages", {}))


@dataclass
class ToyWorker:
    """Does what `Worker` does, without a model; a try that is interrupted after `most` seconds has failed."""

    name: str
    out: Path
    most: float
    ledger: Any = None

    def __call__(self) -> None:
        self.ledger = Ledger(self.out / "units", self.name)
        with (self.out / "log").open("a") as log:
            work(toy_graph(self.out), None, self.ledger, lambda line: print(line, file=log, flush=True))

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        self.ledger.interrupt(self.most)
        return DelayedSubmission(ToyWorker(self.name, self.out, self.most))
