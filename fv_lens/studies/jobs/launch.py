"""Workers as jobs, by submitit: processes on this machine, or jobs of Slurm."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ground.errors import InputError
from .signals import deaf_to_ctrl_c

if TYPE_CHECKING:
    import submitit

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE")
UNLIMITED = 60 * 24 * 365  # minutes
TURNS = 10_000  # times that a job may be requeued
ASK = 10.0  # seconds between two questions to Slurm
GRACE = 15.0  # seconds that cancelled processes have to end
NOTICE = 90  # seconds before its time limit at which a job is told, a quarter of the limit at most


@dataclass(frozen=True)
class Machines:
    """Where workers run.

    Args:
        jobs: how many at once.
        partition: of Slurm; None for this machine.
        minutes: the time limit of a job of Slurm, after which it waits for another turn and goes on.
        gpus: of each job; None for as many as the model is spread over, where this machine has any.
        threads: CPU cores of each job of Slurm.
    """

    jobs: int
    partition: str | None = None
    minutes: int = 60
    gpus: int | None = None
    threads: int = 1

    @property
    def notice(self) -> int:
        """Seconds before the time limit at which a job is told."""
        return min(NOTICE, 60 * self.minutes // 4)


def check_submitit() -> None:
    """Refuse jobs where submitit is not installed."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise InputError(
            '--jobs and --slurm need submitit, which is not installed: pip install "fv-lens[cluster]", or divide the '
            "study by --shard"
        ) from None


class Jobs:
    """The jobs of a study.

    Args:
        folder: for submitit's files and what the jobs print.
        machines: where they run.

    Raises:
        InputError: submitit or Slurm is not here.
    """

    def __init__(self, folder: Path, machines: Machines):
        check_submitit()
        import submitit

        self._machines, self._asked = machines, 0.0
        self.silence = ""  # why Slurm did not say how its jobs are, when it was asked last
        self._running: dict[str, submitit.Job[Any]] = {}
        self._executor: Any
        if machines.partition is None:
            self._executor = submitit.LocalExecutor(folder, max_num_timeout=TURNS)
            self._executor.update_parameters(timeout_min=UNLIMITED)
        else:
            self._executor = _slurm(folder, machines)

    def start(self, name: str, number: int, work: Callable[[], None]) -> None:
        """Submit a worker under a name."""
        import submitit

        if self._machines.partition is None:
            visible = visible_gpus(_own_gpus(), self._machines.gpus or 1, number)
            self._executor.update_parameters(visible_gpus=visible, gpus_per_node=len(visible))
        else:
            self._executor.update_parameters(job_name=f"fv-lens {name}")
        try:
            with nullcontext() if self._machines.partition else deaf_to_ctrl_c():  # sbatch may take its time
                self._running[name] = self._executor.submit(work)
        except (subprocess.CalledProcessError, submitit.core.utils.FailedJobError) as error:
            lines = str(error).strip().splitlines()
            raise InputError(f"Slurm took no job: {lines[-1] if lines else error}") from None

    @property
    def running(self) -> list[str]:
        return list(self._running)

    def ended(self) -> dict[str, str]:
        """Jobs that have ended since the last look: name -> "" for one that ran to its end, else how it ended."""
        states = self._slurm_states()
        over = {name: how for name, job in self._running.items() if (how := self._how(job, states)) is not None}
        for name in over:
            del self._running[name]
        return over

    def cancel(self) -> None:
        """End all of them; those on this machine are waited for, `GRACE` seconds at most."""
        if self._machines.partition is not None:
            for job in self._running.values():
                job.cancel(check=False)
            return
        end = time.monotonic() + GRACE
        while time.monotonic() < end and (alive := [job for job in self._running.values() if not job.done()]):
            for job in alive:  # again and again, since it is passed over until a worker has begun
                with suppress(ProcessLookupError):
                    os.kill(int(job.job_id), signal.SIGTERM)  # the id is that of its process
            time.sleep(0.2)

    def _how(self, job: "submitit.Job[Any]", states: Mapping[str, str]) -> str | None:
        """How a job ended; None while it has not, as far as is known."""
        if job.paths.result_pickle.exists():
            return "" if job.exception() is None else f"it failed; see {job.paths.stderr}"
        if self._machines.partition is None:
            return f"it was killed; see {job.paths.stderr}" if job.done() else None
        if (state := states.get(job.job_id)) not in ENDED:
            return None
        return f"Slurm job {job.job_id}: {state}; see {job.paths.stderr}"

    def _slurm_states(self) -> dict[str, str]:
        """What Slurm says of its jobs, asked once in a while: id -> state; nothing in between."""
        if self._machines.partition is None or time.monotonic() < self._asked + ASK or not self._running:
            return {}
        self._asked = time.monotonic()
        ids = [job.job_id for job in self._running.values()]
        line = ["squeue", "-h", "-t", "all", "-j", ",".join(ids), "-o", "%i %T"]
        asked = subprocess.run(line, capture_output=True, text=True)
        known = dict(pair for row in asked.stdout.splitlines() if len(pair := row.split()) == 2)
        self.silence = ""
        if asked.returncode == 0 or "Invalid job id" in asked.stderr:  # it forgets those that ended long ago
            return dict.fromkeys(ids, "COMPLETED") | known
        self.silence = (asked.stderr.strip().splitlines() or [f"squeue ends with {asked.returncode}"])[-1]
        return known


def _slurm(folder: Path, machines: Machines) -> Any:
    import submitit

    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=TURNS)
    except RuntimeError:
        raise InputError(
            f"--slurm is {machines.partition!r}, and this machine has no Slurm (srun); start where sbatch works"
        ) from None
    executor.update_parameters(
        partition=machines.partition, time=machines.minutes, cpus_per_task=machines.threads,
        srun_args=[f"--cpus-per-task={machines.threads}"],  # which some versions of srun do not take from sbatch
        signal_delay_s=machines.notice, additional_parameters={"requeue": True},
        **({"gpus_per_node": machines.gpus} if machines.gpus else {}),
    )  # fmt: skip
    return executor


def visible_gpus(gpus: Sequence[int], each: int, place: int) -> list[int]:
    """The GPUs of the worker at a place, `each` of them; places take turns where there are fewer."""
    groups = [list(gpus[start : start + each]) for start in range(0, len(gpus) - each + 1, each)]
    return groups[place % len(groups)] if groups else list(gpus)


def _own_gpus() -> list[int]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES counts them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if named and not named.replace(",", "").isdigit():
        raise InputError(f"CUDA_VISIBLE_DEVICES is {named!r}; --jobs needs the numbers of GPUs there, such as 0,1")
    if named:
        return [int(index) for index in named.split(",") if index]
    return list(range(torch.cuda.device_count()))
