"""The engine's verbs beside slow full forwards, on whatever model, under whatever conditions."""

import torch

from fv_lens.engine.whatif import Edit, head_outputs, residuals, what_if
from fv_lens.models.lens import lens_of

from .. import oracles
from ..oracles import EXACT, difference

PROMPTS = oracles.random_prompts(9, 13, 3)  # of one, the third token is the last
FEW = dict(n_prompts=2, n_shots=3, n_mean_prompts=3)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(model):
    return getattr(model, "original_model", model)


def one_token(logits, prompt):
    return logits[:, 0].log_softmax(-1)


def whatifs_of(lens):
    return [
        [Edit(1, noise(lens.d_head, seed=1), 2)],
        [Edit(0, noise(lens.d_model, seed=2)), Edit(2, noise(lens.d_head), 0)],
    ]


def use(model):
    """A first use, under the conditions at hand."""
    what_if(lens_of(model), *oracles.padded(oracles.random_prompts(20, 4)), [], one_token)


def step_by_step(model, prompt, continuation, edits=()):
    """Log-probabilities of a continuation's tokens, each from a forward that ends in the token before it."""
    rows = [oracles.logits(model, prompt, edits, continuation[:k])[-1] for k in range(len(continuation))]
    return torch.stack(rows).log_softmax(-1)[range(len(continuation)), continuation]


CONTINUATION = oracles.random_prompts(3, seed=5)[0]


@torch.no_grad()
def by_full_forwards(model) -> list[torch.Tensor]:
    """What the engine's verbs are to give under whatever is on the model, by slow full forwards."""
    rows = [[], *whatifs_of(lens_of(model))]
    point = "blocks.1.hook_resid_post"
    caches = [model.run_with_cache(torch.tensor([ids]), names_filter=point)[1] for ids in PROMPTS]
    return [
        torch.stack([torch.stack([oracles.log_probs(model, ids, edits) for edits in rows]) for ids in PROMPTS]),
        torch.stack(
            [torch.stack([step_by_step(model, ids, CONTINUATION, edits) for edits in rows]) for ids in PROMPTS]
        ),
        torch.stack([oracles.head_outputs(model, ids) for ids in PROMPTS]),
        torch.stack([cache[point][0, -1] for cache in caches]),
    ]


@torch.no_grad()
def by_engine(model) -> list[torch.Tensor]:
    lens = lens_of(model)
    tokens = oracles.padded([ids + CONTINUATION[:-1] for ids in PROMPTS])

    def read(logits, prompt):
        return logits.log_softmax(-1)[:, range(3), CONTINUATION]

    first = what_if(lens, *oracles.padded(PROMPTS), whatifs_of(lens), one_token)
    whole = what_if(lens, *tokens, whatifs_of(lens), read, tail=3)
    z = torch.zeros(len(PROMPTS), lens.n_layers, lens.n_heads, lens.d_head)
    for indices, part, _ in head_outputs(lens, *oracles.padded(PROMPTS)):
        z[indices] = part
    return [first, whole, z, residuals(lens, *oracles.padded(PROMPTS), 1)]


def assert_exact(model, expected=None):
    """The engine's verbs equal slow full forwards, made now if they are not `expected` from before."""
    expected = by_full_forwards(model) if expected is None else expected
    found = by_engine(model)
    assert all(difference(a, b) <= EXACT for a, b in zip(found, expected, strict=True))


def see_padding(lens):
    """To a model that ignores masks, padding is tokens as any others."""
    run = lens._run
    lens._run = lambda ids, mask, cache=None, position_ids=None: run(ids, None, cache)
