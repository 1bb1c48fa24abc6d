"""Which tokens of a batch get vectors: the last of each prompt, or those that `at` names.

Columns count from the first token on, cached tokens included.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..ground.errors import InputError

At = int | Sequence[int] | Sequence[Sequence[int]] | np.ndarray | Tensor | None  # what `as_at` takes


@dataclass(frozen=True, eq=False)
class Prompts:
    """The ends of a batch of prompts, in columns from the first token on, cached tokens included.

    Args:
        last: column of each prompt's last token; a single one applies to all rows.
        end: the first column after the prompts and their padding, where generated tokens begin.
        marks: the tokens that get vectors, where they are not the last ones: a table over columns `0..end`.
        mask: the caller's attention mask over the last columns, or None where there is none.

    Example:
        >>> Prompts.of((2, 3), mask=torch.tensor([[1, 1, 0], [0, 1, 1]])).last
        tensor([1, 2])
    """

    last: Int[Tensor, " prompt"]
    end: int
    marks: Bool[Tensor, "row column"] | None = None
    mask: Tensor | None = None

    @classmethod
    def of(cls, shape: tuple[int, int], past: int = 0, mask: Any = None) -> "Prompts":
        """The prompts that end in `[batch, pos]` tokens behind `past` cached ones.

        Their last tokens are the last 1s of `mask`, or stand in the last column if there is none.

        Raises:
            InputError: a mask that does not say where the prompts' tokens are, see `check_mask`.
        """
        end = past + shape[1]
        if mask is None:
            return cls(torch.tensor([end - 1]), end)
        check_mask(mask, shape, past)
        first = end - mask.shape[1]  # a mask may leave the cached tokens out
        counted = mask.long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)
        return cls(first + counted.amax(1) - 1, end, mask=mask)  # a row without a 1 ended among the cached tokens

    def at(self, at: Tensor | None, rows: int, past: int) -> "Prompts":
        """The same batch of `rows` prompts, `past` tokens of it cached, with vectors where `at` says; see `as_at`.

        Raises:
            InputError: `at` is for another batch, or names a column outside it or a token of padding.
        """
        if at is None:
            return self
        last = self.last.cpu().expand(rows) if len(self.last) == 1 else self.last.cpu()
        if at.dim() == 2:
            return replace(self, marks=self._table(at.cpu(), rows, past))
        if at.dim() == 1 and len(at) != rows:
            raise InputError(f"at names {len(at)} columns and the batch has {rows} rows; give a column for each row.")
        request = at.cpu().expand(rows)
        columns = torch.where(request < 0, last + 1 + request, request)
        for row in ((columns < 0) | (columns > last)).nonzero()[:1, 0].tolist():
            raise InputError(
                f"at is {int(request[row])}, and the last token of row {row} stands in column {int(last[row])}; give a "
                "column from 0 to there, cached tokens and padding counted, or count from the end: -1 is the last."
            )
        self._check_padding(torch.arange(self.end) == columns[:, None])
        return replace(self, last=columns)

    def _table(self, at: Tensor, rows: int, past: int) -> Tensor:
        if tuple(at.shape) not in {(rows, self.end), (rows, self.end - past)}:
            cached = f", or {[rows, self.end]} with the {past} cached ones" if past else ""
            raise InputError(
                f"at is {list(at.shape)}; the tokens are [batch, pos] = {[rows, self.end - past]}{cached}."
            )
        table = torch.zeros(rows, self.end, dtype=torch.bool)
        table[:, self.end - at.shape[1] :] = at
        self._check_padding(table)
        return table

    def _check_padding(self, table: Tensor) -> None:
        if self.mask is not None:
            width = self.mask.shape[1]
            for row, column in (table[:, -width:] & (self.mask.cpu() == 0)).nonzero()[:1].tolist():
                raise InputError(
                    f"at names column {self.end - width + column} of row {row}, where attention_mask says padding; a "
                    "vector there would change nothing. Count padding too, or count from the end: -1 is the last token."
                )

    def columns(
        self, shape: tuple[int, int], past: int, device: torch.device
    ) -> tuple[Bool[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Which of `[batch, pos]` tokens behind `past` cached ones get vectors, and which are generated.

        If a batch has grown (beams, several sequences per prompt), each prompt has equally many rows, in sequence.
        """
        rows, length = shape
        column = torch.arange(past, past + length, device=device)
        if self.marks is None:
            ends = column == self.last.to(device)[:, None]
        else:
            marks = self.marks.to(device)[:, past : past + length]
            ends = torch.nn.functional.pad(marks, (0, length - marks.shape[1]))
        return ends.repeat_interleave(rows // len(ends), 0), (column >= self.end).expand(rows, length)


def as_at(at: At) -> Tensor | None:
    """`at` as integers `[]` (a column) or `[batch]` (one for each row), or as a table `[batch, pos]` of booleans.

    Raises:
        InputError: it is none of these.
    """
    if at is None:
        return None
    try:
        value = torch.as_tensor(at).detach()
    except (TypeError, ValueError, RuntimeError):
        value = torch.empty(0)
    if value.dim() == 2 and value.numel() and ((value == 0) | (value == 1)).all():
        return value.bool()
    whole = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    if not whole or value.dim() > 1 or not value.numel():
        raise InputError(
            f"at is {at!r}; give a column (-1 is each row's last token), one for each row, or a mask [batch, pos] of 1 "
            "at the tokens that get the vector and 0 elsewhere."
        )
    return value.long()


def check_mask(mask: Any, shape: tuple[int, int], past: int) -> None:
    """Raise an InputError unless every row of `mask` shows one run of tokens: padding at its sides, nowhere between.

    It may be as wide as the tokens of this forward, `shape`, or as those and the `past` cached ones together. Cached
    tokens may have gaps, which a padded prefix leaves behind, and a prompt may have ended among them.
    """
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        actual = f"{mask.dim()}-dimensional" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise InputError(f"attention_mask is {actual}; while patched, give [batch, pos] of 1 and 0.")
    rows, length = shape
    if tuple(mask.shape) not in {(rows, length), (rows, past + length)}:
        also = f", or {[rows, past + length]} with the {past} cached ones" if past else ""
        raise InputError(f"attention_mask is {list(mask.shape)}; the tokens are [batch, pos] = {[rows, length]}{also}.")
    wrong = mask[(mask != 0) & (mask != 1)]
    if len(wrong):
        raise InputError(f"attention_mask holds {wrong[0].item()}; give 1 for a token and 0 for padding.")
    seen = mask.bool()
    for row in (~seen.any(1)).nonzero()[:1, 0].tolist() if mask.shape[1] == past + length else ():
        raise InputError(f"Row {row} of attention_mask has no 1; give a mask with at least one token in every row.")
    own = seen[:, -length:]
    starts = own[:, 0].long() + (own[:, 1:] & ~own[:, :-1]).sum(1)
    for row in (starts > 1).nonzero()[:1, 0].tolist():
        raise InputError(
            f"Row {row} of attention_mask is {own[row].int().tolist()}, with a 0 between 1s; pad at a side."
        )
