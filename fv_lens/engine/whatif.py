"""The engine: one prompt, many what-ifs at its last token.

Attention is causal, so an edit at the last prompt token changes no earlier token. The keys and values of the prefix are
computed once, and every what-if is one more row that attends to them and to itself. Any head, layer, strength or vector
is such a row; head maps, sweeps and evaluations are sets of rows.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..ground.errors import InputError
from ..models.base import HEAD_OUTPUT
from ..models.hooking import Hook, HookFunction
from ..models.lens import Lens
from ..models.onednn import through_onednn
from ..models.state import Form, Parity
from .edits import RESIDUAL, Edit, Plan, WhatIf
from .forms import ALONE, FORMS, POSITIONS, SLOW, prefix_for
from .parity import form_for, measured, sharing_is_exact
from .prefixes import shared_tokens, trimmed

__all__ = ["Edit", "WhatIf", "head_outputs", "residuals", "what_if"]

P = ParamSpec("P")
R = TypeVar("R")
Read = Callable[[Tensor, Tensor], Tensor]
PREFIX_TOKENS = 1024  # about this many prompt tokens in one prefix run
MAX_ROWS = 2560  # rows that run together by default
ON_GPU = 4  # times as many rows together: a GPU is bound by kernel launches, not by arithmetic
FULL = (SLOW, ALONE)  # forms whose rows are logits
TILE = 128  # tokens unembedded at a time: logits of a tile stay small enough for memory to be reused


def without_patches(run: Callable[Concatenate[Lens, P], R]) -> Callable[Concatenate[Lens, P], R]:
    """Run a function of the lens while no patch is on the model, and while no other thread can put one there.

    Raises:
        InputError: a patch is active.
    """

    @wraps(run)
    def held(lens: Lens, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with lens.state.lock:
            refuse_patches(lens)
            return run(lens, *args, **kwargs)

    return held


@without_patches
@torch.no_grad()
def what_if(
    lens: Lens,
    tokens: Int[Tensor, "prompt pos"],
    mask: Int[Tensor, "prompt pos"],
    whatifs: Sequence[WhatIf],
    read: Read,
    *,
    tail: int = 1,
    max_rows: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Run every what-if on every prompt and read the logits of each.

    Args:
        tokens, mask: left-padded prompts. The last `tail` tokens belong to each row: the last prompt token, where edits
            act, and `tail - 1` tokens of a continuation, each of which sees the prefix and its own row only.
        whatifs: lists of `Edit`s; the edits of one list act together.
        read: `(logits [n, tail, vocab] float32, prompt [n]) -> [n, ...]`, called for a tile of rows at a time, whose
            logits live no longer and are its own to change. They are where the unembedding is, or in full forwards
            where prompts enter; what else it needs it takes to `logits.device`.
        max_rows: the most rows run together; memory is bounded by it, not by `len(whatifs)` or the number of prompts.
        progress: called with the number of prompts done.

    Returns:
        `[prompt, 1 + len(whatifs), ...]` on the CPU: what `read` returned, the clean row first.

    Raises:
        ParityError: an edit changed nothing (checked, as is every form against full forwards, on first use and again
            for longer prompts, and for each site that edits are first made at).
    """
    max_rows = max_rows or MAX_ROWS * _times(lens)
    tokens, mask = tokens.to(lens.device), mask.to(lens.device)
    form = form_for(lens, tokens, mask, tail, whatifs)
    if form != POSITIONS:  # each row carries keys and values, or all tokens, of its own
        most = _times(lens) * PREFIX_TOKENS * (1 if form in FULL else 16)
        max_rows = max(2, min(max_rows, most // tokens.shape[1]))
    scores = lens.n_heads * (tokens.shape[1] + lens.d_head)  # numbers that attention holds for each row
    max_rows = max(2, min(max_rows, 2**28 // scores))
    if lens.parity.plain_readout is False:  # logits of all rows at once
        max_rows = max(2, min(max_rows, 2**27 // lens.cfg.d_vocab))
    max_whatifs = max_rows - 1
    results: Tensor | None = None
    shared = _shared(lens, tokens, mask, tail, form)
    for prompts in _groups(lens, lens.parity, mask, max(1, max_rows // (min(len(whatifs), max_whatifs) + 1)), shared):
        ids, seen = trimmed(tokens[prompts], mask[prompts])
        prefix = prefix_for(lens, ids, seen, tail, form, _shared(lens, ids, seen, tail, form))
        for start in range(0, max(1, len(whatifs)), max_whatifs):
            plan = Plan(lens, whatifs[start : start + max_whatifs], prompts)
            rows = FORMS[form](lens, prefix, ids, seen, plan)
            read_out = _read(lens, rows, prompts, read, logits=form in FULL)
            if results is None:
                results = read_out.new_zeros(len(tokens), 1 + len(whatifs), *read_out.shape[2:])
            results[prompts.cpu(), 0] = read_out[0]
            results[prompts.cpu()[:, None], 1 + start + plan.order[None]] = read_out[1:].transpose(0, 1)
        if progress:
            progress(len(prompts))
    assert results is not None  # there are prompts
    return results


@torch.no_grad()
def head_outputs(
    lens: Lens, tokens: Int[Tensor, "prompt pos"], mask: Int[Tensor, "prompt pos"]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Clean forwards, a few prompts at a time: (prompt indices, head outputs, logits), both at the last token.

    Head outputs are `[prompt, layer, head, d_head]` (at `hook_z`), NaN in layers without heads; logits
    `[prompt, vocab]`.
    """
    for prompts, ids, seen in _batches(lens, tokens, mask):
        hooks, z = _watch_heads(lens)
        logits = clean_logits(lens, ids, seen, hooks)
        absent = logits.new_full((len(ids), lens.n_heads, lens.d_head), torch.nan, dtype=lens.dtype)
        layers = [z.get(layer, absent).to(logits.device) for layer in range(lens.n_layers)]
        yield prompts, torch.stack(layers, 1), logits


def residuals(
    lens: Lens, tokens: Int[Tensor, "prompt pos"], mask: Int[Tensor, "prompt pos"], layer: int
) -> Float[Tensor, "prompt d_model"]:
    """The residual stream after a layer at each prompt's last token, by clean forwards; float32 on the CPU.

    Raises:
        InputError: a patch is active.
    """
    return residuals_of_layers(lens, tokens, mask, [layer])[0]


@torch.no_grad()
def residuals_of_layers(
    lens: Lens, tokens: Int[Tensor, "prompt pos"], mask: Int[Tensor, "prompt pos"], layers: Sequence[int]
) -> Float[Tensor, "layer prompt d_model"]:
    """`residuals` after each of several layers, from the same forwards."""
    stream = torch.zeros(len(layers), len(tokens), lens.d_model, dtype=torch.float32, device="cpu")
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> HookFunction:
        return lambda x, hook: kept.__setitem__(layer, x[:, -1].float().cpu())

    hooks: list[Hook] = [(f"blocks.{layer}.{RESIDUAL}", keep(layer)) for layer in layers]
    for prompts, ids, seen in _batches(lens, tokens, mask):
        clean_logits(lens, ids, seen, hooks)
        stream[:, prompts] = torch.stack([kept[layer] for layer in layers])
    return stream


@without_patches
@through_onednn
def clean_logits(lens: Lens, ids: Tensor, mask: Tensor, hooks: Sequence[Hook]) -> Tensor:
    """Logits `[prompt, vocab]` at the last token, by a full forward with read-only hooks."""
    return lens.logits(ids, mask, hooks)[:, 0]


def _batches(lens: Lens, tokens: Tensor, mask: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(indices on the CPU, tokens, mask) of the prompts that go into one clean forward."""
    tokens, mask = tokens.to(lens.device), mask.to(lens.device)
    parity = without_patches(measured)(lens, tokens, mask)
    for prompts in _groups(lens, parity, mask, 1 if lens.one_by_one else len(tokens)):
        yield prompts.cpu(), *trimmed(tokens[prompts], mask[prompts])


def _watch_heads(lens: Lens) -> tuple[list[Hook], dict[int, Tensor]]:
    """Hooks that leave each layer's head outputs at the last token, `[prompt, head, d_head]`, in a dictionary."""
    z: dict[int, Tensor] = {}

    def keep(layer: int) -> HookFunction:
        return lambda x, hook: z.__setitem__(layer, x[:, -1].clone())

    return [(f"blocks.{layer}.{HEAD_OUTPUT}", keep(layer)) for layer in lens.head_layers], z


def logsumexp_(logits: Float[Tensor, "... vocab"]) -> Float[Tensor, "..."]:
    """The log of the sum of exponentials over the vocabulary, without another tensor as large; `logits` are lost."""
    most = logits.amax(-1, keepdim=True)
    most = most.masked_fill(most.isinf(), 0)
    return logits.sub_(most).exp_().sum(-1).log() + most[..., 0]


def refuse_patches(lens: Lens) -> None:
    """Raise an InputError while a patch is on the model."""
    if lens.patches:
        raise InputError(
            "A patch is active on this model, and it would mix with the edits. Leave its block or call its remove(); "
            "fv_lens.unpatch(model) takes off every patch, also one whose handle is lost."
        )


def _times(lens: Lens) -> int:
    return ON_GPU if lens.gpus else 1


def _groups(lens: Lens, parity: Parity, mask: Tensor, most: int, shared: int = 0) -> Iterator[Tensor]:
    """Indices of prompts of similar length; of equal length where the model does not take padding exactly.

    `shared`: the number of first tokens run once for a group; each prompt still holds its own copy of their keys.
    """
    lengths = mask.sum(1)
    group: list[int] = []
    for index in lengths.argsort(stable=True, descending=True).tolist():
        longest = int(lengths[group[0]]) if group else 0
        unequal = group and not parity.padding and lengths[index] != longest
        run, held = ((len(group) + 1) * (longest - once) for once in (shared, 0))
        if group and (len(group) == most or run > _times(lens) * PREFIX_TOKENS or held > 16 * PREFIX_TOKENS or unequal):
            yield torch.tensor(group, device=mask.device)
            group = []
        group.append(index)
    yield torch.tensor(group, device=mask.device)


def _shared(lens: Lens, tokens: Tensor, mask: Tensor, tail: int, form: Form) -> int:
    """How many first tokens of these prompts are run once for all of them."""
    if form in FULL:
        return 0
    shared = shared_tokens(tokens[:, :-tail], mask[:, :-tail])
    return shared if shared and sharing_is_exact(lens, tokens, mask, shared, form) else 0


def _read(lens: Lens, rows: Tensor, prompts: Tensor, read: Read, logits: bool) -> Tensor:
    """`rows` `[row, prompt, token, ...]` -> what `read` makes of their logits, `[row, prompt, ...]` on the CPU."""
    shape, which = rows.shape[:2], prompts.expand(rows.shape[:2]).flatten()
    flat = rows.flatten(0, 1)
    step = max(1, _times(lens) * TILE // flat.shape[1])
    tiles = []
    for part, of_part in zip(flat.split(step), which.split(step)):
        of_rows = (part if logits else lens.readout(part)).float()
        tiles.append(read(of_rows, of_part.to(of_rows.device)))
    values = torch.cat(tiles).unflatten(0, shape).cpu()
    if values.isnan().any():
        raise InputError(f"Logits of {lens.name} became NaN: an edit is too strong for {lens.dtype}; lower it.")
    return values
