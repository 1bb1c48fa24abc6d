"""A patch against the plain way: a TransformerLens hook that adds the vector at columns written down by hand."""

import pytest
import torch
from transformers import DynamicCache

from fv_lens.vectors.patching import patch

from .. import tiny
from .patched import (
    AT,
    GREEDY,
    SIDES,
    TEXTS,
    WORDS,
    adding,
    assert_same,
    cached,
    empty_cache,
    is_bridge,
    last_columns,
    oracle,
    padded,
    prompts,
    residual,
    run,
    text_lengths,
    vector,
)


@tiny.FAMILIES
def test_the_layer_before_is_untouched_and_the_layer_at_it_is_clean_plus_vector(model):
    fv, tokens = vector(model), prompts()
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    _, clean = model.run_with_cache(tokens, names_filter=names)
    with patch(model, fv, strength=2.0):
        logits, patched = model.run_with_cache(tokens, names_filter=names)
    before, at, after = names
    assert torch.equal(patched[before], clean[before])
    assert torch.equal(patched[at][:, :-1], clean[at][:, :-1])
    assert torch.equal(patched[at][:, -1], clean[at][:, -1] + 2.0 * fv.vector)
    assert torch.equal(patched[after][:, :-1], clean[after][:, :-1])
    assert not torch.allclose(patched[after][:, -1], clean[after][:, -1])
    assert_same(logits, model.run_with_hooks(tokens, fwd_hooks=adding(fv, [-1, -1], 2.0)))


@pytest.mark.parametrize("layer", [0, 2])
def test_the_first_and_the_last_layer(model, layer):
    fv, tokens = vector(model, layer), prompts()
    with patch(model, fv):
        patched = run(model, tokens)
    assert_same(patched, oracle(model, tokens, fv, [-1, -1]))


def test_strength_zero_changes_nothing_bit_for_bit(model):
    tokens = prompts()

    def outputs():
        return model.run_with_cache(tokens), model.generate(tokens, 3, verbose=False, **GREEDY)

    (logits, cache), generated = outputs()
    with patch(model, vector(model), strength=0):
        (patched_logits, patched_cache), patched_generated = outputs()
    assert torch.equal(patched_logits, logits)
    assert torch.equal(patched_generated, generated)
    assert set(patched_cache) == set(cache)
    assert all(torch.equal(patched_cache[name], cache[name]) for name in cache)


def test_strength_zero_keeps_the_sign_of_a_zero(llama):
    """-0. + 0. is +0., so even an added zero would change something."""
    with llama.hooks(fwd_hooks=[(AT, lambda x, hook: -torch.zeros_like(x))]), patch(llama, vector(llama), strength=0):
        assert torch.signbit(residual(llama, prompts())).all()


@SIDES
def test_strings_padded_on_either_side(model, side):
    fv, lengths = vector(model), text_lengths(model)
    last, tokens = last_columns(lengths, side), model.to_tokens(TEXTS, padding_side=side)
    clean = run(model, TEXTS, padding_side=side)
    with patch(model, fv):
        assert torch.equal(model.to_tokens(TEXTS, padding_side=side), tokens)
        patched, at = run(model, TEXTS, padding_side=side), residual(model, TEXTS, padding_side=side)
    assert_same(patched, oracle(model, TEXTS, fv, last, padding_side=side))
    assert_same(at[range(3), last], residual(model, TEXTS, padding_side=side)[range(3), last] + fv.vector)
    changed = (patched != clean).any(-1)
    for row, (column, length) in enumerate(zip(last, lengths)):  # padding itself may see what comes after it
        assert changed[row, column] and not changed[row, column - length + 1 : column].any()


@SIDES
def test_strings_padded_on_the_tokenizers_own_side(model, side):
    fv, before = vector(model), model.tokenizer.padding_side
    try:
        model.tokenizer.padding_side = side
        with patch(model, fv):
            patched = run(model, TEXTS)
        assert_same(patched, oracle(model, TEXTS, fv, last_columns(text_lengths(model), side)))
    finally:
        model.tokenizer.padding_side = before


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[:1], [TEXTS[1], TEXTS[1]]])
def test_one_string_and_strings_of_one_length(model, text):
    fv = vector(model)
    with patch(model, fv):
        patched = run(model, text)
        _, cache = model.run_with_cache(text, names_filter=AT)
    rows = len(text) if isinstance(text, list) else 1
    assert_same(patched, oracle(model, text, fv, [-1] * rows))
    assert_same(cache[AT][:, -1], residual(model, text)[:, -1] + fv.vector)


@pytest.mark.parametrize("bos", [True, False])
def test_strings_with_and_without_bos(model, bos):
    fv, more = vector(model), dict(prepend_bos=bos, padding_side="right")
    with patch(model, fv):
        patched = run(model, TEXTS, **more)
    assert_same(patched, oracle(model, TEXTS, fv, [n - 1 + bos for n in WORDS], **more))


@tiny.FAMILIES
@SIDES
def test_an_attention_mask_says_where_prompts_end(model, side):
    fv, (tokens, mask, last) = vector(model), padded(side)
    with patch(model, fv):
        patched = run(model, tokens, attention_mask=mask)
    assert_same(patched, oracle(model, tokens, fv, last, attention_mask=mask))


@pytest.mark.parametrize("hidden", [0, 1])
def test_an_attention_mask_of_strings_decides_over_their_lengths(model, hidden):
    fv, ends = vector(model), [n - hidden for n in text_lengths(model)]
    mask = torch.stack([torch.arange(max(ends) + hidden) < end for end in ends]).long()
    more = dict(attention_mask=mask, padding_side="right")
    with patch(model, fv):
        patched = run(model, TEXTS, **more)
    assert_same(patched, oracle(model, TEXTS, fv, last_columns(ends, "right"), **more))


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_a_mask_may_be_of_any_type(llama, kind):
    fv, (tokens, mask, last) = vector(llama), padded("right")
    with patch(llama, fv):
        patched = run(llama, tokens, attention_mask=mask.to(kind))
    assert_same(patched, oracle(llama, tokens, fv, last, attention_mask=mask.to(kind)))


def test_a_tensor_without_a_mask_is_unpadded(model):
    fv, (tokens, _, _) = vector(model), padded("right")
    with patch(model, fv):
        patched, alone = run(model, tokens), run(model, tokens[1])
    assert_same(patched, oracle(model, tokens, fv, [5, 5, 5]))
    assert_same(alone, oracle(model, tokens[1:2], fv, [5]))
    with model.hooks(fwd_hooks=adding(fv, [5, 5, 5])):
        expected = model.generate(tokens, 2, use_past_kv_cache=False, verbose=False, **GREEDY)
    with patch(model, fv):
        assert torch.equal(model.generate(tokens, 2, verbose=False, **GREEDY), expected)


def test_stop_at_layer(model):
    fv, tokens = vector(model), prompts()
    with patch(model, fv):
        below, above = run(model, tokens, stop_at_layer=1), run(model, tokens, stop_at_layer=2)
        whole = run(model, tokens)
    assert torch.equal(below, residual(model, tokens, "blocks.0.hook_resid_post"))
    assert_same(above, oracle(model, tokens, fv, [-1, -1], stop_at_layer=2))
    assert_same(whole, oracle(model, tokens, fv, [-1, -1]))


def test_start_at_layer(model):
    if is_bridge(model) and tiny.HOOKED_INSTALLED:
        pytest.skip("TransformerBridge 3.9 has no start_at_layer")
    fv, x = vector(model), residual(model, prompts(), "blocks.0.hook_resid_post")
    if not torch.allclose(run(model, x, start_at_layer=1), run(model, prompts()), atol=1e-5):
        pytest.skip("this architecture's start_at_layer is not its forward")
    clean = run(model, x, start_at_layer=2)
    with patch(model, fv):
        patched, above = run(model, x, start_at_layer=1), run(model, x, start_at_layer=2)
    assert_same(patched, oracle(model, x, fv, [-1, -1], start_at_layer=1))
    assert_same(above, clean)


def test_gradients_flow(model):
    fv, tokens = vector(model), prompts()
    weight = next(model.original_model.parameters()) if is_bridge(model) else model.W_E
    with patch(model, fv):
        logits = model(tokens)
    (gradient,) = torch.autograd.grad(logits[:, -1].logsumexp(-1).sum(), weight)
    logits = model.run_with_hooks(tokens, fwd_hooks=adding(fv, [-1, -1]))
    (expected,) = torch.autograd.grad(logits[:, -1].logsumexp(-1).sum(), weight)
    assert expected.any()
    torch.testing.assert_close(gradient, expected)


@pytest.mark.slow
def test_the_activation_keeps_its_dtype():
    model = tiny.build("llama").to(torch.bfloat16)
    fv, tokens = vector(model), prompts()
    clean = residual(model, tokens)
    with patch(model, fv, strength=0.1):
        patched, logits = residual(model, tokens), run(model, tokens)
    assert patched.dtype == logits.dtype == torch.bfloat16
    assert torch.equal(patched[:, -1], clean[:, -1] + (0.1 * fv.vector).to(torch.bfloat16))


# A cached prefix


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("split", [1, 4, 5])
def test_behind_a_cached_prefix(model, split):
    fv, tokens, cache = vector(model), prompts(), empty_cache(model, 2)
    run(model, tokens[:, :split], **cached(model, cache))
    with patch(model, fv):
        patched = run(model, tokens[:, split:], **cached(model, cache))
    assert_same(patched, oracle(model, tokens, fv, [5, 5])[:, split:])


@SIDES
def test_behind_a_cached_prefix_of_padded_prompts(model, side):
    fv, (tokens, mask, last) = vector(model), padded(side)
    cache = empty_cache(model, 3)
    run(model, tokens[:, :3], **cached(model, cache, mask[:, :3], new=3))
    with patch(model, fv):
        patched = run(model, tokens[:, 3:], **cached(model, cache, mask, new=3))
    expected = oracle(model, tokens, fv, last, attention_mask=mask)[:, 3:]
    assert_same(patched[mask[:, 3:] == 1], expected[mask[:, 3:] == 1])


@pytest.mark.slow
def test_a_prompt_that_ended_in_the_cached_prefix_gets_nothing(llama):
    (tokens, mask, _), name = padded("right"), AT
    runs = []
    for strength in 1, 0:
        cache = DynamicCache()
        run(llama, tokens[:, :3], **cached(llama, cache, mask[:, :3], new=3))
        with patch(llama, vector(llama), strength):
            runs.append(residual(llama, tokens[:, 3:], name, **cached(llama, cache, mask, new=3)))
    assert (runs[0] != runs[1]).any(-1).nonzero().tolist() == [[0, 2], [2, 0]]  # prompts of 6, 3 and 4 tokens


def test_strings_behind_a_cached_prefix(model):
    fv, cache = vector(model), empty_cache(model, 3)
    more, n = dict(prepend_bos=False, padding_side="right"), 4
    prefix = prompts(3, n)
    run(model, prefix, **cached(model, cache))
    with patch(model, fv):
        patched = run(model, TEXTS, **more, **cached(model, cache))
    whole = torch.cat([prefix, model.to_tokens(TEXTS, **more)], 1)
    expected = oracle(model, whole, fv, [n + length - 1 for length in WORDS])[:, n:]
    for row, length in enumerate(WORDS):
        assert_same(patched[row, :length], expected[row, :length])


@pytest.mark.slow
def test_strings_padded_on_the_left_behind_a_cached_prefix(model):
    runs, more = [], dict(prepend_bos=False, padding_side="left")
    for strength in 1, 0:
        cache = empty_cache(model, 2)
        run(model, prompts(2, 4), **cached(model, cache))
        with patch(model, vector(model), strength):
            runs.append(residual(model, [TEXTS[0], TEXTS[0]], **more, **cached(model, cache)))
    assert (runs[0] != runs[1]).any(-1).nonzero().tolist() == [[0, 4], [1, 4]]
