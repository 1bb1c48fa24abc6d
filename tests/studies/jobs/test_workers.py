"""Workers beside other starts, other studies of the same folder, slow models and GPUs that break."""

import os
import signal
import stat

import pytest
import torch

from fv_lens.datasets.relation_files import load_relation
from fv_lens.ground.errors import InputError, ParityError
from fv_lens.studies.folders import JOBS, OutputFolder
from fv_lens.studies.jobs.graph import Graph
from fv_lens.studies.jobs.ledger import Ledger
from fv_lens.studies.jobs.presence import begin, has_begun, leave_mark, present
from fv_lens.studies.jobs.signals import deaf_to_ctrl_c, terminated_as_interrupted
from fv_lens.studies.jobs.unit import Unit
from fv_lens.studies.jobs.worker import work
from fv_lens.studies.reproduce import workers
from fv_lens.studies.reproduce.loading import Order
from fv_lens.studies.reproduce.setup import Settings
from fv_lens.studies.reproduce.workers import Part, Worker, check_left_out, loaded
from fv_lens.studies.stages import Stages

pytest.importorskip("submitit")


@pytest.fixture
def order(networks):
    settings = Settings(n_pairs=6, n_validation=3, n_test=4, steps=2, curve=(1,))
    return Order([load_relation("antonym"), load_relation("synonym")], settings, "float32", threads=1)


@pytest.fixture
def part(tmp_path, networks):
    return Part(tmp_path / "all" / "llama", str(networks / "llama"), "fv-lens reproduce")


def logged(out) -> str:
    return (out / JOBS / "worker-1.log").read_text()


def test_a_job_of_an_earlier_start_does_nothing_when_its_turn_comes(tmp_path, part, order):
    begin(tmp_path, "first")
    late = Worker("worker-1", 0, tmp_path, [part], order, "first")
    begin(tmp_path, "second")
    late()
    assert "another has begun" in logged(tmp_path) and not part.out.exists()


def test_a_command_without_workers_takes_the_folder_from_those_that_wait(tmp_path, part, order):
    begin(tmp_path, "")
    assert not (tmp_path / JOBS).exists(), "nothing is left where nobody was at work"
    begin(tmp_path, "first")
    begin(tmp_path, "")
    Worker("worker-1", 0, tmp_path, [part], order, "first")()
    assert "another has begun" in logged(tmp_path)


def test_a_start_is_refused_beside_workers_and_leaves_their_mark(tmp_path, monkeypatch):
    begin(tmp_path, "first")
    here = rf"^worker-1 \(process {os.getpid()} on .+\) is at work .* wait until it ends, or end it by kill"
    with present(tmp_path, "worker-1"), pytest.raises(InputError, match=here):
        begin(tmp_path, "second")
    looks = iter([None, "worker-2 is at work"])  # one whose turn comes between the two looks

    def refuse(out):
        if (said := next(looks)) is not None:
            raise InputError(said)

    monkeypatch.setattr("fv_lens.studies.jobs.presence.refuse_workers", refuse)
    with pytest.raises(InputError, match="worker-2"):
        begin(tmp_path, "second")
    assert has_begun(tmp_path, "first")


def test_a_study_within_a_folder_of_several_is_refused_to_others_while_workers_are_at_it(part, order):
    with loaded(part, order, "worker-1", wait=0.1):
        with pytest.raises(InputError, match=r"worker-1 \(.+\) is at work"):
            begin(part.out, "")
    begin(part.out, "")


def test_workers_leave_out_a_study_that_another_command_has(part, order):
    part.out.mkdir(parents=True)
    with OutputFolder(part.out, "reproduce"):
        with pytest.raises(InputError, match="in use by another"):
            with loaded(part, order, "worker-1", wait=0.1):
                pass


def test_a_model_that_is_not_loaded_in_three_turns_is_left_out(tmp_path, part, order, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(workers.time, "time", lambda: now[0])
    leave_mark(tmp_path, "start")

    def interrupted(part_, *args):
        now[0] += 50
        raise KeyboardInterrupt  # stands for the job's end in the middle of it

    monkeypatch.setattr(workers, "loaded", interrupted)
    worker = Worker("worker-1", 0, tmp_path, [part], order, "start", minutes=1)
    for _ in range(workers.TURNS):
        assert worker.parts == [part] and not (part.jobs / workers.LEFT_OUT).exists()
        with pytest.raises(KeyboardInterrupt):
            worker()
        worker = worker.checkpoint().function
    assert not worker.parts
    with pytest.raises(InputError, match=r"when its job was stopped, 3 times, at last after 50 s; give more --minutes"):
        check_left_out(part)
    worker()


def test_what_is_started_passes_over_ctrl_c_and_sigterm_acts_as_one():
    with deaf_to_ctrl_c():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_one_interruption_while_a_model_loads_is_no_fault(tmp_path, part, order, monkeypatch):
    worker = Worker("worker-1", 0, tmp_path, [part], order, "start", minutes=60)
    worker._loading, worker._began = part, workers.time.time() - 5
    again = worker.checkpoint().function
    assert again.parts == [part] and again.slow == (part.out,) and not (part.jobs / workers.LEFT_OUT).exists()
    monkeypatch.setattr(workers, "work", lambda *args: {})
    leave_mark(tmp_path, "start")
    again()
    assert again.slow == (), "in between it was loaded"


def test_where_torch_knows_no_broken_gpu_an_error_is_an_error(tmp_path, monkeypatch):
    """Before torch 2.8."""
    monkeypatch.setattr("fv_lens.studies.jobs.worker.BROKEN_GPU", ())

    def broken(subject, kept):
        raise RuntimeError("CUDA error")

    units = [Unit("first", "A unit", broken), Unit("second", "A unit", lambda subject, kept: ({}, {"x": 1}))]
    graph = Graph(units, Stages(tmp_path / "stages", {}))
    left = work(graph, None, Ledger(tmp_path / "units", "worker-1"), lambda line: None)
    assert list(left) == ["first"] and left["first"].error == "RuntimeError: CUDA error" and graph.is_done("second")


def test_why_a_model_cannot_be_studied_is_told_though_others_know_its_outline(part, order, monkeypatch):
    def refuse(study):
        raise ParityError("the engine differs")

    monkeypatch.setattr(workers, "prepare", refuse)
    Worker("worker-1", 0, part.out.parent, [part], order, "")()
    assert not (part.jobs / workers.OUTLINE).exists()
    with pytest.raises(ParityError, match="the engine differs"):
        check_left_out(part)


def test_a_broken_gpu_ends_the_process_and_the_unit_is_tried_by_another(tmp_path):
    def broken(subject, kept):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def graph():
        units = [Unit("first", "A unit", broken), Unit("second", "A unit", lambda subject, kept: ({}, {"x": 1}))]
        return Graph(units, Stages(tmp_path / "stages", {}))

    ledger = Ledger(tmp_path / "units", "worker-1")
    with pytest.raises(torch.AcceleratorError):
        work(graph(), None, ledger, lambda line: None)
    assert not graph().is_done("second"), "nothing more is computed there"
    del ledger
    watcher = Ledger(tmp_path / "units", "watcher")
    watcher.settle()
    assert watcher.was_killed("worker-1") and len(watcher.failures("first")) == 1


def test_stages_are_looked_for_anew_in_a_folder_that_may_not_be_changed(tmp_path, monkeypatch):
    stages = Stages(tmp_path / "stages", {})
    before, changed = stages.folder.stat().st_mode, []

    def chmod(path, mode):
        changed.append((path, mode))
        raise PermissionError(path)

    monkeypatch.setattr(type(stages.folder), "chmod", chmod)
    stages.refresh()
    assert changed == [(stages.folder, stat.S_IMODE(before))], "its parts have no folder yet"
    stages.folder.rmdir()
    stages.refresh()
    assert len(changed) == 1
