"""What the composites of a run depend on, and how a run takes those that an earlier one has fitted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...analogies.fit import CANDIDATES
from ...analogies.fit_affine import AFFINE
from ...datasets.questions import Question, digest
from ...ground.errors import InputError
from ..stages import Step, read_of_another_run
from .steps import AFFINE_STAGE

STAGES, FIT_STAGE = "stages", "fit"
KEPT = ("model", "weights, SHA-256", "dtype", "seed", "threads", "versions")


def fitting_plan(plan: Mapping[str, Any], train: Sequence[Question], validation: Sequence[Question]) -> dict[str, Any]:
    """The plan of a run without its test questions, and what is fitted on which analogies: that of its stages."""
    candidates = [[name, *map(repr, listed)] for kind in (CANDIDATES, AFFINE) for name, listed in kind.items()]
    return {key: plan[key] for key in KEPT} | {
        "vectors, SHA-256": plan["vectors, SHA-256"][0],
        "fitted on, SHA-256": digest([[repr(question) for question in part] for part in (train, validation)]),
        "candidates, SHA-256": digest(candidates),
    }


def check_fitted(folder: Path) -> None:
    """Raise an InputError unless the folder is that of a run that has fitted its composites."""
    if not all((folder / STAGES / f"{name}.safetensors").is_file() for name in (FIT_STAGE, AFFINE_STAGE)):
        raise InputError(
            f"{str(folder)!r} has no fitted composites; give the --out of a `fv-lens analogies` of one model, or, with "
            "--models, of several."
        )


def read_fitted(folder: Path, plan: Mapping[str, Any]) -> dict[str, Step]:
    """The stages of an earlier run that have its composites, where a run of this `fitting_plan` would fit the same.

    Raises:
        InputError: it has fitted nothing, or something else; a file of it is damaged.
    """
    check_fitted(folder)
    stages: dict[str, Step] = {}
    for name in (FIT_STAGE, AFFINE_STAGE):
        step = read_of_another_run(folder / STAGES, plan, name)
        if step is None:
            raise InputError(
                f"The composites in {str(folder)!r} are not those that would be fitted here: the model, its dtype, the "
                "vectors, the analogies to fit and to choose on, the seed, the number of threads, or the versions of "
                "libraries are others. Leave --composites out to fit them anew."
            )
        stages[name] = step
    return stages
