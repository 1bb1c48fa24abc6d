"""Options of a command whose study several processes share."""

import os
from dataclasses import dataclass
from typing import Annotated

import typer

from ...ground.errors import InputError
from .launch import Machines
from .shards import Shard

Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads of each process; part of the plan, since the last digits depend on it."),
]
NumberOfJobs = Annotated[int | None, typer.Option("--jobs", min=1, help="Processes that share the study.")]
Partition = Annotated[str | None, typer.Option("--slurm", help="Run them as jobs in this partition of Slurm.")]
Minutes = Annotated[
    int | None,
    typer.Option(min=1, help="Time limit of a Slurm job, after which it goes on in another turn; by default 60."),
]
Gpus = Annotated[
    int | None, typer.Option(min=0, help="GPUs of a Slurm job; by default --devices, or one, if there are any here.")
]
ShardText = Annotated[
    str | None,
    typer.Option("--shard", help="Compute one share, such as 0/3; `fv-lens merge` then brings them together."),
]


def n_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Sharing:
    """How a study is shared: by `machines`, as one `shard`, or not at all."""

    machines: Machines | None = None
    shard: Shard | None = None

    @classmethod
    def of(
        cls, jobs: int | None, slurm: str | None, minutes: int | None, gpus: int | None, shard: str | None
    ) -> "Sharing":
        """What the options ask for.

        Raises:
            InputError: some of them exclude others, or say nothing without them.
        """
        if shard is not None:
            if jobs is not None or slurm is not None:
                other = "--slurm" if jobs is None else "--jobs"
                raise InputError(
                    f"--shard is {shard!r} beside {other}; give one of them: {other} divides the study itself"
                )
            return cls(shard=Shard.parse(shard))
        for option, value in (("--minutes", minutes), ("--gpus", gpus)):
            if slurm is None and value is not None:
                raise InputError(f"{option} has no effect without --slurm; give the partition as well")
        if jobs is None and slurm is None:
            return cls()
        return cls(Machines(jobs or 1, slurm, minutes or 60, gpus))
