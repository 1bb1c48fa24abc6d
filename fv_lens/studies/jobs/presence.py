"""Which workers and shards are at work in a folder: each holds a lock of its own name there while it lives.

A job that waits for its turn holds none. So each start leaves its mark, and a job of another start, whose command has
ended, does nothing when its turn comes.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ...ground import storage
from ...ground.errors import InputError
from ..folders import JOBS

PATIENCE = 2.0  # seconds for another process that only looks
START = "start"


@contextmanager
def present(out: Path, name: str) -> Iterator[None]:
    """Hold the lock of a worker or shard.

    Raises:
        InputError: another process of this name is at work in the folder.
    """
    folder = out / JOBS
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_path(folder, name), timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{name} is already at work in {str(out)!r}; wait until it ends, or give another --out"
        ) from None
    process = folder / f"{name}.process"
    process.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    try:
        yield
    finally:
        process.unlink(missing_ok=True)
        lock.release()


def at_work(out: Path) -> list[str]:
    """Names of the workers and shards that are alive."""
    alive = []
    for path in sorted((out / JOBS).glob("*.alive")):
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            alive.append(path.stem)
        else:
            lock.release()
    return alive


def refuse_workers(out: Path) -> None:
    """Raise an InputError where workers or shards are at work in a folder."""
    if names := at_work(out):
        listed = ", ".join(f"{name} ({_process(out / JOBS, name)})" for name in names)
        one = len(names) == 1
        raise InputError(
            f"{listed} {'is' if one else 'are'} at work in {str(out)!r}, perhaps since an earlier start; wait until "
            f"{'it ends' if one else 'they end'}, or end {'it' if one else 'them'} by kill or, on Slurm, scancel."
        )


def _process(folder: Path, name: str) -> str:
    try:
        return (folder / f"{name}.process").read_text(encoding="utf-8")
    except OSError:  # it has just ended, or is of an earlier version
        return "process not known"


def begin(out: Path, start: str) -> None:
    """Take a folder over: jobs of earlier starts, which may wait for their turn still, then find another's mark.

    Args:
        start: what nobody else has for a mark; "" for a command that has no workers.

    Raises:
        InputError: workers or shards are at work in it.
    """
    refuse_workers(out)
    if not start and not (out / JOBS).is_dir():
        return  # nobody has ever been at work here
    before = _mark(out)
    leave_mark(out, start)
    try:
        refuse_workers(out)  # one that began in between
    except InputError:
        leave_mark(out, before)
        raise


def has_begun(out: Path, start: str) -> bool:
    """Whether a folder's last start is this one."""
    return _mark(out) == start


def _mark(out: Path) -> str:
    path = out / JOBS / START
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def leave_mark(out: Path, start: str) -> None:
    """Have jobs of other starts do nothing when their turn comes."""
    (out / JOBS).mkdir(parents=True, exist_ok=True)
    with storage.written_whole(out / JOBS / START) as partial:
        Path(partial).write_text(start, encoding="utf-8")


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.alive"
