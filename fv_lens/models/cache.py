"""The cache of converted models: each is made once, whole or not at all, by one process at a time."""

import contextlib
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout
from rich.console import Console
from safetensors import SafetensorError

from ..ground.errors import InputError

log = logging.getLogger("fv_lens")
SCRATCH = re.compile(r"\.(?P<key>.+)\.making-\w{8}")  # folders of conversions that are under way, or were killed


def cache_folder() -> Path:
    """FV_LENS_CACHE, else the user's cache folder."""
    chosen = os.environ.get("FV_LENS_CACHE")
    return Path(os.path.expanduser(chosen)) if chosen else platformdirs.user_cache_path("fv_lens")


def made_once(key: str, name: str, gigabytes: float, make: Callable[[Path, Path], None]) -> Path:
    """The folder `key` of the cache, made first if there is none.

    Args:
        name: the model, in messages.
        gigabytes: what it takes there, in messages.
        make: given a scratch folder and the folder to make, which is in it.

    Raises:
        InputError: the disk is full, the cache cannot be written to, or what `make` raises.
    """
    cache = cache_folder()
    folder = cache / key
    _clear_scratch(cache)
    if folder.exists():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache, key, name):
            _remove_scratch(cache, key)
            if not folder.exists():
                _make(cache, folder, make)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        raise InputError(
            f"{name} cannot be made in {cache}: {error}; it takes {gigabytes:.2g} GB there, "
            "or set FV_LENS_CACHE to another folder"
        ) from error
    return folder


def _make(cache: Path, folder: Path, make: Callable[[Path, Path], None]) -> None:
    # Made beside its place and renamed when whole: an interruption leaves nothing that looks like a model.
    prefix = f".{folder.name}.making-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=cache, ignore_cleanup_errors=True) as scratch:
        whole = Path(scratch, folder.name)
        make(Path(scratch), whole)
        try:
            whole.rename(folder)
        except OSError:  # a process that does not lock was first; its folder will do
            if not folder.is_dir():
                raise


@contextlib.contextmanager
def _locked(cache: Path, key: str, name: str) -> Iterator[None]:
    """Hold a key's lock, waiting for a live process if need be: scratch folders left then are of dead ones."""
    lock = _lock(cache, key)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with status(f"Waiting for another process, which makes {name}"):
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock(cache: Path, key: str) -> FileLock:
    return FileLock(cache / f".{key}.lock")


def _clear_scratch(cache: Path) -> None:
    """Remove what killed processes left in the cache, gigabytes each, where no process is at work."""
    for key in set(_scratch_folders(cache).values()):
        with contextlib.suppress(OSError, Timeout), _lock(cache, key).acquire(timeout=0):
            _remove_scratch(cache, key)


def _remove_scratch(cache: Path, key: str) -> None:
    for folder, owner in _scratch_folders(cache).items():
        if owner == key:
            shutil.rmtree(folder, ignore_errors=True)


def _scratch_folders(cache: Path) -> dict[Path, str]:
    """Scratch folders, and the key of each; the cache may be a folder that holds other things as well."""
    named = {folder: SCRATCH.fullmatch(folder.name) for folder in cache.glob(".*.making-*")}
    return {folder: match["key"] for folder, match in named.items() if match and folder.is_dir()}


@contextlib.contextmanager
def status(what: str) -> Iterator[None]:
    """Show what is done, where standard error is a terminal; a log has it as a line."""
    log.info(what)
    with Console(file=sys.stderr).status(what):
        yield
