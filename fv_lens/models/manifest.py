"""The manifest of a folder that was converted: where it came from and what was written, checked at each load."""

import contextlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError, safe_open

from ..ground.errors import InputError

FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")  # that every such folder has
MANIFEST, HASHES = "fv_lens.json", "xxh3_128"


def write_manifest(folder: Path, source: Mapping[str, str], **facts: Any) -> None:
    """List where the folder came from, and its files; written last, so that a folder with it is whole.

    Args:
        source: SHA-256 of each file that the folder was made from, by name.
        facts: what else is on record, such as the quantisation.
    """
    packages = ("transformers", "gguf", "safetensors", "torch")
    files = sorted({*FILES, *(file.name for file in folder.iterdir())} - {MANIFEST})
    manifest = {
        "source": dict(source),
        **facts,
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "files": {file: (folder / file).stat().st_size for file in files},
        HASHES: _hashes(folder, files),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def verified(folder: Path, weights_xxh3: str | None = None) -> Path:
    """`folder`, after a check that its files are those that were written.

    XXH3 takes 0.04 s for half a gigabyte; SHA-256 takes 0.3 s even with hardware support.

    Args:
        weights_xxh3: digest of the tensors that a folder without hashes must hold, which earlier versions wrote.
    """
    remedy = f"delete the folder {folder} and load the model again, which makes it once more"
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        names = dict.fromkeys([*FILES, *manifest["files"]])
        sizes = {folder / file: manifest["files"][file] for file in names}
        hashes = manifest.get(HASHES)
        if hashes is None and weights_xxh3 is None:
            raise KeyError(HASHES)
        hashes = hashes if hashes is None else {folder / file: hashes[file] for file in names}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{folder / MANIFEST} is missing or damaged; {remedy}") from None
    for file, size in sizes.items():
        actual = file.stat().st_size if file.is_file() else 0
        if actual != size:
            raise InputError(f"{file} has {actual} bytes, and {size} were written; {remedy}")
    if hashes is None:
        _add_hashes(folder, manifest, weights_xxh3, remedy)
    for file, expected in (hashes or {}).items():
        if _hash(file) != expected:
            raise InputError(f"{file} is not what was written: it has another hash (XXH3); {remedy}")
    return folder


def _add_hashes(folder: Path, manifest: dict[str, Any], weights_xxh3: str | None, remedy: str) -> None:
    """Add hashes to a folder that was made without them, if its tensors are the known ones in whatever order."""
    file = folder / FILES[0]
    if digest_of_tensors(file) != weights_xxh3:
        raise InputError(f"{file} does not hold the weights of {folder.name}; {remedy}")
    partial = folder / f".{MANIFEST}.{os.getpid()}"
    with contextlib.suppress(OSError):  # a cache for many that this user may not write to
        partial.write_text(json.dumps(manifest | {HASHES: _hashes(folder, manifest["files"])}, indent=2) + "\n")
        os.replace(partial, folder / MANIFEST)


def _hashes(folder: Path, files: Iterable[str]) -> dict[str, str]:
    return {file: _hash(folder / file) for file in files}


def _hash(file: Path) -> str:
    digest, buffer = xxhash.xxh3_128(), memoryview(bytearray(1 << 20))
    with file.open("rb") as stream:
        while n := stream.readinto(buffer):
            digest.update(buffer[:n])
    return digest.hexdigest()


def digest_of_tensors(file: Path) -> str | None:
    """XXH3 of the tensors' values in any order: two names share one tensor, and libraries differ in which they keep."""
    try:
        with safe_open(file, "pt") as tensors:
            digests = [xxhash.xxh3_128(tensors.get_tensor(name).numpy()).digest() for name in tensors.keys()]
    except SafetensorError:
        return None
    return xxhash.xxh3_128(b"".join(sorted(digests))).hexdigest()
