"""A folder belongs to one command, one plan and one process; what is refused is left as it was, byte for byte."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from fv_lens.ground import storage
from fv_lens.ground.errors import InputError
from fv_lens.models import load
from fv_lens.studies.folders import LOCK, MARKER, OutputFolder
from fv_lens.studies.reproduce import files
from fv_lens.studies.stages import Stages

from .. import tiny
from .commands import call, write
from .small import made, relations

PLAN = {"model": "tiny", "settings": {"seeds": 2, "counts": (5, 10)}, "threads": 1}


def tree(folder: Path) -> dict[str, str]:
    """Every file and folder below a folder, with the hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def left(out: Path, command: str = "reproduce", plan: dict = PLAN, file: str = "summary.json") -> Path:
    """A folder as a run of that plan leaves it."""
    with OutputFolder(out, command) as folder:
        folder.claim(plan)
        (out / file).parent.mkdir(exist_ok=True)
        (out / file).write_text("results")
    return out


# Plans and commands


def test_the_same_command_and_plan_go_on(tmp_path):
    out = left(tmp_path / "deep" / "out")
    before = tree(out)
    with OutputFolder(out, "reproduce") as folder:
        assert folder.has_results
        folder.claim(json.loads(json.dumps(PLAN)))
    assert tree(out) == before and json.loads((out / MARKER).read_text())["command"] == "reproduce"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "other"}, r"differs: model: 'tiny' there, 'other' here\. Give another --out, or delete this folder"),
        ({"settings": {"seeds": 3, "counts": (5, 10)}}, r"differs: settings \(seeds: 2 there, 3 here\)\."),
        (
            {"settings": {"seeds": 3, "counts": (5,)}, "threads": 2},
            r"differs: settings \(counts; seeds: 2 there, 3 here\); threads: 1 there, 2 here\.",
        ),
        ({"settings": {"seeds": 2}}, r"differs: settings \(there alone: counts\)\."),
        ({"weights": "abc"}, r"differs: here alone: weights\."),
        ({"threads": {"a": 1}}, r"differs: threads\."),
        ({"model": 99 * "x"}, r"differs: model\."),
        ({f"r{i}": "" for i in range(8)}, r"differs: here alone: r0, r1, r2, r3, r4 and 3 more\."),
    ],
    ids=str,
)
@pytest.mark.parametrize("file", ["summary.json", "stages/heads.safetensors", "vectors/a.safetensors"])
def test_another_plan_is_refused_and_what_differs_is_named(tmp_path, change, named, file):
    out = left(tmp_path / "out", file=file)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=named) as caught, OutputFolder(out, "reproduce") as folder:
        folder.claim(PLAN | change)
    assert repr(str(out)) in str(caught.value) and tree(tmp_path) == before


def test_another_plan_is_refused_by_what_is_known_of_it(tmp_path):
    known = {"settings": {"seeds": 3, "counts": (5, 10)}}
    for folder in (tmp_path / "none", left(tmp_path / "empty", file="notes.txt")):  # without results, nothing is lost
        OutputFolder(folder, "reproduce").refuse_other_plan(known)
    out = OutputFolder(left(tmp_path / "out"), "reproduce")
    out.refuse_other_plan({"settings": PLAN["settings"]})
    with pytest.raises(InputError, match=r"holds another run\. What differs: settings \(seeds: 2 there, 3 here\)\."):
        out.refuse_other_plan(known)


@pytest.mark.parametrize("there", ["run", "reproduce", "analogies", "humans"])
@pytest.mark.parametrize("command", ["run", "reproduce", "analogies", "humans"])
def test_another_command_is_refused(tmp_path, there, command):
    out = left(tmp_path / "out", there)
    before = tree(tmp_path)
    if there == command:
        OutputFolder(out, command).__enter__().__exit__()
    else:
        with pytest.raises(InputError, match=f"holds results of `fv-lens {there}`, and this is `fv-lens {command}`"):
            OutputFolder(out, command).__enter__()
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "file",
    [
        "report.html",
        "summary.json",
        "results.csv",
        "vector.safetensors",
        "vectors/mine.safetensors",
        "stages/x",
        "vectors",
    ],
)
@pytest.mark.parametrize("command", ["run", "reproduce"])
def test_files_that_would_be_overwritten_or_taken_for_results_are_refused(tmp_path, file, command):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("my own")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=f"has '{file}' and no {MARKER}.*Give another --out, or move"):
        OutputFolder(tmp_path, command).__enter__()
    assert tree(tmp_path) == before


def test_files_of_other_names_stay_beside_the_results(tmp_path):
    (tmp_path / "notes.txt").write_text("my own")
    left(tmp_path)
    assert tree(tmp_path).keys() - {LOCK} == {MARKER, "notes.txt", "summary.json"}  # some filelocks delete it
    assert (tmp_path / "notes.txt").read_text() == "my own"


@pytest.mark.parametrize("inside", ["vectors", "stages/more", "composites"])
def test_a_folder_among_the_results_of_another_is_refused(tmp_path, inside):
    out = left(tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="lies among the results of `fv-lens reproduce` in .*Give another --out"):
        OutputFolder(out / inside, "run").__enter__()
    OutputFolder(out / "beside", "run").__enter__().__exit__()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("finished", [False, True])
def test_the_results_of_a_model_are_those_of_the_folder_it_is_in(tmp_path, finished):
    plan, out = {"models": {"one": "org/one", "two": "two"}}, tmp_path / "out"

    def begun():
        with OutputFolder(out, "reproduce") as folder:
            folder.claim(plan)
            with OutputFolder(out / "one", "reproduce") as inner:
                inner.claim(PLAN)
                if finished:
                    (out / "one" / "summary.json").write_text("results")

    begun()
    assert out.exists() == finished, "where no model has results, nothing is left"
    if not finished:
        return
    before = tree(out)
    with pytest.raises(InputError, match="holds another run. What differs: models"):
        with OutputFolder(out, "reproduce") as folder:
            folder.claim({"models": {"two": "two"}})
    with pytest.raises(InputError, match="holds results of `fv-lens reproduce`, and this is `fv-lens run`"):
        OutputFolder(out, "run").__enter__()
    begun()
    assert {name: content for name, content in tree(out).items() if LOCK not in name} == {
        name: content for name, content in before.items() if LOCK not in name
    }


def test_vectors_that_the_plan_does_not_make_are_refused(tmp_path):
    out = left(tmp_path / "out", file="vectors/old.safetensors")
    before = tree(tmp_path)
    for made_files in ({}, {"vectors": ["new.safetensors", "summed/old.safetensors"]}):
        with pytest.raises(InputError, match="old.safetensors' is not of this run.*Move it to another folder"):
            with OutputFolder(out, "reproduce") as folder:
                folder.claim(PLAN, made_files)
        assert tree(tmp_path) == before
    with OutputFolder(out, "reproduce") as folder:
        folder.claim(PLAN, {"vectors": ["old.safetensors"]})


@pytest.mark.parametrize(
    "content", ["{", "[]", "[" * 100_000, "{}", '{"command": 3, "plan": {}}', '{"command": "run"}'], ids=range(6)
)
def test_a_damaged_marker_is_told(tmp_path, content):
    out = left(tmp_path / "out")
    (out / MARKER).write_text(content)
    with pytest.raises(InputError, match=f"{MARKER}' is damaged.*Give another --out, or delete this folder"):
        OutputFolder(out, "reproduce").__enter__()


# Nothing saved, nothing left


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, InputError])
@pytest.mark.parametrize("claimed", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_where_nothing_was_saved_nothing_is_left(tmp_path, error, claimed, there):
    out = tmp_path / "deep" / "out"
    if there:
        out.mkdir(parents=True)
        (out / "notes.txt").write_text("my own")
    before = tree(tmp_path)
    with pytest.raises(error), OutputFolder(out, "reproduce") as folder:
        if claimed:
            folder.claim(PLAN)
            Stages(out / "stages", PLAN)
        raise error("stopped")
    assert tree(tmp_path) == before


def test_a_killed_start_that_saved_nothing_binds_nobody(tmp_path):
    out = left(tmp_path / "out")
    (out / "summary.json").unlink()
    (out / ".summary.json.123.part").write_text("hal")
    with OutputFolder(out, "run") as folder:
        folder.claim({"other": 1})
        (out / "report.html").write_text("page")
    assert tree(out).keys() - {LOCK} == {MARKER, "report.html"}


OWN = ["stages/plan.json", ".download.iso.part", "vectors/.draft.part", ".summary.json.part", ".notes.txt.12.part"]


@pytest.mark.parametrize("command", ["run", "reproduce"])
@pytest.mark.parametrize("content", ["my own", '{"plan": 1}', "[]"])
@pytest.mark.parametrize("names", [OWN, *([name] for name in OWN)], ids=str)
def test_no_file_of_the_users_is_deleted(tmp_path, command, content, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    before = tree(tmp_path)
    for claimed in (False, True):
        with suppress(InputError), OutputFolder(tmp_path, command) as folder:
            if claimed:
                folder.claim(PLAN)
        assert tree(tmp_path) == before


def test_the_plan_of_an_earlier_version_is_the_users_own_to_a_command_that_had_none(tmp_path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "plan.json").write_text(json.dumps(PLAN))
    before = tree(tmp_path)
    with pytest.raises(InputError, match=f"has 'stages/plan.json' and no {MARKER}"):
        OutputFolder(tmp_path, "run").__enter__()
    with OutputFolder(tmp_path, "reproduce"):
        pass
    assert tree(tmp_path) == before


@pytest.mark.parametrize("inner", ["stages", "vectors", "composites"])
def test_empty_folders_that_were_there_stay(tmp_path, inner):
    (tmp_path / inner).mkdir()
    before = tree(tmp_path)
    with OutputFolder(tmp_path, "reproduce") as folder:
        folder.claim(PLAN)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "name", [f".{MARKER}.1.part", "stages/.timings.json.22.part", "vectors/summed/.a.b.safetensors.3.part"]
)
def test_half_written_files_of_a_killed_run_go_with_the_next_claim(tmp_path, name):
    out = left(tmp_path / "out")
    before = tree(out)
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("hal")
    with OutputFolder(out, "reproduce") as folder:
        folder.claim(PLAN)
    assert not (out / name).exists() and before.items() <= tree(out).items()


def test_a_lock_on_a_file_that_is_gone_is_not_taken(tmp_path):
    """One process opens the file of the lock that another holds, which then deletes the file and gives the lock back.

    Were the first to hold the lock then, so could a third, with a file of its own.
    """
    fcntl = pytest.importorskip("fcntl")
    flock, seen = fcntl.flock, []

    def late(descriptor, how):
        if not seen and how & fcntl.LOCK_EX:
            seen.append(descriptor)
            os.unlink(tmp_path / LOCK)
        return flock(descriptor, how)

    one, other = OutputFolder(tmp_path, "reproduce"), OutputFolder(tmp_path, "reproduce")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fcntl, "flock", late)
        with suppress(InputError):
            one.__enter__()
    assert seen
    if not one._lock.is_locked:
        other.__enter__()
        other.__exit__()
    else:
        with pytest.raises(InputError, match="in use"):
            other.__enter__()
        one.__exit__()


# Folders of an earlier version


def earlier(out: Path, plan: dict = PLAN) -> Path:
    (out / "stages").mkdir(parents=True)
    (out / "stages" / "plan.json").write_text(json.dumps(plan))
    storage.save(out / "stages" / "heads.safetensors", "Stage", {"x": torch.ones(2)}, {"record": {}, "seconds": 1.0})
    (out / "summary.json").write_text("{}")
    return out


def test_a_folder_of_an_earlier_version_is_taken_over_where_the_plan_agrees(tmp_path):
    out = earlier(tmp_path / "out")
    for _ in range(2):
        with OutputFolder(out, "reproduce") as folder:
            folder.claim(PLAN)
            assert Stages(out / "stages", PLAN).finished == ["heads"]
    assert json.loads((out / MARKER).read_text())["command"] == "reproduce"


def test_a_folder_of_an_earlier_version_with_another_plan_or_command_is_refused(tmp_path):
    out = earlier(tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="holds another run. What differs: threads"):
        with OutputFolder(out, "reproduce") as folder:
            folder.claim(PLAN | {"threads": 2})
    with pytest.raises(InputError, match=f"and no {MARKER}"):
        OutputFolder(out, "run").__enter__()
    assert tree(tmp_path) == before


# Processes

HELD = """
import sys, time
from fv_lens.studies.folders import OutputFolder
with OutputFolder(sys.argv[1], "reproduce") as folder:
    folder.claim({"model": "tiny"})
    (folder.path / "results.csv").write_text("a,b")
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    """A folder that another process works in, and that process."""
    command = [sys.executable, "-c", HELD, tmp_path / "out"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield tmp_path / "out", process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_at_once_and_changes_nothing(held):
    out, _ = held
    before, started = tree(out), time.monotonic()
    with pytest.raises(InputError, match="in use by another fv-lens process. Wait until it ends, or give another"):
        OutputFolder(out, "reproduce").__enter__()
    assert time.monotonic() - started < 1 and tree(out) == before


def test_the_lock_of_a_killed_process_is_free(held):
    out, process = held
    process.send_signal(signal.SIGKILL)
    process.wait()
    with OutputFolder(out, "reproduce") as folder:
        folder.claim({"model": "tiny"})
        assert (out / MARKER).is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "out").mkdir(mode=0o555)
    with pytest.raises(InputError, match="Cannot write to .*Choose another --out"):
        OutputFolder(tmp_path / "out", "run").__enter__()


# The commands


def refused(message: str, *arguments: object) -> None:
    """The command exits with 2 and one line that says so, and changes nothing here."""
    before = tree(Path())
    result = call(*arguments)
    *notes, last = result.stderr.splitlines()
    assert result.exit_code == 2 and last.startswith("Error: ") and message in last and "another --out" in last
    assert not [line for line in notes if "Error" in line or "Traceback" in line]
    assert tree(Path()) == before


@pytest.fixture
def study(here, without_page):
    """The arguments of a study, and its finished folder in the working directory."""
    given = ["reproduce", "--relations", write(relations()[0]), "--seeds", 1]
    assert call(*given).exit_code == 0
    return given


@pytest.mark.slow
def test_commands_keep_out_of_a_finished_study(study, here, monkeypatch):
    other = ["reproduce", "--relations", write(relations()[1]), "--seeds", 1]
    refused("What differs: names and kin", *other, "--out", "fv_lens_study")
    refused("settings (seeds: 1 there, 2 here)", *study[:-1], 2, "--out", "fv_lens_study")
    monkeypatch.setattr(load, "load_model", lambda name, **options: pytest.fail("the model was loaded"))
    pairs = write(made("pairs", n=40))
    refused("holds results of `fv-lens reproduce`, and this is `fv-lens run`", "run", pairs, "--out", "fv_lens_study")
    refused("holds results of `fv-lens reproduce`, and this is", "analogies", "--out", "fv_lens_study")
    refused("lies among the results of `fv-lens reproduce`", "run", pairs, "--out", "fv_lens_study/vectors")
    (here / "mine").mkdir()
    (here / "mine" / "report.html").write_text("my own")
    for command in (["run", pairs], study, ["analogies"]):
        refused(f"has 'report.html' and no {MARKER}", *command, "--out", "mine")


@pytest.mark.slow
def test_another_run_keeps_out_of_a_finished_run(here, tmp_path, monkeypatch):
    llama = tiny.build("llama")
    monkeypatch.setattr(load, "load_model", lambda name, **options: llama)
    pairs = write(made("pairs", n=40))
    assert call("run", pairs, "--prompts", 2).exit_code == 0
    monkeypatch.setattr(load, "load_model", lambda name, **options: pytest.fail("the model was loaded"))
    refused("What differs: prompts: 2 there, 3 here", "run", pairs, "--prompts", 3)
    refused("What differs: seed: 0 there, 1 here", "run", pairs, "--prompts", 2, "--seed", 1)
    refused("What differs: model: 'smollm2-135m' there, 'gpt2' here", "run", pairs, "--prompts", 2, "--model", "gpt2")
    refused("What differs: relation", "run", write(made("others", n=40)), "--prompts", 2)
    refused("holds results of `fv-lens run`", "reproduce", "--relations", pairs, "--out", "fv_lens_run")


@pytest.mark.slow
def test_a_stage_or_vector_of_another_study_is_refused(study, here):
    other = ["reproduce", "--relations", write(relations()[1]), "--seeds", 1, "--out", "other"]
    assert call(*other).exit_code == 0
    heads, stranger = (here / name / "stages" / "heads.safetensors" for name in ("other", "fv_lens_study"))
    own, others = heads.read_bytes(), stranger.read_bytes()
    heads.write_bytes(others)
    refused("heads.safetensors' belongs to another plan", *other)
    heads.write_bytes(own)
    vector = here / "other" / "vectors" / "a.safetensors"
    vector.write_bytes((here / "fv_lens_study" / "vectors" / "a.safetensors").read_bytes())
    refused("vectors/a.safetensors' is not of this run", *other)
    vector.unlink()
    assert call(*other).exit_code == 0


@pytest.mark.slow
def test_two_commands_with_one_folder_are_kept_apart(here, without_page, monkeypatch):
    given = ["reproduce", "--relations", write(relations()[0]), "--seeds", 1]
    seen, save = [], files.write_csv

    def meanwhile(*arguments):
        save(*arguments)
        if not seen:  # a second process would see the very lock that this one, in another place, sees
            seen.append(True)
            refused("is in use by another fv-lens process", *given)

    monkeypatch.setattr(files, "write_csv", meanwhile)
    assert call(*given).exit_code == 0 and seen
