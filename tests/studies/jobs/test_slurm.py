"""Jobs of a real Slurm of one node: the table of one process, and jobs that are requeued or over their time."""

import os
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from fv_lens.studies.jobs.launch import Jobs, Machines
from fv_lens.studies.jobs.ledger import Ledger
from fv_lens.studies.jobs.unfinished import Reason
from fv_lens.studies.jobs.worker import unfinished
from fv_lens.studies.reproduce import setup

from ... import slurm_node
from ..commands import call
from .conftest import ROOT
from .toy import ToyWorker, toy_graph

pytest.importorskip("submitit")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(slurm_node.missing() is not None, reason=f"no Slurm to start here: {slurm_node.missing()}"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment of a running Slurm."""
    started = slurm_node.one_node(tmp_path_factory.mktemp("slurm") / "node")
    try:
        env = started.__enter__()
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"Slurm does not start here: {str(error)[-300:]}")
    yield env
    started.__exit__(None, None, None)


@pytest.fixture
def in_slurm(slurm, monkeypatch):
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)


def slurm_jobs() -> list[str]:
    return subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True).stdout.split()


def requeueing(out: Path, after: int, did: list) -> threading.Thread:
    """Requeue the only job in the middle of a unit, once some stages are there."""

    def watch() -> None:
        ledger = Ledger(out / "jobs" / "units", "test")
        while len(list(out.glob("stages/*.safetensors"))) < after:
            time.sleep(0.02)
        done = sorted(path.stem for path in out.glob("stages/*.safetensors"))
        while not any(ledger.tries(path.stem)[-1:] for path in (out / "jobs/units").glob("*.json")):
            time.sleep(0.01)
        did.append((done, subprocess.run(["scontrol", "requeue", slurm_jobs()[0]], capture_output=True, text=True)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_job_that_is_requeued_goes_on_at_its_stage_and_leaves_the_table_of_one_process(
    given, there, in_slurm, monkeypatch
):
    monkeypatch.setattr(setup, "Settings", partial(setup.Settings, steps=60))  # or it ends before it is killed
    assert call("reproduce", *given, "--out", "whole").exit_code == 0
    did: list = []
    thread = requeueing(there / "out", 3, did)
    result = call("reproduce", *given, "--out", "out", "--slurm", slurm_node.PARTITION, "--minutes", 30)
    assert result.exit_code == 0, result.output + result.stderr
    thread.join(10)
    ((done, requeued),) = did
    assert requeued.returncode == 0, requeued.stderr
    assert (there / "out/results.csv").read_bytes() == (there / "whole/results.csv").read_bytes()
    log = (there / "out/jobs/worker-1.log").read_text()
    assert log.count(" in out\n") == 2 and not list((there / "out/jobs").glob("worker-2.log")), "it came back"
    for name in done:
        assert log.count(f" {name}: ") == 1, f"{name} was there before the job was requeued"


def test_a_job_over_its_time_names_the_unit_and_keeps_what_it_has_finished(tmp_path, in_slurm, monkeypatch):
    """The signal is the one that Slurm gives before a time limit, and given here: no limit is below a minute."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    jobs = Jobs(tmp_path / "submitit", Machines(1, slurm_node.PARTITION, minutes=30))
    ledger = Ledger(tmp_path / "units", "watcher")
    jobs.start("worker-1", 0, ToyWorker("worker-1", tmp_path, most=0.5))
    for n in (1, 2):
        wait(lambda n=n: len(ledger.tries("slow")) == n and ledger.tries("slow")[-1].how == "running")
        time.sleep(1)
        subprocess.run(["scancel", "--signal", "USR2", *slurm_jobs()], check=True)
        wait(lambda n=n: len(ledger.failures("slow")) == n)
    wait(lambda: jobs.ended() == {"worker-1": ""})
    graph = toy_graph(tmp_path)
    left = unfinished(graph, ledger)
    assert "its job's time limit came after" in left["slow"].error
    assert left["after"] == Reason(needs="slow") and len(left) == 2
    assert graph.stages.finished == ["first"] and (tmp_path / "log").read_text().count("A quick unit") == 1


def test_a_job_that_is_cancelled_is_named(tmp_path, in_slurm, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    jobs = Jobs(tmp_path / "submitit", Machines(1, slurm_node.PARTITION, minutes=30))
    ledger = Ledger(tmp_path / "units", "watcher")
    jobs.start("worker-1", 0, ToyWorker("worker-1", tmp_path, most=0.5))
    wait(lambda: bool(ledger.tries("slow")))
    subprocess.run(["scancel", *slurm_jobs()], check=True)
    ends: dict[str, str] = {}
    wait(lambda: bool(ends.update(jobs.ended()) or ends))
    assert ": CANCELLED; see " in ends["worker-1"]
    ledger.settle()
    assert ledger.was_killed("worker-1") and toy_graph(tmp_path).stages.finished == ["first"]


def wait(until, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.2)
