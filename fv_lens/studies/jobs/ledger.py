"""Who computes which unit: a lock and a short record of tries for each, in a folder that all processes share.

A lock is the operating system's: it is free again as soon as its process is gone, however that ended. A unit that
failed, or whose process ended in the middle of it, is tried once more.
"""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ...ground import storage

TRIES = 2
How = Literal["running", "done", "failed", "released"]


@dataclass(frozen=True)
class Try:
    """One attempt at a unit.

    Args:
        worker: who made it.
        pid, host: its process.
        started, ended: seconds since 1970; None while it lasts.
        how: it ended. A "released" one was interrupted by no fault of the unit's, and does not count.
        why: the error of one that failed.
    """

    worker: str
    pid: int
    host: str
    started: float
    ended: float | None = None
    how: How = "running"
    why: str = ""


class Ledger:
    """The tries at the units of one study, as one process sees and makes them.

    Args:
        folder: shared by all; made if needed.
        worker: the name of this process in the records.
    """

    def __init__(self, folder: Path, worker: str):
        self.folder, self.worker = folder, worker
        self._locks: dict[str, FileLock] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def tries(self, name: str) -> list[Try]:
        """The attempts at a unit so far."""
        try:
            return [Try(**line) for line in json.loads(self._record(name).read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            return []

    def failures(self, name: str) -> list[Try]:
        """The attempts that failed."""
        return [attempt for attempt in self.tries(name) if attempt.how == "failed"]

    def is_given_up(self, name: str) -> bool:
        """Whether a unit has failed too often to be tried again."""
        return len(self.failures(name)) >= TRIES

    def claim(self, name: str) -> bool:
        """Begin a unit, if no other process is at it and it is not given up. Then `end` it."""
        lock = self._take(name)
        if lock is None:
            return False
        tries = self._settled(name)
        if sum(attempt.how == "failed" for attempt in tries) >= TRIES:
            lock.release()
            return False
        self._write(name, [*tries, Try(self.worker, os.getpid(), socket.gethostname(), time.time())])
        self._locks[name] = lock
        return True

    def end(self, name: str, error: str | None = None) -> None:
        """End this process's attempt: done, or failed with an error."""
        self._end(name, "done" if error is None else "failed", error or "")

    def interrupt(self, most: float | None = None) -> None:
        """Leave what this process has claimed to others, as its job is stopped; such attempts do not count.

        Args:
            most: seconds of one attempt; after more of them it has failed.
        """
        for name in list(self._locks):
            took = time.time() - self.tries(name)[-1].started
            if most is not None and took > most:
                self._end(name, "failed", f"its job's time limit came after {took:.0f} s of it")
            else:
                self._end(name, "released", "its job was stopped")

    def settle(self) -> None:
        """Note the attempts of processes that are gone; for one that looks on."""
        for path in self.folder.glob("*.json"):
            if any(attempt.how == "running" for attempt in self.tries(path.stem)) and (lock := self._take(path.stem)):
                self._settled(path.stem)
                lock.release()

    def was_killed(self, worker: str) -> bool:
        """Whether a worker ended in the middle of a unit."""
        why = _killed(worker)
        return any(attempt.why == why for path in self.folder.glob("*.json") for attempt in self.tries(path.stem))

    def forget(self, worker: str | None = None) -> None:
        """Begin to count again: a later start tries what an earlier one gave up; or one worker's failures alone."""
        for path in self.folder.glob("*.json"):
            if worker in (None, *(attempt.worker for attempt in self.failures(path.stem))):
                if lock := self._take(path.stem):
                    path.unlink(missing_ok=True)
                    lock.release()

    def _settled(self, name: str) -> list[Try]:
        """The tries of a unit whose lock is held here: none of them is still running."""
        tries = self.tries(name)
        if not any(attempt.how == "running" for attempt in tries):
            return tries
        ended = [self._gone(attempt) if attempt.how == "running" else attempt for attempt in tries]
        self._write(name, ended)
        return ended

    def _gone(self, attempt: Try) -> Try:
        """A try whose process is gone: of this worker's own, which was started again, or of one that was killed."""
        fields = asdict(attempt) | {"ended": time.time()}
        if attempt.worker == self.worker:
            return Try(**fields | {"how": "released", "why": "its job was started again"})
        return Try(**fields | {"how": "failed", "why": _killed(attempt.worker)})

    def _end(self, name: str, how: How, why: str) -> None:
        *before, last = self.tries(name)
        self._write(name, [*before, Try(**asdict(last) | {"ended": time.time(), "how": how, "why": why})])
        self._locks.pop(name).release()

    def _take(self, name: str) -> FileLock | None:
        lock = FileLock(self._path(name, "lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock

    def _write(self, name: str, tries: list[Try]) -> None:
        lines: list[dict[str, Any]] = [asdict(attempt) for attempt in tries]
        storage.save_json(self._record(name), lines)

    def _record(self, name: str) -> Path:
        return self._path(name, "json")

    def _path(self, name: str, ending: str) -> Path:
        return self.folder / f"{name.replace('/', '-')}.{ending}"


def _killed(worker: str) -> str:
    return f"{worker} ended in the middle of it"
