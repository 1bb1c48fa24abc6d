"""Whole sequences under edits: the log-probability of given continuations, and continuations that are generated.

Where `what_if` runs many edits over one prefix, these run one set of edits on many prompts: what a benchmark asks for.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from ..ground.errors import InputError, ParityError
from ..models.hooking import Hook, HookFunction
from ..models.lens import Lens, Prefix
from ..models.onednn import through_onednn
from .edits import WhatIf
from .forms import BATCH
from .parity import form_for, measured
from .whatif import without_patches

if TYPE_CHECKING:
    from ..models.hooking import HookPoint

Choose = Callable[[Tensor, Tensor], Tensor]  # (ids `[row, pos]`, logits `[row, vocab]`) -> the next token of each row
MEASURED = 256  # tokens of the prompts on which it is measured whether a batch changes logits
MOST_LOGITS = 2**28  # numbers that one forward may return, 1 GB


@without_patches
@torch.no_grad()
def runs_alone(lens: Lens, rows: Sequence[Sequence[int]]) -> bool:
    """Whether each sequence needs a forward of its own: the user has hooks on the model, or batches change logits.

    Measured on the longest and the shortest of these, up to `MEASURED` tokens.

    Raises:
        ParityError: the model's logits differ from run to run, or it is not causal.
    """
    two = [list(row[:MEASURED]) for row in (max(rows, key=len), min(rows, key=len))]
    if len(two[0]) > 1:
        ids, mask = left_padded(two)
        measured(lens, ids.to(lens.device), mask.to(lens.device))
    return lens.one_by_one


@without_patches
@torch.no_grad()
def continuation_scores(
    lens: Lens,
    rows: Sequence[Sequence[int]],
    targets: Sequence[Sequence[Sequence[int]]],
    edits: WhatIf,
    marks: Sequence[slice],
) -> list[list[tuple[float, bool]]]:
    """Log-probability of each of a row's targets, and whether all of its tokens are the most probable ones.

    Rows are padded on the right, where nothing attends to the padding: a row is the same in any batch, whatever the
    model makes of positions.

    Args:
        rows: the tokens that are read; the last of them, as many as a target has, predict it.
        targets: for each row, targets of one length, of which all but the last token are read.
        edits: `[d_model]` to add at the tokens of `marks`; none of a head.
        marks: a slice of each row.

    Raises:
        InputError: an edit of a head, or one that differs from prompt to prompt; a patch on the model.
        ParityError: an edit met other tokens than those of the rows.
    """
    width = max(map(len, rows))
    starts = [len(row) - len(of_row[0]) for row, of_row in zip(rows, targets)]
    if (half := len(rows) // 2) and len(rows) * (width - min(starts)) * lens.cfg.d_vocab > MOST_LOGITS:
        parts = ((rows[part], targets[part], marks[part]) for part in (slice(half), slice(half, None)))
        return [scores for of_rows, to, at in parts for scores in continuation_scores(lens, of_rows, to, edits, at)]
    ids = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in rows], device=lens.device)
    marked = torch.zeros(ids.shape, dtype=torch.bool, device="cpu")
    for i, mark in enumerate(marks):
        marked[i, : len(rows[i])][mark] = True
    logits = _logits(lens)(ids, torch.ones_like(ids), _adding(edits, marked), last=width - min(starts))
    scores = []
    for i, (row, of_row) in enumerate(zip(rows, targets)):
        ahead = logits[i, starts[i] - min(starts) : len(row) - min(starts)]
        ahead = ahead.to(torch.promote_types(ahead.dtype, torch.float32))
        listed = torch.tensor(of_row, device=ahead.device)
        log_probs = ahead.gather(1, listed.T).T - ahead.logsumexp(-1)
        greedy = (ahead.argmax(-1) == listed).all(-1)
        scores.append(list(zip(log_probs.double().sum(-1).tolist(), greedy.tolist())))
    return scores


@without_patches
@torch.no_grad()
def continuations(
    lens: Lens,
    prompts: Sequence[Sequence[int]],
    edits: WhatIf,
    n: int,
    choose: Choose,
    is_done: Callable[[list[int]], bool],
) -> list[list[int]]:
    """At most `n` tokens behind each prompt, token by token, with `edits` at the prompt's last token.

    Keys and values are kept from step to step where that equals full forwards on this model, for prompts and
    continuations of this length; elsewhere each step is a full forward. Prompts of different length go together where
    the model takes padding exactly.

    Args:
        prompts: the tokens of each, one or more.
        edits: `[d_model]` to add; none of a head.
        n: the most tokens to write.
        choose: is given the prompts, padded on the left with their own first token, and all that was written.
        is_done: whether a row ends with these tokens; the last of them is part of the result.

    Raises:
        InputError: an edit of a head, or one that differs from prompt to prompt; a patch on the model.
        ParityError: an edit changed nothing, or the model's logits differ from run to run.
    """
    ids, mask = left_padded(prompts)
    ahead = max(n, 3 - ids.shape[1])  # parity is measured on rows of two tokens behind at least one
    longest = torch.cat([ids, ids[:, -1:].expand(-1, ahead)], 1)
    form = form_for(lens, longest.to(lens.device), pad(mask, (0, ahead), value=1).to(lens.device), 2, [edits])
    padding = lens.parity.padding and not lens.one_by_one
    run = _by_steps if form == BATCH and (padding or ids.shape[1] > 1) else _by_forwards
    results: list[list[int]] = [[] for _ in prompts]
    for group in _groups([len(prompt) for prompt in prompts], padding, lens.one_by_one):
        padded = left_padded([prompts[i] for i in group])
        for i, row in zip(group, run(lens, *padded, edits, n, choose, is_done)):
            results[i] = row
    return results


def _groups(lengths: Sequence[int], padding: bool, alone: bool) -> list[list[int]]:
    """Indices of prompts that run together: each alone, or all under padding, or else those of one length."""
    if alone:
        return [[i] for i in range(len(lengths))]
    if padding:
        return [list(range(len(lengths)))]
    return [[i for i, length in enumerate(lengths) if length == size] for size in sorted(set(lengths))]


def _by_steps(
    lens: Lens, ids: Tensor, mask: Tensor, edits: WhatIf, n: int, choose: Choose, is_done: Callable[[list[int]], bool]
) -> list[list[int]]:
    """Each token over the keys and values of those before it."""
    if ids.shape[1] == 1:  # a step needs something before it, and padding is nothing
        ids, mask = pad(ids, (1, 0), value=int(ids[0, 0])), pad(mask, (1, 0))
    ids, mask = ids.to(lens.device), mask.to(lens.device)
    prefix, hooks = lens.prefix(ids[:, :-1], mask[:, :-1]), _adding(edits, torch.ones(len(ids), 1, dtype=torch.bool))
    writing = _Writing(ids, choose, is_done)
    for _ in range(n):
        keys, values = list(prefix.keys), list(prefix.values)

        def attend(
            layer: int, k: Tensor, v: Tensor, keys: list[Tensor] = keys, values: list[Tensor] = values
        ) -> tuple[Tensor, Tensor]:
            keys[layer], values[layer] = torch.cat([keys[layer], k], 2), torch.cat([values[layer], v], 2)
            return keys[layer], values[layer]

        rows = lens.step(prefix, writing.ids[:, -1:], mask, attend, hooks, alone=False)
        if writing.add(lens.readout(rows)[:, -1]):
            break
        prefix, hooks, mask = Prefix(keys, values, mask), [], pad(mask, (0, 1), value=1)
    return writing.rows


def _by_forwards(
    lens: Lens, ids: Tensor, mask: Tensor, edits: WhatIf, n: int, choose: Choose, is_done: Callable[[list[int]], bool]
) -> list[list[int]]:
    """Each token by a forward over all before it."""
    mask, writing, at = mask.to(lens.device), _Writing(ids.to(lens.device), choose, is_done), ids.shape[1] - 1
    for _ in range(n):
        marked = torch.zeros(writing.ids.shape, dtype=torch.bool, device="cpu")
        marked[:, at] = True
        if writing.add(_logits(lens)(writing.ids, mask, _adding(edits, marked))[:, -1]):
            break
        mask = pad(mask, (0, 1), value=1)
    return writing.rows


class _Writing:
    """Prompts `[row, pos]` that are written on; `rows` holds what was written, up to each row's end."""

    def __init__(self, ids: Tensor, choose: Choose, is_done: Callable[[list[int]], bool]):
        self.ids, self.choose, self.is_done = ids, choose, is_done
        self.rows: list[list[int]] = [[] for _ in range(len(ids))]
        self.open = set(range(len(ids)))

    def add(self, logits: Tensor) -> bool:
        """Write one more token in each row; whether all rows have ended."""
        chosen = self.choose(self.ids, logits.float().to(self.ids.device))
        self.ids = torch.cat([self.ids, chosen[:, None]], 1)
        for i in sorted(self.open):
            self.rows[i].append(int(chosen[i]))
            if self.is_done(self.rows[i]):
                self.open.remove(i)
        return not self.open


def left_padded(rows: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row pos"]]:
    """Rows of tokens as ids and mask on the CPU; the padding is a row's own first token, over and over."""
    width = max(map(len, rows))
    ids = [[*[row[0]] * (width - len(row)), *row] for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device="cpu"), torch.tensor(mask, device="cpu")


def _logits(lens: Lens) -> Callable[..., Tensor]:
    return through_onednn(lens.logits)


def _adding(edits: WhatIf, marked: Bool[Tensor, "row pos"]) -> list[Hook]:
    """Hooks that add the edits' values at the marked tokens."""
    for edit in edits:
        if edit.head is not None or edit.value.dim() != 1:
            what = f"is of head {edit.head}" if edit.head is not None else f"has the shape {list(edit.value.shape)}"
            raise InputError(f"An edit of layer {edit.layer} {what}; over sequences give [d_model] to add at a site.")

    def adder(value: Tensor) -> HookFunction:
        def add(x: Tensor, hook: "HookPoint") -> Tensor:
            if x.shape[:2] != marked.shape:
                raise ParityError(f"An edit met {list(x.shape[:2])} tokens instead of {list(marked.shape)}.")
            return torch.where(marked.to(x.device)[..., None], x + value.to(x), x)

        return add

    return [(f"blocks.{edit.layer}.{edit.hook}", adder(edit.value)) for edit in edits]
