"""Stages are computed once, written whole or not at all, and never mixed with those of another plan."""

import json
import shutil
import time

import pytest
import torch

from fv_lens.ground import storage
from fv_lens.ground.errors import InputError
from fv_lens.studies import stages as module
from fv_lens.studies.stages import Stages

PLAN = {"model": "tiny", "settings": {"seeds": 2, "counts": (5, 10)}, "threads": 1}
TENSORS = {"x": torch.arange(6.0).reshape(2, 3), "right": torch.tensor([1, 0], dtype=torch.uint8)}
RECORD = {"heads": [[0, 1]], "broken": {}, "loss": 0.1, "why": "wörds\n", "none": None}


def never():
    pytest.fail("the stage was finished before")


def counted(calls: list):
    def compute():
        calls.append(1)
        return TENSORS, RECORD

    return compute


def same(found) -> bool:
    tensors, record = found
    equal = all(torch.equal(tensors[name], x) and tensors[name].dtype == x.dtype for name, x in TENSORS.items())
    return equal and tensors.keys() == TENSORS.keys() and record == RECORD


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_stage_is_computed_once_and_read_when_the_run_goes_on(tmp_path):
    calls, stages = [], Stages(tmp_path / "deep" / "stages", PLAN)
    assert same(stages.run("heads", counted(calls))) and same(stages.run("heads", never)) and calls == [1]
    later = Stages(tmp_path / "deep" / "stages", json.loads(json.dumps(PLAN)))
    assert later.finished == ["heads"] and same(later.run("heads", never))
    assert same(later.run("sums", counted(calls))) and later.finished == ["heads", "sums"] and calls == [1, 1]
    assert files(tmp_path / "deep" / "stages") == ["heads.safetensors", "sums.safetensors", "timings.json"]


def test_a_first_run_and_a_later_one_get_the_same_from_disk(tmp_path):
    compute = lambda: ({"x": torch.ones(2, 3).T}, {"pair": (1, 2)})  # noqa: E731
    first, later = (Stages(tmp_path, PLAN).run("heads", compute) for _ in range(2))
    assert first[1] == later[1] == {"pair": [1, 2]} and torch.equal(first[0]["x"], later[0]["x"])


def test_a_stage_may_have_no_tensors(tmp_path):
    stages = Stages(tmp_path, PLAN)
    assert stages.run("readings", lambda: ({}, RECORD)) == stages.run("readings", never) == ({}, RECORD)


@pytest.mark.slow
def test_times_are_those_of_the_run_that_computed(tmp_path):
    Stages(tmp_path, PLAN).run("slow", lambda: time.sleep(0.3) or (TENSORS, RECORD))
    later = Stages(tmp_path, PLAN)
    later.run("slow", never)
    assert 0.3 <= later.timings["slow"] < 3


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, InputError])
def test_a_stage_that_fails_leaves_nothing(tmp_path, error):
    stages = Stages(tmp_path, PLAN)

    def fail():
        raise error("stopped")

    with pytest.raises(error, match="stopped"):
        stages.run("heads", fail)
    assert files(tmp_path) == [] and stages.timings == {}
    assert same(stages.run("heads", counted([])))


def test_writing_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    stages = Stages(tmp_path, PLAN)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module.storage, "save_file", half)
        stages.run("heads", counted([]))
    assert files(tmp_path) == []
    assert same(stages.run("heads", counted([])))


def test_a_killed_runs_half_written_file_is_not_taken_for_a_stage(tmp_path):
    calls, stages = [], Stages(tmp_path, PLAN)
    stages.run("sums", counted([]))
    whole = (tmp_path / "sums.safetensors").read_bytes()
    (tmp_path / ".heads.safetensors.123.part").write_bytes(whole[: len(whole) // 2])
    assert same(stages.run("heads", counted(calls))) and calls == [1]


@pytest.mark.parametrize("left", [0, 7, 100, -1])
def test_a_stage_that_was_cut_short_is_refused(tmp_path, left):
    Stages(tmp_path, PLAN).run("heads", counted([]))
    path = tmp_path / "heads.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(InputError, match="heads.safetensors' is not a complete safetensors file"):
        Stages(tmp_path, PLAN).run("heads", counted([]))


# Plans


def contents(folder) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "change",
    [{"model": "other"}, {"settings": {"seeds": 3, "counts": (5, 10)}}, {"settings": {"seeds": 2}}, {"weights": "abc"}],
    ids=str,
)
def test_a_stage_of_another_plan_is_refused_and_nothing_is_changed(tmp_path, change):
    Stages(tmp_path / "other", PLAN | change).run("heads", counted([]))
    Stages(tmp_path / "mine", PLAN).run("sums", counted([]))
    shutil.copy(tmp_path / "other" / "heads.safetensors", tmp_path / "mine")
    before = contents(tmp_path / "mine")
    with pytest.raises(InputError, match="mine/heads.safetensors' belongs to another plan or stage .* Delete the file"):
        Stages(tmp_path / "mine", PLAN)
    assert contents(tmp_path / "mine") == before


def test_a_stage_under_the_name_of_another_is_refused(tmp_path):
    Stages(tmp_path, PLAN).run("heads", counted([]))
    shutil.copy(tmp_path / "heads.safetensors", tmp_path / "sums.safetensors")
    with pytest.raises(InputError, match="sums.safetensors' belongs to another plan or stage"):
        Stages(tmp_path, PLAN)


def of_an_earlier_version(folder, plan=PLAN) -> None:
    """Stages as version 0.1.0 left them at first: the plan in a file beside them and in none of them."""
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    storage.save(folder / "heads.safetensors", "Stage", TENSORS, {"record": RECORD, "seconds": 1.5})


def test_stages_of_an_earlier_version_are_taken_over_where_the_plan_agrees(tmp_path):
    of_an_earlier_version(tmp_path / "stages")
    stages = Stages(tmp_path / "stages", PLAN)
    assert same(stages.run("heads", never)) and stages.timings == {"heads": 1.5}
    assert files(tmp_path / "stages") == ["heads.safetensors"]
    assert same(Stages(tmp_path / "stages", PLAN).run("heads", never))
    with pytest.raises(InputError, match="belongs to another plan"):
        Stages(tmp_path / "stages", PLAN | {"model": "other"})


@pytest.mark.parametrize("plan", [PLAN | {"model": "other"}, None], ids=str)
def test_stages_of_an_earlier_version_with_another_plan_are_refused(tmp_path, plan):
    of_an_earlier_version(tmp_path / "stages", plan)
    before = contents(tmp_path / "stages")
    with pytest.raises(InputError, match="plan.json' belongs to another plan than this run's"):
        Stages(tmp_path / "stages", PLAN)
    assert contents(tmp_path / "stages") == before


def test_a_stage_without_a_plan_is_refused(tmp_path):
    of_an_earlier_version(tmp_path / "stages")
    (tmp_path / "stages" / "plan.json").unlink()
    with pytest.raises(InputError, match="heads.safetensors' belongs to another plan"):
        Stages(tmp_path / "stages", PLAN)


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="Cannot use .*file.*Choose another folder"):
            Stages(folder, PLAN)
