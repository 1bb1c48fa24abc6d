"""Vectors to be read, and how they read by full forwards."""

import torch

from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector

from .. import oracles
from ..oracles import Change

PROMPTS = ["w1 w2 w3 w4 w5 w6 w7 w8 w9 w10", "w9 w8 w7 w6 w5 w4 w3", "w30 : w31 w32 : w33 w34 :"]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vector(model, seed: int = 0, layer: int = 1, **record) -> FunctionVector:
    lens = lens_of(model)
    made_on = dict(model=lens.name, processing=lens.processing, bos=lens.bos)
    return FunctionVector(noise(lens.d_model, seed=seed), layer, **made_on | record)


def through_model(model, fv: FunctionVector | None, prompts=PROMPTS) -> torch.Tensor:
    """`[vocab]`: mean log-probabilities over the prompts by full forwards."""
    edits = [] if fv is None else [Change(fv.layer, fv.vector)]
    ids = [model.to_tokens(prompt)[0].tolist() for prompt in prompts]
    return torch.stack([oracles.log_probs(model, row, edits) for row in ids]).mean(0)


def by_hand(strength: torch.Tensor, token: int) -> int:
    """The rank of a token: how many others are as strong or stronger."""
    return sum(float(other) >= float(strength[token]) for i, other in enumerate(strength) if i != token)


def ids(tokens) -> list[int]:
    return [token.id for token in tokens]
