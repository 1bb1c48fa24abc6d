"""Whether a vector that is added at a hook point reaches the residual stream.

Not every hook point lies on a path to it: TransformerBridge's `hook_resid_mid` is the input of the MLP's norm, so
only the MLP sees what is added there.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from ..ground.errors import InputError
from .base import Lens
from .cached import aside
from .hooking import Hook, HookFunction
from .state import without_hooks

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint

STREAM, MIDDLE = "hook_resid_post", "hook_resid_mid"
PROPORTIONAL = 0.9  # cosine; beside it, unrelated vectors of 32 numbers have .2


def check_site(lens: Lens, layer: int, site: str) -> None:
    """Raise an InputError unless a vector added at `blocks.{layer}.{site}` reaches the residual stream, once measured.

    It may reach it rescaled, number by number, by a norm or multiplier behind the site.
    """
    points = lens.points
    if points[f"blocks.{layer}.{site}"] is points[f"blocks.{layer}.{STREAM}"]:
        return
    reaching = lens.parity.reaching
    if (layer, site) not in reaching:
        with lens.state.lock, without_hooks(lens.model, lens.network), aside():
            try:
                reaching[layer, site] = _reaches_stream(lens, layer, site)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # whatever a part of the block raises on a vector that does not fit it
                reaching[layer, site] = False
    if not reaching[layer, site]:
        raise InputError(
            f"A vector added at 'blocks.{layer}.{site}' of {lens.name} does not reach the residual stream: this hook "
            f"point is what a part of the block reads, not the stream itself. Use the site {STREAM!r}."
        )


def probe_ids(lens: Lens, n_rows: int = 1) -> Int[Tensor, "row pos"]:
    """Equal short prompts of tokens that every vocabulary has."""
    return (torch.arange(1, 6, device=lens.device) % lens.cfg.d_vocab).expand(n_rows, -1)


def probe_noise(*shape: int) -> Tensor:
    """Normal numbers, the same each time; float32 on the CPU."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")


@torch.no_grad()
def _reaches_stream(lens: Lens, layer: int, site: str) -> bool:
    """Whether the stream moves by what is added, or by a fixed multiple of each component; two large vectors tell."""
    point, points = f"blocks.{layer}.{site}", lens.points
    # Where a norm follows attention, its effect is seen alone before the MLP adds to the stream.
    names = [f"blocks.{layer}.{name}" for name in (MIDDLE, STREAM) if f"blocks.{layer}.{name}" in points]
    names = [name for name in names if points[name] is not points[point]]
    vectors = probe_noise(2, lens.d_model)
    vectors = vectors.sign() * (0.5 + vectors.abs().clamp(max=1.5))
    vectors -= vectors.mean(1, keepdim=True) * 0.5
    added = torch.cat([vectors, -vectors])
    ids = probe_ids(lens, len(added))

    def run(scale: float) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def add(x: Tensor, hook: "HookPoint") -> Tensor:
            x = x.clone()
            x[:, -1] += (scale * added).to(x)
            return x

        def see(name: str) -> HookFunction:
            return lambda x, hook: seen.__setitem__(name, x[:, -1].float().cpu())

        hooks: list[Hook] = [(point, add), *((name, see(name)) for name in names)]
        lens.logits(ids, torch.ones_like(ids), hooks)
        return seen

    size = max(float(x.abs().max()) for x in run(0.0).values())
    # Large beside the stream, so that whatever comes through a norm or an activation is small beside the vector.
    seen = run(min(1e3 * size, torch.finfo(lens.dtype).max / 1e3))
    for x in seen.values():
        plus, minus = x.unflatten(0, (2, 2))
        first, second = (plus - minus) / vectors
        if torch.cosine_similarity(first, second, dim=0) >= PROPORTIONAL:
            return True
    return False
