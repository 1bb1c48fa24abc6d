"""What saved files may hold: the schemas of their records, checked before anything is made of a file's content.

Each kind of file has a `Record` beside what it saves; its fields are made of the types below.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from .errors import InputError

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0)]
Index = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1.001)]
LogProb = Annotated[float, Field(le=0.001)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


Shape = tuple[torch.dtype, tuple[str, ...]]  # "layer" is as long in every tensor that has it
REAL, WHOLE = torch.float32, torch.int64


class Schema(BaseModel):
    """JSON of exactly these fields and types: no text for a number, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=Schema)


class Versions(Schema):
    """`storage.versions()`; other libraries may be among them."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Text]

    fv_lens: Text = Field(alias="fv-lens")
    transformer_lens: Text = Field(alias="transformer-lens")
    transformers: Text
    torch: Text


class Record(Schema):
    """The record of one kind of file."""

    kind: ClassVar[str]

    def of_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise an InputError unless these are the tensors of such a record."""
        raise NotImplementedError

    @classmethod
    def check(cls, tensors: Mapping[str, Tensor], record: Any) -> None:
        """Raise an InputError that names the field or the tensor, unless record and tensors are what the kind holds."""
        if not isinstance(record, dict):
            raise InputError(f"its record is {short(record)}; expected a JSON object with the fields of a {cls.kind}")
        validated(cls, record).of_tensors(tensors)

    @classmethod
    def completed(cls, record: dict[str, Any]) -> dict[str, Any]:
        """The record with the fields that files of earlier versions did not have."""
        return record


def unlike(values: list[Any]) -> list[Any]:
    """The values, none of which may stand twice; a ValueError otherwise."""
    if len({json.dumps(value) for value in values}) < len(values):
        raise ValueError("it lists something twice")
    return values


def check_shapes(
    tensors: Mapping[str, Tensor], spec: Mapping[str, Shape], may_be_nan: set[str] | frozenset[str] = frozenset()
) -> dict[str, int]:
    """The size of each named dimension; an InputError where tensors are not those of `spec`."""
    for missing in sorted(spec.keys() - tensors.keys()):
        raise InputError(f"the tensor {missing!r} is missing; it has {sorted(tensors) or 'none'}")
    for unknown in sorted(tensors.keys() - spec.keys()):
        raise InputError(f"it has a tensor {unknown!r}; expected {', '.join(sorted(spec)) or 'none'}")
    sizes: dict[str, int] = {}
    for name, (dtype, dims) in spec.items():
        tensor = tensors[name]
        if tensor.dtype != dtype:
            raise InputError(f"tensor {name!r} holds {tensor.dtype}; expected {dtype}")
        if tensor.dim() != len(dims) or not tensor.numel():
            raise InputError(f"tensor {name!r} has the shape {list(tensor.shape)}; expected [{', '.join(dims)}]")
        for dim, size in zip(dims, tensor.shape):
            if sizes.setdefault(dim, size) != size:
                raise InputError(f"tensor {name!r} has {dim} = {size}; other tensors have {sizes[dim]}")
        bad = tensor.isinf() if name in may_be_nan else ~tensor.isfinite()
        if bad.any():
            raise InputError(f"tensor {name!r} has {int(bad.sum())} of {tensor.numel()} numbers NaN or infinite")
    return sizes


def validated(schema: type[S], record: Any, place: str = "") -> S:
    """The record as its schema has it; an InputError names the first field that is wrong, behind its `place`."""
    try:
        return schema.model_validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = place + ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if not field.strip("."):
            raise InputError(f"its record is wrong: {message}") from None
        value = "missing" if first["type"] == "missing" else short(first["input"])
        raise InputError(f"field {field.strip('.')!r} is {value}: {message}") from None


def short(value: Any) -> str:
    """The value as errors quote it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
