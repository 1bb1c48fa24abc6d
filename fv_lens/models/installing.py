"""A guard against package installs while models load, which TransformerLens starts for models with image input."""

import contextlib
import os
import subprocess
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch

_guard = threading.Lock()
_refused: dict[int, list[list[str]]] = {}  # thread -> words of refused installs, one list per nested load
# What was there before, and what stands there while models are loaded.
_replaced: tuple[Any, Any] = subprocess.Popen, subprocess.Popen


@contextlib.contextmanager
def without_installing() -> Iterator[None]:
    """Keep this thread from starting a process that installs packages, as TransformerLens does for image models.

    The torchvision it installs can replace PyTorch with another build while Python is running. Without the install
    TransformerLens does without the image processor, and a warning says how to get it.
    """
    global _replaced
    refused: list[str] = []
    thread = threading.get_ident()
    with _guard:
        if not _refused:
            _replaced = subprocess.Popen, _refusing(subprocess.Popen)
            setattr(subprocess, "Popen", _replaced[1])  # noqa: B010, a class to type checkers, never to be assigned
        _refused.setdefault(thread, []).append(refused)
    try:
        yield
    finally:
        with _guard:
            _refused[thread] = [load for load in _refused[thread] if load is not refused]
            if not _refused[thread]:
                del _refused[thread]
            # Where another has replaced it too, ours stays beneath, and lets everything pass.
            if not _refused and subprocess.Popen is _replaced[1]:
                setattr(subprocess, "Popen", _replaced[0])  # noqa: B010
    if names := [word for word in refused if not word.startswith("-")]:
        version = torch.__version__.split("+")[0]
        packages = " ".join(dict.fromkeys(names))
        warnings.warn(
            f"the model has a processor for other input than text, which needs {packages}, and that is not installed; "
            f'text works without it. For the build that fits your PyTorch: pip install {packages} "torch=={version}"',
            stacklevel=3,
        )


def _refusing(original: Any) -> type[subprocess.Popen[Any]]:
    """Popen that refuses to install, in threads that load a model."""

    class Popen(original):
        def __init__(self, args: Any, *more: Any, **settings: Any):
            if loads := _refused.get(threading.get_ident()):
                if isinstance(args, Iterator):
                    args = list(args)  # it can be read only once
                words = _words(args)
                if "install" in words:
                    loads[-1].extend(words[words.index("install") + 1 :])
                    raise PermissionError("fv_lens installs no packages")
            super().__init__(args, *more, **settings)

    return Popen


def _words(args: Any) -> list[str]:
    """The words of a command as Popen takes it; whatever else is left to Popen to refuse."""
    if isinstance(args, str | bytes | os.PathLike):
        return os.fsdecode(args).split()
    given = args if isinstance(args, Iterable) else []
    return [os.fsdecode(word) for word in given if isinstance(word, str | bytes | os.PathLike)]
