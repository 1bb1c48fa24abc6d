"""The record of saved settings of composites."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from ..ground.schema import REAL, Index, LogProb, Record, Schema, Share, Text, check_shapes


class Settings(Schema):
    """The settings of a `Composition` that are not tensors."""

    weighting: Literal["posterior", "gain", "single", "uniform", "gradient", "affine", "none"]
    temperature: Annotated[float, Field(gt=0)]
    center: bool
    scale: float
    pair_steps: Index
    pair_scale: float
    n_shots: Annotated[int, Field(ge=0, le=1)]
    scored_by: Literal["log-probability", "probability"] = "log-probability"
    vectors: list[Text] = []


class Tried(BaseModel):
    """What settings were chosen on; a user's own record may hold other things beside it."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    accuracy: Share = 0.0
    log_prob: LogProb = 0.0
    chosen: Text | Annotated[list[Text], Field(min_length=1)] = "by hand"
    # None where it is left out; a file that says null is refused.
    family_left_out: "Tried" = Field(None, alias="family left out")  # type: ignore[assignment]


class Composites(Record):
    """`composition.Folded`: settings of all families, then of each fold, and which tensors they have."""

    kind: ClassVar[str] = "Composition"

    settings: list[Settings] = Field(min_length=1)
    fold_of: dict[Text, Index]
    record: Tried
    tensors: list[Text] = []  # files of before they were listed do not have this

    @model_validator(mode="after")
    def _agrees(self) -> "Composites":
        n = len(self.settings) - 1
        if max(self.fold_of.values(), default=-1) >= n or (n and not self.fold_of):
            raise ValueError(f"fold_of is {self.fold_of}; expected families, each with one of {n} folds")
        return self

    def of_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        known = range(len(self.settings))
        parts = ("shared", "start", "affine_map", "affine_bias")
        expected = {name for name in tensors if name in {f"{part}.{i}" for part in parts for i in known}}
        if "tensors" in self.model_fields_set:
            expected = set(self.tensors)
        else:  # folds are alike in having a shared vector, and a start to step from
            expected |= {f"shared.{i}" for i in known} if any(name.startswith("shared.") for name in tensors) else set()
            stepped = {f"start.{i}" for i in known if self.settings[i].pair_steps}
            expected |= stepped if any(name.startswith("start.") for name in tensors) else set()
        check_shapes(tensors, {name: (REAL, _dims(name, tensors)) for name in sorted(expected)})


def _dims(name: str, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A map is diagonal or square."""
    if not name.startswith("affine"):
        return ("d_model",)
    square = name.startswith("affine_map") and name in tensors and tensors[name].dim() == 2
    return ("vector", "vector") if square else ("vector",)
