"""Weights by an affine map of how well each vector explains a pair: `softmax(M s + c)`.

`s_r` is log P(B | A, +v_r), or P(B | A, +v_r), from which its mean over the vectors that the pair may use is
subtracted: it is high for a frequent B and low for a rare one, whatever the vector, and a map would move all weights by
it. By log-probabilities the identity gives the posterior, with the mean or without. A vector that is left out is masked
before the softmax, and its score is 0, so that weights are those of a library without it.

Source: after Kang et al. 2026 (arXiv 2601.08169), equation 4, where s is the probability; centring, ridge and
log-probabilities are ours. Whether their map is a full matrix or a scale and bias for each vector is not known, so both
are here.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..ground.errors import InputError

FLOOR = -100.0  # nats: what is less probable, or has probability 0 in float32, counts as this


def affine_scores(
    log_probs: Float[Tensor, "pair vector"], scored_by: str, allowed: Bool[Tensor, "pair vector"]
) -> tuple[Float[Tensor, "pair vector"], Bool[Tensor, "pair vector"]]:
    """What a map acts on, and which vectors each pair may use: those it is `allowed` whose log-probability is a number.

    Raises:
        InputError: a pair that may use no vector.
    """
    known = allowed & ~log_probs.isnan()
    check_not_empty(known)
    scores = log_probs.nan_to_num(FLOOR).clamp(min=FLOOR)
    if scored_by == "probability":
        scores = scores.exp()
    means = (scores * known).sum(1, keepdim=True) / known.sum(1, keepdim=True)
    return (scores - means) * known, known


def affine_weights(
    scores: Float[Tensor, "pair vector"],
    matrix: Float[Tensor, " vector"] | Float[Tensor, "vector vector"] | None,
    bias: Float[Tensor, " vector"] | None,
    known: Bool[Tensor, "pair vector"],
) -> Float[Tensor, "pair vector"]:
    """The softmax of the mapped scores of `affine_scores` over the vectors each pair may use; may be differentiated."""
    if matrix is not None:
        scores = scores * matrix if matrix.dim() == 1 else scores @ matrix.T
    logits = scores if bias is None else scores + bias
    return logits.masked_fill(~known, -torch.inf).softmax(1)


def check_not_empty(allowed: Bool[Tensor, "pair vector"]) -> None:
    """Raise an InputError for a pair that is allowed no vector."""
    if not allowed.any(1).all():
        raise InputError("Without a pair's own relation or family no vector is left; give more relations.")
