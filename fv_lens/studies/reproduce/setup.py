"""A study: many relations on one model, each with few pairs to tune on, few to choose on and others to be scored on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...datasets.prompts import FewShot, PromptTemplate, corrupted, with_demonstrations
from ...datasets.relation_files import RelationLike, load_relation
from ...datasets.relations import Relation
from ...engine.batches import PromptBatch, batch
from ...engine.edits import RESIDUAL, Edit
from ...ground.errors import InputError
from ...ground.streams import Stream, generator
from ...models.lens import Model, lens_of
from ...vectors.optimizer import RATE, STEPS, Tuning
from ...vectors.tuning_pairs import tuning_pairs

TRAIN, VALIDATION, TEST = range(3)


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


class Study:
    """The relations of a study, cut to size; those that a step would refuse are in `left_out` with the reason.

    A relation is left out if it has too few pairs, too few answers to shuffle, or prompts beyond the model's context.
    `names`, `families`: of the relations that are kept, in the order of `relations`.

    Args:
        model: a HookedTransformer or TransformerBridge.
        relations: Relations, bundled names or paths.
        template: the form of all prompts.

    Raises:
        InputError: two relations of one name, or none that can be studied.
    """

    def __init__(
        self,
        model: Model,
        relations: Sequence[RelationLike],
        settings: Settings = Settings(),
        template: PromptTemplate = PromptTemplate(),
    ):
        self.model, self.lens, self.settings, self.template = model, lens_of(model), settings, template
        self.relations: list[Relation] = []
        kept, self.left_out = sized(relations, settings)
        for relation in kept:
            try:
                self._try(relation)
                self.relations.append(relation)
            except InputError as error:
                self.left_out[relation.name] = str(error)
        self.names = [relation.name for relation in self.relations]
        self.families = [relation.family or relation.name for relation in self.relations]
        _check_names(self.names, self.left_out)
        self.tuning = Tuning(settings.steps, settings.rate, template=self.template)
        self.zero_shot = cache(self._zero_shot)

    def __len__(self) -> int:
        return len(self.relations)

    def _try(self, relation: Relation) -> None:
        """Make the prompts on which a later step could fail, the very draws that it will ask."""
        train = relation.split().train
        corrupted(train, self.settings.map_prompts, min(self.settings.n_shots, len(train) - 1))
        bare = with_demonstrations(relation, relation, 0)
        zero_shot_batch = batch(self.lens, bare, self.template)
        # Of a word's answers the one of most tokens decides whether a prompt fits; to tokenise all again takes long.
        longest = {
            prompt.word: (max(zip(map(len, ids), prompt.answers), key=lambda answer: answer[0])[1],)
            for prompt, ids in zip(bare, zero_shot_batch.answers)
        }
        for how in self.settings.prompting.values():
            for prompts in self._prompts_of(relation, **how):
                few = [FewShot(prompt.word, longest[prompt.word], prompt.demonstrations) for prompt in prompts]
                batch(self.lens, few, self.template)

    def _zero_shot(self, part: int) -> tuple[PromptBatch, Int[Tensor, " prompt"]]:
        """Zero-shot prompts of one part of all relations, and which relation each is of."""
        parts = [relation.split()[part] for relation in self.relations]
        return self._joined([with_demonstrations(words, words, 0) for words in parts])

    def few_shot(
        self, n_shots: int, shuffled: bool = False, validation: bool = False
    ) -> Iterator[tuple[PromptBatch, Int[Tensor, " prompt"]]]:
        """Prompts of the test words behind demonstrations, a few words behind the same ones at a time.

        Demonstrations are from the train part, or from the validation part as well (`validation`).
        """
        for owner, relation in enumerate(self.relations):
            for prompts in self._prompts_of(relation, n_shots, shuffled, validation):
                yield batch(self.lens, prompts, self.template), torch.full((len(prompts),), owner, device="cpu")

    def longest_prompts(self) -> PromptBatch:
        """The batch of test words with the longest prompt that any step asks."""
        batches = (prompts for how in self.settings.prompting.values() for prompts, _ in self.few_shot(**how))
        return max(batches, key=lambda prompts: prompts.tokens.shape[1])

    def _prompts_of(
        self, relation: Relation, n_shots: int, shuffled: bool = False, validation: bool = False
    ) -> Iterator[list[FewShot]]:
        train, more, test = relation.split()
        shown = joined(train, more) if validation else train
        n_shown = min(n_shots, len(shown))
        for start in range(0, len(test), self.settings.n_together):
            asked = test.with_pairs(test.pairs[start : start + self.settings.n_together])
            first, silent = asked.with_pairs(asked.pairs[:1]), _without_hints(shown, asked, n_shown)
            drawn = with_demonstrations(first, silent, n_shown, start, shuffled)[0].demonstrations
            yield [FewShot(word, answers, drawn) for word, answers in asked.pairs]

    def _joined(self, prompts: Sequence[Sequence[FewShot]]) -> tuple[PromptBatch, Int[Tensor, " prompt"]]:
        owners = [owner for owner, part in enumerate(prompts) for _ in part]
        return batch(self.lens, [prompt for part in prompts for prompt in part], self.template), torch.tensor(
            owners, device="cpu"
        )

    def edit(self, vectors: Float[Tensor, "relation d_model"], part: int, layer: int, site: str = RESIDUAL) -> Edit:
        """Each relation's vector on its own prompts of a part; zeros where it has none (NaN)."""
        return Edit(layer, vectors.nan_to_num(0.0)[self.zero_shot(part)[1]], site=site)

    def pairs(self, relation: Relation, seed: int = 0) -> tuple[Relation, Relation]:
        """Train and validation pairs; a seed above 0 deals both again among themselves, so test words stay unseen."""
        train, validation, _ = relation.split()
        if seed == 0:
            return train, validation
        both = joined(train, validation).pairs
        order = generator(seed, Stream.DEALS).permutation(len(both))
        shuffled = [both[i] for i in order]
        return relation.with_pairs(shuffled[: len(train)]), relation.with_pairs(shuffled[len(train) :])

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


def sized(relations: Iterable[RelationLike], settings: Settings) -> tuple[list[Relation], dict[str, str]]:
    """The relations with as many pairs in each part as a study takes, and why others are left out: too few pairs.

    Needs no model, so it can run before one is loaded. Warns of parts smaller than the settings ask for.

    Raises:
        InputError: two relations of one name, or none that is large enough.
    """
    kept: list[Relation] = []
    left_out: dict[str, str] = {}
    parts = settings.n_pairs, settings.n_validation
    loaded = [load_relation(relation).with_split(settings.split_seed) for relation in relations]
    _check_names([relation.name for relation in loaded], left_out)
    for relation in loaded:
        try:
            tuning_pairs(relation, *parts)  # refuses and warns
            kept.append(relation.limited(*parts, settings.n_test))
        except InputError as error:
            left_out[relation.name] = str(error)
    _check_names([relation.name for relation in kept], left_out)
    return kept, left_out


def _check_names(names: Sequence[str], left_out: Mapping[str, str]) -> None:
    if len(set(names)) < len(names) or not names:
        why = "".join(f" {reason}" for reason in left_out.values())
        raise InputError(f"The relations to study are {names}; give at least one, each name once.{why}")


def _without_hints(shown: Relation, asked: Relation, n_shots: int) -> Relation:
    """The pairs to show that give away no answer of those asked, if they are enough."""
    words, answers = set(asked.words), {answer for _, listed in asked.pairs for answer in listed}
    silent = [pair for pair in shown.pairs if pair[0] not in answers and words.isdisjoint(pair[1])]
    return shown.with_pairs(silent) if len(silent) >= n_shots else shown


def joined(*parts: Relation) -> Relation:
    """Parts of one relation as one."""
    return parts[0].with_pairs([pair for part in parts for pair in part.pairs])
