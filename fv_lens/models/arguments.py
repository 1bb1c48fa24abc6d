"""Arguments of forward and generating methods: the prompts, their padding, and how many of their tokens are cached.

`given` holds the call's arguments by name; libraries differ in these names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ground.errors import InputError

INPUTS = ("input", "input_ids", "inputs", "inputs_embeds")  # what forward and generate call their prompts
CACHES = ("past_key_values", "past_kv_cache", "cache", "cache_params")


def input_of(given: Mapping[str, Any]) -> Any:
    """The prompts, as text, token ids or embeddings; None where there are none."""
    return next((given[name] for name in INPUTS if given.get(name) is not None), None)


def past_of(given: Mapping[str, Any]) -> int | None:
    """How many tokens the cache holds, Hugging Face's or HookedTransformer's; None where it does not say."""
    position = given.get("cache_position")
    if isinstance(position, Tensor) and position.numel():
        return int(position.flatten()[0])
    cache = next((given[name] for name in CACHES if given.get(name) is not None), None)
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        try:
            return int(cache.get_seq_length())
        except Exception:  # of a recurrent state, which counts nothing
            return None
    keys = getattr(cache[0], "past_keys", None) if isinstance(cache, Sequence) or hasattr(cache, "entries") else None
    return None if keys is None else keys.shape[1]


def side_of(given: Mapping[str, Any]) -> str | None:
    """On which side the caller wants prompts padded, "left" or "right"; None where the call does not say."""
    side = given.get("padding_side")
    return side if side in ("left", "right") else None  # HookedTransformer has a value of its own for "not given"


def shape_of(tokens: Tensor) -> tuple[int, int]:
    """`[batch, pos]` of token ids or embeddings; ids of a single prompt may come without a batch."""
    return (1, len(tokens)) if tokens.dim() == 1 else (tokens.shape[0], tokens.shape[1])


def begins_twice(bos: int | None, tokens: Tensor, mask: Tensor | None) -> bool:
    """Whether every prompt of a batch, `[batch, pos]` or a single one, begins with two BOS tokens."""
    if bos is None or tokens.is_floating_point() or tokens.shape[-1] < 2:
        return False
    ids, first = _beginnings(tokens, mask)
    first = first.clamp(max=ids.shape[1] - 2)
    # Every one: where padding is the BOS too, shorter prompts begin with several, but not the longest.
    return bool(((ids.gather(1, first) == bos) & (ids.gather(1, first + 1) == bos)).all())


def begins_with(bos: int | None, tokens: Tensor, mask: Tensor | None) -> bool | None:
    """Whether every prompt of a batch begins with the BOS token; None where some do, or it cannot be told."""
    if not isinstance(bos, int) or tokens.is_floating_point():
        return None
    ids, first = _beginnings(tokens, mask)
    begun = ids.gather(1, first) == bos
    return bool(begun.all()) if begun.all() or not begun.any() else None


def refuse_guidance(given: Mapping[str, Any], network: Any) -> None:
    """Raise an InputError for classifier-free guidance, asked for in a call of generate or in the model's settings.

    It runs a second, unconditional prompt in the same generation, whose last token is not known here.
    """
    configs = given.get("generation_config"), getattr(network, "generation_config", None)
    scales = [given.get("guidance_scale"), *(getattr(config, "guidance_scale", None) for config in configs)]
    scale = next((scale for scale in scales if scale is not None), 1.0)
    if scale != 1.0:
        raise InputError(
            f"guidance_scale is {scale:g}, which runs a second, unconditional prompt beside the first; which of its "
            "tokens is to get the vector is not known. Remove the vector, or generate without guidance_scale."
        )


def _beginnings(tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Token ids `[batch, pos]`, and the column of each prompt's first token, `[batch, 1]`."""
    ids = tokens[None] if tokens.dim() == 1 else tokens
    first = mask.long().argmax(1) if mask is not None and mask.shape == ids.shape else torch.zeros_like(ids[:, 0])
    return ids, first[:, None].to(ids.device)
