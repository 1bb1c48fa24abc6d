"""A real Slurm of one node on this machine, for tests: started in a folder of its own, and stopped again.

It needs root, and Debian's packages: `apt-get install --no-install-recommends slurm-wlm munge`. Where munge does not
answer, it is started as the system's own, with a new key in /etc/munge if there is none.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "munged", "mungekey", "sinfo", "scancel")
PARTITION = "debug"
SETTINGS = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={port}
SlurmdPort={port_of_node}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=2
OverTimeLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName={partition} Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why Slurm cannot be started here."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    lacking = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if lacking:
        return f"no {lacking[0]}: apt-get install --no-install-recommends slurm-wlm munge"
    return None if hasattr(os, "geteuid") and os.geteuid() == 0 else "Slurm of one node is started as root"


@contextmanager
def one_node(folder: Path) -> Iterator[dict[str, str]]:
    """Start Slurm; gives the environment that its commands need. It is stopped at the end.

    Raises:
        RuntimeError: it does not come up; the end of its logs.
    """
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    settings = folder / "slurm.conf"
    settings.write_text(
        SETTINGS.format(
            host=host, folder=folder, partition=PARTITION, port=_free_port(), port_of_node=_free_port()
        )
    )  # fmt: skip
    env = {"SLURM_CONF": str(settings), "PATH": os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])}
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        with (folder / f"{command[0]}.out").open("wb") as out:
            started.append(subprocess.Popen(command, env=os.environ | env, stdout=out, stderr=out))

    try:
        if not _munge_answers():
            _start_munge(folder, start)
        start("slurmctld", "-D", "-f", str(settings))
        start("slurmd", "-D", "-f", str(settings), "-N", host)
        _wait_for_node(folder, os.environ | env)
        yield env
    finally:
        with suppress(Exception):
            subprocess.run(["scancel", "--partition", PARTITION], env=os.environ | env, capture_output=True, timeout=20)
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def _munge_answers() -> bool:
    return subprocess.run("munge -n | unmunge", shell=True, capture_output=True).returncode == 0


def _start_munge(folder: Path, start) -> None:
    if not Path("/etc/munge/munge.key").exists():
        subprocess.run(["mungekey", "-c"], check=True, capture_output=True)
    run = Path("/run/munge")
    run.mkdir(exist_ok=True)
    shutil.chown(run, "munge", "munge")
    start("runuser", "-u", "munge", "--", "munged", "--foreground")
    for _ in range(50):
        if _munge_answers():
            return
        time.sleep(0.2)
    raise RuntimeError(f"munged does not answer: {(folder / 'runuser.out').read_text()}")


def _wait_for_node(folder: Path, env: dict[str, str]) -> None:
    for _ in range(100):
        state = subprocess.run(["sinfo", "-h", "-o", "%T"], env=env, capture_output=True, text=True).stdout.strip()
        if state == "idle":
            return
        time.sleep(0.3)
    logs = [path.read_text()[-1500:] for path in (*folder.glob("*.log"), *folder.glob("*.out"))]
    raise RuntimeError("\n".join(["Slurm's node does not come up", *logs]))


def _free_port() -> int:
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return there.getsockname()[1]
