"""Whether what heads write reaches the residual stream unchanged, and the hook point at which it can be added.

A norm or multiplier behind the output projection rescales it in some models.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..ground.errors import InputError
from .base import HEAD_OUTPUT, HookFunction, Lens
from .sites import MIDDLE, STREAM, probe_ids, probe_noise

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint

# The first is before a post-attention norm or multiplier where the model has one, but not every model has the first.
ATTENTION_OUTPUTS = ("attn.hook_out", "hook_attn_out")


def writes_plainly(lens: Lens, layer: int) -> bool:
    """Whether the residual stream moves by what the output projection writes when a head's output moves."""
    lens.renew()
    known = lens.parity.plain_writes
    if layer not in known:
        known[layer] = _measure_plain_writes(lens, layer)
    return known[layer]


@torch.no_grad()
def _measure_plain_writes(lens: Lens, layer: int) -> bool:
    ids = probe_ids(lens)
    # Where blocks run attention and MLP side by side, only the block's output shows what the heads wrote.
    names = [n for n in (f"blocks.{layer}.{MIDDLE}", f"blocks.{layer}.{STREAM}") if n in lens.points]

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

    shift = probe_noise(lens.d_head)
    moved = torch.zeros(1, lens.n_heads, lens.d_head, dtype=torch.float32, device="cpu")
    moved[0, 0] = shift
    write, clean = lens.writes(layer, moved)[0], residuals(torch.zeros_like(shift))
    # Large beside the residual stream, so that the difference survives low precision.
    scale = 10 * max(x.abs().max() for x in clean.values()) / write.abs().max()
    after, tolerance = residuals(scale * shift), 1e-3 if lens.full_precision else 5e-2
    errors = [(after[name] - clean[name] - scale * write).abs().max() / (scale * write).abs().max() for name in clean]
    return bool(min(errors) <= tolerance)


def attention_output(lens: Lens, layer: int) -> str:
    """The hook point of a layer where adding the heads' writes equals adding z to their outputs."""
    lens.renew()
    known = lens.parity.attention_outputs
    if layer not in known:
        known[layer] = _measured_output(lens, layer)
    site = known[layer]
    if site is None:
        raise InputError(
            f"{lens.name} has no hook point in layer {layer} between the output projection and the norm or multiplier "
            "behind it, so what its heads write cannot be added there. A vector tuned from zero works on any model: "
            "finetune(..., 'zero')."
        )
    return site


@torch.no_grad()
def _measured_output(lens: Lens, layer: int) -> str | None:
    sites = [site for site in ATTENTION_OUTPUTS if f"blocks.{layer}.{site}" in lens.points]
    z = probe_noise(lens.n_heads, lens.d_head)
    write = lens.writes(layer, z[None])[0]
    # The first row stays clean, the second has z added at `hook_z`, each other row z's write added at one site.
    edits = [(HEAD_OUTPUT, z), *((site, write) for site in sites)]
    ids = probe_ids(lens, 1 + len(edits))

    def residuals(scale: float | Tensor) -> Tensor:
        seen: dict[str, Tensor] = {}

        def adds(row: int, value: Tensor) -> HookFunction:
            def edit(x: Tensor, hook: "HookPoint") -> Tensor:
                x = x.clone()
                x[row, -1] += (scale * value).to(x)
                return x

            return edit

        hooks = [(f"blocks.{layer}.{point}", adds(row, value)) for row, (point, value) in enumerate(edits, start=1)]
        hooks.append((f"blocks.{layer}.{STREAM}", lambda x, hook: seen.update(last=x[:, -1])))
        lens.logits(ids, torch.ones_like(ids), hooks)
        return seen["last"].float().cpu()

    # Large beside the residual stream, as in `_measure_plain_writes`.
    clean, by_z, *by_write = residuals(10 * residuals(0.0)[0].abs().max() / write.abs().max())
    tolerance = (1e-3 if lens.full_precision else 5e-2) * (by_z - clean).abs().max()
    exact = [site for site, x in zip(sites, by_write) if 0 < tolerance and (x - by_z).abs().max() <= tolerance]
    return exact[0] if exact else None
