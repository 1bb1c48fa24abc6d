"""Ablation: what intact prompts lose when heads are set to what they put out in corrupted ones."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.prompts import PromptTemplate, corrupted, with_demonstrations
from ..datasets.relation_files import RelationLike, load_relation
from ..engine.batches import PromptBatch, batch
from ..engine.completion import Completions, completions, rows_of
from ..engine.whatif import Edit, WhatIf, head_outputs
from ..ground import scores
from ..ground.errors import InputError, whole_number
from ..ground.progress import progress_bar
from ..ground.streams import Stream, generator
from ..models.lens import Lens, Model, lens_of
from ..vectors.effects import HeadEffects
from .ablated import CANCELLERS, KEPT, RANDOM, WRITERS, Ablated, Ablation, Heads


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
    demonstrations' answers are shuffled so that all are wrong. Heads and means come from the train part. A mean lacks
    what a head says of the word itself, and not of the relation alone; so in further rows ("word kept") the head is
    set to its output in the corrupted prompt of the same word.

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
    z = _mean_outputs(lens, batch(lens, corrupted(parts.train, n_prompts, n_shots, seed), template))
    drawn = {WRITERS: [writers], CANCELLERS: [cancellers], RANDOM: random}
    shuffled = batch(lens, with_demonstrations(parts.test, parts.train, n_shots, seed, shuffled=True), template)
    of_words = _outputs(lens, shuffled, {head for listed in drawn.values() for heads in listed for head in heads})
    whatifs = _whatifs(drawn, {head: z[head] for head in of_words})
    whatifs |= {name + KEPT: kept for name, kept in _whatifs(drawn, of_words).items()}
    with progress_bar(total=len(intact), desc="prompts without heads", unit="prompt") as bar:
        measured = completions(lens, intact, [whatif for listed in whatifs.values() for whatif in listed], bar.update)
    values = {f"{n_shots}-shot": measured.rows([0])}
    values |= {name: measured.rows(places) for name, places in rows_of(whatifs).items()}
    of_each = [
        pd.DataFrame({"row": name, "word": intact.words, "right": x.right.mean(1), "log_prob": x.log_prob.mean(1)})
        for name, x in values.items()
    ]
    words = pd.concat(of_each, ignore_index=True)
    return Ablation(relation.name, _rows(values), writers, cancellers, random, z, words)


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


def _whatifs(
    drawn: Mapping[str, Sequence[Heads]], outputs: Mapping[tuple[int, int], Tensor]
) -> dict[str, list[WhatIf]]:
    """Row -> for each draw of its heads, all of them set to these outputs."""
    return {
        name: [[Edit(layer, outputs[layer, head], head) for layer, head in heads] for heads in listed]
        for name, listed in drawn.items()
    }


def _mean_outputs(lens: Lens, prompts: PromptBatch) -> Float[Tensor, "layer head d_head"]:
    """Mean output of every head at the prompts' last tokens."""
    total = torch.zeros(lens.n_layers, lens.n_heads, lens.d_head, dtype=torch.float64, device="cpu")
    with progress_bar(total=len(prompts), desc="mean head outputs, corrupted", unit="prompt") as bar:
        for indices, z, _ in head_outputs(lens, prompts.tokens, prompts.mask):
            total += z.cpu().double().sum(0)
            bar.update(len(indices))
    return (total / len(prompts)).float()


def _outputs(
    lens: Lens, prompts: PromptBatch, heads: Collection[tuple[int, int]]
) -> dict[tuple[int, int], Float[Tensor, "prompt d_head"]]:
    """What some heads put out at each prompt's last token."""
    outputs = {head: torch.zeros(len(prompts), lens.d_head, dtype=torch.float32, device="cpu") for head in heads}
    with progress_bar(total=len(prompts), desc="head outputs, corrupted", unit="prompt") as bar:
        for indices, z, _ in head_outputs(lens, prompts.tokens, prompts.mask):
            for (layer, head), values in outputs.items():
                values[indices] = z[:, layer, head].float().cpu()
            bar.update(len(indices))
    return outputs


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
        for kind, base in (("change", intact), ("beyond_random", RANDOM + KEPT * name.endswith(KEPT))):
            if name not in (intact, base):
                paired[f"accuracy_{kind}"] = scores.gain(right, measures[base][0])
                paired[f"log_prob_{kind}"] = scores.paired_difference(log_prob, measures[base][2])
        rows[name] = Ablated(scores.proportion(right), scores.proportion(first), scores.mean(log_prob), **paired)
    return rows
