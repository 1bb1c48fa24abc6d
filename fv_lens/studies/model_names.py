"""Names that a command is given with commas between: those of models, and others."""

import os
from collections.abc import Sequence

from ..ground.errors import InputError

MODEL = "smollm2-135m"


def named_models(models: Sequence[str], model: str) -> dict[str, str]:
    """The models by the name of their folder, where `--models` was given.

    Raises:
        InputError: `--model` was given as well; no model, or one twice, or a path of nothing.
    """
    if model != MODEL:
        raise InputError(f"--model is {model!r} and --models {', '.join(models)!r}; give one of them.")
    names = [os.path.expanduser(name) for listed in models for name in split_names(listed)]
    if not names:
        raise InputError(f"--models is {', '.join(models)!r}; give names or folders, with commas between.")
    from .several import model_folders

    return model_folders(names)


def split_names(text: str) -> list[str]:
    """Names or paths with commas between; a path may have commas in it, where there is such a file."""
    parts, names = text.split(","), []
    while parts:
        joined = {n: os.path.expanduser(",".join(parts[:n]).strip()) for n in range(len(parts), 0, -1)}
        n = next((n for n, path in joined.items() if n > 1 and os.path.exists(path)), 1)
        names.append(joined[n])
        del parts[:n]
    return [name for name in names if name]
