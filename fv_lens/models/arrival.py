"""How what heads write arrives in the residual stream: as it is, multiplied, or through a norm behind attention.

Behind a root-mean-square norm it depends on all that attention puts out. With the norm's divisor held at a fixed value
("frozen", as in direct logit attribution) it is linear again, so that writes of heads can be summed.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..ground.errors import InputError
from .base import HEAD_OUTPUT, Lens
from .hooking import HookFunction
from .sites import MIDDLE, STREAM, probe_ids, probe_noise
from .state import Arrival
from .writes import ATTENTION_OUTPUTS, writes_plainly

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint

N_PROBES = 8
SCALES = tuple(10 ** (-step / 2) for step in range(13))  # of outputs of root mean square 1, down to that of most eps


def arrival(lens: Lens, layer: int) -> Arrival:
    """How a layer's attention output enters the residual stream, found out by setting its heads' outputs.

    Raises:
        InputError: neither as it is, nor multiplied, nor through a root-mean-square norm without a bias.
    """
    lens.renew()
    known = lens.parity.arrivals
    if layer not in known:
        known[layer] = Arrival() if writes_plainly(lens, layer) else _measured(lens, layer)
    found = known[layer]
    if found is None:
        raise InputError(
            f"{lens.name} rescales what the heads of layer {layer} write in a way that cannot be held fixed (neither a "
            "multiplier nor a root-mean-square norm after the output projection), so their sum is not what they add to "
            "the residual stream. A vector tuned from zero works on any model: finetune(..., 'zero')."
        )
    return found


def can_be_summed(lens: Lens) -> bool:
    """Whether the model has heads, and what all of them add to the residual stream is known."""
    with lens.settled():
        try:
            return bool([arrival(lens, layer) for layer in lens.head_layers])
        except InputError:
            return False


def is_normed(lens: Lens, layer: int) -> bool:
    """Whether a norm stands behind a layer's attention, so that its divisor must be held for writes to be summed."""
    try:
        return arrival(lens, layer).eps is not None
    except InputError:
        return False


@torch.no_grad()
def _measured(lens: Lens, layer: int) -> Arrival | None:
    z = probe_noise(N_PROBES, lens.n_heads, lens.d_head)
    outputs = lens.writes(layer, z)
    sizes = outputs.square().mean(1, keepdim=True).sqrt()
    z, outputs = z / sizes[:, :, None], outputs / sizes
    # Large beside the residual stream, so that differences survive low precision and a norm's eps is nothing beside it.
    nothing = _entering(lens, layer, 0 * z[:1])
    large = 10 * max(float(x.abs().max()) for x in nothing.values())
    factors = torch.tensor([large] * N_PROBES + [2 * large])
    entering = _entering(lens, layer, torch.cat([z, z[:1]]) * factors[:, None, None])
    rows = torch.cat([outputs, outputs[:1]])
    tolerance = 1e-3 if lens.full_precision else 5e-2
    for normed in (False, True):
        given = rows if normed else rows * factors[:, None]
        fits = {site: _fit(given, x - nothing[site]) for site, x in entering.items()}
        off, gain = min((fits[site] for site in (MIDDLE, STREAM) if site in fits), key=lambda fit: fit[0])
        if off > tolerance:
            continue
        # What a hook point behind the norm shows is not blurred by the stream that it is added to.
        for _, own in sorted((fits[site] for site in ATTENTION_OUTPUTS if site in fits), key=lambda fit: fit[0]):
            if (own - gain).abs().max() <= tolerance * gain.abs().max():
                gain = own
                break
        return Arrival(gain, _eps(lens, layer, z[:1], outputs[0] * gain) if normed else None)
    return None


def _fit(given: Float[Tensor, "row d_model"], shown: Float[Tensor, "row d_model"]) -> tuple[float, Tensor]:
    """(largest error in proportion, gain) of `shown = gain * given`, by least squares for each number of the stream."""
    gain = (shown * given).sum(0) / given.square().sum(0).clamp(min=1e-30)
    return float((shown - gain * given).abs().max() / shown.abs().max().clamp(min=1e-30)), gain


def _eps(lens: Lens, layer: int, z: Float[Tensor, "1 head d_head"], expected: Float[Tensor, " d_model"]) -> float:
    """What the norm adds to the mean square, from where an output of root mean square 1 shrinks to 1 / sqrt(2).

    `expected`: what enters the stream where eps is nothing beside the output.
    """
    scales = torch.tensor((0.0, *SCALES))
    entering = _entering(lens, layer, scales[:, None, None] * z)
    site = MIDDLE if MIDDLE in entering else STREAM
    shown = (entering[site][1:] - entering[site][0]).double()
    shares = (shown @ expected.double() / expected.double().square().sum()).clamp(1e-6, 1)
    half = int((shares - 0.5**0.5).abs().argmin())
    return SCALES[half] ** 2 * float(shares[half] ** -2 - 1)


def _entering(lens: Lens, layer: int, z: Float[Tensor, "row head d_head"]) -> dict[str, Float[Tensor, "row d_model"]]:
    """Site -> what it shows at the last token, float32 on the CPU, with the layer's head outputs there set to `z`."""
    ids = probe_ids(lens, len(z))
    seen: dict[str, Tensor] = {}

    def edit(x: Tensor, hook: "HookPoint") -> Tensor:
        x = x.clone()
        x[:, -1] = z.to(x)
        return x

    def see(site: str) -> HookFunction:
        return lambda x, hook: seen.__setitem__(site, x[:, -1].float().cpu())

    names = {site: f"blocks.{layer}.{site}" for site in (MIDDLE, STREAM, *ATTENTION_OUTPUTS)}
    hooks = [(name, see(site)) for site, name in names.items() if name in lens.points]
    lens.logits(ids, torch.ones_like(ids), [(f"blocks.{layer}.{HEAD_OUTPUT}", edit), *hooks])
    return seen
