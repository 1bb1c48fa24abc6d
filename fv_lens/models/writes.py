"""Whether what heads write reaches the residual stream unchanged, and the hook point at which it can be added.

A norm or multiplier behind the output projection rescales it in some models.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..ground.errors import InputError
from .base import HEAD_OUTPUT, Lens
from .hooking import HookFunction
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
        # Others are measured with it, as rows of one batch, but where hooks or rounding may depend on the batch.
        others = lens.head_layers if lens.full_precision and not lens.one_by_one else ()
        known |= _measure_plain_writes(lens, [layer, *(other for other in others if other not in {layer, *known})])
    return known[layer]


@torch.no_grad()
def _measure_plain_writes(lens: Lens, layers: Sequence[int]) -> dict[int, bool]:
    """As `writes_plainly`, of the first of these layers and of those others that have an output projection."""
    moved = torch.zeros(1, lens.n_heads, lens.d_head, dtype=torch.float32, device="cpu")
    moved[0, 0] = shift = probe_noise(lens.d_head)
    writes = {layers[0]: lens.writes(layers[0], moved)[0]}
    for layer in layers[1:]:
        with suppress(InputError):
            writes[layer] = lens.writes(layer, moved)[0]
    # Where blocks run attention and MLP side by side, only the block's output shows what the heads wrote.
    points = {layer: [f"blocks.{layer}.{site}" for site in (MIDDLE, STREAM)] for layer in writes}
    points = {layer: [name for name in names if name in lens.points] for layer, names in points.items()}
    clean = _last_residuals(lens, [], points)
    # Large beside the residual stream, so that the difference survives low precision.
    scales = {
        layer: 10 * max(clean[name].abs().max() for name in points[layer]) / write.abs().max()
        for layer, write in writes.items()
    }
    shifts = [(layer, scale * shift) for layer, scale in scales.items()]
    after = _last_residuals(lens, shifts, points)
    plain, tolerance = {}, 1e-3 if lens.full_precision else 5e-2
    for row, (layer, scale) in enumerate(scales.items()):
        write = scale * writes[layer]
        errors = [(after[name][row] - clean[name][0] - write).abs().max() / write.abs().max() for name in points[layer]]
        plain[layer] = bool(min(errors) <= tolerance)
    return plain


def _last_residuals(
    lens: Lens, shifts: Sequence[tuple[int, Tensor]], points: Mapping[int, Sequence[str]]
) -> dict[str, Tensor]:
    """Hook point -> `[row, d_model]` at the last token: one row per shift of a layer's first head, or one clean row."""
    ids = probe_ids(lens, max(1, len(shifts)))
    seen: dict[str, Tensor] = {}

    def moves(row: int, shift: Tensor) -> HookFunction:
        def edit(z: Tensor, hook: "HookPoint") -> Tensor:
            z = z.clone()
            z[row, -1, 0] += shift.to(z)
            return z

        return edit

    def see(name: str) -> HookFunction:
        return lambda x, hook: seen.__setitem__(name, x[:, -1].float().cpu())

    edits = [(f"blocks.{layer}.{HEAD_OUTPUT}", moves(row, shift)) for row, (layer, shift) in enumerate(shifts)]
    reads = [(name, see(name)) for name in chain.from_iterable(points.values())]
    lens.logits(ids, torch.ones_like(ids), [*edits, *reads])
    return seen


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
