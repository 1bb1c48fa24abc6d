"""Shared prefixes: the first tokens that prompts have in common are run once, and each prompt continues from there."""

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from ..models.lens import Lens, Prefix

WORTH = 32  # tokens that prompts must share for a run of their own


def trimmed(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Left-padded prompts without the columns in which all of them are padding."""
    longest = int(mask.sum(1).max())
    return ids[:, -longest:], mask[:, -longest:]


def shared_tokens(ids: Int[Tensor, "prompt pos"], mask: Int[Tensor, "prompt pos"]) -> int:
    """Number of first tokens that all left-padded prompts share; 0 if too few for a separate run to be worth it.

    Each prompt keeps at least one token of its own.
    """
    if len(ids) < 2:
        return 0
    lengths = mask.sum(1)
    shortest = int(lengths.min())
    columns = (ids.shape[1] - lengths)[:, None] + torch.arange(shortest, device=ids.device)
    first = ids.gather(1, columns)
    alike = int((first == first[:1]).all(0).cumprod(0).sum())
    shared = min(alike, shortest - 1)
    return shared if shared >= WORTH else 0


def prefix_of(lens: Lens, ids: Int[Tensor, "prompt pos"], mask: Int[Tensor, "prompt pos"], shared: int) -> Prefix:
    """Keys and values of all the tokens of left-padded prompts; the `shared` first ones, fewer than any has, run once.

    Equal to `lens.prefix` to float tolerance, except at padding, which nothing attends to. (`parity` checks that this
    holds on the model.)
    """
    if not shared:
        return lens.prefix(ids, mask)
    lengths, width = mask.sum(1), ids.shape[1]
    start = width - int(lengths[0])
    common = lens.prefix(ids[:1, start : start + shared], mask.new_ones(1, shared))
    rows: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for length in lengths.unique().tolist():
        members = (lengths == length).nonzero()[:, 0]
        own = _extend_prefix(lens, common, ids[members, width - length + shared :])
        for at, row in enumerate(members.tolist()):
            rows[row] = [(pad(k[at], (0, 0, width - length, 0)), pad(v[at], (0, 0, width - length, 0))) for k, v in own]
    layers = [[rows[row][layer] for row in range(len(ids))] for layer in range(lens.n_layers)]
    keys, values = ([torch.stack([pair[part] for pair in layer]) for layer in layers] for part in (0, 1))
    return Prefix(keys, values, mask)


def _extend_prefix(lens: Lens, common: Prefix, own: Int[Tensor, "prompt new"]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values, for each layer, of what all prompts share and of each prompt's own tokens behind it."""
    n = len(own)
    shared = Prefix(
        [x.expand(n, -1, -1, -1) for x in common.keys],
        [x.expand(n, -1, -1, -1) for x in common.values],
        common.mask.expand(n, -1),
    )
    whole: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        whole[layer] = torch.cat([shared.keys[layer], k], 2), torch.cat([shared.values[layer], v], 2)
        return whole[layer]

    mask = torch.cat([shared.mask, torch.ones_like(own)], 1)
    lens.step(shared, own, mask, attend, [], alone=False)
    return [whole[layer] for layer in range(lens.n_layers)]
