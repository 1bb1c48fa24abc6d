"""Solutions of the exercises, in the order of the lesson: slow, obvious code over the hooks of TransformerLens.

`demos/pages/notebooks.py` copies them into the notebook: of an exercise the signature and docstring, and its code,
folded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

Pair = tuple[str, str]  # a word and its answer


def prompt_of(word: str, demonstrations: Sequence[Pair] = ()) -> str:
    r"""The prompt that asks for the answer to a word, after some (word, answer) pairs that show the task.

    Each demonstration is "Q: word\nA: answer\n\n"; then comes the question itself, which ends with the colon.

    Example:
        >>> prompt_of("see", [("go", "went")])
        'Q: go\nA: went\n\nQ: see\nA:'
    """
    shown = "".join(f"Q: {x}\nA: {y}\n\n" for x, y in demonstrations)
    return f"{shown}Q: {word}\nA:"


def answer_log_prob(model: TransformerBridge, prompt: str, answer: str) -> Float[Tensor, ""]:
    """The log-probability (natural logarithm) of a whole answer after a prompt: the sum over the answer's tokens.

    Args:
        prompt: ends with the colon.
        answer: a word without a space before it; the text that is scored is `" " + answer`.
    """
    n = model.to_tokens(prompt).shape[1]
    tokens = model.to_tokens(f"{prompt} {answer}")  # [batch = 1, pos]
    log_probs = model(tokens)[0].log_softmax(-1)  # [pos, vocab]; row i predicts token i + 1
    return log_probs[n - 1 : -1].gather(1, tokens[0, n:, None]).sum()


def indirect_effect(
    model: TransformerBridge, prompt: str, answer_id: int, layer: int, head: int, mean: Float[Tensor, " d_head"]
) -> float:
    """What one head adds to the probability of the answer, if its output is replaced by its mean over intact prompts.

    The probability of the token `answer_id` after the prompt with the replacement, minus that without it.

    Args:
        mean: replaces the head's output at "blocks.{layer}.attn.hook_z", `[batch, pos, head, d_head]`, at the last
            token of the prompt only.
    """

    def put_mean(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        z[0, -1, head] = mean
        return z

    tokens = model.to_tokens(prompt)
    before = model(tokens)[0, -1].softmax(-1)
    after = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", put_mean)])[0, -1].softmax(-1)
    return float(after[answer_id] - before[answer_id])


def summed_vector(
    model: TransformerBridge, prompts: Sequence[str], heads: Sequence[tuple[int, int]]
) -> Float[Tensor, " d_model"]:
    """A function vector: what the heads write to the residual stream at a prompt's last token, averaged over prompts,
    summed over heads.

    Args:
        prompts: intact few-shot prompts.
        heads: (layer, head). A head writes `z @ W_O`, with its own part of `model.blocks[layer].attn.W_O`,
            `[head, d_head, d_model]`.
    """
    total = torch.zeros(model.cfg.d_model)
    for prompt in prompts:
        _, cache = model.run_with_cache(model.to_tokens(prompt), names_filter=lambda name: name.endswith("hook_z"))
        for layer, head in heads:
            z = cache[f"blocks.{layer}.attn.hook_z"][0, -1, head]  # [d_head]
            total += z @ model.blocks[layer].attn.W_O[head]
    return total / len(prompts)


def log_prob_with_vector(
    model: TransformerBridge, prompt: str, answer: str, vector: Float[Tensor, " d_model"], layer: int
) -> Float[Tensor, ""]:
    """`answer_log_prob` with a vector added to the residual stream after block `layer`, at the prompt's last token.

    The hook point is "blocks.{layer}.hook_resid_post", `[batch, pos, d_model]`. The forward runs over prompt *and*
    answer; of these tokens only one gets the vector. The result can be differentiated with respect to the vector.
    """
    n = model.to_tokens(prompt).shape[1]
    tokens = model.to_tokens(f"{prompt} {answer}")

    def add(x: Tensor, hook: Any) -> Tensor:
        x = x.clone()
        x[0, n - 1] += vector
        return x

    logits = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.hook_resid_post", add)])
    return logits[0].log_softmax(-1)[n - 1 : -1].gather(1, tokens[0, n:, None]).sum()


def step_size(model: TransformerBridge, words: Sequence[str], layer: int, rate: float = 0.05) -> float:
    """The rate times the root mean square of the residual stream after the layer, at the last tokens of prompts."""
    name = f"blocks.{layer}.hook_resid_post"
    caches = [model.run_with_cache(model.to_tokens(prompt_of(word)), names_filter=name)[1] for word in words]
    return rate * float(torch.stack([cache[name][0, -1] for cache in caches]).square().mean().sqrt())


def tune(
    model: TransformerBridge,
    train: Sequence[Pair],
    validation: Sequence[Pair],
    start: Float[Tensor, " d_model"],
    layer: int,
    learning_rate: float,
    steps: int,
) -> Float[Tensor, " d_model"]:
    """A vector tuned on the train pairs, as it was at the step of the lowest loss on the validation pairs.

    The loss of some pairs is the mean of minus `log_prob_with_vector` over their zero-shot prompts. Adam with
    `learning_rate` takes `steps` steps (an even number) from a copy of `start`, down the loss of all train pairs
    together. The validation loss is measured before the first step and after every second one.
    """

    def loss(pairs: Sequence[Pair]) -> Tensor:
        log_probs = [log_prob_with_vector(model, prompt_of(word), answer, vector, layer) for word, answer in pairs]
        return -torch.stack(log_probs).mean()

    vector = start.clone().requires_grad_()
    adam = torch.optim.Adam([vector], lr=learning_rate)
    best, lowest = start, float("inf")
    for step in range(steps + 1):
        if step % 2 == 0:
            with torch.no_grad():
                now = float(loss(validation))
            if now < lowest:
                best, lowest = vector.detach().clone(), now
        if step < steps:
            adam.zero_grad()
            loss(train).backward()
            adam.step()
    return best


def composite(
    model: TransformerBridge, library: Mapping[str, Float[Tensor, " d_model"]], layer: int, pair: Pair
) -> Float[Tensor, " d_model"]:
    """The mixture of a library's vectors that fits one pair of words A:B.

    The weight of a vector is the softmax, over the library, of the log-probability of B after the zero-shot prompt for
    A with that vector added after block `layer`.

    Args:
        library: relation -> vector.
        pair: A and B.
    """
    a, b = pair
    vectors = torch.stack(list(library.values()))  # [vector, d_model]
    with torch.no_grad():
        log_probs = [log_prob_with_vector(model, prompt_of(a), b, vector, layer) for vector in vectors]
    weights = torch.stack(log_probs).softmax(0)
    return weights @ vectors
