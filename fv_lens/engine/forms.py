"""The forms in which rows may run, fastest first; `parity` measures which of them are exact on a model.

Every form returns `[row, prompt, token, ...]`, row 0 clean: what enters the unembedding, or logits in the full forms.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from ..models.hooking import Hook, HookFunction
from ..models.lens import Lens, Prefix
from ..models.lone_rows import lone_rows
from ..models.state import Form
from .edits import Plan
from .growing import growing, told_apart
from .prefixes import prefix_of

POSITIONS: Form = "as positions"
BATCH: Form = "as batch elements"
SLOW: Form = "in full forwards"
ALONE: Form = "one by one"  # where hooks of the user's are on the model


def as_positions(lens: Lens, prefix: Prefix, ids: Tensor, mask: Tensor, plan: Plan) -> Tensor:
    """Rows are positions of a one-token forward; the fewest and largest matmuls. One token per row."""

    def birth(n: int) -> HookFunction:
        return lambda x, hook: torch.cat([x, x[:, :1].expand(-1, n, -1)], 1)

    attend, own = lone_rows(lens, prefix)
    born: list[Hook] = [(f"blocks.{layer}.hook_resid_pre", birth(n)) for layer, n in enumerate(plan.born) if n]
    hooks = [*born, *own, *plan.hooks(lambda x: x.transpose(0, 1))]
    rows = lens.step(prefix, ids[:, -1:], mask, attend, hooks, alone=True)
    rows = rows.reshape(len(ids), plan.n_rows, -1)  # some models flatten what looks like a batch of single tokens
    return rows.transpose(0, 1)[:, :, None]


def as_batch(lens: Lens, prefix: Prefix, ids: Tensor, mask: Tensor, plan: Plan) -> Tensor:
    """Rows are elements of the batch of an ordinary decode step; nothing about attention is assumed."""
    n_prompts, tail = len(ids), slice(prefix.length, None)
    n_rows = told_apart(lens, plan.n_rows * n_prompts, ids.shape[1])
    prompt = torch.arange(n_rows, device=ids.device) % n_prompts
    alive = [n_prompts * (1 + born) for born in itertools.accumulate(plan.born)]

    def attend(layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        of = prompt[: len(k)].to(k.device)
        return torch.cat([prefix.keys[layer][of], k], 2), torch.cat([prefix.values[layer][of], v], 2)

    def join(layer: int, x: Tensor) -> Tensor:
        """What left the block below, and a copy of the clean rows for each what-if that is born."""
        before = alive[layer - 1] if layer else n_prompts
        return torch.cat([x[:before], x[prompt[: alive[layer] - before].to(x.device)]])

    hooks = plan.hooks(lambda x: x.unflatten(0, (-1, n_prompts))[:, :, 0])
    with growing(lens, [*alive, alive[-1]], n_rows, join):
        rows = lens.step(prefix, ids[prompt][:, tail], mask[prompt], attend, hooks, alone=False)
    return rows.unflatten(0, (-1, n_prompts))


def in_full(lens: Lens, prefix: Prefix, ids: Tensor, mask: Tensor, plan: Plan) -> Tensor:
    """Rows are whole prompts, run through the whole model with the edit in a hook: the slow reference, as logits."""
    n_prompts, tail = len(ids), ids.shape[1] - prefix.length
    prompt = torch.arange(plan.n_rows * n_prompts, device=ids.device) % n_prompts
    hooks = plan.hooks(lambda x: x.unflatten(0, (-1, n_prompts))[:, :, -tail])
    return lens.logits(ids[prompt], mask[prompt], hooks, last=tail).unflatten(0, (-1, n_prompts))


def one_by_one(lens: Lens, prefix: Prefix, ids: Tensor, mask: Tensor, plan: Plan) -> Tensor:
    """Rows are prompts without padding, each in its own forward that ends in the token read: what users would do.

    The user's hooks may depend on positions, which rows, batches and padding would shift. A continuation is run once
    for each of its tokens, so that its last position is the last token, as in decoding.
    """
    tail = ids.shape[1] - prefix.length
    rows = []
    for row in range(plan.n_rows):
        for prompt in range(len(ids)):
            tokens = ids[prompt][mask[prompt].bool()][None]
            first = tokens.shape[1] - tail
            hooks = plan.hooks_of_row(row, prompt, first)
            ends = (tokens[:, : first + 1 + i] for i in range(tail))
            rows.append(torch.cat([lens.logits(end, torch.ones_like(end), hooks)[0] for end in ends]))
    return torch.stack(rows).unflatten(0, (-1, len(ids)))


FORMS: dict[Form, Callable[[Lens, Prefix, Tensor, Tensor, Plan], Tensor]] = {
    POSITIONS: as_positions,
    BATCH: as_batch,
    SLOW: in_full,
    ALONE: one_by_one,
}


def prefix_for(lens: Lens, ids: Tensor, mask: Tensor, tail: int, form: Form, shared: int = 0) -> Prefix:
    """Keys and values that rows of `tail` tokens meet in this form, `shared` first tokens run once for all prompts."""
    if form in (SLOW, ALONE):
        return Prefix([], [], mask[:, :-tail])
    return prefix_of(lens, ids[:, :-tail], mask[:, :-tail], shared)
