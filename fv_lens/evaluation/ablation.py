"""Ablation: what intact prompts lose when heads are set to what they put out in corrupted ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.prompts import PromptTemplate, corrupted, with_demonstrations
from ..datasets.relation_files import RelationLike, load_relation
from ..datasets.relations import Relation
from ..engine.batches import batch
from ..engine.completion import Completions, completions, rows_of
from ..engine.whatif import Edit, WhatIf, head_outputs
from ..ground import scores
from ..ground.display import scored
from ..ground.errors import InputError, whole_number
from ..ground.markup import card, table
from ..ground.progress import progress_bar
from ..ground.scores import Score
from ..ground.streams import Stream, generator
from ..models.lens import Lens, Model, lens_of
from ..vectors.effects import HeadEffects

Heads = tuple[tuple[int, int], ...]
WRITERS, CANCELLERS, RANDOM = "without writers", "without cancellers", "without random heads"


@dataclass(frozen=True)
class Ablated:
    """Scores of intact few-shot prompts with or without some heads; log-probabilities in nats.

    `accuracy`: a right answer is completed as a whole. `first_token_accuracy`: the most probable token begins one.
    `log_prob`: of the whole first listed answer. `..._change`: the row minus the prompts as they are (negative: lost).
    `..._beyond_random`: the row minus that without random heads. Both are paired over words; None for the rows
    themselves.
    """

    accuracy: Score
    first_token_accuracy: Score
    log_prob: Score
    accuracy_change: Score | None = None
    log_prob_change: Score | None = None
    accuracy_beyond_random: Score | None = None
    log_prob_beyond_random: Score | None = None


@dataclass(frozen=True, eq=False)
class Ablation:
    """What the heads that write an answer, and those that cancel it, do in intact prompts.

    Args:
        relation: the relation's name.
        rows: "10-shot" (the prompts as they are), "without writers", "without cancellers" and "without random heads"
            (averaged over draws) -> `Ablated`.
        writers, cancellers: the heads, `(layer, head)`, strongest first.
        random: the heads of each draw, none of them among the writers and cancellers.
        corrupted_z: `[layer, head, d_head]`, what heads are set to.
        words: a line for each row and word: the share of draws in which it was completed right, and the mean
            log-probability of its first listed answer, in nats.
    """

    relation: str
    rows: Mapping[str, Ablated]
    writers: Heads
    cancellers: Heads
    random: tuple[Heads, ...]
    corrupted_z: Float[Tensor, "layer head d_head"] = field(repr=False)
    words: pd.DataFrame = field(repr=False)

    def __repr__(self) -> str:
        lost = ", ".join(f"{name} {self.rows[name].accuracy_change:+}" for name in (WRITERS, CANCELLERS))
        return f"Ablation({self.relation!r}, {len(self.writers)} heads each, {lost})"

    def __str__(self) -> str:
        about = f"{self.relation}: {self._about}; 95 % intervals; change = the row minus the first, paired"
        titles = f"{'':<26}{'accuracy':<20}{'first token':<20}{'log-prob':<25}"
        lines = [about, f"{titles}{'change in accuracy':<23}{'in log-prob':<23}beyond random heads"]
        for name, row in self.rows.items():
            changes = [row.accuracy_change, row.log_prob_change, row.log_prob_beyond_random]
            shown = [change.signed if change else "" for change in changes]
            lines.append(
                f"{name:<26}{row.accuracy!s:<20}{row.first_token_accuracy!s:<20}{row.log_prob!s:<25}"
                f"{shown[0]:<23}{shown[1]:<23}{shown[2]}"
            )
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        columns = ["", "accuracy", "first token", "log-prob, nats", "change in accuracy", "in log-prob"]
        columns += ["accuracy beyond random heads", "log-prob beyond random heads"]
        lines = [
            (name, *(scored(getattr(row, part), place > 2) for place, part in enumerate(Ablated.__dataclass_fields__)))
            for name, row in self.rows.items()
        ]
        listed = [
            (kind, ", ".join(f"L{layer}H{head}" for layer, head in heads))
            for kind, heads in (("writers", self.writers), ("cancellers", self.cancellers))
        ]
        return card(
            "Ablation", self.relation, table(columns, lines, strong=[0]), table([], listed, words=True),
            note=f"{self._about}, 95 % intervals. Change: the row minus the first, paired over words; not shown: the "
            "interval holds 0. Heads are set to their mean output in prompts with shuffled answers.",
        )  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One line per row: every score with its low and high."""
        lines = {
            name: {
                f"{part}{end}": getattr(score, attribute)
                for part in Ablated.__dataclass_fields__
                if (score := getattr(row, part)) is not None
                for end, attribute in (("", "value"), ("_low", "low"), ("_high", "high"))
            }
            for name, row in self.rows.items()
        }
        return pd.DataFrame.from_dict(lines, orient="index").rename_axis("row")

    @property
    def _about(self) -> str:
        n_words = next(iter(self.rows.values())).accuracy.n
        return f"{n_words} test words; {len(self.writers)} heads in each row, {len(self.random)} random draws"


def ablation(
    model: Model,
    relation: RelationLike,
    effects: HeadEffects,
    n_heads: int = 10,
    n_shots: int = 10,
    *,
    draws: int = 5,
    n_prompts: int = 100,
    seed: int = 0,
) -> Ablation:
    """What intact few-shot prompts of test words lose without the heads of largest positive or negative effect.

    A head is taken out by setting its output at the last token to its mean over corrupted prompts, in which the
    demonstrations' answers are shuffled so that all are wrong: what it knows of the words' form stays, what it knows of
    the relation does not. Heads and means come from the train part.

    Args:
        effects: the head map of this relation, or one over relations. Template and split are those of its prompts.
        n_heads: how many writers, how many cancellers, and how many other heads in each random draw.
        n_shots: demonstrations in intact and corrupted prompts.
        draws: of random heads, over which their row is averaged.
        n_prompts: corrupted prompts, over which head outputs are averaged.
        seed: seed of the draws of demonstrations and heads.

    Raises:
        InputError: effects of another model, or of other pairs of this relation; more heads than there are of a sign,
            or than leave as many others; too few pairs; numbers below 1, or below 2 for `n_shots`.

    Example:
        >>> effects = fv_lens.indirect_effects(model, "antonym")
        >>> print(fv_lens.ablation(model, "antonym", effects))
    """
    lens, relation = lens_of(model), load_relation(relation)
    n_heads, draws = (whole_number(name, x, least=1) for name, x in (("n_heads", n_heads), ("draws", draws)))
    n_shots = whole_number("n_shots", n_shots, least=2)
    effects.check(lens)
    relation = relation.with_split(effects.record["split_seed"])
    if effects.record["relation"] == relation.name and effects.record["data_hash"] != relation.hash:
        raise InputError(
            f"The effects were measured on other pairs of {relation.name!r}, which may hold its test words. Measure "
            "them again on these pairs."
        )
    template = PromptTemplate.from_dict(effects.record["template"])
    writers, cancellers, others = _parted(effects, n_heads)
    rng = generator(seed, Stream.CONTROLS)
    random = tuple(tuple(others[i] for i in rng.permutation(len(others))[:n_heads]) for _ in range(draws))
    parts = relation.split()
    intact = batch(lens, with_demonstrations(parts.test, parts.train, n_shots, seed), template)
    z = _corrupted_means(lens, parts.train, n_prompts, n_shots, seed, template)

    def without(heads: Heads) -> WhatIf:
        return [Edit(layer, z[layer, head], head) for layer, head in heads]

    drawn = {WRITERS: [writers], CANCELLERS: [cancellers], RANDOM: random}
    whatifs = {name: [without(heads) for heads in listed] for name, listed in drawn.items()}
    with progress_bar(total=len(intact), desc="prompts without heads", unit="prompt") as bar:
        measured = completions(lens, intact, [whatif for listed in whatifs.values() for whatif in listed], bar.update)
    values = {f"{n_shots}-shot": measured.rows([0])}
    values |= {name: measured.rows(places) for name, places in rows_of(whatifs).items()}
    words = [
        pd.DataFrame({"row": name, "word": intact.words, "right": x.right.mean(1), "log_prob": x.log_prob.mean(1)})
        for name, x in values.items()
    ]
    return Ablation(
        relation.name, _rows(values), writers, cancellers, random, z, pd.concat(words, ignore_index=True)
    )  # fmt: skip


def _parted(effects: HeadEffects, n: int) -> tuple[Heads, Heads, list[tuple[int, int]]]:
    """The n heads of largest positive effect, the n of largest negative effect, and all others."""
    mean = effects.mean
    for sign, kind in ((1, "positive"), (-1, "negative")):
        if n > (there := int((sign * mean > 0).sum())):
            raise InputError(f"n_heads is {n}, and {there} heads have a {kind} effect; give at most as many.")
    if n > effects.n_heads - 2 * n:
        raise InputError(
            f"n_heads is {n}; of {effects.n_heads} heads that leaves too few others to draw {n} from at random. Give "
            f"at most {effects.n_heads // 3}."
        )
    writers, cancellers = tuple(effects.top(n)), tuple(effects.top(n, -1))
    others = [head for head in effects.top(effects.n_heads) if head not in {*writers, *cancellers}]
    return writers, cancellers, others


def _corrupted_means(
    lens: Lens, train: Relation, n_prompts: int, n_shots: int, seed: int, template: PromptTemplate
) -> Float[Tensor, "layer head d_head"]:
    """Mean output of every head at the last token of corrupted prompts of train words."""
    prompts = batch(lens, corrupted(train, n_prompts, n_shots, seed), template)
    total = torch.zeros(lens.n_layers, lens.n_heads, lens.d_head, dtype=torch.float64, device="cpu")
    with progress_bar(total=len(prompts), desc="mean head outputs, corrupted", unit="prompt") as bar:
        for indices, z, _ in head_outputs(lens, prompts.tokens, prompts.mask):
            total += z.cpu().double().sum(0)
            bar.update(len(indices))
    return (total / len(prompts)).float()


def _rows(values: Mapping[str, Completions]) -> dict[str, Ablated]:
    """Scores of each row and its paired differences; the first row is of the prompts as they are."""
    measures = {
        name: [np.asarray(x, dtype=float) for x in (row.right.T, row.rank.T == 0, row.log_prob.T)]
        for name, row in values.items()
    }
    intact = next(iter(values))
    rows = {}
    for name, (right, first, log_prob) in measures.items():
        paired = {}
        for kind, base in (("change", intact), ("beyond_random", RANDOM)):
            if name not in (intact, base):
                paired[f"accuracy_{kind}"] = scores.gain(right, measures[base][0])
                paired[f"log_prob_{kind}"] = scores.paired_difference(log_prob, measures[base][2])
        rows[name] = Ablated(scores.proportion(right), scores.proportion(first), scores.mean(log_prob), **paired)
    return rows
