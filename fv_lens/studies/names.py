"""Names: those that a command is given with commas between, of models and others."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

from ..ground.errors import InputError
from ..ground.names import distinct
from .folders import FILES, FOLDERS, JOBS

MODEL = "smollm2-135m"
DtypeName = Literal["float32", "bfloat16", "float16"]
DTYPES = get_args(DtypeName)  # as in `models`, which is slow to import


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
    return model_folders(names)


def named_dtype(dtype: str) -> DtypeName:
    """What `--dtype` names; an InputError for what is not among `DTYPES`."""
    if dtype not in DTYPES:
        raise InputError(f"--dtype is {dtype!r}; give one of {', '.join(DTYPES)}")
    return cast(DtypeName, dtype)


def model_folders(models: Iterable[str]) -> dict[str, str]:
    """A folder name for each model, the last part of its name or path: folder -> model.

    Raises:
        InputError: a model is named twice, or is a path of nothing.
    """
    models = list(models)
    for name in models:
        if models.count(name) > 1:
            raise InputError(f"--models names {name!r} twice; name each model once")
        path = os.path.expanduser(name)
        is_path = name.startswith((".", "~")) or os.path.isabs(path) or name.count("/") > 1 or name.endswith(".gguf")
        if is_path and not os.path.exists(path):
            raise InputError(f"--models names {name!r}: there is no such file or folder; check the path")
    lasts = [Path(os.path.expanduser(name)).absolute().name for name in models]
    plain = [re.sub(r"[^\w.-]+", "-", last.removesuffix(".gguf")).lstrip(".") or "model" for last in lasts]
    return dict(zip(distinct(plain, (*FOLDERS, JOBS, *FILES)), models))


def split_names(text: str) -> list[str]:
    """Names or paths with commas between; a path may have commas in it, where there is such a file."""
    parts, names = text.split(","), []
    while parts:
        joined = {n: os.path.expanduser(",".join(parts[:n]).strip()) for n in range(len(parts), 0, -1)}
        n = next((n for n, path in joined.items() if n > 1 and os.path.exists(path)), 1)
        names.append(joined[n])
        del parts[:n]
    return [name for name in names if name]
