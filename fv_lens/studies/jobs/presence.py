"""Which workers and shards are at work in a folder: each holds a lock of its own name there while it lives."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ...ground.errors import InputError
from ..folders import JOBS

PATIENCE = 2.0  # seconds for another process that only looks


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
    try:
        yield
    finally:
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


def refuse_others(out: Path) -> None:
    """Raise an InputError where workers or shards are at work in a folder."""
    if names := at_work(out):
        raise InputError(
            f"{', '.join(names)} {'are' if len(names) > 1 else 'is'} at work in {str(out)!r}, perhaps since an earlier "
            "start; wait until they end, or cancel them"
        )


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.alive"
