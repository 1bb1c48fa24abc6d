"""Mistakes that are easily made: exercise -> what a test says of a mistake -> the function that makes it.

Here are those of the first three exercises; the others are in `mistakes_with_vectors`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from .mistakes_with_vectors import OF_VECTORS, Wrong
from .mistakes_with_vectors import token_log_probs as _log_probs

# The answer's log-probability


def _without_space(model: TransformerBridge, prompt: str, answer: str) -> Tensor:
    return _log_probs(model, prompt, answer).sum()


def _first_token(model: TransformerBridge, prompt: str, answer: str) -> Tensor:
    return _log_probs(model, prompt, f" {answer}")[0]


def _mean_of_tokens(model: TransformerBridge, prompt: str, answer: str) -> Tensor:
    return _log_probs(model, prompt, f" {answer}").mean()


def _probability(model: TransformerBridge, prompt: str, answer: str) -> Tensor:
    return _log_probs(model, prompt, f" {answer}").sum().exp()


def _one_place_late(model: TransformerBridge, prompt: str, answer: str) -> Tensor:
    n, tokens = model.to_tokens(prompt).shape[1], model.to_tokens(f"{prompt} {answer}")
    return model(tokens)[0].log_softmax(-1)[n:].gather(1, tokens[0, n:, None]).sum()


def _logits(model: TransformerBridge, prompt: str, answer: str) -> Tensor:
    n, tokens = model.to_tokens(prompt).shape[1], model.to_tokens(f"{prompt} {answer}")
    return model(tokens)[0, n - 1 : -1].gather(1, tokens[0, n:, None]).sum()


def _whole_text(model: TransformerBridge, prompt: str, answer: str) -> Tensor:
    tokens = model.to_tokens(f"{prompt} {answer}")
    return model(tokens)[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None]).sum()


def _tokenizer_alone(model: TransformerBridge, prompt: str, answer: str) -> Tensor:
    n, ids = len(model.tokenizer(prompt)["input_ids"]), model.tokenizer(f"{prompt} {answer}")["input_ids"]
    return model(torch.tensor([ids]))[0].log_softmax(-1)[n - 1 : -1].gather(1, torch.tensor(ids)[n:, None]).sum()


# The effect of a head


def _effect(
    model: TransformerBridge, prompt: str, answer_id: int, layer: int, edit: Callable[[Tensor], None]
) -> tuple[float, ...]:
    """The answer's probability before and after an edit of the outputs of a layer's heads."""

    def hook(z: Tensor, hook: Any) -> Tensor:
        edit(z := z.clone())
        return z

    tokens = model.to_tokens(prompt)
    hooked = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", hook)])
    return tuple(float(logits[0, -1].softmax(-1)[answer_id]) for logits in (model(tokens), hooked))


def _of_edit(
    edit: Callable[[Tensor, int, Tensor], None],
    read: Callable[[float, float], float] = lambda before, after: after - before,
) -> Wrong:
    def wrong(model: TransformerBridge, prompt: str, answer_id: int, layer: int, head: int, mean: Tensor) -> float:
        return read(*_effect(model, prompt, answer_id, layer, lambda z: edit(z, head, mean)))

    return wrong


def _set(z: Tensor, head: int, mean: Tensor) -> None:
    z[0, -1, head] = mean


def _set_everywhere(z: Tensor, head: int, mean: Tensor) -> None:
    z[0, :, head] = mean


def _set_all_heads(z: Tensor, head: int, mean: Tensor) -> None:
    z[0, -1] = mean


def _add(z: Tensor, head: int, mean: Tensor) -> None:
    z[0, -1, head] += mean


def _nothing(z: Tensor, head: int, mean: Tensor) -> None:
    pass


def _log(before: float, after: float) -> float:
    return float(torch.tensor([before, after]).log().diff())


# The sum of heads


def _sum(
    read: Callable[[Tensor, int], Tensor], write: Callable[[Tensor, int], Tensor], share: Callable[[int, int], float]
) -> Wrong:
    """A sum of heads by how z `[pos, head, d_head]` and W_O `[head, d_head, d_model]` are read, and divided by."""

    def wrong(model: TransformerBridge, prompts: Sequence[str], heads: Sequence[tuple[int, int]]) -> Tensor:
        total = torch.zeros(model.cfg.d_model)
        for prompt in prompts:
            _, cache = model.run_with_cache(model.to_tokens(prompt), names_filter=lambda name: name.endswith("hook_z"))
            for layer, head in heads:
                z = read(cache[f"blocks.{layer}.attn.hook_z"][0], head)
                total = total + z @ write(model.blocks[layer].attn.W_O, head)
        return total / share(len(prompts), len(heads))

    return wrong


def _last(z: Tensor, head: int) -> Tensor:
    return z[-1, head]


def _own(matrices: Tensor, head: int) -> Tensor:
    return matrices[head]


MISTAKES: dict[str, dict[str, Wrong]] = {
    "answer_log_prob": {
        'the answer was scored without its space; the text is prompt + " " + answer': _without_space,
        "only the first token of the answer was scored; add those of all its tokens": _first_token,
        "the mean over the answer's tokens was taken; their log-probabilities add up": _mean_of_tokens,
        "this is a probability; give its natural logarithm": _probability,
        "the rows are one place late: the logits at token i predict token i + 1": _one_place_late,
        "these are logits; log_softmax over the vocabulary makes log-probabilities of them": _logits,
        "the tokens of the prompt were scored as well; start at the answer's first token": _whole_text,
        "model.tokenizer puts a BOS token first, which this model's prompts do not have; use model.to_tokens": (
            _tokenizer_alone
        ),
    },
    "indirect_effect": {
        "the head was replaced at every token; replace it at the last one only": _of_edit(_set_everywhere),
        "every head of the layer was replaced; replace z[0, -1, head] only": _of_edit(_set_all_heads),
        "the mean was added to the head's output; it takes its place": _of_edit(_add),
        "this is before minus after; give after minus before": _of_edit(_set, lambda before, after: before - after),
        "this is a change of log-probability; the effect is a change of probability": _of_edit(_set, _log),
        "this is the probability after; subtract the one before": _of_edit(_set, lambda before, after: after),
        "the hook changed nothing: return the changed z from it": _of_edit(_nothing),
    },
    "summed_vector": {
        "the mean is over all tokens of the prompts; take the last token": _sum(
            lambda z, head: z[:, head].mean(0), _own, lambda prompts, heads: prompts
        ),
        "the first token was read; take the last one, [0, -1, head]": _sum(
            lambda z, head: z[0, head], _own, lambda prompts, heads: prompts
        ),
        "this is the sum over prompts; divide it by their number": _sum(_last, _own, lambda prompts, heads: 1),
        "this is the mean over heads; what they write adds up": _sum(
            _last, _own, lambda prompts, heads: prompts * heads
        ),
        "the z of the head went through the W_O of head 0; use attn.W_O[head]": _sum(
            _last, lambda matrices, head: matrices[0], lambda prompts, heads: prompts
        ),
        "the head's z went through the W_O of all heads; use attn.W_O[head]": _sum(
            _last, lambda matrices, head: matrices.sum(0), lambda prompts, heads: prompts
        ),
    },
} | OF_VECTORS
