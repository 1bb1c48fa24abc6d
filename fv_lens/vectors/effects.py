"""Indirect effects of heads: what `mediation` measured, with intervals, saved and loaded, and means over relations."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..engine.batches import PromptBatch
from ..ground import display, scores, storage
from ..ground.errors import InputError, whole_number
from ..ground.text_files import FilePath
from ..models.lens import Lens
from .records import Effects

log = logging.getLogger("fv_lens")


@dataclass(frozen=True, eq=False)
class HeadEffects:
    """Indirect effects of every head, float32 on the CPU.

    Args:
        values: `[prompt, layer, head]`, change in the probability of the answer (the first token of the first listed
            one) when the head's output at the last token of a corrupted prompt becomes its mean over intact prompts.
        log_prob_values: the same for the log-probability, in nats.
        base: `[prompt]`, the answer's probability in each corrupted prompt as it is.
        mean_z: `[layer, head, d_head]`, mean outputs at the last token of intact prompts (at `hook_z`).
        share_right: the share of intact prompts whose most probable token begins a right answer.
        batch: the corrupted prompts; None for a mean over relations.
        record: how they were measured: relation, model, template, BOS rule, shots, seeds, versions.
        attention_rms: `[layer]`, the mean over intact prompts of the root mean square of attention's output at the last
            token, where a norm stands behind it (else 1); None if the model has no such norms. Sums of heads need it.

    Raises:
        InputError: an effect that is not a finite number, as where a model's half precision overflows. A head that
            the model does not have is NaN in all prompts of both effects and in all of its `mean_z`.
    """

    values: Float[Tensor, "prompt layer head"]
    log_prob_values: Float[Tensor, "prompt layer head"]
    base: Float[Tensor, " prompt"]
    mean_z: Float[Tensor, "layer head d_head"]
    share_right: float
    batch: PromptBatch | None
    record: dict[str, Any] = field(default_factory=dict)
    attention_rms: Float[Tensor, " layer"] | None = None

    def __post_init__(self) -> None:
        absent = self.mean_z.isnan().all(2)
        for values in (self.values, self.log_prob_values):
            right = torch.where(absent, values.isnan(), values.isfinite())
            if len(broken := (~right).nonzero()):
                prompt, layer, head = broken[0].tolist()
                effect = values[prompt, layer, head]
                if absent[layer, head]:
                    raise InputError(
                        f"Head ({layer}, {head}) has no mean output, as if the model did not have it, and the effect "
                        f"{effect:g} in prompt {prompt}; give NaN for both, or for neither."
                    )
                raise InputError(
                    f"The effect of head ({layer}, {head}) in prompt {prompt} is {effect:g}, not a finite number; load "
                    "the model in float32 or bfloat16."
                )
        if len(broken := (~torch.where(absent[:, :, None], True, self.mean_z.isfinite())).nonzero()):
            layer, head, place = broken[0].tolist()
            raise InputError(
                f"The mean output of head ({layer}, {head}) is {self.mean_z[layer, head, place]:g} at {place}, not "
                "a finite number; load the model in float32 or bfloat16."
            )
        if absent.all():
            raise InputError("Every effect is NaN; give finite effects for the heads that the model has.")
        if not self.base.isfinite().all():
            raise InputError(f"base holds {self.base[~self.base.isfinite()][0]:g}; give finite probabilities.")

    def __repr__(self) -> str:
        n, layers, heads = self.values.shape
        return f"HeadEffects({self.record.get('relation')!r}, {layers} layers x {heads} heads, n = {n})"

    def _repr_html_(self) -> str:
        about = [self.record.get("model"), f"{self.share_right:.0%} of intact prompts answered right"]
        return display.effects(
            self.to_frame(), self.record.get("relation") or "heads", ", ".join(filter(None, about)), self.over
        )

    @property
    def of_relations(self) -> bool:
        """Whether each row of `values` is a relation, as from `mean_effects`, and not a prompt."""
        return "relations" in self.record

    @property
    def over(self) -> str:
        """What the mean is over: "25 corrupted prompts of 10 shots"."""
        n, what = len(self.values), "relation" if self.of_relations else "corrupted prompt"
        shots = "" if self.of_relations or "n_shots" not in self.record else f" of {self.record['n_shots']} shots"
        return f"{n} {what}{'s' * (n > 1)}{shots}"

    @property
    def n_heads(self) -> int:
        """How many heads there are; layers without any are NaN."""
        return int((~self.mean.isnan()).sum())

    @property
    def mean(self) -> Float[Tensor, "layer head"]:
        """The average indirect effect, signed: writers of the answer above 0, cancellers below."""
        return self.values.mean(0)

    def confidence_interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """(low, high), each `[layer, head]`: bootstrap over prompts of the mean effect."""
        low, high = scores.interval(self.values.numpy(), level)
        return torch.from_numpy(low).float(), torch.from_numpy(high).float()

    def top(self, k: int, sign: int = +1) -> list[tuple[int, int]]:
        """The k heads of largest mean effect, `[(layer, head), ...]`, strongest first; `sign=-1`: cancellers.

        Raises:
            InputError: k outside 1..number of heads, or a sign that is neither +1 nor -1.
        """
        mean = self.mean
        if whole_number("k", k, least=1) > self.n_heads:
            raise InputError(f"k is {k}; there are {self.n_heads} heads.")
        if sign not in (1, -1):
            raise InputError(f"sign is {sign!r}; give +1 for writers or -1 for cancellers.")
        return ranked(sign * mean)[:k]

    def to_frame(self) -> pd.DataFrame:
        """One line per head: layer, head, effect with interval, and the effect on the log-probability.

        Of layers without heads all of these are NaN.
        """
        low, high = self.confidence_interval()
        layer, head = np.indices(self.mean.shape)
        columns = {"effect": self.mean, "low": low, "high": high, "log_prob_effect": self.log_prob_values.mean(0)}
        return pd.DataFrame(
            {"layer": layer.ravel(), "head": head.ravel()} | {name: x.flatten().numpy() for name, x in columns.items()}
        )

    def check(self, lens: Lens) -> None:
        """Raise an InputError if the effects were measured on another model, or under other rules of this one."""
        for name, now in (("model", lens.name), ("processing", lens.processing), ("bos", lens.bos)):
            if self.record[name] != now:
                then = self.record[name]
                raise InputError(
                    f"The effects were measured with {name} {then!r}; this model has {now!r}. Measure them again."
                )

    def save(self, path: FilePath) -> None:
        """Write everything to a safetensors file."""
        names = ("values", "log_prob_values", "base", "mean_z", "attention_rms")
        tensors = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        record = dict(self.record, share_right=self.share_right)
        if self.batch is not None:
            tensors |= {f"batch.{name}": getattr(self.batch, name) for name in ("tokens", "mask", "answer_ids")}
            record["batch"] = {name: getattr(self.batch, name) for name in ("answers", "texts", "words")}
        storage.save_checked(path, Effects, tensors, record)

    @classmethod
    def load(cls, path: FilePath) -> "HeadEffects":
        """Read saved effects; an InputError says what is wrong with the file: missing, damaged, of another kind."""
        tensors, record = storage.load(path, Effects)
        share_right, texts, prompts = record.pop("share_right"), record.pop("batch", None), None
        if texts is not None:
            answers = tuple(tuple(tuple(ids) for ids in listed) for listed in texts.pop("answers"))
            tokens, mask, first = (tensors.pop(f"batch.{name}") for name in ("tokens", "mask", "answer_ids"))
            prompts = PromptBatch(tokens, mask, first, answers, tuple(texts["texts"]), tuple(texts["words"]))
        with storage.naming(path):
            return cls(**tensors, share_right=share_right, batch=prompts, record=record)


def mean_effects(effects: Sequence[HeadEffects]) -> HeadEffects:
    """The map over relations: each relation's mean effect is one value, so intervals are over relations.

    `mean_z` is the mean over relations as well; a vector for one relation needs that relation's own.

    Raises:
        InputError: no effects, or effects of different models.
    """
    effects = list(effects)
    if not effects:
        raise InputError("No effects were given; pass [indirect_effects(...), ...].")
    for name in ("model", "processing", "bos", "template", "split_seed"):
        values = [part.record.get(name) for part in effects]
        if any(value != values[0] for value in values):
            raise InputError(f"Effects of different {name}s cannot be averaged: {values}.")
    relations = [part.record.get("relation") for part in effects]
    sizes = [part.attention_rms for part in effects if part.attention_rms is not None]
    return HeadEffects(
        values=torch.stack([part.mean for part in effects]),
        log_prob_values=torch.stack([part.log_prob_values.mean(0) for part in effects]),
        base=torch.stack([part.base.mean() for part in effects]),
        mean_z=torch.stack([part.mean_z for part in effects]).mean(0),
        share_right=float(np.mean([part.share_right for part in effects])),
        batch=None,
        record=effects[0].record
        | {"relation": " + ".join(map(str, relations)), "relations": relations, "data_hash": None},
        attention_rms=torch.stack(sizes).mean(0) if len(sizes) == len(effects) else None,
    )


def ranked(effects: Float[Tensor, "layer head"]) -> list[tuple[int, int]]:
    """All heads that have an effect, `[(layer, head), ...]`, the largest first; a layer without heads has NaN."""
    order = effects.flatten().nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)
    order = order[: int((~effects.isnan()).sum())]
    return [divmod(index, effects.shape[1]) for index in order.tolist()]
