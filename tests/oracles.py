"""The slow, obvious versions: one unpadded prompt at a time through TransformerLens' own hooks, nothing of fv_lens.

An edit is anything with a `layer`, a `value` and a `head`: with a head, the value replaces its output; with None, it is
added to the residual stream after the layer. Edits act at the last prompt token only.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

EXACT = 1e-5  # the largest difference of two log-probabilities in float32 that are said to be the same


class Change(NamedTuple):
    layer: int
    value: Tensor
    head: int | None = None


@torch.no_grad()
def logits(model, prompt: list[int], edits=(), continuation: list[int] = ()) -> Tensor:
    """`[1 + continuation, vocab]`: next-token logits at the last prompt token and at each token of the continuation."""
    last, fired = len(prompt) - 1, []

    def hook_of(edit):
        def hook(x, hook):
            fired.append(edit)
            x = x.clone()
            if edit.head is None:
                x[0, last] += edit.value
            else:
                x[0, last, edit.head] = edit.value
            return x

        point = "hook_resid_post" if edit.head is None else "attn.hook_z"
        return f"blocks.{edit.layer}.{point}", hook

    out = model.run_with_hooks(torch.tensor([[*prompt, *continuation]]), fwd_hooks=[hook_of(edit) for edit in edits])
    assert len(fired) == len(edits), "a hook of the oracle did not fire"
    return out[0, last:].float()


def log_probs(model, prompt, edits=()) -> Tensor:
    """`[vocab]`: log-probabilities of the next token after the prompt."""
    return logits(model, prompt, edits)[0].log_softmax(-1)


def added_vector(model, prompt, layer: int, vector: Tensor, strength: float = 1.0) -> Tensor:
    """`[vocab]`: next-token logits with `strength * vector` added after `layer`."""
    return logits(model, prompt, [Change(layer, strength * vector)])[0]


def continuation_log_probs(model, prompt, continuation, edits=()) -> Tensor:
    """`[continuation]`: log-probability of each token of a continuation, given the prompt and the tokens before it."""
    predicted = logits(model, prompt, edits, continuation[:-1]).log_softmax(-1)
    return predicted[range(len(continuation)), continuation]


@torch.no_grad()
def head_outputs(model, prompt) -> Tensor:
    """`[layer, head, d_head]`: what the heads put out at the last token, at `hook_z`."""
    _, cache = model.run_with_cache(torch.tensor([prompt]), names_filter=lambda name: name.endswith("attn.hook_z"))
    return torch.stack([cache[f"blocks.{layer}.attn.hook_z"][0, -1] for layer in range(model.cfg.n_layers)])


@torch.no_grad()
def unembedded(model, residual: Tensor) -> Tensor:
    """`[vocab]`: logits of one residual by the modules of the model and, where its configuration has one, the cap."""
    logits = model.unembed(model.ln_final(residual[None, None]))[0, 0]
    config = getattr(getattr(model, "original_model", None), "config", None)
    cap = getattr(config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def mean_z(model, prompts) -> Tensor:
    """`[layer, head, d_head]`: mean head outputs at the last tokens of the prompts."""
    return torch.stack([head_outputs(model, prompt) for prompt in prompts]).mean(0)


def head_effects(model, prompts, answers: list[int], mean_z: Tensor) -> tuple[Tensor, Tensor]:
    """`[prompt, layer, head]` twice: what setting one head to its mean does to the answer's probability and its log."""
    shape = (len(prompts), *mean_z.shape[:2])
    before, after = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for i, (prompt, answer) in enumerate(zip(prompts, answers)):
        before[i] = log_probs(model, prompt)[answer]
        for layer in range(mean_z.shape[0]):
            for head in range(mean_z.shape[1]):
                after[i, layer, head] = log_probs(model, prompt, [Change(layer, mean_z[layer, head], head)])[answer]
    return after.exp() - before.exp(), after - before


def greedy(model, prompt, n: int, edits=()) -> list[set[int]]:
    """`n` tokens decoded one after the other, each as the set of the most probable ones; a tie ends the decoding."""
    written, tops = [], []
    while len(tops) < n and all(len(top) == 1 for top in tops):
        predicted = logits(model, prompt, edits, written)[-1]
        tops.append(set((predicted == predicted.max()).nonzero()[:, 0].tolist()))
        written.append(min(tops[-1]))
    return tops


class Completion(NamedTuple):
    right: bool  # one of the answers is what greedy decoding writes, and it ends there
    log_prob: float  # of the whole first answer
    rank: int  # of the best first token of an answer; 0: no token is more probable
    first_log_prob: float  # of all first tokens of answers together


def completion(model, prompt, answers, ends, edits=()) -> Completion:
    """How a prompt is completed; `answers`: the ids of each answer, `ends`: the ids that may follow a whole one."""
    tops = greedy(model, prompt, 1 + max(map(len, answers)), edits)
    right = [
        tops[: len(answer)] == [{token} for token in answer] and tops[len(answer)] <= set(ends) for answer in answers
    ]
    predicted = log_probs(model, prompt, edits)
    first = sorted({answer[0] for answer in answers})
    rank = sum(float(log_prob) > float(predicted[first].max()) for log_prob in predicted)
    whole = continuation_log_probs(model, prompt, list(answers[0]), edits).sum()
    return Completion(any(right), float(whole), rank, float(predicted[first].logsumexp(0)))


def difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference; infinite if shapes differ, NaN if a number is."""
    return (a - b).abs().max().item() if a.shape == b.shape else torch.inf


# Prompts


def padded(prompts) -> tuple[Tensor, Tensor]:
    """Tokens and mask `[prompt, pos]` of lists of ids, padded on the left."""
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    return tokens, torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])


def unpadded(batch) -> list[list[int]]:
    """The prompts of a `PromptBatch` as lists of ids."""
    return [row[mask.bool()].tolist() for row, mask in zip(batch.tokens, batch.mask)]


def random_prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 200, (length,), generator=generator).tolist() for length in lengths]


def in_tokens(model, part) -> list[tuple[list[int], list[int]]]:
    """(ids of the zero-shot prompt, ids of the first listed answer behind it) of each pair of a relation."""
    pairs = []
    for word, answers in part.pairs:
        text = f"Q: {word}\nA:"
        prompt = model.to_tokens(text)[0].tolist()
        pairs.append((prompt, model.to_tokens(f"{text} {answers[0]}")[0, len(prompt) :].tolist()))
    return pairs


def in_words(model, text: str, answers: tuple[str, ...]) -> tuple[list[int], list[tuple[int, ...]]]:
    """Ids of a text, and those that each answer adds to it."""
    prompt = model.to_tokens(text)[0].tolist()
    return prompt, [tuple(model.to_tokens(f"{text} {answer}")[0, len(prompt) :].tolist()) for answer in answers]


def some_endings(share: float = 0.5, vocab: int = 256, seed: int = 0) -> Tensor:
    """`[vocab]`: tokens that are said to end an answer, at random: so many that tiny models complete some right."""
    return torch.rand(vocab, generator=torch.Generator().manual_seed(seed)) < share


# Tuning


def answer_loss(model, prompt, answer, layer: int, vector: Tensor) -> Tensor:
    """Cross-entropy of all tokens of the answer, in nats, with `vector` added after `layer`; may be differentiated."""
    fired, here = [], torch.arange(len(prompt) + len(answer) - 1)[:, None] == len(prompt) - 1

    def hook(x, hook):
        fired.append(hook)
        return torch.where(here, x + vector.to(x), x)

    point = f"blocks.{layer}.hook_resid_post"
    out = model.run_with_hooks(torch.tensor([[*prompt, *answer[:-1]]]), fwd_hooks=[(point, hook)])
    assert len(fired) == 1, "the hook of the oracle did not fire"
    return cross_entropy(out[0, len(prompt) - 1 :].float(), torch.tensor(answer), reduction="sum")


def losses_and_gradient(model, prompts, answers, owners, layer: int, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """`[prompt]` losses under the vectors of their owners, and `[vector, d_model]` gradients of each owner's mean."""
    leaf = vectors.clone().requires_grad_()
    losses = [answer_loss(model, *pair, layer, leaf[owner]) for *pair, owner in zip(prompts, answers, owners)]
    shares = [loss / owners.count(owner) for loss, owner in zip(losses, owners)]
    (gradient,) = torch.autograd.grad(sum(shares), leaf)
    return torch.stack(losses).detach(), gradient


@torch.no_grad()
def residual_rms(model, prompts, layer: int) -> float:
    """Root mean square of the residual stream after `layer` at the prompts' last tokens."""
    point = f"blocks.{layer}.hook_resid_post"
    caches = [model.run_with_cache(torch.tensor([prompt]), names_filter=point)[1] for prompt in prompts]
    return torch.stack([cache[point][0, -1] for cache in caches]).square().mean().sqrt().item()


def tuned(model, train, validation, layer: int, vector: Tensor, steps: int, learning_rate: float):
    """Adam by hand on (prompt, answer) pairs: vectors `[1 + steps, d_model]`, train losses, validation losses."""

    def mean(pairs):
        return sum(answer_loss(model, *pair, layer, vector) for pair in pairs) / len(pairs)

    unit = residual_rms(model, [prompt for prompt, _ in train], layer)
    vector = vector.clone().requires_grad_()
    adam, vectors, losses, checks = torch.optim.Adam([vector], lr=learning_rate * unit), [], [], []
    for _ in range(steps + 1):
        vectors.append(vector.detach().clone())
        checks.append(mean(validation).item())
        loss = mean(train)
        losses.append(loss.item())
        (vector.grad,) = torch.autograd.grad(loss, vector)
        adam.step()
    return torch.stack(vectors), losses[:steps], checks
