"""Results on disk: safetensors files whose metadata is one JSON record. Nothing is ever unpickled.

`load` accepts a file only if it is complete, unchanged since it was written, and valid for its kind (`schema`).
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import InputError
from .schema import Record
from .text_files import FilePath, check_file, own_path, parse_json

FORMAT = "1"


def versions() -> dict[str, str]:
    """Versions of what a result depends on, for its record."""
    return {name: metadata.version(name) for name in ("fv-lens", "transformer-lens", "transformers", "torch")}


@contextmanager
def written_whole(path: FilePath) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` when complete, and is removed on an error.

    Raises:
        InputError: the folder does not exist or cannot be written to, or the disk is full.
    """
    whole = own_path(path)
    partial = whole.with_name(f".{whole.name}.{os.getpid()}.part")
    try:
        try:
            partial.touch()  # for the permissions of the user's files, which safetensors does not set
            permissions = partial.stat().st_mode
            yield partial
            partial.chmod(permissions)
            os.replace(partial, whole)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot write {str(whole)!r}: {cause}. Choose another place.") from None


def save_json(path: FilePath, data: Any) -> None:
    """Write plain data as JSON to be read by people too; the file appears whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def naming(path: FilePath) -> Iterator[None]:
    """Prefix errors about a file's content with the file's name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{str(path)!r}: {error}. The file is damaged or was edited; save it again.") from None


def save(path: FilePath, kind: str, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors and a JSON record; the file appears whole or not at all, see `written_whole`.

    Equal content makes equal bytes.
    """
    tensors, record_text = {name: tensor.contiguous() for name, tensor in tensors.items()}, json.dumps(record)
    text = {
        "kind": f"fv_lens.{kind}",
        "format": FORMAT,
        "record": record_text,
        "sha256": _digest(kind, tensors, record_text),
    }
    with written_whole(path) as partial:
        save_file(tensors, partial, metadata=text)
        _sort_header(partial)


def save_checked(path: FilePath, kind: type[Record], tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """`save`, after a check that `load` will accept the content; an InputError names the wrong field."""
    try:
        kind.check(tensors, json.loads(json.dumps(record)))
    except InputError as error:
        raise InputError(f"This {kind.kind} cannot be saved: {error}.") from None
    save(path, kind.kind, tensors, record)


def load(path: FilePath, kind: type[Record]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote.

    Raises:
        InputError: the file is missing, truncated, not a safetensors file, or holds something other than a `kind`; a
            field or tensor is missing or invalid; or the content differs from what was written.
    """
    path = own_path(path)
    try:
        check_file(path)
    except InputError as error:
        raise InputError(
            f"No file {str(path)!r}; expected a {kind.kind} saved with .save(path), or written by fv-lens run "
            f"({error})."
        ) from None
    try:
        with safe_open(path, "pt") as file:
            text = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{str(path)!r} is not a complete safetensors file ({error}); it may be truncated or of another kind. "
            "Check the path, or save it again."
        ) from None
    held = text.get("kind", "a safetensors file that fv_lens did not write")
    if held != f"fv_lens.{kind.kind}":
        raise InputError(f"{str(path)!r} holds {held}, not fv_lens.{kind.kind}; give the path of a saved {kind.kind}.")
    if text.get("format") != FORMAT:
        raise InputError(
            f"{str(path)!r} has format {text.get('format')!r}; this version reads {FORMAT!r}. Update fv_lens."
        )
    with naming(path):
        if "record" not in text:
            raise InputError("its record is missing")
        record = parse_json(text["record"], "its record", constants=True)
        if "sha256" not in text and isinstance(record, dict):
            record = kind.completed(record)
        kind.check(tensors, record)
        # Files written before the digest was introduced have none.
        if text.get("sha256", digest := _digest(kind.kind, tensors, text["record"])) != digest:
            raise InputError("its content is not what was written: the SHA-256 differs")
    return tensors, record


def _digest(kind: str, tensors: Mapping[str, Tensor], record: str) -> str:
    """SHA-256 of everything in a file."""
    hashed = hashlib.sha256(json.dumps([kind, record]).encode())
    for name, tensor in sorted(tensors.items()):
        hashed.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _sort_header(path: Path) -> None:
    """Put the metadata of a safetensors file in order: the library writes it in a different order each time."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
        if len(text) != size:
            raise SafetensorError(f"its header of {size} bytes came to {len(text)} when sorted")
        file.seek(8)
        file.write(text)
