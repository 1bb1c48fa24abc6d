"""The models that a command is given by `--models`."""

import os
from collections.abc import Sequence

from ..ground.errors import InputError
from .reproduce.command import MODEL, split_names


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
