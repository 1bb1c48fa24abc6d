"""The records of saved function vectors and head maps."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from ..datasets.prompts import PromptTemplate
from ..ground.errors import InputError
from ..ground.schema import (
    REAL,
    WHOLE,
    Count,
    Hash,
    Index,
    Record,
    Schema,
    Seed,
    Shape,
    Share,
    Text,
    Versions,
    check_shapes,
    short,
    unlike,
    validated,
)

# Fields that the first vectors did not have.
LATER: dict[str, list[str] | None] = {"training": None, "weights": None, "source": [], "frozen_rms": None}


class Template(Schema):
    """`PromptTemplate.to_dict()`, of which a template can be made."""

    question: str
    answer: str
    separator: str
    prefix: str

    @model_validator(mode="after")
    def _formats(self) -> "Template":
        PromptTemplate(**self.model_dump())
        return self


class Training(Schema):
    """How a vector was tuned: `optimizer.Result.record`, with the settings of `finetune_all` where it was that."""

    n_pairs: Count
    n_validation: Count
    chosen_step: Index
    validation_loss: float
    losses: list[float] = Field(min_length=1)
    validation_losses: list[tuple[Index, float]] = Field(min_length=1)
    train_words: list[Text]
    validation_words: list[Text]
    word_answers: list[Annotated[list[Text], Field(min_length=1)]] = []
    learning_rate: float = Field(1.0, gt=0)
    first_token: bool = False
    shuffle: bool = False
    seed: Seed = 0
    l2: float = Field(0.0, ge=0)
    perplexity: bool = False
    # Infinite at a layer where every loss broke; NaN is not at least anything.
    layer_losses: dict[Text, Annotated[float, Field(allow_inf_nan=True, ge=-1.0)]] = Field({"0": 0.0}, min_length=1)

    @model_validator(mode="after")
    def _agrees(self) -> "Training":
        settings = {"learning_rate", "first_token", "shuffle", "seed"}
        if self.model_fields_set & {*settings, "layer_losses"} and (missing := settings - self.model_fields_set):
            raise ValueError(f"{' and '.join(sorted(missing))} is missing")
        if (self.n_pairs, self.n_validation) != (len(self.train_words), len(self.validation_words)):
            raise ValueError("n_pairs and n_validation are not the numbers of train_words and validation_words")
        if self.word_answers and len(self.word_answers) != self.n_pairs + self.n_validation:
            raise ValueError("word_answers are not those of train_words and validation_words")
        if dict(self.validation_losses).get(self.chosen_step) != self.validation_loss:
            raise ValueError("validation_loss is not what validation_losses has at chosen_step")
        if max(step for step, _ in self.validation_losses) > len(self.losses):
            raise ValueError("validation_losses has a step beyond those of losses")
        return self


class Vector(Record):
    """The fields of a `FunctionVector` but its numbers. Parents are records of this kind, which `check` visits."""

    kind: ClassVar[str] = "FunctionVector"

    layer: Index
    site: Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")]
    token: Literal["last"]
    model: str | None
    processing: Literal["raw", "centered"]
    bos: bool | None
    relation: Text | None
    data_hash: Hash | None
    split_seed: Seed | None
    aliases: Annotated[list[Text], AfterValidator(unlike)] = []
    kin: Annotated[list[Text], AfterValidator(unlike)] = []
    template: Template | None
    heads: Annotated[list[tuple[Index, Index]], AfterValidator(unlike)]
    method: Text
    strength: float
    parents: list[tuple[float, dict[str, Any]]]
    training: Training | None
    weights: dict[Text, Share] | None
    source: list[Text]
    frozen_rms: Annotated[dict[Index, Annotated[float, Field(gt=0)]], Field(min_length=1)] | None
    versions: Versions

    @model_validator(mode="after")
    def _agrees(self) -> "Vector":
        if len(self.source) not in ((2,) if self.method == "composite" else (0, 2)):
            raise ValueError("source is not a pair of words A, B")
        if (self.weights is None) == (self.method == "composite"):
            raise ValueError("weights are expected if, and only if, method is 'composite'")
        if self.weights is not None and len(self.weights) < len(self.parents):
            raise ValueError("a composite has fewer weights than parents")
        if self.weights and abs(sum(self.weights.values()) - 1) > 0.01:
            raise ValueError("the weights of a composite do not add up to 1")
        if self.method == "combination" and not self.parents:
            raise ValueError("a combination has no parents")
        return self

    def of_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        check_shapes(tensors, {"vector": (REAL, ("d_model",))})

    @classmethod
    def check(cls, tensors: Mapping[str, Tensor], record: Any) -> None:
        if not isinstance(record, dict):
            raise InputError(f"its record is {short(record)}; expected a JSON object with the fields of a {cls.kind}")
        for place, part in _with_parents(record):
            validated(cls, part, place).of_tensors(tensors)

    @classmethod
    def completed(cls, record: dict[str, Any]) -> dict[str, Any]:
        return LATER | record


class Prompts(Schema):
    """The parts of a `PromptBatch` that are not tensors."""

    answers: list[Annotated[list[Annotated[list[Index], Field(min_length=1)]], Field(min_length=1)]]
    texts: list[Text]
    words: list[Text]


class Effects(Record):
    """The record of `HeadEffects`, `share_right` and prompts with it."""

    kind: ClassVar[str] = "HeadEffects"

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
        spec: dict[str, Shape] = {name: (REAL, ("prompt", "layer", "head")) for name in ("values", "log_prob_values")}
        spec |= {"base": (REAL, ("prompt",)), "mean_z": (REAL, ("layer", "head", "d_head"))}
        if "attention_rms" in tensors:
            spec |= {"attention_rms": (REAL, ("layer",))}
        if self.batch is not None:
            spec |= {f"batch.{name}": (WHOLE, ("prompt", "pos")) for name in ("tokens", "mask")}
            spec |= {"batch.answer_ids": (WHOLE, ("prompt",))}
        # Heads that a model does not have are NaN: `HeadEffects` says where.
        sizes = check_shapes(tensors, spec, may_be_nan={"values", "log_prob_values", "mean_z"})
        if self.of_relations and len(self.relations) != sizes["prompt"]:
            raise InputError(f"field 'relations' has {len(self.relations)} names, the effects {sizes['prompt']} rows")
        if not ((tensors["base"] >= 0) & (tensors["base"] <= 1.001)).all():
            raise InputError("tensor 'base' has numbers that are not probabilities")
        if not (tensors.get("attention_rms", tensors["base"].new_ones(1)) > 0).all():
            raise InputError("tensor 'attention_rms' has numbers that are not above 0")
        if self.batch is not None:
            self._of_prompts(self.batch, tensors, sizes["prompt"])

    def _of_prompts(self, prompts: Prompts, tensors: Mapping[str, Tensor], n: int) -> None:
        for name in Prompts.model_fields:
            if len(listed := getattr(prompts, name)) != n:
                raise InputError(f"field 'batch.{name}' has {len(listed)} items for {n} prompts")
        tokens, mask, first = (tensors[f"batch.{name}"] for name in ("tokens", "mask", "answer_ids"))
        if (tokens < 0).any():
            raise InputError("tensor 'batch.tokens' has negative token ids")
        if not ((mask == 0) | (mask == 1)).all() or (mask.diff(dim=1) < 0).any() or not mask[:, -1].all():
            raise InputError("tensor 'batch.mask' is not 0 for padding on the left and 1 for the prompt behind it")
        if first.tolist() != [listed[0][0] for listed in prompts.answers]:
            raise InputError("tensor 'batch.answer_ids' is not the first token of each prompt's first answer")


def _with_parents(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
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


def terms(record: Mapping[str, Any]) -> Iterator[tuple[float, str]]:
    """(weight, description) of the vectors that one was made from, through nested combinations."""
    scale = record["strength"] if record["method"] == "combination" else 1.0
    for weight, parent in record["parents"]:
        if parent["method"] == "combination" and parent["parents"]:
            yield from ((scale * weight * inner, name) for inner, name in terms(parent))
        else:
            of = f" of {parent['relation']}" if parent["relation"] else ""
            yield scale * weight, f"{parent['method']}{of}"


def lineage(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A vector's record, and those of all that it was made from."""
    yield record
    for _, parent in record["parents"]:
        yield from lineage(parent)
