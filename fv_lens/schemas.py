"""What saved files may hold: one schema for each kind, checked before anything is made of a file's content.

A kind has a pydantic model of its record, whose `of_tensors` says what tensors belong to such a record and checks them.
pydantic is imported with this module, so `storage` imports it when a file is read.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from .errors import InputError
from .record_parts import Count, Hash, Index, LogProb, Schema, Seed, Share, Template, Text, Training, Versions, unlike

Shape = tuple[torch.dtype, tuple[str, ...]]  # "layer" is as long in every tensor that has it
LATER = {"training": None, "weights": None, "source": []}  # fields that the first vectors did not have
REAL, WHOLE = torch.float32, torch.int64


class Vector(Schema):
    """The fields of a `FunctionVector` but its numbers. Parents are records of this kind, which `check` visits."""

    layer: Index
    site: Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")]
    token: Literal["last"]
    model: str | None
    processing: Literal["raw", "centered"]
    bos: bool | None
    relation: Text | None
    data_hash: Hash | None
    split_seed: Seed | None
    template: Template | None
    heads: Annotated[list[tuple[Index, Index]], AfterValidator(unlike)]
    method: Text
    strength: float
    parents: list[tuple[float, dict[str, Any]]]
    training: Training | None
    weights: dict[Text, Share] | None
    source: list[Text]
    versions: Versions

    @model_validator(mode="after")
    def _agrees(self) -> "Vector":
        if len(self.source) not in ((2,) if self.method == "composite" else (0, 2)):
            raise ValueError("source is not the pair A, B")
        if (self.weights is None) == (self.method == "composite"):
            raise ValueError("weights are there for a composite, and for no other method")
        if self.weights is not None and len(self.weights) < len(self.parents):
            raise ValueError("a composite has fewer weights than parents")
        if self.weights and abs(sum(self.weights.values()) - 1) > 0.01:
            raise ValueError("the weights of a composite do not add up to 1")
        if self.method == "combination" and not self.parents:
            raise ValueError("a combination has no parents")
        return self

    def of_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        check_shapes(tensors, {"vector": (REAL, ("d_model",))})


class Prompts(Schema):
    """The parts of a `PromptBatch` that are no tensors."""

    answers: list[Annotated[list[Annotated[list[Index], Field(min_length=1)]], Field(min_length=1)]]
    texts: list[Text]
    words: list[Text]


class Effects(Schema):
    """The record of `HeadEffects`, `share_right` and prompts with it."""

    relation: Text
    relations: list[Text] = Field(["one"], min_length=1)
    data_hash: Hash | None
    model: str | None
    processing: Literal["raw", "centered"]
    bos: bool
    template: Template
    n_shots: Index
    n_mean_prompts: Count
    only_correct: bool
    seed: Seed
    split_seed: Seed
    versions: Versions
    share_right: Share
    batch: Prompts | None = None

    @model_validator(mode="after")
    def _agrees(self) -> "Effects":
        if self.of_relations != (self.data_hash is None) or (self.of_relations and self.batch):
            raise ValueError("a mean over relations has relations, not data_hash nor batch; others have a data_hash")
        return self

    @property
    def of_relations(self) -> bool:
        return "relations" in self.model_fields_set

    def of_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        spec = {name: (REAL, ("prompt", "layer", "head")) for name in ("values", "log_prob_values")}
        spec |= {"base": (REAL, ("prompt",)), "mean_z": (REAL, ("layer", "head", "d_head"))}
        if self.batch is not None:
            spec |= {f"batch.{name}": (WHOLE, ("prompt", "pos")) for name in ("tokens", "mask")}
            spec |= {"batch.answer_ids": (WHOLE, ("prompt",))}
        # Heads that a model does not have are NaN: `HeadEffects` says where.
        sizes = check_shapes(tensors, spec, may_be_nan={"values", "log_prob_values", "mean_z"})
        if self.of_relations and len(self.relations) != sizes["prompt"]:
            raise InputError(f"field 'relations' has {len(self.relations)} names, the effects {sizes['prompt']} rows")
        if not ((tensors["base"] >= 0) & (tensors["base"] <= 1.001)).all():
            raise InputError("tensor 'base' has numbers that are not probabilities")
        if self.batch is not None:
            self._of_prompts(tensors, sizes["prompt"])

    def _of_prompts(self, tensors: Mapping[str, Tensor], n: int) -> None:
        for name in Prompts.model_fields:
            if len(listed := getattr(self.batch, name)) != n:
                raise InputError(f"field 'batch.{name}' has {len(listed)} items for {n} prompts")
        tokens, mask, first = (tensors[f"batch.{name}"] for name in ("tokens", "mask", "answer_ids"))
        if (tokens < 0).any():
            raise InputError("tensor 'batch.tokens' has negative token ids")
        if not ((mask == 0) | (mask == 1)).all() or (mask.diff(dim=1) < 0).any() or not mask[:, -1].all():
            raise InputError("tensor 'batch.mask' is not 0 for padding on the left and 1 for the prompt behind it")
        if first.tolist() != [listed[0][0] for listed in self.batch.answers]:
            raise InputError("tensor 'batch.answer_ids' is not the first token of each prompt's first answer")


class Settings(Schema):
    """The settings of a `Composition` that are no tensors."""

    weighting: Literal["posterior", "gain", "single", "uniform", "gradient", "none"]
    temperature: Annotated[float, Field(gt=0)]
    center: bool
    scale: float
    pair_steps: Index
    pair_scale: float
    n_shots: Annotated[int, Field(ge=0, le=1)]


class Tried(BaseModel):
    """What settings were chosen on; a user's own record may hold other things beside it."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    accuracy: Share = 0.0
    log_prob: LogProb = 0.0
    chosen: Text | Annotated[list[Text], Field(min_length=1)] = "by hand"
    family_left_out: "Tried" = Field(None, alias="family left out")


class Composites(Schema):
    """`recipes.Folded`: settings of all families, then of each fold, and which tensors they have."""

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
        expected = {name for name in tensors if name in {f"{part}.{i}" for part in ("shared", "start") for i in known}}
        if "tensors" in self.model_fields_set:
            expected = set(self.tensors)
        else:  # folds are alike in having a shared vector, and a start to step from
            expected |= {f"shared.{i}" for i in known} if any(name.startswith("shared.") for name in tensors) else set()
            stepped = {f"start.{i}" for i in known if self.settings[i].pair_steps}
            expected |= stepped if any(name.startswith("start.") for name in tensors) else set()
        check_shapes(tensors, dict.fromkeys(sorted(expected), (REAL, ("d_model",))))


class Stage(Schema):
    """A stage of a long run: what was computed, and under which plan where that is kept with it."""

    record: dict[str, Any]
    plan: Any = None
    seconds: float = Field(0.0, ge=0)  # in stages of before times had a file of their own

    def of_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Any tensors: a step's own."""


KINDS: dict[str, type[Schema]] = {
    "FunctionVector": Vector, "HeadEffects": Effects, "Composition": Composites, "Stage": Stage,
}  # fmt: skip


def check(kind: str, tensors: Mapping[str, Tensor], record: object) -> None:
    """Raise an InputError that names the field or the tensor, unless record and tensors are what a kind holds."""
    schema = KINDS[kind]
    if not isinstance(record, dict):
        raise InputError(f"its record is {_short(record)}; expected a JSON object with the fields of a {kind}")
    if schema is Vector:
        for place, part in _with_parents(record):
            _validated(Vector, part, place).of_tensors(tensors)
    else:
        _validated(schema, record).of_tensors(tensors)


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


def _with_parents(record: dict) -> Iterator[tuple[str, object]]:
    """The record of a vector and those of all it was made from, each with its place and without its parents' fields.

    Not by recursion: a long sum nests more deeply than pydantic goes.
    """
    waiting = [("", record)]
    while waiting:
        place, part = waiting.pop()
        parents = part.get("parents") if isinstance(part, dict) else None
        if isinstance(parents, list):
            pairs = [parent if isinstance(parent, list) and len(parent) == 2 else None for parent in parents]
            waiting += [(f"{place}parents.{i}.1.", pair[1]) for i, pair in enumerate(pairs) if pair]
            part = part | {"parents": [[pair[0], {}] if pair else parents[i] for i, pair in enumerate(pairs)]}
        yield place, part


def _validated(schema: type[Schema], record: object, place: str = "") -> Schema:
    try:
        return schema.model_validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = place + ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if not field.strip("."):
            raise InputError(f"its record is wrong: {message}") from None
        given = "missing" if first["type"] == "missing" else _short(first["input"])
        raise InputError(f"field {field.strip('.')!r} is {given}: {message}") from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
