"""Text and tokens of a model, by its own tokenizer and BOS rule."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ..ground.errors import InputError


def token_ids(model: Any, text: str) -> list[int]:
    """Ids of `text` under the model's own BOS rule, never truncated.

    `model.to_tokens` decides (`cfg.default_prepend_bos`); a bare `model.tokenizer(text)` may add a BOS of its own.
    """
    if model.tokenizer is None:
        raise InputError("The model has no tokenizer, so words cannot become tokens. Load it with one.")
    if getattr(model.tokenizer, "bos_token", None) is None:
        return model.tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.device("cpu"):  # whatever the default device is
        return model.to_tokens(text, truncate=False, move_to_device=False)[0].tolist()


def token_text(model: Any, token: int) -> str:
    """The text of a token, with any space it begins with."""
    if model.tokenizer is None:
        raise InputError("The model has no tokenizer, so tokens cannot become words. Load it with one.")
    # Some tokenizers drop the space at the start of a text, so the token is read behind another.
    before, decode = token_ids(model, "a")[-1:], model.tokenizer.decode
    start, whole = (decode(ids, clean_up_tokenization_spaces=False) for ids in (before, [*before, token]))
    return whole.removeprefix(start)


def ending_tokens(model: Any) -> Bool[Tensor, " vocab"]:
    """Mask of the tokens that begin with a newline or end the text, on the CPU."""
    tokenizer, d_vocab = model.tokenizer, model.cfg.d_vocab
    if tokenizer is None:
        raise InputError("The model has no tokenizer, so where an answer ends is unknown. Load it with one.")
    ids = range(min(len(tokenizer), d_vocab))
    texts = tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    ends = torch.zeros(d_vocab, dtype=torch.bool, device="cpu")
    ends[: len(ids)] = torch.tensor([text.startswith(("\n", "\r")) for text in texts], device="cpu")
    unknown = {tokenizer.unk_token_id} - {tokenizer.bos_token_id, tokenizer.eos_token_id}
    last = set(tokenizer.all_special_ids) - unknown
    ends[[token for token in last if token < d_vocab]] = True
    return ends
