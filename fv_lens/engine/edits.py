"""Edits at the last prompt token: an `Edit`, several that act together (a `WhatIf`), and the `Plan` that makes rows.

The row of a what-if is a copy of the clean row, born in the layer of its first edit, so no layer computes a row that
still equals the clean one.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.base import HEAD_OUTPUT
from ..models.hooking import Hook, HookFunction
from ..models.lens import Lens

if TYPE_CHECKING:
    from ..models.hooking import HookPoint

RESIDUAL = "hook_resid_post"


class _Placement(TypedDict):
    dtype: torch.dtype
    device: str


CPU_FLOAT32 = _Placement(dtype=torch.float32, device="cpu")  # of new tensors, whatever defaults the user has set


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
View = Callable[[Tensor], Tensor]  # of an activation: `[row, prompt, ...]` at the last prompt token
RowEdit = tuple[int, int | None, Tensor]  # the row, the head (None: added), `[prompt, d]`


class Plan:
    """Where rows are born and edited. What-ifs are ordered by birth; `order` puts the results back."""

    def __init__(self, lens: Lens, whatifs: Sequence[WhatIf], prompts: Int[Tensor, " prompt"]):
        births = torch.tensor(
            [min((edit.layer for edit in whatif), default=0) for whatif in whatifs], dtype=torch.long, device="cpu"
        )
        self.order = births.argsort(stable=True)
        self.born = torch.bincount(births, minlength=lens.n_layers).tolist()
        self.n_rows = len(whatifs) + 1
        self.at: dict[tuple[int, str], list[RowEdit]] = defaultdict(list)
        for row, index in enumerate(self.order.tolist(), start=1):
            for edit in whatifs[index]:
                value = edit.for_prompts(prompts).value.expand(len(prompts), -1)
                self.at[edit.layer, edit.hook].append((row, edit.head, value))

    def hooks(self, view: View) -> list[Hook]:
        """Hooks that make the edits; `view(x)` is an activation at the last prompt token, `[row, prompt, ...]`."""
        return [(f"blocks.{layer}.{hook}", self._editor(edits, view)) for (layer, hook), edits in self.at.items()]

    def hooks_of_row(self, row: int, prompt: int, column: int) -> list[Hook]:
        """Hooks that make one row's edits in a forward of one prompt alone, whose edited token stands in `column`."""
        of_row = {point: [edit for edit in edits if edit[0] == row] for point, edits in self.at.items()}
        return [
            (f"blocks.{layer}.{hook}", self._editor([(0, head, value[prompt : prompt + 1]) for _, head, value in edits],
                                                    lambda x: x[None, :, column]))
            for (layer, hook), edits in of_row.items() if edits
        ]  # fmt: skip

    @staticmethod
    def _editor(edits: Sequence[RowEdit], view: View) -> HookFunction:
        # values: [edit, prompt, d]; moved to the device in one transfer, as single transfers would stall it
        values = torch.stack([value.to(edits[0][2]) for _, _, value in edits])
        rows = torch.tensor([row for row, _, _ in edits], device="cpu")
        listed = [head for _, head, _ in edits if head is not None]  # all of them, or none
        heads = torch.tensor(listed, device="cpu") if listed else None

        def edit(x: Tensor, hook: "HookPoint") -> Tensor:
            x = x.clone()
            if heads is None:  # accumulates: several vectors may be added to one row in one layer
                view(x).index_put_((rows.to(x.device),), values.to(x), accumulate=True)
            else:
                view(x)[rows, :, heads] = values.to(x)
            return x

        return edit
