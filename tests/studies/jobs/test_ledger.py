"""Who is at which unit: one at a time, twice at most, and free again when a process is gone."""

import subprocess
import sys
import time

import pytest

from fv_lens.studies.jobs import ledger as module
from fv_lens.studies.jobs.ledger import Ledger, Try


@pytest.fixture
def two(tmp_path):
    return Ledger(tmp_path, "worker-1"), Ledger(tmp_path, "worker-2")


def hows(ledger: Ledger, name: str) -> list[tuple[str, str]]:
    return [(attempt.worker, attempt.how) for attempt in ledger.tries(name)]


def left_running(ledger: Ledger, name: str, worker: str) -> None:
    """What a process leaves that was killed: a record without an end, and no lock."""
    ledger._write(name, [*ledger.tries(name), Try(worker, 1, "host", time.time())])


def test_a_unit_is_claimed_once_and_again_only_after_a_failure(two):
    one, other = two
    assert one.claim("parts/heads-0") and not other.claim("parts/heads-0") and other.claim("sums")
    one.end("parts/heads-0", "RuntimeError: no room")
    assert not other.is_given_up("parts/heads-0") and other.claim("parts/heads-0")
    other.end("parts/heads-0", "RuntimeError: no room")
    assert one.is_given_up("parts/heads-0") and not one.claim("parts/heads-0")
    assert hows(one, "parts/heads-0") == [("worker-1", "failed"), ("worker-2", "failed")]
    other.end("sums")
    assert hows(one, "sums") == [("worker-2", "done")] and not one.failures("sums")


def test_a_unit_whose_process_is_killed_is_free_and_the_try_counts(tmp_path, two):
    code = (
        "from fv_lens.studies.jobs.ledger import Ledger; from pathlib import Path; "
        f"ledger = Ledger(Path({str(tmp_path)!r}), 'worker-9'); assert ledger.claim('sums'); "
        "print('claimed', flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "claimed\n"
    assert not two[0].claim("sums") and hows(two[0], "sums") == [("worker-9", "running")]
    two[0].settle()
    assert hows(two[0], "sums") == [("worker-9", "running")], "it is alive"
    process.kill()
    process.wait()
    two[0].settle()
    assert hows(two[0], "sums") == [("worker-9", "failed")] and two[0].was_killed("worker-9")
    assert two[0].claim("sums") and two[0].tries("sums")[0].why == "worker-9 ended in the middle of it"


def test_a_job_that_is_started_again_goes_on_and_its_interrupted_try_does_not_count(two):
    one, other = two
    left_running(one, "sums", "worker-1")
    assert one.claim("sums") and hows(one, "sums") == [("worker-1", "released"), ("worker-1", "running")]
    one.interrupt()
    assert hows(one, "sums")[-1] == ("worker-1", "released") and other.claim("sums") and not one.failures("sums")


def test_a_unit_for_which_a_jobs_time_is_too_short_fails(two, monkeypatch):
    one, other = two
    assert one.claim("sums") and one.claim("curve")
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + 40)
    one.interrupt(most=30.0)
    assert hows(one, "sums") == hows(one, "curve") == [("worker-1", "failed")]
    assert "its job's time limit came after 40 s of it" in other.failures("sums")[0].why
    assert other.claim("sums")
    other.interrupt(most=3000.0)
    assert hows(one, "sums")[-1] == ("worker-2", "released")


def test_a_later_start_counts_anew_and_a_shard_its_own_failures_alone(two):
    one, other = two
    for ledger, name in ((one, "sums"), (other, "curve")):
        assert ledger.claim(name)
        ledger.end(name, "error")
    one.forget("worker-1")
    assert not one.tries("sums") and len(one.failures("curve")) == 1
    assert one.claim("scores")
    other.forget()
    assert not one.tries("curve") and hows(one, "scores") == [("worker-1", "running")], "what is under way is left"


def test_a_damaged_record_is_as_none(two):
    two[0]._record("sums").write_text('[{"worker": ')
    assert two[0].tries("sums") == [] and two[0].claim("sums")
