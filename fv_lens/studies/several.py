"""Several models by one command: a folder for each, one after the other, and then what they show together."""

import gc
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from ..ground.errors import InputError, ParityError
from .console import output_folder, tell
from .folders import OutputFolder, models_of
from .job import Job
from .results import is_finished

T = TypeVar("T")
Result = TypeVar("Result")
BROKEN = (InputError, ParityError, torch.OutOfMemoryError)  # what leaves a model out, and not the others
EVERY_ROW = "every row"
NO_NUMBERS = "it has no numbers there"


@dataclass(frozen=True)
class OneModel(Generic[T]):
    """What a command does for each model.

    Args:
        command: its name.
        load: what is studied, given the name of the model's folder; the model is loaded here.
        claim: marks the model's folder with its plan, or refuses it.
        study: writes the results into the folder, the page last.
        lines: folder -> the command line for that model alone.
        files: of a finished study, beside `RESULTS`, `SUMMARY` and `REPORT`.
    """

    command: str
    load: Callable[[str], T]
    claim: Callable[[T, OutputFolder], object]
    study: Callable[[T, Job], object]
    lines: Mapping[str, str]
    files: Collection[str] = ()

    def is_finished(self, folder: Path) -> bool:
        """Whether a study has left all of its results there."""
        return is_finished(folder, self.files)


def study_each(
    out: Path,
    models: Mapping[str, str],
    one: OneModel[T],
    together: Callable[[dict[str, str]], Result],
    saved: list[Path],
) -> Result:
    """Study each model in a folder of its own, one after the other, then write what they show together.

    A model whose study is finished is not studied again. One that cannot be loaded or studied is left out with the
    reason; the others are not affected.

    Args:
        out: the folder of all, claimed.
        models: folder -> model.
        together: given the models that are left out, folder -> why, writes and returns what the others show.
        saved: gets what is there if the command is stopped.

    Raises:
        InputError: a model's folder is of another plan, or is in use; what `together` raises.
    """
    without: dict[str, str] = {}
    try:
        for number, (name, model) in enumerate(models.items(), 1):
            tell(f"Model {number} of {len(models)}: {model}")
            if why := _study(out / name, name, one, saved):
                without[name] = why
                tell(f"{model} is left out: {why}")
            gc.collect()  # hooks hold a model in circles, and two may not fit
        return together(without)
    except BaseException:
        done = [out / name for name in models if one.is_finished(out / name)]
        saved[:] = [*done, *(path for path in saved if path.parent not in done)]
        raise


def _study(path: Path, name: str, one: OneModel[T], saved: list[Path]) -> str | None:
    """Study one model, unless that is done; returns why it cannot be studied."""
    with output_folder(path, one.command, saved) as folder:
        try:
            loaded = one.load(name)
        except BROKEN as error:
            return str(error)
        one.claim(loaded, folder)
        if one.is_finished(path):
            tell("its study was finished before")
            return None
        try:
            one.study(loaded, Job(folder, one.lines[name], tell))
        except BROKEN as error:
            return str(error)
    return None


def with_results(models: Mapping[str, str], without: Mapping[str, str]) -> list[str]:
    """The folders of the models that are not left out; an InputError where there are none."""
    if done := [folder for folder in models if folder not in without]:
        return done
    raise InputError(f"No model has results. {' '.join(f'{name}: {why}' for name, why in without.items())}")


def model_folder(study: Path, model: str, folder: str) -> Path:
    """The folder of one model in that of a study of several.

    Args:
        model: as that study was given it; else the model in the folder of this name is taken.
    """
    return study / next((name for name, other in models_of(study).items() if other == model), folder)


def vectors_folder(study: Path, model: str, folder: str) -> Path:
    """Where the vectors of one model are in the folder of a `reproduce --models`; see `model_folder`."""
    return model_folder(study, model, folder) / "vectors"


def vectors_of(study: Path, model: str, folder: str) -> Path:
    """`vectors_folder`; an InputError where there are no vectors."""
    vectors = vectors_folder(study, model, folder)
    if not any(vectors.glob("*.safetensors")):
        raise InputError(
            f"{str(study)!r} has no vectors of {model!r} ({str(vectors)!r} has none); give the --out of a finished "
            "`fv-lens reproduce --models` that has them."
        )
    return vectors
