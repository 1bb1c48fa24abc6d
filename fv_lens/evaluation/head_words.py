"""Words of single heads: the tokens that each head's mean output promotes."""

from collections.abc import Sequence
from contextlib import suppress

import torch
from jaxtyping import Float
from torch import Tensor

from ..engine.whatif import TILE
from ..ground.errors import InputError, whole_number
from ..models.arrival import arrival
from ..models.lens import Lens, Model, lens_of
from ..vectors.effects import HeadEffects


@torch.no_grad()
def head_words(model: Model, effects: HeadEffects, k: int = 8) -> dict[tuple[int, int], tuple[str, ...]]:
    """The `k` tokens that each head's mean output promotes most, the strongest first, as `decode` shows tokens.

    Each head's mean write is read through the model's own final norm and unembedding. What a head writes for later
    heads, rather than for the output, hardly shows here.

    Returns:
        (layer, head) -> tokens; without the layers that have no heads, or rescale what a head writes in a way that
        cannot be held fixed, so that what reaches the residual stream is not known. (The divisor of a norm behind
        attention has no say in the words: the final norm divides it out.)

    Raises:
        InputError: effects of another model; `k` outside 1..vocabulary.

    Source: Todd et al. 2024, section 3.2, decode function vectors this way; here it is done for each head.

    Example:
        >>> head_words(model, effects)[effects.top(1)[0]][:2]
        (' opposite', ' bad')
    """
    lens, k = lens_of(model), whole_number("k", k, least=1)
    effects.check(lens)
    layers, gains = [], []
    with lens.settled():
        for layer in lens.head_layers:
            with suppress(InputError):
                gains.append(arrival(lens, layer).gain)
                layers.append(layer)
    if not layers:
        return {}
    heads = [(layer, head) for layer in layers for head in range(lens.n_heads)]
    ids: list[list[int]] = []
    for tile in _writes(lens, layers, gains, effects.mean_z).split(TILE):
        logits = lens.unembed(tile).float()
        if k > logits.shape[1]:
            raise InputError(f"k is {k}; the vocabulary of {lens.name} has {logits.shape[1]} tokens.")
        ids += logits.topk(k).indices.tolist()
    read = {token: lens.text(token) for token in {token for tokens in ids for token in tokens}}
    return {head: tuple(read[token] for token in tokens) for head, tokens in zip(heads, ids)}


def _writes(
    lens: Lens, layers: Sequence[int], gains: Sequence[Tensor | None], mean_z: Float[Tensor, "layer head d_head"]
) -> Float[Tensor, "row d"]:
    """What each head of these layers writes by itself on average, times its layer's gain."""
    own = torch.zeros(len(layers), lens.n_heads, lens.n_heads, lens.d_head, dtype=torch.float32, device="cpu")
    own[:, range(lens.n_heads), range(lens.n_heads)] = mean_z[layers].to(own)
    written = [lens.writes(layer, rows) for layer, rows in zip(layers, own)]
    return torch.cat([rows if gain is None else gain * rows for rows, gain in zip(written, gains)])
