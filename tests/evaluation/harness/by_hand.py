"""Requests of lm-evaluation-harness, and what they give by forwards under `patch`, one by one."""

import random

import pytest
import torch

from fv_lens.vectors.patching import patch

from ... import tiny

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra 'harness')")

from lm_eval.api.instance import Instance  # noqa: E402

STRENGTH = 1.5
SIZES = pytest.mark.parametrize("batch_size", [1, 8])


def text(rng, most: int, least: int = 1) -> str:
    return " ".join(f"w{rng.randrange(tiny.N_WORDS)}" for _ in range(rng.randint(least, most)))


def pairs(n: int = 50) -> list[tuple[str, str]]:
    """Contexts and continuations of unequal length; among them choices of one token, and spaces at a context's end."""
    rng = random.Random(0)
    made = [(text(rng, 20), " " + text(rng, 5)) for _ in range(n - 8)]
    made += [("w1 w2 w3", f" w{i}") for i in range(4)]
    return [*made, ("w5 w6  ", "w7 w8"), ("w5", " w6 w7"), ("w5 w6", " w7"), ("w5 w6 w7", " w8")]


def requests(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, given, i) for i, given in enumerate(arguments)]


@torch.no_grad()
def by_hand(model, vectors, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """One forward over a context and its continuation, the vectors at the context's last token."""
    n, ids = len(context), torch.tensor([context + continuation])
    with patch(model, vectors, STRENGTH, at=n - 1):
        log_probs = model(ids)[0, n - 1 : -1].double().log_softmax(-1)
    listed = torch.tensor(continuation)
    return float(log_probs.gather(1, listed[:, None]).sum()), bool((log_probs.argmax(-1) == listed).all())


def tokens(model, given: str) -> list[int]:
    return model.to_tokens(given)[0].tolist()


def split(model, context: str, continuation: str) -> tuple[list[int], list[int]]:
    before = tokens(model, context.rstrip())
    return before, tokens(model, context + continuation)[len(before) :]


def assert_close(scores, expected):
    assert [greedy for _, greedy in scores] == [greedy for _, greedy in expected]
    assert max(abs(a - b) for (a, _), (b, _) in zip(scores, expected, strict=True)) <= 1e-5


def contexts(n: int = 10) -> list[str]:
    return [context.rstrip() for context, _ in pairs()[:n]] + ["w3", ""]


@torch.no_grad()
def generated(model, fv, context: str, n: int) -> list[int]:
    """What `model.generate` writes under `patch`, without regard to ends of texts."""
    ids = model.to_tokens(context) if context else torch.tensor([[model.tokenizer.bos_token_id]])
    with patch(model, fv, STRENGTH):
        out = model.generate(
            ids, max_new_tokens=n, do_sample=False, stop_at_eos=False, return_type="tokens", verbose=False
        )
    return out[0, ids.shape[1] :].tolist()
