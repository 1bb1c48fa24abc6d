"""Schemas of the records in saved files, checked before any of a file's content is used.

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


Shape = tuple[torch.dtype, tuple[str, ...]]  # dtype and named dimensions; a name has one size in all tensors
REAL, WHOLE = torch.float32, torch.int64


class Schema(BaseModel):
    """JSON of exactly these fields and types: no text for a number, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=Schema)


class Versions(Schema):
    """The versions that `storage.versions()` gives; more libraries may be listed."""

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
    """The values; a ValueError if one of them occurs twice."""
    if len({json.dumps(value) for value in values}) < len(values):
        raise ValueError("it lists a value twice; expected each value once")
    return values


def check_shapes(
    tensors: Mapping[str, Tensor], spec: Mapping[str, Shape], may_be_nan: set[str] | frozenset[str] = frozenset()
) -> dict[str, int]:
    """The size of each named dimension; an InputError where tensors are not those of `spec`."""
    for missing in sorted(spec.keys() - tensors.keys()):
        raise InputError(f"the tensor {missing!r} is missing; found {sorted(tensors) or 'none'}")
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
            raise InputError(f"{int(bad.sum())} of {tensor.numel()} numbers in tensor {name!r} are NaN or infinite")
    return sizes


def validated(schema: type[S], record: Any, place: str = "") -> S:
    """The record parsed by its schema; an InputError names the first wrong field, prefixed with `place`."""
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
    """The `repr` of a value, shortened for error messages."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
