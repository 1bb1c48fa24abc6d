"""Mistakes of the exercises with vectors, as in `mistakes`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from .solutions import Pair, answer_log_prob, log_prob_with_vector, prompt_of

Wrong = Callable[..., Any]


def token_log_probs(model: TransformerBridge, prompt: str, text: str, hooks: Sequence[Any] = ()) -> Tensor:
    """Log-probabilities of the tokens of `text` after the prompt."""
    n, tokens = model.to_tokens(prompt).shape[1], model.to_tokens(prompt + text)
    log_probs = model.run_with_hooks(tokens, fwd_hooks=list(hooks))[0].log_softmax(-1)
    return log_probs[n - 1 : -1].gather(1, tokens[0, n:, None])[:, 0]


# A vector added


def _added_log_probs(
    model: TransformerBridge, prompt: str, answer: str, vector: Tensor, layer: int, at: Callable[[int], slice],
    site: str = "hook_resid_post", keep: float = 1.0,
) -> Tensor:  # fmt: skip
    """Log-probabilities of the answer's tokens, with a vector added at a slice of the tokens; the prompt has n."""
    here = at(model.to_tokens(prompt).shape[1])

    def hook(x: Tensor, hook: Any) -> Tensor:
        x = x.clone()
        x[0, here] = keep * x[0, here] + vector
        return x

    return token_log_probs(model, prompt, f" {answer}", [(f"blocks.{layer}.{site}", hook)])


def _added(at: Callable[[int], slice], site: str = "hook_resid_post", keep: float = 1.0) -> Wrong:
    def wrong(model: TransformerBridge, prompt: str, answer: str, vector: Tensor, layer: int) -> Tensor:
        return _added_log_probs(model, prompt, answer, vector, layer, at, site, keep).sum()

    return wrong


def _not_added(model: TransformerBridge, prompt: str, answer: str, vector: Tensor, layer: int) -> Tensor:
    return answer_log_prob(model, prompt, answer)


def _added_first_token(model: TransformerBridge, prompt: str, answer: str, vector: Tensor, layer: int) -> Tensor:
    return _added_log_probs(model, prompt, answer, vector, layer, lambda n: slice(n - 1, n))[0]


# Tuning


def _tuned(sign: float = -1.0, zero: bool = True, keep_last: bool = False) -> Wrong:
    def wrong(
        model: TransformerBridge, train: Sequence[Pair], validation: Sequence[Pair], start: Tensor, layer: int,
        learning_rate: float, steps: int,
    ) -> Tensor:  # fmt: skip
        def loss(pairs: Sequence[Pair], sign: float = -1.0) -> Tensor:
            of_pairs = [(prompt_of(word), answer) for word, answer in pairs]
            return sign * torch.stack([log_prob_with_vector(model, *pair, vector, layer) for pair in of_pairs]).mean()

        vector = start.clone().requires_grad_()
        adam = torch.optim.Adam([vector], lr=learning_rate)
        best, lowest = start, float("inf")
        for step in range(steps + 1):
            if step % 2 == 0:
                now = float(loss(validation).detach())
                if now < lowest or keep_last:
                    best, lowest = vector.detach().clone(), now
            if step < steps:
                if zero:
                    adam.zero_grad()
                loss(train, sign).backward()
                adam.step()
        return best

    return wrong


# Composites


def _mixed(weigh: Callable[[Tensor], Tensor], backwards: bool = False) -> Wrong:
    def wrong(model: TransformerBridge, library: Mapping[str, Tensor], layer: int, pair: Pair) -> Tensor:
        (a, b), vectors = pair[::-1] if backwards else pair, torch.stack(list(library.values()))
        with torch.no_grad():
            log_probs = [log_prob_with_vector(model, prompt_of(a), b, vector, layer) for vector in vectors]
        return weigh(torch.stack(log_probs)) @ vectors

    return wrong


OF_VECTORS: dict[str, dict[str, Wrong]] = {
    "log_prob_with_vector": {
        "the vector had no effect: it was added at the answer's last token, or the hook did not return x": _not_added,
        "the vector was added one token late: the prompt's last token is number n - 1": _added(
            lambda n: slice(n, n + 1)
        ),
        "the vector was added at every token; add it at the prompt's last one": _added(lambda n: slice(None)),
        "the vector was added before the block, at hook_resid_pre; add it at hook_resid_post": _added(
            lambda n: slice(n - 1, n), "hook_resid_pre"
        ),
        "the vector took the place of the residual stream; add it": _added(lambda n: slice(n - 1, n), keep=0.0),
        "only the first token of the answer was scored; add those of all its tokens": _added_first_token,
    },
    "tune": {
        "this is the vector of the last step: keep that of the lowest validation loss, vector.detach().clone()": _tuned(
            keep_last=True
        ),
        "the loss went up: it is *minus* the log-probability": _tuned(sign=1.0),
        "gradients of earlier steps were kept; call adam.zero_grad() before each backward": _tuned(zero=False),
    },
    "composite": {
        "all vectors weigh the same: take the softmax of log-probabilities (that of probabilities is flat)": _mixed(
            lambda log_probs: torch.full_like(log_probs, 1 / len(log_probs))
        ),
        "the weights do not add up to 1; take the softmax of the log-probabilities": _mixed(
            lambda log_probs: log_probs.exp()
        ),
        "the single best vector was taken; mix all of them by their weights": _mixed(
            lambda log_probs: torch.nn.functional.one_hot(log_probs.argmax(), len(log_probs)).float()
        ),
        "the vectors were weighed by A after B; ask for B after A": _mixed(
            lambda log_probs: log_probs.softmax(0), backwards=True
        ),
    },
}
