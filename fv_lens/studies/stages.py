"""Stages of a long run on disk: each is computed once, written whole or not at all, and read when the run goes on."""

import hashlib
import json
import stat
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from ..ground import storage
from ..ground.errors import InputError
from ..ground.schema import Record
from .folders import EARLIER

Step = tuple[dict[str, Tensor], dict[str, Any]]  # tensors, and plain JSON data
TIMINGS = "timings.json"
PARTS = "parts"


class StageRecord(Record):
    """A stage of a long run: what was computed, and under which plan where that is kept with it."""

    kind: ClassVar[str] = "Stage"

    record: dict[str, Any]
    plan: Any = None
    seconds: float = Field(0.0, ge=0)  # only in stages written before timings had a file of their own

    def of_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Any tensors: a step's own."""


class Stages:
    """The finished stages in a folder, each of which carries the plan that it is of.

    A stage may be made of parts, named `PARTS/...`: each is kept in a file of its own until the whole is.

    Args:
        folder: where they are kept; made if needed.
        plan: plain JSON data that says what is run (model, relations, settings, versions).
        alone: held while the file of timings is changed, where other processes write stages into the folder as well.

    Raises:
        InputError: the folder holds a stage of another plan or a damaged one, or cannot be written to.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any], alone: AbstractContextManager[Any] | None = None):
        self.folder, self._plan = folder, json.loads(json.dumps(plan))
        self._alone: AbstractContextManager[Any] = nullcontext() if alone is None else alone
        self.timings: dict[str, float] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot use {str(folder)!r}: {error}. Choose another folder.") from None
        self._adopt()
        for name in self.finished:
            self._read(name)

    @property
    def finished(self) -> list[str]:
        """Names of the stages on disk, those of parts apart."""
        return sorted(path.stem for path in self.folder.glob("*.safetensors"))

    def has(self, name: str) -> bool:
        """Whether a stage, or a part of one, is on disk."""
        return self._path(name).is_file()

    def refresh(self) -> None:
        """Have a network file system look at the folders anew: a change of mode ends what it remembers of them."""
        for folder in (self.folder, self.folder / PARTS):
            with suppress(OSError):  # it is not there, or another user's
                folder.chmod(stat.S_IMODE(folder.stat().st_mode))

    def run(self, name: str, compute: Callable[[], Step], parts: Collection[str] = ()) -> Step:
        """The tensors and record of a stage, from disk if it was finished before.

        Args:
            parts: of the stage, on disk, which `compute` brings together: their time is the stage's, and they go.
        """
        if not self.has(name):
            started = time.perf_counter()
            tensors, record = compute()
            took = time.perf_counter() - started
            self._write(name, tensors, {"record": record})
            self._add_timing(name, took, parts)
        for part in parts:
            self._path(part).unlink(missing_ok=True)
        return self.read(name)

    def read(self, name: str) -> Step:
        """The tensors and record of a finished stage.

        Raises:
            InputError: it is not there, is damaged or is of another plan.
        """
        tensors, saved = self._read(name)
        seconds = timings_in(self.folder).get(name, saved.get("seconds"))
        if seconds is not None and not name.startswith(PARTS):
            self.timings[name] = seconds
        return tensors, saved["record"]

    def _add_timing(self, name: str, took: float, parts: Collection[str]) -> None:
        with self._alone:
            known = timings_in(self.folder)
            took += sum(known.pop(part, 0.0) for part in parts)
            storage.save_json(self.folder / TIMINGS, known | {name: round(took, 1)})

    def tidy(self) -> None:
        """Remove the folder of parts, where all of them have gone into their stages."""
        with suppress(OSError):  # it is not there, or not empty
            (self.folder / PARTS).rmdir()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _digest(self, name: str) -> str:
        return _digest(self._plan, name)

    def _write(self, name: str, tensors: dict[str, Tensor], saved: dict[str, Any]) -> None:
        self._path(name).parent.mkdir(parents=True, exist_ok=True)
        storage.save(self._path(name), StageRecord.kind, tensors, saved | {"plan": self._digest(name)})

    def _read(self, name: str) -> Step:
        try:
            tensors, saved = storage.load(self._path(name), StageRecord)
        except InputError as error:
            raise InputError(f"{error} Delete the file to compute the stage again, or give another --out.") from None
        if saved.get("plan") != self._digest(name):
            raise InputError(
                f"{str(self._path(name))!r} belongs to another plan or stage than this run's. Delete the file to "
                "compute the stage again, or give another --out."
            )
        return tensors, saved

    def _adopt(self) -> None:
        """Write the plan into stages of an earlier version, which kept it in a file beside them."""
        earlier = self.folder / EARLIER
        if not earlier.is_file():
            return
        try:
            same = json.loads(earlier.read_text(encoding="utf-8")) == self._plan
        except ValueError:
            same = False
        if not same:
            raise InputError(f"{str(earlier)!r} belongs to another plan than this run's. Delete the folder it is in.")
        for name in self.finished:
            tensors, saved = storage.load(self._path(name), StageRecord)
            if "plan" not in saved:
                self._write(name, tensors, saved)
        earlier.unlink()


def read_of_another_run(folder: Path, plan: Mapping[str, Any], name: str) -> Step | None:
    """A stage that another run has left in its folder of stages; None where that run was of another plan.

    Raises:
        InputError: the stage is missing or damaged.
    """
    tensors, saved = storage.load(folder / f"{name}.safetensors", StageRecord)
    return (tensors, saved["record"]) if saved.get("plan") == _digest(json.loads(json.dumps(plan)), name) else None


def _digest(plan: Any, name: str) -> str:
    return hashlib.sha256(json.dumps([plan, name], sort_keys=True).encode()).hexdigest()


def timings_in(folder: Path) -> dict[str, float]:
    """Seconds that the stages in a folder took, from a file of its own: stages that are equal are then equal files."""
    try:
        known = json.loads((folder / TIMINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: x for name, x in known.items() if isinstance(x, int | float)} if isinstance(known, dict) else {}
