"""Words of single heads: the tokens that each head's mean output promotes."""

import torch

from ..ground.errors import InputError, whole_number
from ..models.lens import Model, lens_of
from ..models.writes import writes_plainly
from ..vectors.effects import HeadEffects


@torch.no_grad()
def head_words(model: Model, effects: HeadEffects, k: int = 8) -> dict[tuple[int, int], tuple[str, ...]]:
    """The `k` tokens that each head's mean output promotes most, the strongest first, as `decode` shows tokens.

    Each head's mean write is read through the model's own final norm and unembedding, one layer at a time. What a head
    writes for later heads, rather than for the output, hardly shows here.

    Returns:
        (layer, head) -> tokens; without the layers that have no heads, or rescale what a head writes (a norm or
        multiplier after the output projection), where that is not what reaches the residual stream.

    Raises:
        InputError: effects of another model; `k` outside 1..vocabulary.

    Source: Todd et al. 2024, section 3.2, decode function vectors this way; here it is done for each head.

    Example:
        >>> head_words(model, effects)[effects.top(1)[0]][:2]
        (' opposite', ' bad')
    """
    lens, k = lens_of(model), whole_number("k", k, least=1)
    effects.check(lens)
    ids: dict[tuple[int, int], list[int]] = {}
    for layer in lens.head_layers:
        if not writes_plainly(lens, layer):
            continue
        own = torch.zeros(lens.n_heads, lens.n_heads, lens.d_head, dtype=torch.float32, device="cpu")
        own[range(lens.n_heads), range(lens.n_heads)] = effects.mean_z[layer]
        logits = lens.unembed(lens.writes(layer, own)).float()
        if k > logits.shape[1]:
            raise InputError(f"k is {k}; the vocabulary of {lens.name} has {logits.shape[1]} tokens.")
        ids |= {(layer, head): tokens for head, tokens in enumerate(logits.topk(k).indices.tolist())}
    read = {token: lens.text(token) for token in {token for tokens in ids.values() for token in tokens}}
    return {head: tuple(read[token] for token in tokens) for head, tokens in ids.items()}
