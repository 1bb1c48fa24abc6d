"""Lone rows: positions of one forward that attend to the prefix and to themselves, to no other row."""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import pad

from .base import Attend, Lens, Prefix
from .hooking import Hook

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint


def lone_rows(lens: Lens, prefix: Prefix) -> tuple[Attend, list[Hook]]:
    """The attention of lone rows: what `Lens.step` takes as `attend`, and the hooks it takes beside it.

    The cache hands out the prefix's keys and spare slots behind them. `hook_attn_scores` writes each row's own
    `q . k` into one slot's column, `hook_pattern` keeps the weight it gets, `hook_z` adds weight x own value.
    The tensors edited in place are the forward's own temporaries: rows are never differentiated in this form.
    """
    n = prefix.length
    now: dict[str, Tensor] = {}
    hooks: list[Hook] = []

    def attend(layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        now["k"], now["v"] = k, v
        return lens.slots(prefix.keys[layer]), pad(prefix.values[layer], (0, 0, 0, 1))

    def pattern(p: Tensor, hook: "HookPoint") -> None:
        now["weight"] = p[..., n:].transpose(1, 2)

    def z(z: Tensor, hook: "HookPoint") -> Tensor:
        value = now["v"].repeat_interleave(z.shape[2] // now["v"].shape[1], 1)
        return z.addcmul_(now["weight"], value.transpose(1, 2))

    for layer in range(lens.n_layers):
        at = f"blocks.{layer}.attn."
        hooks += [*lens.own_score(layer, prefix, now), (at + "hook_pattern", pattern), (at + "hook_z", z)]
    return attend, hooks
