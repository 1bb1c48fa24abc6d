"""Output folders: each belongs to one command and one plan, and to one process at a time.

    with OutputFolder("fv_lens_study", "reproduce") as folder:  # locked; another command's folder is refused
        folder.claim(plan)  # another plan's folder is refused; after this, write into folder.path

The command and plan of a folder are in its `fv_lens_plan.json`, written before anything else. Until a plan is claimed
nothing is changed, and a folder in which nothing was saved is left as it was. A plan of several `models` (folder ->
model) has for each an output folder within, whose results count as its own.
"""

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout

from ..ground.errors import InputError

MARKER, LOCK = "fv_lens_plan.json", ".fv_lens.lock"
EARLIER = "plan.json"  # in `stages`: where version 0.1.0 kept the plan at first
FILES = (
    "report.html", "summary.json", "results.csv", "by_question.csv", "by_relation.csv", "effects.safetensors",
    "vector.safetensors", "tuned.safetensors", "results.json",
)  # fmt: skip
FOLDERS = ("stages", "vectors", "composites")
JOBS = "jobs"  # logs and records of processes that share a study: no results
HALF_WRITTEN = re.compile(
    rf"\.(?:{'|'.join(map(re.escape, (*FILES, MARKER, 'timings.json')))}|.+\.safetensors)\.\d+\.part"
)
RESUMABLE = ("reproduce", "analogies", "humans")
MOST_NAMES, LONGEST = 5, 40  # names listed, characters of a value shown, where two plans differ
WAY_OUT = "Give another --out, or delete this folder."


class OutputFolder:
    """A folder that one command writes to; a context manager that holds its lock.

    Args:
        path: the folder; made if needed.
        command: whose results it holds: "run", "reproduce", "analogies", "humans" or "harness".
        wait: seconds to wait for another process that has the folder.
        keep: whether its mark stays where nothing was saved yet, for others that will.

    Raises:
        InputError: on entry, if the folder belongs to another command, holds the user's own files that would be
            overwritten, is in use by another process or cannot be written to.
    """

    def __init__(self, path: str | os.PathLike[str], command: str, wait: float = 0, keep: bool = False):
        self.path, self.command, self.claimed = Path(path), command, False
        self._lock, self._keep = FileLock(self.path / LOCK, timeout=wait), keep
        # What was not there before: the folder and those above it, those within it, and the lock's file and marker.
        self._made: list[Path] = []
        self._inner: list[Path] = []
        self._written: list[Path] = []

    def __enter__(self) -> "OutputFolder":
        try:
            self._check()  # first without a trace, for a folder that is refused
            try:
                self._acquire()
            except Timeout:
                raise InputError(
                    f"{str(self.path)!r} is in use by another fv-lens process. Wait until it ends, or give another "
                    "--out."
                ) from None
            self._check()  # another process may have been here in between
        except OSError as error:
            self._leave()
            raise InputError(
                f"Cannot write to {str(self.path)!r}: {error.strerror or error}. Choose another --out."
            ) from None
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._leave()

    @property
    def stages(self) -> list[Path]:
        """The finished stages, and parts of some."""
        return sorted((self.path / "stages").rglob("*.safetensors"))

    @property
    def has_results(self) -> bool:
        """Whether there is anything in it that a command of fv-lens writes, a half-written file aside."""
        return any(True for _ in self._results())

    def refuse_other_plan(self, known: Mapping[str, Any]) -> None:
        """Raise an InputError where there are results of a plan that differs in what is `known` of this one."""
        plain, earlier = json.loads(json.dumps(known)), self._plan()
        if isinstance(earlier, dict) and self.has_results and any(earlier.get(key) != plain[key] for key in plain):
            self._refuse({key: earlier.get(key) for key in plain}, plain)

    def claim(
        self, plan: Mapping[str, Any], makes: Mapping[str, Collection[str]] | None = None, alone: bool = True
    ) -> None:
        """Mark the folder as that of a plan, or confirm that it is.

        Args:
            plan: plain JSON data that says what is run: model, relations, settings, versions.
            makes: subfolder -> the .safetensors files that the plan may leave there; none for those left out.
            alone: no other process writes into the folder, so that half-written files are a killed one's and go.

        Raises:
            InputError: the folder is of another plan, or holds vectors that this one does not make.
        """
        plain, earlier = json.loads(json.dumps(plan)), self._plan()
        if earlier is not None and earlier != plain and (self.has_results or not alone):
            self._refuse(earlier, plain)
        for name in ("vectors", "composites"):
            for file in sorted((self.path / name).rglob("*.safetensors")):
                if file.relative_to(self.path / name).as_posix() not in (makes or {}).get(name, ()):
                    raise InputError(
                        f"{str(file)!r} is not of this run but would be taken for its result. Move it to another "
                        "folder, or give another --out."
                    )
        try:
            stale = [] if self.stages or self._earlier() is None else [self.path / "stages" / EARLIER]
            for file in (*stale, *(self._partial() if alone else ())):
                file.unlink(missing_ok=True)
            self._write_marker({"command": self.command, "plan": plain})
        except OSError as error:
            raise InputError(
                f"Cannot write to {str(self.path)!r}: {error.strerror or error}. Choose another --out."
            ) from None
        self.claimed = True

    def _refuse(self, earlier: Any, plan: Mapping[str, Any]) -> NoReturn:
        raise InputError(f"{str(self.path)!r} holds another run. What differs: {_differing(earlier, plan)}. {WAY_OUT}")

    def _check(self) -> None:
        inside = self._within()
        if inside is not None:
            raise InputError(
                f"{str(self.path)!r} lies among the results of `fv-lens {inside[1]}` in {str(inside[0])!r}. Give "
                "another --out."
            )
        owner = _read(self.path / MARKER)
        if owner is None and self._earlier() is not None:
            return  # of an earlier version: its plan decides
        first = next(self._results(), None)
        if first is None:
            return
        if owner is None:
            raise InputError(
                f"{str(self.path)!r} has {first.relative_to(self.path).as_posix()!r} and no {MARKER}: it is not "
                f"from this version's `fv-lens {self.command}`, which might overwrite it. Give another --out, or move "
                "the folder's content elsewhere."
            )
        if owner["command"] != self.command:
            raise InputError(
                f"{str(self.path)!r} holds results of `fv-lens {owner['command']}`, and this is `fv-lens "
                f"{self.command}`. {WAY_OUT}"
            )

    def _within(self) -> tuple[Path, str] | None:
        """The results folder that this path lies in (such as in its `vectors`), and that folder's command."""
        path = self.path.absolute()
        for above in path.parents:
            if (above / MARKER).is_file() and path.relative_to(above).parts[0] in FOLDERS:
                return above, owner_of(above) or ""
        return None

    def _plan(self) -> Any:
        owner = _read(self.path / MARKER)
        return self._earlier() if owner is None else owner["plan"]

    def _earlier(self) -> dict[str, Any] | None:
        """The plan of an earlier version; None for any other file of that name, which is the user's own."""
        file = self.path / "stages" / EARLIER
        if self.command not in RESUMABLE or not file.is_file():
            return None
        with suppress(InputError):
            content = _json(file)
            if isinstance(content, dict) and {"model", "threads"} <= content.keys():
                return content
        return None

    def _results(self) -> Iterator[Path]:
        for name in FILES:
            if os.path.lexists(self.path / name):
                yield self.path / name
        ours = {*self._partial(), *([] if self._earlier() is None else [self.path / "stages" / EARLIER])}
        for name in FOLDERS:
            inside = self.path / name
            if inside.exists() and not inside.is_dir():
                yield inside
            yield from (file for file in sorted(inside.rglob("*")) if not file.is_dir() and file not in ours)
        for name in self._parts():
            if OutputFolder(self.path / name, self.command).has_results:
                yield self.path / name

    def _parts(self) -> list[str]:
        """The folders within, each of one model, that the plan in the marker names: output folders of their own."""
        return list(models_of(self.path))

    def _partial(self) -> list[Path]:
        """Files that a killed process left half-written."""
        places = [self.path.glob(".*.part"), *((self.path / name).rglob(".*.part") for name in FOLDERS)]
        return [file for place in places for file in place if HALF_WRITTEN.fullmatch(file.name) and file.is_file()]

    def _acquire(self) -> None:
        self._made = [path for path in (self.path, *self.path.absolute().parents) if not path.exists()]
        self._inner = [self.path / name for name in FOLDERS if not os.path.lexists(self.path / name)]
        self.path.mkdir(parents=True, exist_ok=True)
        self._written = [path for path in [self.path / LOCK] if not path.exists()]
        self._lock.acquire()

    def _write_marker(self, content: dict[str, Any]) -> None:
        path = self.path / MARKER
        if path.is_file() and _read(path) == content:
            return
        partial = path.with_name(f".{MARKER}.{os.getpid()}.part")
        try:
            partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        self._written.insert(0, path)

    def _leave(self) -> None:
        """Release the lock; if nothing was saved, remove what was created."""
        with suppress(OSError):
            if self._lock.is_locked and not (self.claimed and (self._keep or self.has_results)):
                for folder in self._inner:
                    with suppress(OSError):
                        folder.rmdir()
                # The lock's file comes last. Another process may have opened it, and filelock from 3.20.4 on does not
                # take a lock on a file that is gone.
                for file in self._written:
                    file.unlink(missing_ok=True)
        self._lock.release()
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()


def owner_of(folder: Path) -> str | None:
    """The command whose results a folder holds; None where it does not say."""
    owner = _read(folder / MARKER)
    return None if owner is None else owner["command"]


def plan_in(folder: Path) -> Any:
    """The plan that a folder is marked with; None where it is not marked."""
    owner = _read(folder / MARKER)
    return None if owner is None else owner["plan"]


def models_of(folder: Path) -> dict[str, str]:
    """The models of a folder of several, by the folder of each within; none where it is not of several models."""
    owner = _read(folder / MARKER)
    models = owner["plan"].get("models") if owner is not None and isinstance(owner["plan"], dict) else None
    return models if isinstance(models, dict) else {}


def _read(marker: Path) -> dict[str, Any] | None:
    if not marker.is_file():
        return None
    content = _json(marker)
    if not isinstance(content, dict) or not isinstance(content.get("command"), str) or "plan" not in content:
        raise InputError(f"{str(marker)!r} is damaged: it names no command and plan. {WAY_OUT}")
    return content


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(file)!r} is damaged: {error}. {WAY_OUT}") from None


def _differing(there: Any, plan: Mapping[str, Any]) -> str:
    """What differs between two plans: "relations (there alone: antonym); settings (seeds: 2 there, 3 here)"."""
    if not isinstance(there, dict):
        return "everything"
    parts = []
    for key in sorted(key for key in there.keys() & plan.keys() if there[key] != plan[key]):
        values = there[key], plan[key]
        if all(isinstance(value, dict) for value in values):
            parts.append(f"{key} ({_differing(*values)})")
        elif all(isinstance(value, int | float | str) and len(repr(value)) <= LONGEST for value in values):
            parts.append(f"{key}: {values[0]!r} there, {values[1]!r} here")
        else:
            parts.append(key)
    for where, alone in (("there", there.keys() - plan.keys()), ("here", plan.keys() - there.keys())):
        if alone:
            more = f" and {len(alone) - MOST_NAMES} more" * (len(alone) > MOST_NAMES)
            parts.append(f"{where} alone: {', '.join(sorted(alone)[:MOST_NAMES])}{more}")
    return "; ".join(parts)
