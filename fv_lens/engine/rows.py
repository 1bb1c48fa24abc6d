"""Exact ways to run what-ifs at the last prompt token of a batch of prompts that share one prefix run.

A what-if is a list of edits; its row is a copy of the clean row, born in the layer of its first edit, so no layer
computes a row that is still equal to the clean one. Rows come back as `[row, prompt, token, ...]`, row 0 clean.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils._pytree import tree_map

from ..models.base import HEAD_OUTPUT
from ..models.lens import Lens

RESIDUAL = "hook_resid_post"
HERE = {"dtype": torch.float32, "device": "cpu"}  # of new tensors, whatever defaults the user has set


@dataclass(frozen=True)
class Edit:
    """One change at the last prompt token.

    With a `head`, `value` (`[d_head]`) replaces that head's output at `hook_z`; without, `value` (`[d_model]`) is added
    at the layer's `site`. A value of one row per prompt, `[prompt, d]`, is allowed in both.
    """

    layer: int
    value: Float[Tensor, "*prompt d"]
    head: int | None = None
    site: str = RESIDUAL

    @property
    def hook(self) -> str:
        return self.site if self.head is None else HEAD_OUTPUT

    def for_prompts(self, indices: Int[Tensor, " prompt"]) -> "Edit":
        """The same edit for some of the prompts, in the order of their indices."""
        return self if self.value.dim() == 1 else replace(self, value=self.value[indices.to(self.value.device)])


WhatIf = Sequence[Edit]


class Plan:
    """Where rows are born and edited. What-ifs are ordered by birth; `order` puts the results back."""

    def __init__(self, lens: Lens, whatifs: Sequence[WhatIf], prompts: Int[Tensor, " prompt"]):
        births = torch.tensor(
            [min((edit.layer for edit in whatif), default=0) for whatif in whatifs], dtype=torch.long, device="cpu"
        )
        self.order = births.argsort(stable=True)
        self.born = torch.bincount(births, minlength=lens.n_layers).tolist()
        self.n_rows = len(whatifs) + 1
        self.at = defaultdict(list)
        for row, index in enumerate(self.order.tolist(), start=1):
            for edit in whatifs[index]:
                value = edit.for_prompts(prompts).value.expand(len(prompts), -1)
                self.at[edit.layer, edit.hook].append((row, edit.head, value))

    def hooks(self, view) -> list:
        """Hooks that make the edits; `view(x)` is an activation at the last prompt token, `[row, prompt, ...]`."""
        return [(f"blocks.{layer}.{hook}", self._editor(edits, view)) for (layer, hook), edits in self.at.items()]

    def hooks_of_row(self, row: int, prompt: int, column: int) -> list:
        """Hooks that make one row's edits in a forward of one prompt alone, whose edited token stands in `column`."""
        own = {point: [edit for edit in edits if edit[0] == row] for point, edits in self.at.items()}
        return [
            (f"blocks.{layer}.{hook}", self._editor([(0, head, value[prompt : prompt + 1]) for _, head, value in edits],
                                                    lambda x: x[None, :, column]))
            for (layer, hook), edits in own.items() if edits
        ]  # fmt: skip

    @staticmethod
    def _editor(edits, view):
        rows, heads, values = zip(*edits)
        # values: [edit, prompt, d]; those of a layer go to the model's device together, one by one they keep it waiting
        rows, values = torch.tensor(rows, device="cpu"), torch.stack([value.to(values[0]) for value in values])
        adds = heads[0] is None
        heads = None if adds else torch.tensor(heads, device="cpu")

        def edit(x, hook):
            x = x.clone()
            if adds:  # accumulates: one row may be given several vectors in one layer
                view(x).index_put_((rows.to(x.device),), values.to(x), accumulate=True)
            else:
                view(x)[rows, :, heads] = values.to(x)
            return x

        return edit


def as_positions(lens: Lens, prefix, ids: Tensor, mask: Tensor, plan: Plan) -> Tensor:
    """Rows are positions of a one-token forward; the fewest and largest matmuls. One token per row."""

    def birth(n):
        return lambda x, hook: torch.cat([x, x[:, :1].expand(-1, n, -1)], 1)

    attend, own = lens.lone_rows(prefix)
    born = [(f"blocks.{layer}.hook_resid_pre", birth(n)) for layer, n in enumerate(plan.born) if n]
    hooks = [*born, *own, *plan.hooks(lambda x: x.transpose(0, 1))]
    rows = lens.step(prefix, ids[:, -1:], mask, attend, hooks, alone=True)
    rows = rows.reshape(len(ids), plan.n_rows, -1)  # some models fold what they take for a batch of single tokens
    return rows.transpose(0, 1)[:, :, None]


def as_batch(lens: Lens, prefix, ids: Tensor, mask: Tensor, plan: Plan) -> Tensor:
    """Rows are elements of the batch of an ordinary decode step; nothing about attention is assumed."""
    n_prompts, tail = len(ids), slice(prefix.length, None)
    # More rows than a tensor that all rows share can have heads or positions; those beyond the plan never live.
    n_rows = max(plan.n_rows * n_prompts, lens.n_heads + 1, ids.shape[1] + 1)
    prompt = torch.arange(n_rows, device=ids.device) % n_prompts
    alive = 0

    def attend(layer, k, v):
        of = prompt[: len(k)]
        return torch.cat([prefix.keys[layer][of], k], 2), torch.cat([prefix.values[layer][of], v], 2)

    def grow(layer, forward, x, *args, **kwargs):
        nonlocal alive
        if layer == 0:
            alive = n_prompts  # a forward begins, not always the first
        new = plan.born[layer] * n_prompts
        x = torch.cat([x[:alive], x[prompt[:new]]])
        alive += new

        def living(t):  # masks and position embeddings were made for all rows; some have batch x head in one dimension
            if not isinstance(t, Tensor) or t.dim() < 2 or len(t) % n_rows:
                return t
            return t[: alive * (len(t) // n_rows)]

        args, kwargs = tree_map(living, (args, kwargs))
        return forward(x, *args, **kwargs)

    hooks = plan.hooks(lambda x: x.unflatten(0, (-1, n_prompts))[:, :, 0])
    with lens.blocks_through(grow):
        rows = lens.step(prefix, ids[prompt][:, tail], mask[prompt], attend, hooks, alone=False)
    return rows.unflatten(0, (-1, n_prompts))


def in_full(lens: Lens, prefix, ids: Tensor, mask: Tensor, plan: Plan) -> Tensor:
    """Rows are whole prompts, run through the whole model with the edit in a hook: the slow truth. Logits come back."""
    n_prompts, tail = len(ids), ids.shape[1] - prefix.length
    prompt = torch.arange(plan.n_rows * n_prompts, device=ids.device) % n_prompts
    hooks = plan.hooks(lambda x: x.unflatten(0, (-1, n_prompts))[:, :, -tail])
    return lens.logits(ids[prompt], mask[prompt], hooks, last=tail).unflatten(0, (-1, n_prompts))


def one_by_one(lens: Lens, prefix, ids: Tensor, mask: Tensor, plan: Plan) -> Tensor:
    """Rows are prompts without padding, each in a forward of its own that ends in the token read: what users would do.

    Where hooks of the user's are on the model, rows, batches and padding would move what their positions mean. A
    continuation is run once for each of its tokens, so that its last position is the last token, as in decoding.
    """
    tail = ids.shape[1] - prefix.length
    rows = []
    for row in range(plan.n_rows):
        for prompt in range(len(ids)):
            own = ids[prompt][mask[prompt].bool()][None]
            first = own.shape[1] - tail
            hooks = plan.hooks_of_row(row, prompt, first)
            ends = (own[:, : first + 1 + i] for i in range(tail))
            rows.append(torch.cat([lens.logits(end, torch.ones_like(end), hooks)[0] for end in ends]))
    return torch.stack(rows).unflatten(0, (-1, len(ids)))
