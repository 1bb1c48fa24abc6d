"""Stages of a long run on disk: each is computed once, written whole or not at all, and read when the run goes on."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from . import storage
from .errors import InputError

KIND, TIMINGS = "Stage", "timings.json"
MOST_NAMES, LONGEST = 5, 40  # names listed, characters of a value shown, where two plans differ


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
            raise InputError(
                f"{str(folder)!r} holds another run. What differs: {_differing(there, mine)}. "
                "Give another folder, or delete this one."
            )
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
            storage.save(path, KIND, tensors, {"record": record})
            storage.save_json(self.folder / TIMINGS, self._known_timings() | {name: seconds})
        tensors, saved = storage.load(path, KIND)
        seconds = self._known_timings().get(name, saved.get("seconds"))
        if seconds is not None:
            self.timings[name] = seconds
        return tensors, saved["record"]

    def _known_timings(self) -> dict[str, float]:
        """How long stages took, in a file of its own: stages that are equal are then equal files."""
        try:
            known = json.loads((self.folder / TIMINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {name: x for name, x in known.items() if isinstance(x, int | float)} if isinstance(known, dict) else {}


def _differing(there: Mapping, mine: Mapping) -> str:
    """What differs between two plans: "relations (there alone: antonym); settings (seeds: 2 there, 3 here)"."""
    parts = []
    for key in sorted(key for key in there.keys() & mine.keys() if there[key] != mine[key]):
        values = there[key], mine[key]
        if all(isinstance(value, dict) for value in values):
            parts.append(f"{key} ({_differing(*values)})")
        elif all(isinstance(value, int | float | str) and len(repr(value)) <= LONGEST for value in values):
            parts.append(f"{key}: {values[0]!r} there, {values[1]!r} here")
        else:
            parts.append(key)
    for where, alone in (("there", there.keys() - mine.keys()), ("here", mine.keys() - there.keys())):
        if alone:
            more = f" and {len(alone) - MOST_NAMES} more" * (len(alone) > MOST_NAMES)
            parts.append(f"{where} alone: {', '.join(sorted(alone)[:MOST_NAMES])}{more}")
    return "; ".join(parts)
