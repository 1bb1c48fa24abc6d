"""The beginnings of trained rows: what no step changes, run once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..models.lens import Lens, Prefix
from .chunks import Begun, Chunk


@torch.no_grad()
def begin(lens: Lens, chunk: Chunk) -> Chunk:
    """The chunk with what its blocks above start from: keys, values and residuals up to each row's layer."""
    width, alive = chunk.ids.shape[1], chunk.alive(lens.n_layers)
    at = width - chunk.new
    # A prompt that stands in several rows is run once.
    once, place = torch.cat([chunk.ids, chunk.mask], 1).unique(dim=0, return_inverse=True)
    residuals: list[Tensor] = []  # of the rows of each layer, from the lowest
    tuples = False

    def see(layer: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal tuples
        out = forward(*args, **kwargs)
        if layer in chunk.layers:
            tuples = isinstance(out, tuple)
            x = out[0] if tuples else out
            residuals.append(x[place[alive[layer] : alive[layer + 1]].to(x.device), at:])
        return out

    with lens.blocks_through(see):
        whole = lens.prefix(once[:, :width], once[:, width:])
    # No block runs again for the rows of a higher layer.
    keys, values = (
        [x[place[:n].to(x.device), :, : at if n else 0] for x, n in zip(part, alive)]
        for part in (whole.keys, whole.values)
    )
    prefix = Prefix(keys, values, chunk.mask[:, :at])
    # Of blocks on several devices, in one place: each goes on to its own when it joins the rows of its block.
    return replace(chunk, above=Begun(prefix, torch.cat([x.to(chunk.ids.device) for x in residuals]), tuples))
