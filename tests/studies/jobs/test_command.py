"""`reproduce --jobs` and `--shard`, and `merge`: the table of one process, whoever computed it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fv_lens.ground.errors import InputError
from fv_lens.models import load
from fv_lens.studies.folders import OutputFolder
from fv_lens.studies.jobs.launch import visible_gpus
from fv_lens.studies.jobs.ledger import Ledger
from fv_lens.studies.jobs.presence import at_work, present
from fv_lens.studies.reproduce import steps
from fv_lens.studies.reproduce.setup import Settings

from ..commands import call, files, write
from ..left import summary
from ..small import relations

SMALLER = """
import sys
from functools import partial

from fv_lens.studies import cli
from fv_lens.studies.reproduce import setup
from tests.studies.small import SMALL

setup.Settings = partial(setup.Settings, **SMALL)
cli.app(sys.argv[1:])
"""
FOLDER = ["jobs", "report.html", "results.csv", "stages", "summary.json", "vectors"]


@pytest.fixture(scope="module")
def whole(networks, tmp_path_factory):
    """The results of one process, by the arguments: computed once, elsewhere."""
    made: dict[str, bytes] = {}

    def results(given: list) -> bytes:
        key = json.dumps(given)
        if key not in made:
            out = tmp_path_factory.mktemp("whole")
            result = call("reproduce", *given, "--out", out)
            assert result.exit_code == 0, result.output
            made[key] = (out / "results.csv").read_bytes()
        return made[key]

    return results


def results(out: Path) -> bytes:
    return (out / "results.csv").read_bytes()


def killing(out: Path, after: int) -> threading.Thread:
    """Kill a worker in the middle of a unit, once some stages are there."""

    def watch() -> None:
        ledger = Ledger(out / "jobs" / "units", "test")
        while len(list(out.glob("stages/*.safetensors"))) < after:
            time.sleep(0.01)
        while True:
            for path in (out / "jobs" / "units").glob("*.json"):
                for attempt in ledger.tries(path.stem):
                    if attempt.how == "running" and attempt.worker == "worker-1":
                        os.kill(attempt.pid, signal.SIGKILL)
                        return
            time.sleep(0.002)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_two_jobs_of_which_one_is_killed_leave_the_table_of_one_process(given, whole, there):
    expected = whole(given)
    killer = killing(there / "out", after=2)
    result = call("reproduce", *given, "--out", "out", "--jobs", 2)
    assert result.exit_code == 0, result.output + result.stderr
    assert not killer.is_alive() and results(there / "out") == expected
    assert files(there / "out") == FOLDER
    told = " ".join(result.stderr.split())  # whatever its lines
    assert re.search(r"worker-1: it was killed; see \S+ and \S+worker-1\.log worker-3 takes its place", told)
    assert "28 of 28, 100% of the work: " in told
    killed = [
        path.stem for path in (there / "out/jobs/units").glob("*.json") if "ended in the middle" in path.read_text()
    ]
    assert len(killed) == 1
    assert summary(there / "out")["command"].endswith("--threads 1 --out out")
    assert len(list((there / "out/jobs").glob("worker-*.log"))) == 3, "another one came in its place"
    other = call("reproduce", *given, "--seeds", "1", "--out", "out", "--jobs", 1)
    assert other.exit_code == 2 and "holds another run" in other.stderr and results(there / "out") == expected


@pytest.mark.slow
def test_no_worker_outlives_a_command_that_is_terminated(given, there):
    line = [sys.executable, "-c", SMALLER, "reproduce", *given, "--out", "out", "--jobs", "2"]
    with (there / "said").open("w") as said, subprocess.Popen(line, stderr=said, stdout=said) as command:
        while len(at_work(there / "out")) < 2 or not list((there / "out").glob("stages/parts/*")):
            assert command.poll() is None, (there / "said").read_text()
            time.sleep(0.1)
        command.terminate()
        assert command.wait(60) != 0
    assert not at_work(there / "out")


@pytest.mark.slow
def test_shards_of_one_folder_and_of_several_are_merged_to_the_table_of_one_process(given, whole, there):
    expected = whole(given)
    early = call("reproduce", *given, "--out", "out", "--shard", "0/2")
    assert early.exit_code == 0 and "Shard 0/2 is done. When all are: fv-lens merge out" in early.stderr
    lacking = call("merge", "out")
    assert lacking.exit_code == 2 and "lacks units of the study. --shard 1/2 would make" in lacking.stderr
    assert "--shard 0/2 would" not in lacking.stderr and not (there / "out" / "results.csv").exists()

    shutil.copytree("out", "apart", ignore=shutil.ignore_patterns("stages", "jobs"))
    assert call("reproduce", *given, "--out", "apart", "--shard", "1/2").exit_code == 0
    merged = call("merge", "both", "out", "apart")
    assert merged.exit_code == 0 and results(there / "both") == expected, merged.stderr

    assert call("reproduce", *given, "--out", "out", "--shard", "1/2").exit_code == 0
    merged = call("merge", "out")
    assert merged.exit_code == 0 and results(there / "out") == expected
    assert merged.stdout.split() == [str(Path("out") / name) for name in ("report.html", "results.csv", "summary.json")]
    again = call("reproduce", *given, "--out", "out")
    assert again.exit_code == 0 and results(there / "out") == expected, "one process goes on with what they left"


@pytest.mark.slow
def test_shards_of_several_models_in_folders_of_their_own_are_merged_as_often_as_one_likes(given, networks, there):
    del given[2:4]
    Path("nowhere/at/all").mkdir(parents=True)
    models = ["--models", f"{networks / 'llama'},nowhere/at/all"]
    for shard in range(3):
        result = call("reproduce", *given, *models, "--out", f"apart-{shard}", "--shard", f"{shard}/3")
        assert result.exit_code == 0, result.output + result.stderr
    alone = call("reproduce", *given, *models, "--out", "alone")
    for _ in range(2):
        merged = call("merge", "both", "apart-0", "apart-1", "apart-2")
        assert merged.exit_code == 0 and results(there / "both") == results(there / "alone"), merged.stderr
    assert alone.exit_code == 0 and summary(there / "both")["gaps"] == summary(there / "alone")["gaps"]


@pytest.mark.slow
def test_a_unit_that_fails_twice_is_named_and_the_rest_goes_on_and_later_this_too(
    given, whole, there, monkeypatch, without_page
):
    def broken(*args, **more):
        raise RuntimeError("no room\nfor it")

    with monkeypatch.context() as patched:
        patched.setattr(steps, "curve", broken)
        result = call("reproduce", *given, "--out", "out", "--shard", "0/1")
    assert result.exit_code == 1
    assert (
        "curve failed: RuntimeError: no room" in result.stderr
        and "because they need a unit that failed: scores" in result.stderr
    )
    assert len(Ledger(there / "out/jobs/units", "").failures("curve")) == 2
    finished = {path.stem for path in (there / "out" / "stages").glob("*.safetensors")}
    assert {"readings", "shots-13", "tuned-from-fv-seed-1"} <= finished and not finished & {"scores", "curve"}
    assert call("reproduce", *given, "--out", "out", "--shard", "0/1").exit_code == 0
    assert call("merge", "out").exit_code == 0 and results(there / "out") == whole(given)


@pytest.mark.slow
def test_models_are_studied_beside_one_another_and_one_that_cannot_be_is_left_out(given, networks, there):
    del given[2:4]
    models = ["--models", f"{networks / 'llama'},{networks / 'mistral'},nowhere/at/all"]
    Path("nowhere/at/all").mkdir(parents=True)
    result = call("reproduce", *given, *models, "--out", "out", "--jobs", 2)
    assert result.exit_code == 0, result.output + result.stderr
    assert "all" in summary(there / "out")["gaps"] and files(there / "out" / "mistral") == FOLDER
    alone = call("reproduce", *given, *models, "--out", "alone")
    assert alone.exit_code == 0 and results(there / "out") == results(there / "alone")
    for name in ("llama", "mistral"):
        assert results(there / "out" / name) == results(there / "alone" / name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--shard", "3/3"],
            "--shard is '3/3'; give its number, from 0, and how many there are, such as 0/3",
        ),
        (["--shard", "one"], "--shard is 'one'; give its number"),
        (["--shard", "0/2", "--jobs", "2"], "--shard is '0/2' beside --jobs; give one"),
        (["--shard", "0/2", "--slurm", "gpu"], "--shard is '0/2' beside --slurm; give one"),
        (["--minutes", "5"], "--minutes has no effect without --slurm"),
        (["--gpus", "1", "--jobs", "2"], "--gpus has no effect without --slurm"),
        (["--jobs", "0"], "Invalid value for '--jobs'"),
        (["--threads", "0"], "Invalid value for '--threads'"),
    ],
    ids=str,
)
def test_options_that_mean_nothing_together_are_refused(here, no_model, arguments, message):
    result = call("reproduce", *arguments)
    assert result.exit_code == 2 and message in result.stderr and not list(here.iterdir())


def test_without_submitit_or_slurm_it_is_said_what_to_install(here, no_model, monkeypatch):
    monkeypatch.setenv("PATH", "")
    if shutil.which("srun") is None:
        slurm = call("reproduce", "--relations", write(relations()[0]), "--slurm", "gpu")
        assert slurm.exit_code == 2 and "'gpu', and this machine has no Slurm (srun)" in slurm.stderr
    monkeypatch.setitem(sys.modules, "submitit", None)
    result = call("reproduce", "--jobs", 2)
    assert result.exit_code == 2 and 'pip install "fv-lens[cluster]"' in result.stderr
    assert files(here) == ["a.json"]


def test_a_folder_in_which_others_are_at_work_is_left_to_them(here, no_model):
    name = write(relations()[0])
    with present(Path("out"), "worker-1"):
        for arguments in ([], ["--jobs", "2"]):
            result = call("reproduce", "--relations", name, "--out", "out", *arguments)
            assert result.exit_code == 2 and re.search(r"worker-1 \(.+\) is at work in 'out'", result.stderr)
    with present(Path("out"), "shard-0-of-2"):
        result = call("reproduce", "--relations", name, "--out", "out", "--shard", "0/2")
        assert result.exit_code == 2 and "shard-0-of-2 is already at work in 'out'" in result.stderr


def test_the_folder_of_another_study_is_refused_before_a_model_is_loaded(here, no_model):
    name, out = write(relations()[0]), Path("out")
    with OutputFolder(out, "reproduce") as folder:
        folder.claim({"settings": Settings(seeds=5).to_dict(), "dtype": "torch.float32"})
        (out / "summary.json").write_text("{}")
    for arguments in ([], ["--jobs", "2"], ["--shard", "0/2"]):
        result = call("reproduce", "--relations", name, "--out", out, *arguments)
        assert result.exit_code == 2 and "seeds: 5 there, 2 here" in result.stderr


def test_a_model_that_cannot_be_loaded_is_told_as_by_one_process(there, networks, given):
    given[3] = "missing/model/folder"
    for arguments in (["--jobs", 1], ["--shard", "0/2"]):
        result = call("reproduce", *given, "--out", "out", *arguments)
        assert result.exit_code == 2 and "missing/model/folder" in result.stderr, result.output
        assert not Path("out").exists()


def test_a_model_is_spread_over_as_many_devices_as_are_asked_for(there, given, monkeypatch):
    asked = []

    def load_model(name, **options):
        asked.append(options)
        raise InputError("no such devices here")

    monkeypatch.setattr(load, "load_model", load_model)
    for devices in ([], ["--devices", "2"]):
        assert call("reproduce", *given, "--out", "out", *devices).exit_code == 2
    assert [options.get("n_devices") for options in asked] == [None, 2]


def test_workers_share_out_the_gpus():
    assert [visible_gpus([0, 1, 4], 1, place) for place in range(4)] == [[0], [1], [4], [0]]
    assert [visible_gpus([0, 1, 4, 5, 6], 2, place) for place in range(3)] == [[0, 1], [4, 5], [0, 1]]
    assert visible_gpus([], 1, 3) == [] and visible_gpus([0], 2, 1) == [0]


@pytest.mark.parametrize("folders", [["nothing"], ["nothing", "here"]], ids=str)
def test_a_folder_without_shards_is_refused(here, folders):
    result = call("merge", *folders)
    assert result.exit_code == 2 and "holds no study; give the --out of `fv-lens reproduce --shard`" in result.stderr
    assert not list(here.iterdir())
