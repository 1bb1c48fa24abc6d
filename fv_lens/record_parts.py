"""What the records of saved files are made of: numbers and texts within bounds, and parts that several kinds share."""

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .prompts import PromptTemplate

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0)]
Index = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1.001)]
LogProb = Annotated[float, Field(le=0.001)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Schema(BaseModel):
    """JSON of exactly these fields and types: no text for a number, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def unlike(values: list) -> list:
    """The values, none of which may stand twice; a ValueError otherwise."""
    if len({json.dumps(value) for value in values}) < len(values):
        raise ValueError("it lists something twice")
    return values


class Versions(Schema):
    """`storage.versions()`; other libraries may be among them."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Text]

    fv_lens: Text = Field(alias="fv-lens")
    transformer_lens: Text = Field(alias="transformer-lens")
    transformers: Text
    torch: Text


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
    """How a vector was tuned: `training.Result.record`, with the settings of `finetune_all` where it was that."""

    n_pairs: Count
    n_validation: Count
    chosen_step: Index
    validation_loss: float
    losses: list[float] = Field(min_length=1)
    validation_losses: list[tuple[Index, float]] = Field(min_length=1)
    train_words: list[Text]
    validation_words: list[Text]
    learning_rate: float = Field(1.0, gt=0)
    first_token: bool = False
    shuffle: bool = False
    seed: Seed = 0
    # Infinite at a layer where every loss broke; NaN is not at least anything.
    layer_losses: dict[Text, Annotated[float, Field(allow_inf_nan=True, ge=-1.0)]] = Field({"0": 0.0}, min_length=1)

    @model_validator(mode="after")
    def _agrees(self) -> "Training":
        settings = {"learning_rate", "first_token", "shuffle", "seed"}
        if self.model_fields_set & {*settings, "layer_losses"} and (missing := settings - self.model_fields_set):
            raise ValueError(f"{' and '.join(sorted(missing))} is missing")
        if (self.n_pairs, self.n_validation) != (len(self.train_words), len(self.validation_words)):
            raise ValueError("n_pairs and n_validation are not the numbers of train_words and validation_words")
        if dict(self.validation_losses).get(self.chosen_step) != self.validation_loss:
            raise ValueError("validation_loss is not what validation_losses has at chosen_step")
        if max(step for step, _ in self.validation_losses) > len(self.losses):
            raise ValueError("validation_losses has a step beyond those of losses")
        return self
