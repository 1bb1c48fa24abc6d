"""The sizes of a study, and all that its table and files need beside its stages."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Int

from ...ground.errors import InputError
from ...ground.streams import Stream, generator
from ...vectors.optimizer import RATE, STEPS


class Shots(TypedDict):
    """Which demonstrations a prompt shows: arguments of `Study.few_shot`."""

    n_shots: int
    shuffled: NotRequired[bool]
    validation: NotRequired[bool]


@dataclass(frozen=True)
class Settings:
    """The sizes of a study.

    Args:
        n_pairs, n_validation, n_test: the most pairs per relation for tuning and shots, choices, scores.
        n_shots: demonstrations in the usual few-shot prompt; rows of their own show n_pairs, and these with the
            validation pairs.
        n_together: number of test words that share the same demonstrations, which are run once for them.
        map_prompts, mean_prompts: corrupted and intact prompts of each relation's head map.
        head_counts, strengths: what summed vectors are tried with on validation.
        draws: of each random control, over which its scores are averaged.
        steps, rate: of tuning, see `finetune_all`.
        curve: numbers of pairs of the learning curve, below n_pairs.
        seeds: how many deals of train and validation pairs are tuned on; scores are those of the first.
        split_seed: which split of the relations the parts come from.
        baselines: whether soft prompts, LoRA, measured vectors and instructions are made of the same pairs as well.
    """

    n_pairs: int = 20
    n_validation: int = 10
    n_test: int = 20
    n_shots: int = 10
    n_together: int = 5
    map_prompts: int = 10
    mean_prompts: int = 20
    head_counts: tuple[int, ...] = (5, 10, 20)
    strengths: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    draws: int = 3
    steps: int = STEPS
    rate: float = RATE
    curve: tuple[int, ...] = (1, 2, 5, 10)
    seeds: int = 2
    split_seed: int = 0
    baselines: bool = False

    @property
    def shots(self) -> tuple[int, int, int]:
        """Demonstrations of the three intact prompts: the usual number, as many as are tuned on, and all."""
        return self.n_shots, self.n_pairs, self.n_pairs + self.n_validation

    @property
    def prompting(self) -> dict[str, Shots]:
        """The prompts that are asked without any vector, by the row of the table."""
        usual, pairs, everything = self.shots
        return {
            f"{usual}-shot": {"n_shots": usual}, f"{usual}-shot, shuffled": {"n_shots": usual, "shuffled": True},
            f"{pairs}-shot": {"n_shots": pairs}, f"{everything}-shot": {"n_shots": everything, "validation": True},
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The settings by name."""
        return asdict(self)


@dataclass(eq=False)
class Outline:
    """The relations of a study and their kin, its sizes, and what is known of its model without loading it.

    Args:
        names, categories, families: of the relations that are studied.
        left_out: relation -> why it is not.
        d_model: the length of a vector.
        grid: the layers that are tuned at.
    """

    names: list[str]
    categories: list[str]
    families: list[str]
    left_out: dict[str, str]
    settings: Settings
    d_model: int
    grid: list[int]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Outline":
        """The outline in a record of `to_dict`, whose tuples JSON has stored as lists."""
        sizes: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in record["settings"].items()}
        fields = {name: record[name] for name in cls.__dataclass_fields__}
        return cls(**fields | {"settings": Settings(**sizes)})

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {name: getattr(self, name) for name in Outline.__dataclass_fields__} | {
            "settings": self.settings.to_dict()
        }

    def rivals(self, draws: int) -> Int[np.ndarray, "draw relation"]:
        """For each relation some of its `others`, in `draws` fixed draws.

        Raises:
            InputError: the study is of one relation, which has no others.
        """
        if len(self) == 1:
            raise InputError(f"The study has one relation, {self.names[0]!r}; give two or more to compare.")
        rng, draws_by_relation = generator(self.settings.split_seed, Stream.RIVALS), []
        for others in map(self.others, range(len(self))):
            draws_by_relation.append(rng.choice(others, draws, replace=len(others) < draws))
        return np.array(draws_by_relation).T

    def others(self, r: int) -> list[int]:
        """Indices of the relations of other families than relation `r`'s; of all others if there is one family.

        Empty if it is the only relation.
        """
        strangers = [q for q, family in enumerate(self.families) if family != self.families[r]]
        return strangers or [q for q in range(len(self)) if q != r]
