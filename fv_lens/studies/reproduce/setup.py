"""A study: many relations on one model, each with few pairs to tune on, few to choose on and others to be scored on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache

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
from ...vectors.optimizer import Tuning
from ...vectors.sweeps import layer_grid
from ...vectors.tuning import DEPTHS
from ...vectors.tuning_pairs import tuning_pairs
from .outline import Outline
from .outline import Settings as Settings

TRAIN, VALIDATION, TEST = range(3)


class Study(Outline):
    """The relations of a study, cut to size; those that a step would refuse are in `left_out` with the reason.

    A relation is left out if it has too few pairs, too few answers to shuffle, or prompts beyond the model's context.
    `names`, `categories`, `families`: of the relations that are kept, in the order of `relations`.

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
        self.d_model, self.grid = self.lens.d_model, layer_grid(self.lens, DEPTHS)
        self.relations: list[Relation] = []
        kept, self.left_out = sized(relations, settings)
        for relation in kept:
            try:
                self._try(relation)
                self.relations.append(relation)
            except InputError as error:
                self.left_out[relation.name] = str(error)
        self.names = [relation.name for relation in self.relations]
        self.categories = [relation.category or "other" for relation in self.relations]
        self.families = [relation.family or relation.name for relation in self.relations]
        _check_names(self.names, self.left_out)
        self.tuning = Tuning(settings.steps, settings.rate, template=self.template)
        self.zero_shot = cache(self._zero_shot)

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
        self, n_shots: int, shuffled: bool = False, validation: bool = False, only: int | None = None
    ) -> Iterator[tuple[PromptBatch, Int[Tensor, " prompt"]]]:
        """Prompts of the test words behind demonstrations, a few words behind the same ones at a time.

        Demonstrations are from the train part, or from the validation part as well (`validation`). `only`: the index
        of a relation, for its words alone.
        """
        for owner in range(len(self)) if only is None else [only]:
            relation = self.relations[owner]
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
