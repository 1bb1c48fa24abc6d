"""Generation under a patch against full forwards, the vector added at the same columns each time."""

import inspect

import pytest
import torch

from fv_lens.ground.errors import InputError
from fv_lens.vectors.patching import patch

from .patched import (
    AT,
    CACHED,
    GREEDY,
    PAD,
    TEXTS,
    TOKENS,
    adding,
    assert_same,
    greedy,
    is_bridge,
    oracle,
    padded,
    prompts,
    residual,
    run,
    text_lengths,
    vector,
)


@pytest.mark.slow(but=1)
@TOKENS
def test_generate(model, tokens):
    fv, every = vector(model), tokens == "every"
    left = model.to_tokens(TEXTS, padding_side="left")
    width = left.shape[1]
    mask = torch.stack([torch.arange(width) >= width - n for n in text_lengths(model)]).long()
    expected = [
        greedy(model, prompts(), fv, [5, 5], 3, every),
        greedy(model, left[:1], fv, [width - 1], 3, every),
        greedy(model, left, fv, [width - 1] * 3, 3, every, mask),
    ]
    for cached in True, False:
        more = dict(use_past_kv_cache=cached, return_type="tokens", verbose=False, **GREEDY)
        with patch(model, fv, tokens=tokens):
            generated = [model.generate(given, 3, **more) for given in (prompts(), TEXTS[0], TEXTS)]
        assert all(torch.equal(a, b) for a, b in zip(generated, expected, strict=True))


@pytest.mark.slow
def test_last_and_every_and_clean_differ(llama):
    outputs = [llama.generate(prompts(), 6, verbose=False, **GREEDY)]
    for tokens in "last", "every":
        with patch(llama, vector(llama), tokens=tokens):
            outputs.append(llama.generate(prompts(), 6, verbose=False, **GREEDY))
    assert len({str(output.tolist()) for output in outputs}) == 3


@pytest.mark.slow(but=1)
@CACHED
def test_the_tokens_that_generate_adds_at(model, cached):
    """Every forward of `generate` against a clean one over the same tokens."""
    fv, ids, seen = vector(model, layer=2), prompts(), []
    with patch(model, fv), model.hooks(fwd_hooks=[("blocks.2.hook_resid_post", lambda x, hook: seen.append(x))]):
        model.generate(ids, 3, use_past_kv_cache=cached, verbose=False, **GREEDY)
    tokens = greedy(model, ids, fv, [5, 5], 3, every=False)
    clean, start = residual(model, tokens, "blocks.2.hook_resid_post"), 0
    for x in seen:
        expected = clean[:, start : start + x.shape[1]].clone()
        if start <= 5:
            expected[:, 5 - start] += fv.vector
        assert_same(x, expected)
        start += x.shape[1] if cached else 0
    assert [x.shape[1] for x in seen] == ([6, 1, 1] if cached else [6, 7, 8])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["generate", "generate_stream", "hf_generate"])
@TOKENS
def test_generate_with_a_mask(llama, tokens, method):
    fv, (ids, mask, last) = vector(llama), padded("left")
    if method == "generate_stream" and "attention_mask" not in inspect.signature(llama.generate_stream).parameters:
        pytest.skip("this TransformerLens takes no mask here")
    expected = greedy(llama, ids, fv, last, 4, tokens == "every", mask)
    for cached in True, False:
        more = {"use_cache": cached} if method == "hf_generate" else {"verbose": False}
        more |= dict(attention_mask=mask, use_past_kv_cache=cached)
        with patch(llama, fv, tokens=tokens):
            output = getattr(llama, method)(ids, 4, **more, **GREEDY)
            output = torch.cat(list(output), 1) if method == "generate_stream" else output
        assert torch.equal(output, expected)


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("told", ["mask", "side"])
def test_generate_behind_padding_on_the_right(llama, told):
    """The new tokens then stand behind the padding; the vector is still at the last token of each prompt."""
    fv, (ids, mask, last), seen = vector(llama), padded("right"), []
    more = dict(attention_mask=mask) if told == "mask" else dict(padding_side="right")
    for strength in 1.0, 0.0:
        with patch(llama, fv, strength), llama.hooks(fwd_hooks=[(AT, lambda x, hook: seen.append(x))]):
            llama.generate(ids, 2, use_past_kv_cache=False, verbose=False, **more, **GREEDY)
    assert len(seen) == 4
    assert (seen[0] != seen[2]).any(-1).nonzero().tolist() == [[row, column] for row, column in enumerate(last)]
    assert_same(seen[1][range(3), last], seen[3][range(3), last] + fv.vector)


def test_a_padding_side_in_generate_reads_the_padding_off_the_tokens(llama):
    fv, (ids, mask, last) = vector(llama), padded("left")
    with patch(llama, fv):
        generated = llama.generate(ids, 3, padding_side="left", verbose=False, **GREEDY)
    assert torch.equal(generated, greedy(llama, ids, fv, last, 3, False, mask))


@pytest.mark.slow(but=1)
@CACHED
def test_a_prompt_that_ends_in_the_pad_token_is_not_padded(model, cached):
    fv, text = vector(model), "w1 w2 </s>"
    ids, seen = model.to_tokens(text), []
    assert ids[0, -1] == PAD
    more = dict(use_past_kv_cache=cached, verbose=False, **GREEDY)
    for strength in 1, 0:
        with patch(model, fv, strength), model.hooks(fwd_hooks=[(AT, lambda x, hook: seen.append(x))]):
            model.generate(text, 1, **more)
    assert (seen[0] != seen[1]).any(-1).nonzero().tolist() == [[0, ids.shape[1] - 1]]


@pytest.mark.slow
@TOKENS
@CACHED
def test_generate_stream_with_forwards_between_its_pieces(model, cached, tokens):
    fv, ids, other = vector(model), prompts(1), prompts(3, 4)
    expected = greedy(model, ids, fv, [5], 4, tokens == "every")
    between, pieces = oracle(model, other, fv, [3, 3, 3]), []
    more = dict(max_tokens_per_yield=1, use_past_kv_cache=cached, verbose=False, **GREEDY)
    with patch(model, fv, tokens=tokens):
        for piece in model.generate_stream(ids, 4, **more):
            pieces.append(piece)
            assert_same(run(model, other), between)
    assert torch.equal(torch.cat(pieces, 1), expected)


@pytest.mark.slow
def test_a_stream_left_early_and_one_that_outlives_its_patch(model):
    fv, ids, clean = vector(model), prompts(1), run(model, prompts(1))
    patched, expected = oracle(model, ids, fv, [5]), greedy(model, ids, fv, [5], 3, False)
    more = dict(max_tokens_per_yield=1, verbose=False, **GREEDY)
    with patch(model, fv):
        next(model.generate_stream(ids, 5, **more))
        assert_same(run(model, ids), patched)
        stream = model.generate_stream(ids, 3, **more)
        first = next(stream)
    assert torch.equal(torch.cat([first, *stream], 1), expected)
    assert torch.equal(run(model, ids), clean)


@pytest.mark.slow
def test_generate_from_embeddings(llama):
    fv, ids = vector(llama), prompts()
    embeddings = llama.original_model.get_input_embeddings()(ids).detach()
    expected = greedy(llama, ids, fv, [5, 5], 3, False)[:, 6:]
    with patch(llama, fv):
        assert torch.equal(llama.generate(embeddings, 3, verbose=False, **GREEDY), expected)
        network = llama.original_model.generate(inputs_embeds=embeddings, max_new_tokens=3, eos_token_id=None)
        assert torch.equal(network, expected)


def hf(model, ids, n=4, cached=True, **kwargs):
    more = GREEDY | {"use_past_kv_cache": cached, "use_cache": cached}
    return model.hf_generate(ids, n, return_type="tokens", **more, **kwargs)


@pytest.mark.slow(but=1)
@TOKENS
def test_hf_generate(model, tokens):
    if not is_bridge(model):
        pytest.skip("HookedTransformer has no hf_generate")
    fv, every = vector(model), tokens == "every"
    left = model.tokenizer(TEXTS, return_tensors="pt", padding=True, padding_side="left")
    left, mask = left["input_ids"], left["attention_mask"]
    last = left.shape[1] - 1
    expected = [
        greedy(model, prompts(), fv, [5, 5], 3, every),
        greedy(model, left[:1], fv, [last], 3, every),
        greedy(model, left, fv, [last] * 3, 3, every, mask),
    ]
    for cached in True, False:
        with patch(model, fv, tokens=tokens):
            generated = [hf(model, given, 3, cached) for given in (prompts(), TEXTS[0], TEXTS)]
            plain = model.original_model.generate(prompts(), max_new_tokens=3, use_cache=cached, eos_token_id=None)
        assert all(torch.equal(a, b) for a, b in zip([*generated, plain], [*expected, expected[0]], strict=True))


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("strategy", [dict(num_beams=3), dict(num_beams=4, num_return_sequences=2)], ids=str)
def test_beams(llama, strategy):
    fv, ids = vector(llama), prompts()
    with llama.hooks(fwd_hooks=adding(fv, [5] * 2 * strategy["num_beams"])):
        expected = hf(llama, ids, cached=False, **strategy)
    with patch(llama, fv):
        assert torch.equal(hf(llama, ids, **strategy), expected)


def test_beams_of_padded_prompts(llama):
    fv, (ids, mask, last) = vector(llama), padded("right")
    with llama.hooks(fwd_hooks=adding(fv, [column for column in last for _ in range(2)])):
        expected = hf(llama, ids, cached=False, num_beams=2, attention_mask=mask)
    with patch(llama, fv):
        assert torch.equal(hf(llama, ids, num_beams=2, attention_mask=mask), expected)


@pytest.mark.slow
@TOKENS
@pytest.mark.parametrize(
    "strategy",
    [dict(prompt_lookup_num_tokens=2), dict(prefill_chunk_size=4), dict(cache_implementation="static")],
    ids=str,
)
def test_candidates_chunks_and_preallocated_caches_write_what_greedy_search_does(llama, strategy, tokens):
    fv, ids = vector(llama), prompts(1).repeat(1, 2)
    if not torch.equal(hf(llama, ids, **strategy), hf(llama, ids)):
        pytest.skip("this TransformerLens generates something else in this way")
    with patch(llama, fv, tokens=tokens):
        generated = hf(llama, ids, **strategy)
    assert torch.equal(generated, greedy(llama, ids, fv, [11], 4, tokens == "every"))


def test_methods_without_a_last_prompt_token_are_refused_by_name(model):
    if not is_bridge(model):
        pytest.skip("HookedTransformer has no such method")
    with patch(model, vector(model)):
        with pytest.raises(InputError, match="diffusion_generate does not say which token is a prompt's last"):
            model.diffusion_generate(prompts())
        with pytest.raises(InputError, match="generate_batch does not say which token is a prompt's last"):
            model.original_model.generate_batch([[1, 2]])
    with pytest.raises(NotImplementedError, match="no native sampler"):
        model.diffusion_generate(prompts())


def test_no_generating_method_is_overlooked(model):
    names = [name for name in dir(type(model)) if "generat" in name and not name.startswith("_")]
    known = {"generate", "generate_stream", "hf_generate", "diffusion_generate"}
    assert set(names) <= known
    with patch(model, vector(model)):
        assert set(names) - set(model.__dict__) <= {"hf_generate"}
