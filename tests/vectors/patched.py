"""Patched models the plain way: prompts, a hook of TransformerLens that adds the vector, and what a patch may leave."""

import pytest
import torch
from transformers import DynamicCache

from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector

TEXTS = ["w1 w2 w3 w4 w5", "w6 w7", "w8 w9 w10"]
WORDS = [5, 2, 3]
PAD = 205  # the tokenizer's, which is its end-of-sequence token as well
AT = "blocks.1.hook_resid_post"
GREEDY = dict(do_sample=False, stop_at_eos=False)
CACHED, TOKENS = pytest.mark.parametrize("cached", [True, False]), pytest.mark.parametrize("tokens", ["last", "every"])
SIDES = pytest.mark.parametrize("side", ["left", "right"])


def vector(model, layer=1, seed=0, size=3.0) -> FunctionVector:
    lens = lens_of(model)
    values = torch.randn(lens.d_model, generator=torch.Generator().manual_seed(seed)) * size
    return FunctionVector(values, layer, model=lens.name, processing=lens.processing)


def prompts(rows=2, length=6) -> torch.Tensor:
    return torch.randint(0, 200, (rows, length), generator=torch.Generator().manual_seed(1))


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Three prompts of 6, 3 and 4 tokens: padded ids, mask, and the column of each one's last token."""
    lengths = [6, 3, 4]
    mask = torch.stack([torch.arange(6) < n for n in lengths]).long()
    mask = mask.flip(1) if side == "left" else mask
    return torch.where(mask == 1, prompts(3), PAD), mask, last_columns(lengths, side)


def last_columns(lengths: list[int], side: str) -> list[int]:
    return [n - 1 for n in lengths] if side == "right" else [max(lengths) - 1] * len(lengths)


def text_lengths(model, **kwargs) -> list[int]:
    return [model.to_tokens(text, **kwargs).shape[1] for text in TEXTS]


def adding(fv, columns: list, strength=1.0) -> list:
    """A hook that adds the vector in each row's column or columns."""

    def add(x, hook):
        x = x.clone()
        for row, at in enumerate(columns):
            for column in at if isinstance(at, list) else [at]:
                x[row, column] += strength * fv.vector
        return x

    return [(f"blocks.{fv.layer}.hook_resid_post", add)]


@torch.no_grad()
def oracle(model, tokens, fv, columns, **kwargs) -> torch.Tensor:
    assert not lens_of(model).patches, "the oracle would see the patch as well"
    return model.run_with_hooks(tokens, fwd_hooks=adding(fv, columns), **kwargs)


@torch.no_grad()
def greedy(model, tokens, fv, last: list[int], n: int, every: bool, mask=None) -> torch.Tensor:
    """The plain way to generate: full forwards over all tokens, the vector added at the same columns each time."""
    start = tokens.shape[1]
    for _ in range(n):
        new = list(range(start, tokens.shape[1])) if every else []
        more = {} if mask is None else {"attention_mask": mask}
        logits = oracle(model, tokens, fv, [[column, *new] for column in last], **more)
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], 1)
        mask = None if mask is None else torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return tokens


@torch.no_grad()
def run(model, tokens, **kwargs) -> torch.Tensor:
    return model(tokens, **kwargs)


def residual(model, tokens, name=AT, **kwargs) -> torch.Tensor:
    return model.run_with_cache(tokens, names_filter=name, **kwargs)[1][name]


def assert_same(a, b):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= 1e-5


def is_bridge(model) -> bool:
    return hasattr(model, "original_model")


def cached(model, cache, mask=None, new=0) -> dict:
    """What a forward over `new` tokens behind a cache is given; without a mask, over any number."""
    if not is_bridge(model):
        return {"past_kv_cache": cache} | ({} if mask is None else {"attention_mask": mask[:, -new:]})
    given = {"past_key_values": cache, "use_cache": True}
    if mask is None:
        return given
    return given | {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[:, -new:]}


def empty_cache(model, rows):
    if is_bridge(model):
        return DynamicCache()
    from transformer_lens import TransformerLensKeyValueCache

    return TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, rows)


def state(model) -> list:
    """Everything that a patch could leave behind."""
    patches = list(lens_of(model).patches)  # first, for a model that is met for the first time gets a state
    owners = [model, *([model.original_model] if is_bridge(model) else [])]
    modules = [module for owner in owners for module in owner.modules()]
    hooks = [[len(m._forward_hooks), len(m._forward_pre_hooks), len(getattr(m, "fwd_hooks", ()))] for m in modules]
    own = [set(m.__dict__) for m in modules]
    methods = [{name: id(value) for name, value in owner.__dict__.items() if callable(value)} for owner in owners]
    return [hooks, own, methods, patches]
