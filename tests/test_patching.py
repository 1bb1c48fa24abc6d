import inspect

import pytest
import torch
from transformers import DynamicCache

from fv_lens.errors import InputError, ParityError
from fv_lens.lens import lens_of
from fv_lens.patching import patch
from fv_lens.positions import Prompts
from fv_lens.vectors import FunctionVector
from fv_lens.whatif import what_if

from . import tiny

TEXTS = ["w1 w2 w3 w4 w5", "w6 w7", "w8 w9 w10"]
LENGTHS = torch.tensor([6, 3, 4])  # with BOS
PAD = 205  # </s>


def vector(model, layer=1, seed=0, size=3.0) -> FunctionVector:
    lens = lens_of(model)
    values = torch.randn(lens.d_model, generator=torch.Generator().manual_seed(seed)) * size
    return FunctionVector(values, layer, model=lens.name, processing=lens.processing)


def prompts(rows=2, length=6) -> torch.Tensor:
    return torch.randint(0, 200, (rows, length), generator=torch.Generator().manual_seed(1))


def padded(side: str, rows=3, length=6) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Padded ids, their mask, and the column of each row's last token."""
    ids, lengths = prompts(rows, length), [length, 3, 4][:rows]
    mask = torch.stack([torch.arange(length) < n for n in lengths]).long()
    mask = mask.flip(1) if side == "left" else mask
    last = [n - 1 for n in lengths] if side == "right" else [length - 1] * rows
    return torch.where(mask == 1, ids, PAD), mask, last


def adding(fv, columns, strength=1.0):
    """The oracle: a TransformerLens hook that adds the vector in each row's column."""

    def add(x, hook):
        x = x.clone()
        for row, column in enumerate(columns):
            for c in column if isinstance(column, list) else [column]:
                x[row, c] += strength * fv.vector
        return x

    return [(f"blocks.{fv.layer}.hook_resid_post", add)]


def oracle(model, tokens, fv, columns, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=adding(fv, columns), **kwargs)


def run(model, tokens, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens, **kwargs)


def same(a, b):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= 1e-5


def greedy(model, tokens, fv, last: list[int], n: int, every=False, mask=None) -> torch.Tensor:
    """The oracle of generation: full forwards with the vector added at the same columns again."""
    start = tokens.shape[1]
    for _ in range(n):
        new = list(range(start, tokens.shape[1])) if every else []
        more = {} if mask is None else {"attention_mask": mask}
        logits = oracle(model, tokens, fv, [[column, *new] for column in last], **more)
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], 1)
        mask = None if mask is None else torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return tokens


def is_bridge(model) -> bool:
    return hasattr(model, "original_model")


GREEDY = dict(do_sample=False, stop_at_eos=False)


# One forward


def test_the_layer_before_is_untouched_and_the_layer_at_it_is_clean_plus_vector(model):
    fv, tokens = vector(model), prompts()
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    _, clean = model.run_with_cache(tokens, names_filter=names)
    with patch(model, fv, strength=2.0):
        logits, patched = model.run_with_cache(tokens, names_filter=names)
    assert torch.equal(patched[names[0]], clean[names[0]])
    assert torch.equal(patched[names[1]][:, :-1], clean[names[1]][:, :-1])
    assert torch.equal(patched[names[1]][:, -1], clean[names[1]][:, -1] + 2.0 * fv.vector)
    assert torch.equal(patched[names[2]][:, :-1], clean[names[2]][:, :-1])
    assert not torch.allclose(patched[names[2]][:, -1], clean[names[2]][:, -1])
    same(logits, model.run_with_hooks(tokens, fwd_hooks=adding(fv, [-1, -1], 2.0)))


@pytest.mark.parametrize("layer", [0, 2])
def test_first_and_last_layer(model, layer):
    fv, tokens = vector(model, layer), prompts()
    with patch(model, fv):
        patched = run(model, tokens)
    same(patched, oracle(model, tokens, fv, [-1, -1]))


def test_strength_zero_changes_nothing_bit_for_bit(model):
    tokens = prompts()
    clean = run(model, tokens), model.run_with_cache(tokens)[1], model.generate(tokens, 3, verbose=False, **GREEDY)
    with patch(model, vector(model), strength=0):
        patched = run(model, tokens), model.run_with_cache(tokens)[1], model.generate(tokens, 3, verbose=False, **GREEDY)
    assert torch.equal(patched[0], clean[0])
    assert torch.equal(patched[2], clean[2])
    assert set(patched[1]) == set(clean[1])
    assert all(torch.equal(patched[1][name], clean[1][name]) for name in clean[1] if clean[1][name] is not None)


@pytest.mark.parametrize("side", ["left", "right", None])
def test_strings_of_different_lengths(model, side):
    fv, more = vector(model), {} if side is None else {"padding_side": side}
    side = side or model.tokenizer.padding_side
    last = (LENGTHS - 1).tolist() if side == "right" else [5, 5, 5]
    tokens = model.to_tokens(TEXTS, **more)
    with patch(model, fv):
        assert torch.equal(model.to_tokens(TEXTS, **more), tokens)
        patched = run(model, TEXTS, **more)
        _, cache = model.run_with_cache(TEXTS, names_filter="blocks.1.hook_resid_post", **more)
    clean = run(model, TEXTS, **more)
    same(patched, oracle(model, TEXTS, fv, last, **more))
    changed = (patched != clean).any(-1)
    for row, column in enumerate(last):
        assert changed[row, column] and not changed[row, :column].any()
    same(cache["blocks.1.hook_resid_post"][range(3), last] - fv.vector, residual(model, TEXTS, more)[range(3), last])


def residual(model, tokens, more):
    return model.run_with_cache(tokens, names_filter="blocks.1.hook_resid_post", **more)[1]["blocks.1.hook_resid_post"]


def test_the_tokenizers_own_padding_side(model):
    fv, before = vector(model), model.tokenizer.padding_side
    try:
        for side, last in ("left", [5, 5, 5]), ("right", (LENGTHS - 1).tolist()):
            model.tokenizer.padding_side = side
            with patch(model, fv):
                patched = run(model, TEXTS)
            same(patched, oracle(model, TEXTS, fv, last))
    finally:
        model.tokenizer.padding_side = before


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[:1], [TEXTS[1], TEXTS[1]]])
def test_one_string_and_strings_of_one_length(model, text):
    fv = vector(model)
    with patch(model, fv):
        patched = run(model, text)
    same(patched, oracle(model, text, fv, [-1] * (len(text) if isinstance(text, list) else 1)))


def test_strings_without_bos(model):
    fv = vector(model)
    with patch(model, fv):
        patched = run(model, TEXTS, prepend_bos=False, padding_side="right")
    same(patched, oracle(model, TEXTS, fv, [4, 1, 2], prepend_bos=False, padding_side="right"))


@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.float32])
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_attention_mask_says_where_prompts_end(llama, side, kind):
    fv, (tokens, mask, last) = vector(llama), padded(side)
    with patch(llama, fv):
        patched = run(llama, tokens, attention_mask=mask.to(kind))
    same(patched, oracle(llama, tokens, fv, last, attention_mask=mask.to(kind)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_attention_mask_on_every_architecture(model, side):
    fv, (tokens, mask, last) = vector(model), padded(side)
    with patch(model, fv):
        patched = run(model, tokens, attention_mask=mask)
        text = run(model, TEXTS, attention_mask=mask, padding_side=side)
    same(patched, oracle(model, tokens, fv, last, attention_mask=mask))
    same(text, oracle(model, TEXTS, fv, last, attention_mask=mask, padding_side=side))


def test_a_tensor_without_a_mask_is_unpadded(model):
    fv, (tokens, _, _) = vector(model), padded("right")
    with patch(model, fv):
        patched = run(model, tokens)
        alone = run(model, tokens[0])
        generated = model.generate(tokens, 2, verbose=False, **GREEDY)
    same(patched, oracle(model, tokens, fv, [5, 5, 5]))
    same(alone, oracle(model, tokens[:1], fv, [5]))
    with model.hooks(fwd_hooks=adding(fv, [5, 5, 5])):
        assert torch.equal(generated, model.generate(tokens, 2, use_past_kv_cache=False, verbose=False, **GREEDY))


def test_gradients_flow(model):
    fv, tokens = vector(model), prompts()
    weight = model.blocks[0].attn.W_O if not is_bridge(model) else next(model.original_model.parameters())
    gradients = []
    for patched in True, False:
        if patched:
            with patch(model, fv):
                logits = model(tokens)
        else:
            logits = model.run_with_hooks(tokens, fwd_hooks=adding(fv, [-1, -1]))
        gradients += torch.autograd.grad(logits[:, -1].logsumexp(-1).sum(), weight)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_activation_keeps_its_dtype():
    model = tiny.build("llama").to(torch.bfloat16)
    fv, seen = vector(model), []
    tokens = prompts()
    with patch(model, fv, strength=0.1):
        hook = [("blocks.1.hook_resid_post", lambda x, hook: seen.append(x))]
        logits = model.run_with_hooks(tokens, fwd_hooks=hook)
    clean = residual(model, tokens, {})
    assert logits.dtype == seen[0].dtype == torch.bfloat16
    assert torch.equal(seen[0][:, -1], clean[:, -1] + (0.1 * fv.vector).to(torch.bfloat16))


def test_embeddings_and_residuals(model):
    fv, tokens = vector(model), prompts()
    with patch(model, fv):
        stopped = run(model, tokens, stop_at_layer=2)
        below = run(model, tokens, stop_at_layer=1)
    name = "blocks.0.hook_resid_post"
    assert torch.equal(below, model.run_with_cache(tokens, names_filter=name)[1][name])
    same(stopped, oracle(model, tokens, fv, [-1, -1], stop_at_layer=2))
    if is_bridge(model) and tiny.HOOKED_INSTALLED:
        return  # TransformerBridge 3.9 has no start_at_layer
    x = model.run_with_cache(tokens, names_filter="blocks.1.hook_resid_pre")[1]["blocks.1.hook_resid_pre"]
    with patch(model, fv):
        patched = run(model, x, start_at_layer=1)
        skipped = run(model, x, start_at_layer=2)
    same(patched, oracle(model, x, fv, [-1, -1], start_at_layer=1))
    if not is_bridge(model):
        assert torch.equal(skipped, run(model, x, start_at_layer=2))


# A cached prefix


def with_cache(model, tokens, cache, **kwargs):
    name = "past_key_values" if is_bridge(model) else "past_kv_cache"
    more = {"use_cache": True} if is_bridge(model) else {}
    return run(model, tokens, **{name: cache}, **more, **kwargs)


def empty_cache(model, rows):
    if is_bridge(model):
        return DynamicCache()
    from transformer_lens import HookedTransformerKeyValueCache

    return HookedTransformerKeyValueCache.init_cache(model.cfg, model.cfg.device, rows)


@pytest.mark.parametrize("split", [1, 4, 5])
def test_a_cached_prefix(model, split):
    fv, tokens, cache = vector(model), prompts(), empty_cache(model, 2)
    with_cache(model, tokens[:, :split], cache)
    with patch(model, fv):
        patched = with_cache(model, tokens[:, split:], cache)
    same(patched, oracle(model, tokens, fv, [-1, -1])[:, split:])


def test_a_cached_prefix_of_left_padded_prompts(model):
    fv, (tokens, mask, last) = vector(model), padded("left")
    cache = empty_cache(model, 3)
    positions = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if is_bridge(model) else {}
    with_cache(model, tokens[:, :4], cache, attention_mask=mask[:, :4], **{k: v[:, :4] for k, v in positions.items()})
    rest = mask if is_bridge(model) else mask[:, 4:]
    with patch(model, fv):
        patched = with_cache(
            model, tokens[:, 4:], cache, attention_mask=rest, **{k: v[:, 4:] for k, v in positions.items()}
        )
    same(patched[:, -1], oracle(model, tokens, fv, last, attention_mask=mask)[:, -1])


def test_a_prompt_that_ended_in_the_cached_prefix_gets_nothing(llama):
    fv, (tokens, mask, _) = vector(llama), padded("right")
    cache = empty_cache(llama, 3)
    with_cache(llama, tokens[:, :4], cache, attention_mask=mask[:, :4])
    with patch(llama, fv):
        name = "blocks.1.hook_resid_post"
        more = dict(attention_mask=mask, past_key_values=cache, use_cache=True)
        _, patched = llama.run_with_cache(tokens[:, 4:], names_filter=name, **more)
    cache.crop(-2)
    _, clean = llama.run_with_cache(tokens[:, 4:], names_filter=name, **more)
    added = patched[name] - clean[name]
    same(added[0], torch.stack([torch.zeros(32), fv.vector]))
    assert not added[1:].any()


# Generation


@pytest.mark.parametrize("tokens", ["last", "every"])
@pytest.mark.parametrize("cached", [True, False])
def test_generate(model, cached, tokens):
    fv, ids = vector(model), prompts()
    expected = greedy(model, ids, fv, [5, 5], 5, every=tokens == "every")
    with patch(model, fv, tokens=tokens):
        generated = model.generate(ids, 5, use_past_kv_cache=cached, verbose=False, **GREEDY)
        text = model.generate(
            TEXTS[0], 4, use_past_kv_cache=cached, verbose=False, return_type="tokens", **GREEDY
        )
    assert torch.equal(generated, expected)
    ids = model.to_tokens(TEXTS[0])
    assert torch.equal(text, greedy(model, ids, fv, [5], 4, every=tokens == "every"))


def test_last_and_every_and_clean_differ(llama):
    fv, ids = vector(llama), prompts()
    outputs = [llama.generate(ids, 6, verbose=False, **GREEDY)]
    for tokens in "last", "every":
        with patch(llama, fv, tokens=tokens):
            outputs.append(llama.generate(ids, 6, verbose=False, **GREEDY))
    assert len({str(output.tolist()) for output in outputs}) == 3


@pytest.mark.parametrize("tokens", ["last", "every"])
@pytest.mark.parametrize("cached", [True, False])
def test_generate_from_strings_of_different_lengths(model, cached, tokens):
    fv = vector(model)
    with patch(model, fv, tokens=tokens):
        generated = model.generate(
            TEXTS, 4, use_past_kv_cache=cached, verbose=False, return_type="tokens", **GREEDY
        )
    ids = model.to_tokens(TEXTS, padding_side="left")
    mask = torch.stack([torch.arange(6) >= 6 - n for n in LENGTHS]).long()
    assert torch.equal(generated, greedy(model, ids, fv, [5, 5, 5], 4, every=tokens == "every", mask=mask))


@pytest.mark.parametrize("method", ["generate", "generate_stream", "hf_generate"])
@pytest.mark.parametrize("tokens", ["last", "every"])
def test_generate_with_a_mask(llama, tokens, method):
    fv, (ids, mask, last) = vector(llama), padded("left")
    expected = greedy(llama, ids, fv, last, 4, every=tokens == "every", mask=mask)
    for cached in True, False:
        more = {"use_cache": cached} if method == "hf_generate" else {"use_past_kv_cache": cached, "verbose": False}
        if "attention_mask" not in inspect.signature(getattr(llama, method)).parameters and method != "hf_generate":
            pytest.skip("this TransformerLens takes no mask here")
        with patch(llama, fv, tokens=tokens):
            output = getattr(llama, method)(ids, 4, attention_mask=mask, **more, **GREEDY)
            output = torch.cat(list(output), 1) if method == "generate_stream" else output
        assert torch.equal(output, expected)


def test_a_right_padding_mask_in_generate(llama):
    """The new tokens then stand behind the padding; the vector is still at the last prompt token."""
    fv, (ids, mask, last) = vector(llama), padded("right")
    seen, name = [], "blocks.1.hook_resid_post"

    def look(x, hook):
        seen.append(x)

    for strength in 1.0, 0.0:
        with patch(llama, fv, strength), llama.hooks(fwd_hooks=[(name, look)]):
            llama.generate(ids, 1, attention_mask=mask, verbose=False, **GREEDY)
    added = (seen[0] - seen[1]).any(-1)
    assert added.nonzero().tolist() == [[row, column] for row, column in enumerate(last)]


def test_padding_side_in_generate_reads_the_padding_off_the_tokens(llama):
    fv, (ids, mask, last) = vector(llama), padded("left")
    with patch(llama, fv):
        generated = llama.generate(ids, 3, padding_side="left", verbose=False, **GREEDY)
    assert torch.equal(generated, greedy(llama, ids, fv, last, 3, mask=mask))


@pytest.mark.parametrize("tokens", ["last", "every"])
@pytest.mark.parametrize("cached", [True, False])
def test_generate_stream_with_forwards_between_its_pieces(model, cached, tokens):
    fv, ids, other = vector(model), prompts(1), prompts(3, 4)
    expected = greedy(model, ids, fv, [5], 5, every=tokens == "every")
    pieces = []
    with patch(model, fv, tokens=tokens):
        stream = model.generate_stream(
            ids, 5, max_tokens_per_yield=1, use_past_kv_cache=cached, verbose=False, **GREEDY
        )
        for piece in stream:
            pieces.append(piece)
            same(run(model, other), oracle_in_patch(model, other))
    assert torch.equal(torch.cat(pieces, 1), expected)
    same(run(model, other), run(model, other))


def oracle_in_patch(model, tokens):
    """The patched forward, with the patch held off and a hook in its place."""
    lens = lens_of(model)
    (active,) = lens.patches
    now, active.watch.now = active.watch.now, None
    try:
        assert now is None  # between two pieces nothing is at work
        blocks = [hook for hook in lens.points["blocks.1.hook_resid_post"]._forward_hooks.values()]
        assert len(blocks) == 1
        return run(model, tokens)
    finally:
        active.watch.now = now
