"""Results on disk: safetensors files whose metadata is one JSON record. Nothing is ever unpickled."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import InputError

FORMAT = "1"


def versions() -> dict[str, str]:
    """Versions of what a result depends on, for its record."""
    return {name: metadata.version(name) for name in ("fv-lens", "transformer-lens", "transformers", "torch")}


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, to write to; the file takes its place when whole, or goes with the first error.

    Raises:
        InputError: the folder does not exist or cannot be written to, or the disk is full.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            partial.touch()  # with the permissions that the user's files have, which safetensors' own have not
            permissions = partial.stat().st_mode
            yield partial
            partial.chmod(permissions)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot write {str(path)!r}: {cause}. Choose another place.") from None


def save_json(path: str | os.PathLike, data: object) -> None:
    """Write plain data as JSON to be read by people too; the file appears whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def save(path: str | os.PathLike, kind: str, tensors: dict[str, torch.Tensor], record: dict) -> None:
    """Write tensors and a JSON record; the file appears whole or not at all, see `written_whole`."""
    text = {"kind": f"fv_lens.{kind}", "format": FORMAT, "record": json.dumps(record)}
    with written_whole(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=text)


def load(path: str | os.PathLike, kind: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Read what `save` wrote.

    Raises:
        InputError: the file is missing, cut short, no safetensors file, or holds something else than a `kind`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"No file {str(path)!r}; expected a {kind} saved with .save(path), or written by fv-lens run.")
    try:
        with safe_open(path, "pt") as file:
            text = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{str(path)!r} is no whole safetensors file ({error}); it may be cut short, or another file."
        ) from None
    found = text.get("kind", "a safetensors file that fv_lens did not write")
    if found != f"fv_lens.{kind}":
        raise InputError(f"{str(path)!r} holds {found}, not fv_lens.{kind}.")
    if text["format"] != FORMAT:
        raise InputError(f"{str(path)!r} has format {text['format']!r}; this version reads {FORMAT!r}. Update fv_lens.")
    return tensors, json.loads(text["record"])
