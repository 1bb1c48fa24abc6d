"""Causal mediation: which heads carry a relation.

Mean head outputs over intact few-shot prompts, and their effects on the answer when patched into corrupted ones.
"""

import logging
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.prompts import PromptTemplate, corrupted, few_shot
from ..datasets.relation_files import RelationLike, load_relation
from ..engine.batches import batch
from ..engine.whatif import Edit, head_outputs, logsumexp_, what_if
from ..ground.errors import InputError, whole_number
from ..ground.progress import progress_bar
from ..ground.storage import versions
from ..models.arrival import arrival, is_normed
from ..models.lens import Lens, Model, lens_of
from .effects import HeadEffects

log = logging.getLogger("fv_lens")


def indirect_effects(
    model: Model,
    relation: RelationLike,
    n_prompts: int = 25,
    n_shots: int = 10,
    n_mean_prompts: int = 100,
    seed: int = 0,
    only_correct: bool = False,
    *,
    template: PromptTemplate = PromptTemplate(),
) -> HeadEffects:
    """The causal indirect effect of every head on a relation, from the relation's train part only.

    Args:
        model: a HookedTransformer or TransformerBridge.
        relation: a Relation, a bundled name or a path.
        n_prompts: corrupted prompts, on which effects are measured.
        n_shots: demonstrations in each prompt.
        n_mean_prompts: intact prompts, over which head outputs are averaged.
        seed: of the draws of words and demonstrations.
        only_correct: average over the intact prompts that the model answers right only.
        template: the prompts' form.

    Raises:
        InputError: too few pairs, numbers below 1, an answer without a token of its own, prompts beyond the context.
        ParityError: the engine does not agree with a full forward on this model.

    Source: Todd et al. 2024, section 2.2; all prompts' answers are deranged here, so that none is right by chance.
    """
    lens, relation = lens_of(model), load_relation(relation)
    n_prompts = whole_number("n_prompts", n_prompts, least=1)
    train = relation.split().train
    prompts = batch(lens, corrupted(train, n_prompts, n_shots, seed), template)
    means = mean_outputs(model, relation, n_mean_prompts, n_shots, seed, only_correct, template=template)
    heads = _editable_heads(lens)
    edits = [[Edit(layer, means.z[layer, head], head)] for layer, head in heads]
    answers = prompts.answer_ids.to(lens.device)

    def log_prob(logits: Tensor, prompt: Tensor) -> Tensor:
        logits, answer = logits[:, 0], answers.to(logits.device)[prompt]
        return logits.gather(1, answer[:, None])[:, 0] - logsumexp_(logits)

    with progress_bar(total=n_prompts, desc="indirect effects", unit="prompt") as bar:
        after = what_if(lens, prompts.tokens, prompts.mask, edits, log_prob, progress=bar.update)
    after = after.double()  # differences of small probabilities
    before = after[:, :1]
    after, measured = after.new_full((n_prompts, lens.n_layers, lens.n_heads), torch.nan), after[:, 1:]
    layers, columns = torch.tensor(heads, device="cpu").T
    after[:, layers, columns] = measured
    before = before[:, :, None]
    record = {
        "relation": relation.name, "data_hash": relation.hash, "model": lens.name, "processing": lens.processing,
        "bos": lens.bos, "template": template.to_dict(),
        "n_shots": int(n_shots), "n_mean_prompts": int(n_mean_prompts),
        "only_correct": bool(only_correct), "seed": int(seed), "split_seed": relation.split_seed,
        "versions": versions(),
    }  # fmt: skip
    return HeadEffects(
        values=(after.exp() - before.exp()).float(),
        log_prob_values=(after - before).float(),
        base=before[:, 0, 0].exp().float(),
        mean_z=means.z,
        share_right=means.share_right,
        batch=prompts,
        record=record,
        attention_rms=means.attention_rms,
    )


def _editable_heads(lens: Lens) -> list[tuple[int, int]]:
    """Every (layer, head) that can be edited; layers without such heads are named, once for a model."""
    layers = lens.head_layers
    if not layers:
        raise InputError(
            f"No layer of {lens.name} has heads whose outputs can be set: `hook_z` is nowhere [batch, pos, n_heads, "
            f"d_head] = [..., {lens.n_heads}, {lens.d_head}]. A tuned vector needs no heads: finetune(..., 'zero')."
        )
    absent = sorted(set(range(lens.n_layers)) - set(layers))
    if absent and "head layers" not in lens.state.warned:
        lens.state.warned.add("head layers")
        log.warning(
            "%s: layers %s have no heads of the model's usual shape; they are left out of the head map.",
            lens.name, ", ".join(map(str, absent)),
        )  # fmt: skip
    return [(layer, head) for layer in layers for head in range(lens.n_heads)]


def mean_head_outputs(
    model: Model,
    relation: RelationLike,
    n_prompts: int = 100,
    n_shots: int = 10,
    seed: int = 0,
    only_correct: bool = False,
    *,
    template: PromptTemplate = PromptTemplate(),
) -> tuple[Float[Tensor, "layer head d_head"], float]:
    """Mean output of every head (`hook_z`) at the last token of intact few-shot prompts, and the share answered right.

    With `only_correct`, the mean is over the prompts whose most probable next token begins a right answer.

    Raises:
        InputError: as `indirect_effects`; or `only_correct` and no prompt is answered right.

    Example:
        >>> mean_z, share_right = mean_head_outputs(model, "antonym")
        >>> fv = function_vector(model, "antonym", heads, layer=17, mean_z=mean_z)

        The same mean of prompts of your own, from an ActivationCache of TransformerLens. Their last tokens stand in one
        column: the prompts are of one length, or padded on the left.

        >>> logits, cache = model.run_with_cache(tokens, attention_mask=mask)
        >>> mean_z = cache.stack_activation("z")[:, :, -1].mean(1)  # [layer, batch, pos, head, d_head], last token
        >>> fv = function_vector(model, "antonym", heads, layer=17, mean_z=mean_z)
    """
    means = mean_outputs(model, relation, n_prompts, n_shots, seed, only_correct, template=template)
    return means.z, means.share_right


class MeanOutputs(NamedTuple):
    """Means over intact few-shot prompts, at the last token.

    `z`: outputs of every head (`hook_z`). `share_right`: of the prompts. `attention_rms`: root mean square of the whole
    attention output where a norm stands behind it, 1 in other layers; None if there is no such norm in the model.
    """

    z: Float[Tensor, "layer head d_head"]
    share_right: float
    attention_rms: Float[Tensor, " layer"] | None


def mean_outputs(
    model: Model,
    relation: RelationLike,
    n_prompts: int = 100,
    n_shots: int = 10,
    seed: int = 0,
    only_correct: bool = False,
    *,
    template: PromptTemplate = PromptTemplate(),
) -> MeanOutputs:
    """`mean_head_outputs`, with the mean sizes of what norms behind attention divide."""
    lens, relation = lens_of(model), load_relation(relation)
    with lens.settled():
        normed = {layer: arrival(lens, layer) for layer in lens.head_layers if is_normed(lens, layer)}
    rms = torch.zeros(lens.n_layers, dtype=torch.float64, device="cpu")
    prompts = batch(lens, few_shot(relation.split().train, n_prompts, n_shots, seed), template)
    total = torch.zeros(lens.n_layers, lens.n_heads, lens.d_head, dtype=torch.float64, device="cpu")
    used = n_right = 0
    with progress_bar(total=len(prompts), desc="mean head outputs", unit="prompt") as bar:
        for indices, z, logits in head_outputs(lens, prompts.tokens, prompts.mask):
            first = [{ids[0] for ids in prompts.answers[i]} for i in indices.tolist()]
            right = torch.tensor(
                [token in answers for token, answers in zip(logits.argmax(-1).tolist(), first)], device="cpu"
            )
            keep = right if only_correct else torch.ones_like(right)
            kept = z[keep.to(z.device)]
            total += kept.cpu().double().sum(0)
            for layer, entering in normed.items():
                rms[layer] += entering.rms(lens.writes(layer, kept[:, layer])).sum()
            used, n_right = used + int(keep.sum()), n_right + int(right.sum())
            bar.update(len(indices))
    if not used:
        raise InputError(
            f"{lens.name} answers none of {len(prompts)} prompts of {relation.name!r} right, so there is nothing to "
            "average; use only_correct=False, or more shots."
        )
    rms = torch.where(rms > 0, rms / used, 1)
    return MeanOutputs((total / used).float(), n_right / len(prompts), rms.float() if normed else None)
