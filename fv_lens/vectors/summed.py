"""Summed vectors: the function vector of a set of heads, which is the sum of their mean writes.

One vector for all heads (`function_vector`), or one for each layer (`distributed_vectors`).

Where a norm stands behind attention, what a head adds to the residual stream is `gain * (z @ W_O) / rms`, rms being
that of all the attention puts out. It is held at its mean over intact prompts ("frozen", as in direct logit
attribution), so that what heads add can be summed.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.prompts import FewShot, PromptTemplate, few_shot
from ..datasets.relation_files import RelationLike, load_relation
from ..datasets.relations import Relation
from ..engine.batches import batch
from ..engine.whatif import residuals
from ..ground.errors import InputError, whole_number
from ..models.arrival import arrival
from ..models.lens import Lens, Model, check_layer, lens_of
from ..models.writes import attention_output
from .function_vector import FunctionVector
from .mediation import mean_outputs

Heads = Sequence[tuple[int, int]]  # (layer, head)


def function_vector(
    model: Model,
    relation: RelationLike,
    heads: Heads,
    layer: int,
    mean_z: Tensor | None = None,
    attention_rms: Tensor | None = None,
    *,
    template: PromptTemplate = PromptTemplate(),
) -> FunctionVector:
    """Sum of what the heads write on average: `sum over (l, h) of mean_z[l, h] @ W_O[l, h]`, without bias.

    What a head writes is what its layer's own output projection makes of it, adapters and quantised weights included,
    times the multiplier behind it in models that have one. Where a root-mean-square norm stands behind attention, what
    is summed is `gain * (mean_z[l, h] @ W_O[l, h]) / attention_rms[l]`, and the vector's `frozen_rms` says so.

    Args:
        relation: a Relation, a bundled name or a path; its train part is used.
        heads: `[(layer, head), ...]`, such as `effects.top(10)`; heads above `layer` are allowed.
        layer: where the vector is to be added, at `hook_resid_post`.
        mean_z: mean head outputs `[layer, head, d_head]`, such as `effects.mean_z`; computed if left out (100 prompts
            of 10 shots).
        attention_rms: `[layer]`, such as `effects.attention_rms`; computed likewise if it is needed and left out.

    Raises:
        InputError: no heads, a head given twice or outside the model, a layer outside the model, a `mean_z` or
            `attention_rms` of another shape; or a model that rescales what a head writes in another way.

    Source: Todd et al. 2024, section 2.3. Their code adds the output bias once per head on some models; it is not part
    of what a head writes, and is left out here.
    """
    lens, relation = lens_of(model), load_relation(relation)
    heads, layer = check_heads(lens, heads), check_layer(lens, layer)
    with lens.settled():
        normed = normed_layers(lens, heads)
        if mean_z is None or (normed and attention_rms is None):
            means = mean_outputs(model, relation, template=template)
            mean_z = means.z if mean_z is None else mean_z
            attention_rms = means.attention_rms if attention_rms is None else attention_rms
        check_means(lens, mean_z, attention_rms)
        total = head_sum(lens, heads, mean_z, attention_rms)
    frozen = {str(at): float(attention_rms[at]) for at in normed} if attention_rms is not None and normed else None
    return FunctionVector.on(lens, total, layer, relation, template, heads=heads, frozen_rms=frozen)


def distributed_vectors(
    model: Model,
    relation: RelationLike,
    heads: Heads,
    mean_z: Tensor | None = None,
    *,
    template: PromptTemplate = PromptTemplate(),
) -> list[FunctionVector]:
    """The distributed form of a function vector: what each head writes on average, to be added at its own layer.

    One vector for each layer that has chosen heads, lowest first: `sum over h of mean_z[l, h] @ W_O[l, h]`. Its `site`
    is the output of attention, before whatever else the block does to it, so adding the list is adding `mean_z[l, h]`
    to each head's own output at `hook_z`, also where a norm or multiplier follows.

    Args:
        relation: a Relation, a bundled name or a path; its train part is used.
        heads: `[(layer, head), ...]`, such as `effects.top(10)`.
        mean_z: mean head outputs `[layer, head, d_head]`, such as `effects.mean_z`; computed if left out (100 prompts
            of 10 shots).

    Raises:
        InputError: no heads, a head given twice or outside the model, a `mean_z` of another shape; or a model that has
            no such hook point (a HookedTransformer with post-norm blocks).

    Source: arXiv 2606.05079, which finds it stronger than one sum at one layer.

    Example:
        >>> vectors = distributed_vectors(model, "antonym", effects.top(10), effects.mean_z)
        >>> with patch(model, vectors):
        ...     print(model.generate("hot", max_new_tokens=1))
    """
    lens, relation = lens_of(model), load_relation(relation)
    heads = check_heads(lens, heads)
    by_layer = {layer: [head for head in heads if head[0] == layer] for layer in sorted({at for at, _ in heads})}
    with lens.settled():
        sites = [attention_output(lens, layer) for layer in by_layer]
    if mean_z is None:
        mean_z = mean_outputs(model, relation, template=template).z
    check_means(lens, mean_z)
    return [
        FunctionVector.on(
            lens, _written(lens, layer_heads, mean_z)[layer], layer, relation, template,
            heads=layer_heads, site=site, method="distributed",
        )
        for (layer, layer_heads), site in zip(by_layer.items(), sites)
    ]  # fmt: skip


def check_means(lens: Lens, mean_z: Tensor, attention_rms: Tensor | None = None) -> None:
    """Raise an InputError where means are of another shape than the model's, or sizes are not above 0."""
    expected = (lens.n_layers, lens.n_heads, lens.d_head)
    if tuple(mean_z.shape) != expected:
        raise InputError(
            f"mean_z has the shape {tuple(mean_z.shape)}; {lens.name} needs [layer, head, d_head] = {expected}."
        )
    if attention_rms is None:
        return
    if tuple(attention_rms.shape) != expected[:1] or not bool((attention_rms > 0).all()):
        raise InputError(
            f"attention_rms is {list(attention_rms.shape)}, least {float(attention_rms.min()):g}; {lens.name} needs "
            f"{lens.n_layers} numbers above 0, one for each layer, such as effects.attention_rms."
        )


def head_sum(
    lens: Lens, heads: Heads, mean_z: Tensor, attention_rms: Tensor | None = None
) -> Float[Tensor, " d_model"]:
    """What all the heads add to the residual stream on average; float32 on the CPU.

    Raises:
        InputError: a norm stands behind a head's attention, and there is no `attention_rms` to hold it at; or its layer
            rescales what heads write in another way.
    """
    vector = torch.zeros(lens.d_model, dtype=torch.float32, device="cpu")
    with lens.settled():
        entering_at = {layer: arrival(lens, layer) for layer in sorted({at for at, _ in heads})}
    for layer, written in _written(lens, heads, mean_z).items():
        entering = entering_at[layer]
        if entering.eps is not None:
            if attention_rms is None:
                raise InputError(
                    f"A norm follows attention in layer {layer} of {lens.name}, so a sum of its heads needs "
                    "attention_rms beside mean_z, such as effects.attention_rms."
                )
            written = written / float(attention_rms[layer])
        vector += written if entering.gain is None else entering.gain * written
    return vector


def _written(lens: Lens, heads: Heads, mean_z: Tensor) -> dict[int, Float[Tensor, " d_model"]]:
    """Layer -> what the chosen ones of its heads write on average, from the lowest layer on."""
    by_layer: dict[int, Tensor] = {}
    for layer in sorted({at for at, _ in heads}):
        chosen = [head for at, head in heads if at == layer]
        z = torch.zeros(len(chosen), lens.n_heads, lens.d_head, dtype=torch.float32, device="cpu")
        z[range(len(chosen)), chosen] = mean_z[layer, chosen].to(z)
        by_layer[layer] = lens.writes(layer, z).sum(0)
    return by_layer


def normed_layers(lens: Lens, heads: Heads) -> list[int]:
    """The layers of the heads that have a norm behind attention.

    Raises:
        InputError: one of them rescales what heads write in a way that cannot be held fixed.
    """
    with lens.settled():
        return [layer for layer in sorted({at for at, _ in heads}) if arrival(lens, layer).eps is not None]


def residual_difference(
    lens: Lens, train: Relation, n_prompts: int, n_shots: int, layer: int, template: PromptTemplate, seed: int = 0
) -> Float[Tensor, " d_model"]:
    """Mean residual at the last token after a layer, of few-shot minus zero-shot prompts of the same words.

    Raises:
        InputError: a patch is active, or too few pairs.
    """
    shown = few_shot(train, n_prompts, n_shots, seed)
    bare = [FewShot(prompt.word, prompt.answers) for prompt in shown]
    batches = [batch(lens, prompts, template) for prompts in (shown, bare)]
    few, none = (residuals(lens, prompts.tokens, prompts.mask, layer).mean(0) for prompts in batches)
    return few - none


def check_heads(lens: Lens, heads: Heads) -> tuple[tuple[int, int], ...]:
    """`heads` as a tuple of (layer, head), or an InputError that names what is wrong with them."""
    heads = tuple(heads)
    if not heads:
        raise InputError("No heads were given; pass [(layer, head), ...], such as effects.top(10).")
    for item in heads:
        if not isinstance(item, Sequence) or len(item) != 2:
            raise InputError(f"{item!r} is not a head; heads are (layer, head).")
        layer, head = check_layer(lens, item[0]), whole_number("head", item[1], least=0)
        if head >= lens.n_heads:
            raise InputError(f"Head {head} of layer {layer} is outside 0..{lens.n_heads - 1} of {lens.name}.")
        if layer not in lens.head_layers:
            raise InputError(f"Layer {layer} of {lens.name} has no heads; {_layers_with_heads(lens)}.")
    repeated = [head for head in heads if heads.count(head) > 1]
    if repeated:
        raise InputError(f"Head {tuple(repeated[0])} was given twice; a head is summed once.")
    return tuple((int(layer), int(head)) for layer, head in heads)


def _layers_with_heads(lens: Lens) -> str:
    return f"layers {', '.join(map(str, lens.head_layers))} have" if lens.head_layers else "no layer has any"
