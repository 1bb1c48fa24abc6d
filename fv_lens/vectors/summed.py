"""Summed vectors: the function vector of a set of heads, which is the sum of their mean writes.

One vector for all heads (`function_vector`), or one for each layer (`distributed_vectors`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.prompts import FewShot, PromptTemplate, few_shot
from ..datasets.relation_files import RelationLike, load_relation
from ..datasets.relations import Relation
from ..engine.batches import batch
from ..engine.edits import RESIDUAL
from ..engine.whatif import residuals
from ..ground.errors import InputError, whole_number
from ..models.base import HEAD_OUTPUT, HookFunction
from ..models.lens import Lens, Model, check_layer, lens_of
from .function_vector import FunctionVector
from .mediation import mean_head_outputs

if TYPE_CHECKING:
    from ..models.base import HookPoint

Heads = Sequence[tuple[int, int]]  # (layer, head)
# The first is before a post-attention norm or multiplier where the model has one, but not every model has the first.
ATTENTION_OUTPUTS = ("attn.hook_out", "hook_attn_out")


def function_vector(
    model: Model,
    relation: RelationLike,
    heads: Heads,
    layer: int,
    mean_z: Tensor | None = None,
    *,
    template: PromptTemplate = PromptTemplate(),
) -> FunctionVector:
    """Sum of what the heads write on average: `sum over (l, h) of mean_z[l, h] @ W_O[l, h]`, without bias.

    What a head writes is what its layer's own output projection makes of it, adapters and quantised weights included.

    Args:
        relation: a Relation, a bundled name or a path; its train part is used.
        heads: `[(layer, head), ...]`, such as `effects.top(10)`; heads above `layer` are allowed.
        layer: where the vector is to be added, at `hook_resid_post`.
        mean_z: mean head outputs `[layer, head, d_head]`, such as `effects.mean_z`; computed if left out (100 prompts
            of 10 shots).

    Raises:
        InputError: no heads, a head given twice or outside the model, a layer outside the model, a `mean_z` of another
            shape; or a model that rescales what a head writes (post-norm blocks), where such a sum means nothing.

    Source: Todd et al. 2024, section 2.3. Their code adds the output bias once per head on some models; it is not part
    of what a head writes, and is left out here.
    """
    lens, relation = lens_of(model), load_relation(relation)
    heads, layer = check_heads(lens, heads), check_layer(lens, layer)
    for at in sorted({at for at, _ in heads}):
        if not writes_plainly(lens, at):
            raise InputError(
                f"{lens.name} rescales what the heads of layer {at} write (a norm or multiplier after the output "
                "projection), so their sum is not what they add to the residual stream. A vector tuned from zero works "
                "on any model: finetune(..., 'zero')."
            )
    mean_z = _checked(mean_z, lens, model, relation, template)
    return FunctionVector.on(lens, head_sum(lens, heads, mean_z), layer, relation, template, heads=heads)


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
    sites = [_site_of(lens, layer) for layer in by_layer]
    mean_z = _checked(mean_z, lens, model, relation, template)
    return [
        FunctionVector.on(
            lens, head_sum(lens, layer_heads, mean_z), layer, relation, template,
            heads=layer_heads, site=site, method="distributed",
        )
        for (layer, layer_heads), site in zip(by_layer.items(), sites)
    ]  # fmt: skip


def _checked(mean_z: Tensor | None, lens: Lens, model: Model, relation: Relation, template: PromptTemplate) -> Tensor:
    """Mean head outputs of the model's shape; computed where they were not given."""
    if mean_z is None:
        mean_z, _ = mean_head_outputs(model, relation, template=template)
    expected = (lens.n_layers, lens.n_heads, lens.d_head)
    if tuple(mean_z.shape) != expected:
        raise InputError(
            f"mean_z has the shape {tuple(mean_z.shape)}; {lens.name} needs [layer, head, d_head] = {expected}."
        )
    return mean_z


def head_sum(lens: Lens, heads: Heads, mean_z: Tensor) -> Float[Tensor, " d_model"]:
    """What all the heads write on average, each through its own layer's output projection; float32 on the CPU."""
    vector = torch.zeros(lens.d_model, dtype=torch.float32, device="cpu")
    for layer in sorted({at for at, _ in heads}):
        chosen = [head for at, head in heads if at == layer]
        z = torch.zeros(len(chosen), lens.n_heads, lens.d_head, dtype=torch.float32, device="cpu")
        z[range(len(chosen)), chosen] = mean_z[layer, chosen].to(z)
        vector += lens.writes(layer, z).sum(0)
    return vector


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
            raise InputError(f"Layer {layer} of {lens.name} has no heads; {_with_heads(lens)}.")
    repeated = [head for head in heads if heads.count(head) > 1]
    if repeated:
        raise InputError(f"Head {tuple(repeated[0])} was given twice; a head is summed once.")
    return tuple((int(layer), int(head)) for layer, head in heads)


def _with_heads(lens: Lens) -> str:
    return f"layers {', '.join(map(str, lens.head_layers))} have" if lens.head_layers else "no layer has any"


def writes_plainly(lens: Lens, layer: int) -> bool:
    """Whether the residual stream moves by what the output projection writes when a head's output moves."""
    lens.renew()
    known = lens.parity.plain_writes
    if layer not in known:
        known[layer] = _plain_in(lens, layer)
    return known[layer]


@torch.no_grad()
def _plain_in(lens: Lens, layer: int) -> bool:
    ids = torch.arange(1, 6, device=lens.device)[None] % lens.cfg.d_vocab
    # Where blocks run attention and MLP side by side, only the block's output shows what the heads wrote.
    names = [n for n in (f"blocks.{layer}.hook_resid_mid", f"blocks.{layer}.hook_resid_post") if n in lens.points]

    def residuals(shift: Tensor) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def edit(z: Tensor, hook: "HookPoint") -> Tensor:
            z = z.clone()
            z[:, -1, 0] += shift.to(z)
            return z

        def see(name: str) -> HookFunction:
            return lambda x, hook: seen.__setitem__(name, x[:, -1].float().cpu())

        lens.logits(ids, torch.ones_like(ids), [(f"blocks.{layer}.{HEAD_OUTPUT}", edit), *((n, see(n)) for n in names)])
        return seen

    shift = _noise(lens.d_head)
    moved = torch.zeros(1, lens.n_heads, lens.d_head, dtype=torch.float32, device="cpu")
    moved[0, 0] = shift
    write, clean = lens.writes(layer, moved)[0], residuals(torch.zeros_like(shift))
    # Large beside the residual stream, so that the difference survives low precision.
    scale = 10 * max(x.abs().max() for x in clean.values()) / write.abs().max()
    after, tolerance = residuals(scale * shift), 1e-3 if lens.full_precision else 5e-2
    errors = [(after[name] - clean[name] - scale * write).abs().max() / (scale * write).abs().max() for name in clean]
    return bool(min(errors) <= tolerance)


def _noise(*shape: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")


def _site_of(lens: Lens, layer: int) -> str:
    """The hook point of a layer where adding the heads' writes equals adding z to their outputs."""
    lens.renew()
    known = lens.parity.attention_outputs
    if layer not in known:
        known[layer] = _attention_output(lens, layer)
    site = known[layer]
    if site is None:
        raise InputError(
            f"{lens.name} has no hook point in layer {layer} between the output projection and the norm or multiplier "
            "behind it, so what its heads write cannot be added there. A vector tuned from zero works on any model: "
            "finetune(..., 'zero')."
        )
    return site


@torch.no_grad()
def _attention_output(lens: Lens, layer: int) -> str | None:
    sites = [site for site in ATTENTION_OUTPUTS if f"blocks.{layer}.{site}" in lens.points]
    z = _noise(lens.n_heads, lens.d_head)
    write = lens.writes(layer, z[None])[0]
    # The first row stays clean, the second has z added at `hook_z`, each other row z's write added at one site.
    edits = [(HEAD_OUTPUT, z), *((site, write) for site in sites)]
    ids = (torch.arange(1, 6, device=lens.device) % lens.cfg.d_vocab).expand(1 + len(edits), -1)

    def residuals(scale: float | Tensor) -> Tensor:
        seen: dict[str, Tensor] = {}

        def adds(row: int, value: Tensor) -> HookFunction:
            def edit(x: Tensor, hook: "HookPoint") -> Tensor:
                x = x.clone()
                x[row, -1] += (scale * value).to(x)
                return x

            return edit

        hooks = [(f"blocks.{layer}.{point}", adds(row, value)) for row, (point, value) in enumerate(edits, start=1)]
        hooks.append((f"blocks.{layer}.{RESIDUAL}", lambda x, hook: seen.update(last=x[:, -1])))
        lens.logits(ids, torch.ones_like(ids), hooks)
        return seen["last"].float().cpu()

    # Large beside the residual stream, as in `_plain_in`.
    clean, by_z, *by_write = residuals(10 * residuals(0.0)[0].abs().max() / write.abs().max())
    tolerance = (1e-3 if lens.full_precision else 5e-2) * (by_z - clean).abs().max()
    exact = [site for site, x in zip(sites, by_write) if 0 < tolerance and (x - by_z).abs().max() <= tolerance]
    return exact[0] if exact else None
