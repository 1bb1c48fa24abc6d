"""What a shell sees: one line and the right exit code, whatever becomes of the output and whenever it is stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "fv_lens"]
ROOT = Path(__file__).parents[2]
# As in a terminal, also where these tests are a job in the background and ignore interrupts.
IN_FRONT = {} if os.name == "nt" else {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}


def start(*arguments: str, **settings) -> subprocess.Popen:
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    return subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, **IN_FRONT, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("command", ["relations", "--help"])
def test_what_the_encoding_lacks_is_escaped(command, encoding):
    process = start(command, env=os.environ | {"PYTHONIOENCODING": encoding})
    out, error = process.communicate()
    assert process.returncode == 0 and not error
    if command == "relations":
        assert ("hot → cold" if encoding == "utf-8" else r"hot \u2192 cold") in out.decode(encoding)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["relations", "--help", "--version"])
def test_a_full_disk_is_told_in_one_line(command):
    with open("/dev/full", "w") as full:
        process = start(command, stdout=full)
        _, error = process.communicate()
    assert process.returncode == 1
    assert error.decode() == "Error: the output cannot be written: No space left on device\n"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_where_an_error_cannot_be_written_its_exit_code_stays():
    with open("/dev/full", "w") as full:
        process = start("run", "no-such-relation", stderr=full)
        assert process.communicate()[0] == b"" and process.returncode == 2


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs pipes as Unix has them")
def test_a_reader_that_has_gone_ends_the_command_without_a_word():
    process = start("relations")
    process.stdout.close()
    assert process.wait() == 141 and process.stderr.read() == b""


def test_without_an_output_the_command_works():
    settings = dict(capture_output=True, cwd=ROOT)
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "relations"], **settings)
    assert (closed.returncode, closed.stderr) == (0, b"")


IMPORTING = """
import importlib.abc, sys, time
from fv_lens.__main__ import main

slow = sys.argv.pop(1)

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *more):
        if name == slow:
            print("importing", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
main()
"""


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("module", ["fv_lens.studies.cli", "typer", "numpy", "torch"])
def test_an_interrupt_while_something_is_imported_is_one_line(module, tmp_path):
    command = [sys.executable, "-c", IMPORTING, module, "run", "antonym", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **IN_FRONT)
    assert process.stdout.readline() == b"importing\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    lines = error.decode().splitlines()
    assert process.returncode == 130 and lines[-1] == "Interrupted. Nothing was saved."
    assert "Traceback" not in error.decode() and len(lines) <= 3 and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_interrupt_at_any_moment_is_one_line(tmp_path):
    for delay in (0.15, 0.3, 0.6, 1.2):
        process = start("run", "antonym", "--out", str(tmp_path / "out"), "--model", str(tmp_path))
        time.sleep(delay)
        if process.poll() is not None:
            break  # it was quicker
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
        # Inside `exec(source)`, as of a dataclass that is being made, Python ends by the signal itself: 130 in a shell.
        assert process.returncode in (130, -signal.SIGINT, 2), error.decode()
        assert "Traceback" not in error.decode(), error.decode()
        assert not (tmp_path / "out").exists()


def test_a_job_in_the_background_that_ignores_interrupts_goes_on_ignoring_them():
    ignoring = (
        "import signal, sys; from fv_lens.studies import shell; "
        "signal.signal(signal.SIGINT, signal.SIG_IGN); shell.begin()"
    )
    told = f"{ignoring}; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    assert subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True).stdout == b"True\n"
