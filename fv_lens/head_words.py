"""What each head says by itself: the words that its mean output promotes."""

import torch
from einops import einsum

from .assembly import writes_plainly
from .effects import HeadEffects
from .errors import InputError, whole_number
from .lens import lens_of


@torch.no_grad()
def head_words(model: object, effects: HeadEffects, k: object = 8) -> dict[tuple[int, int], tuple[str, ...]]:
    """The `k` tokens that each head's mean output promotes most, the strongest first, as `decode` shows tokens.

    A head's mean output, `mean_z[l, h] @ W_O[l, h]`, is read through the model's own final norm and unembedding, one
    layer at a time. What a head writes for other heads to read says little here.

    Returns:
        (layer, head) -> tokens; empty for a model that rescales what a head writes (a norm or multiplier after W_O),
        where the head's output is not what reaches the residual stream.

    Raises:
        InputError: effects of another model; `k` outside 1..vocabulary.

    Source: Todd et al. 2024, section 3.2, who read function vectors so; here each head's part.

    Example:
        >>> head_words(model, effects)[effects.top(1)[0]][:2]
        (' opposite', ' bad')
    """
    lens, k = lens_of(model), whole_number("k", k, least=1)
    effects.check(lens)
    if not writes_plainly(lens):
        return {}
    ids = []
    for layer in range(lens.n_layers):
        w = lens.W_O(layer).float()
        writes = einsum(effects.mean_z[layer].to(w), w, "head d_head, head d_head d_model -> head d_model")
        logits = lens.unembed(writes).float()
        if k > logits.shape[1]:
            raise InputError(f"k is {k}; the vocabulary of {lens.name} has {logits.shape[1]} tokens.")
        ids.append(logits.topk(k).indices.cpu())
    read = {token: lens.text(token) for token in torch.stack(ids).unique().tolist()}
    return {
        (layer, head): tuple(read[token] for token in of)
        for layer, heads in enumerate(ids)
        for head, of in enumerate(heads.tolist())
    }
