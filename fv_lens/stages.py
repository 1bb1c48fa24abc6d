"""Stages of a long run on disk: each is computed once, written whole or not at all, and read when the run goes on."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from . import storage
from .errors import InputError

KIND = "Stage"


class Stages:
    """A folder of finished stages, all of one plan.

    Args:
        folder: where they are kept; made if needed.
        plan: plain JSON data that says what is run (model, relations, settings, versions).

    Raises:
        InputError: the folder holds stages of another plan, or cannot be written to.
    """

    def __init__(self, folder: Path, plan: Mapping):
        self.folder, self.timings = folder, {}
        mine, path = json.loads(json.dumps(plan)), folder / "plan.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            there = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except (OSError, ValueError) as error:
            raise InputError(f"Cannot use {str(folder)!r}: {error}. Choose another folder.") from None
        if there is not None and there != mine:
            differing = _differing(there, mine)
            raise InputError(f"{str(folder)!r} holds a run with other {differing}; give another folder, or delete it.")
        if there is None:
            with storage.written_whole(path) as partial:
                partial.write_text(json.dumps(mine, indent=1), encoding="utf-8")

    @property
    def finished(self) -> list[str]:
        """Names of the stages on disk."""
        return sorted(path.stem for path in self.folder.glob("*.safetensors"))

    def run(self, name: str, compute: Callable[[], tuple[dict[str, Tensor], dict]]) -> tuple[dict[str, Tensor], dict]:
        """The tensors and record of a stage, from disk if it was finished before."""
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            started = time.perf_counter()
            tensors, record = compute()
            seconds = round(time.perf_counter() - started, 1)
            storage.save(path, KIND, tensors, {"record": record, "seconds": seconds})
        tensors, saved = storage.load(path, KIND)
        self.timings[name] = saved["seconds"]
        return tensors, saved["record"]


def _differing(there: Mapping, mine: Mapping) -> str:
    """Names of what differs between two plans: "settings (seeds), threads"."""
    names = []
    for key in sorted(key for key in {*there, *mine} if there.get(key) != mine.get(key)):
        parts = [there.get(key), mine.get(key)]
        inner = _differing(*parts) if all(isinstance(part, dict) for part in parts) else ""
        names.append(f"{key} ({inner})" if inner else key)
    return ", ".join(names)
