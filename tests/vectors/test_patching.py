"""A patch against the plain way: a TransformerLens hook that adds the vector at columns written down by hand."""

import copy
import gc
import inspect

import pytest
import torch
from transformers import DynamicCache

from fv_lens.engine.whatif import what_if
from fv_lens.ground.errors import InputError, ParityError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.patching import patch
from fv_lens.vectors.positions import Prompts

from .. import tiny

TEXTS = ["w1 w2 w3 w4 w5", "w6 w7", "w8 w9 w10"]
WORDS = [5, 2, 3]
PAD = 205  # the tokenizer's, which is its end-of-sequence token as well
AT = "blocks.1.hook_resid_post"
GREEDY = dict(do_sample=False, stop_at_eos=False)
CACHED, TOKENS = pytest.mark.parametrize("cached", [True, False]), pytest.mark.parametrize("tokens", ["last", "every"])
SIDES = pytest.mark.parametrize("side", ["left", "right"])


@pytest.fixture(autouse=True)
def one_thread():
    """Matmuls as small as these only wait for a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


# One forward


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


def test_the_activation_keeps_its_dtype():
    model = tiny.build("llama").to(torch.bfloat16)
    fv, tokens = vector(model), prompts()
    clean = residual(model, tokens)
    with patch(model, fv, strength=0.1):
        patched, logits = residual(model, tokens), run(model, tokens)
    assert patched.dtype == logits.dtype == torch.bfloat16
    assert torch.equal(patched[:, -1], clean[:, -1] + (0.1 * fv.vector).to(torch.bfloat16))


# A cached prefix


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


def test_strings_padded_on_the_left_behind_a_cached_prefix(model):
    runs, more = [], dict(prepend_bos=False, padding_side="left")
    for strength in 1, 0:
        cache = empty_cache(model, 2)
        run(model, prompts(2, 4), **cached(model, cache))
        with patch(model, vector(model), strength):
            runs.append(residual(model, [TEXTS[0], TEXTS[0]], **more, **cached(model, cache)))
    assert (runs[0] != runs[1]).any(-1).nonzero().tolist() == [[0, 4], [1, 4]]


# Generation


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


def test_last_and_every_and_clean_differ(llama):
    outputs = [llama.generate(prompts(), 6, verbose=False, **GREEDY)]
    for tokens in "last", "every":
        with patch(llama, vector(llama), tokens=tokens):
            outputs.append(llama.generate(prompts(), 6, verbose=False, **GREEDY))
    assert len({str(output.tolist()) for output in outputs}) == 3


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
        with pytest.raises(InputError, match="diffusion_generate has no last prompt token"):
            model.diffusion_generate(prompts())
        with pytest.raises(InputError, match="generate_batch has no last prompt token"):
            model.original_model.generate_batch([[1, 2]])
    with pytest.raises(NotImplementedError, match="no native sampler"):
        model.diffusion_generate(prompts())


def test_no_generating_method_is_overlooked(model):
    names = [name for name in dir(type(model)) if "generat" in name and not name.startswith("_")]
    known = {"generate", "generate_stream", "hf_generate", "diffusion_generate"}
    assert set(names) <= known
    with patch(model, vector(model)):
        assert set(names) - set(model.__dict__) <= {"hf_generate"}


# What goes on while patched


def test_hooks_of_the_users_see_the_patched_model(model):
    fv, tokens, seen = vector(model), prompts(), []
    hooks = [(AT, lambda x, hook: seen.append(x)), ("blocks.2.hook_resid_post", lambda x, hook: 2 * x)]
    with patch(model, fv), torch.no_grad():
        patched = model.run_with_hooks(tokens, fwd_hooks=hooks)
    assert_same(seen[0][:, -1], residual(model, tokens)[:, -1] + fv.vector)
    assert_same(patched, model.run_with_hooks(tokens, fwd_hooks=adding(fv, [-1, -1]) + hooks[1:]))


def test_reset_hooks_leaves_the_patch_in_place(model):
    fv, tokens, clean = vector(model), prompts(), run(model, prompts())
    expected = oracle(model, tokens, fv, [-1, -1])
    with patch(model, fv):
        for _ in range(2):
            model.reset_hooks()
            assert_same(run(model, tokens), expected)
            model.run_with_hooks(tokens, fwd_hooks=[(AT, lambda x, hook: None)])
            model.run_with_cache(tokens)
        assert_same(run(model, tokens), expected)
    model.reset_hooks()
    assert torch.equal(run(model, tokens), clean)


@torch.no_grad()
def test_patches_add_up(model):
    a, b, c, tokens = vector(model), vector(model, seed=1), vector(model, layer=2, seed=2), prompts()
    one, two = adding(a, [-1, -1]), adding(b, [-1, -1], 0.5)
    three = adding(c, [-1, -1], 0.5)
    expected = [model.run_with_hooks(tokens, fwd_hooks=hooks) for hooks in (one, one + two, one + two + three)]
    with patch(model, a):
        with patch(model, b, strength=0.5):
            assert_same(run(model, tokens), expected[1])
        with patch(model, [b, c], strength=0.5):
            assert_same(run(model, tokens), expected[2])
        assert_same(run(model, tokens), expected[0])


def test_two_patches_of_one_vector_and_a_sum_of_vectors(llama):
    a, b, tokens = vector(llama), vector(llama, seed=1), prompts()
    with patch(llama, a + b):
        summed = run(llama, tokens)
    with patch(llama, [a, b]):
        assert_same(run(llama, tokens), summed)
    with patch(llama, a, strength=2):
        doubled = run(llama, tokens)
    with patch(llama, a), patch(llama, a):
        assert_same(run(llama, tokens), doubled)


@torch.no_grad()
def test_last_and_every_side_by_side(llama):
    a, b, tokens = vector(llama), vector(llama, seed=1, size=1.0), prompts(1)
    for n in range(4):
        hooks = adding(a, [5]) + adding(b, [list(range(5, 6 + n))])
        tokens = torch.cat([tokens, llama.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1:].argmax(-1)], 1)
    with patch(llama, a), patch(llama, b, tokens="every"):
        assert torch.equal(llama.generate(prompts(1), 4, verbose=False, **GREEDY), tokens)


def test_the_engine_refuses_to_run_while_patched(llama):
    def ask():
        ids = prompts()
        return what_if(lens_of(llama), ids, torch.ones_like(ids), [], lambda logits, prompt: logits[:, -1])

    with patch(llama, vector(llama)) as handle:
        assert lens_of(llama).patches == [handle]
        with pytest.raises(InputError, match="A patch is active on this model"):
            ask()
    assert ask().shape == (2, 1, 256)


def test_a_block_called_by_itself_is_not_patched(llama):
    """A block that takes no more than its input, so that it can be called without a forward around it."""
    point, x = lens_of(llama).points[AT], torch.randn(2, 6, 32)
    with patch(llama, vector(llama)):
        run(llama, prompts())
        assert torch.equal(point(x), x)


# Removal


def state(model) -> list:
    """Everything that a patch could leave behind."""
    patches = list(lens_of(model).patches)  # first, for a model that is met for the first time gets a state
    owners = [model, *([model.original_model] if is_bridge(model) else [])]
    modules = [module for owner in owners for module in owner.modules()]
    hooks = [[len(m._forward_hooks), len(m._forward_pre_hooks), len(getattr(m, "fwd_hooks", ()))] for m in modules]
    own = [set(m.__dict__) for m in modules]
    methods = [{name: id(value) for name, value in owner.__dict__.items() if callable(value)} for owner in owners]
    return [hooks, own, methods, patches]


def test_removal_restores_the_model_exactly(model):
    tokens, clean, before = prompts(), run(model, prompts()), state(model)
    handle = patch(model, vector(model))
    assert state(model) != before
    assert not torch.equal(run(model, tokens), clean)
    handle.remove()
    assert state(model) == before
    handle.remove()
    assert state(model) == before
    assert torch.equal(run(model, tokens), clean)
    with handle:  # too late: it is no longer active
        assert torch.equal(run(model, tokens), clean)


def test_removal_after_an_exception(model):
    model.generate(prompts(), 1, verbose=False, **GREEDY)  # leaves notes of TransformerLens' own on the model
    fv, tokens, clean, before = vector(model), prompts(), run(model, prompts()), state(model)
    expected = oracle(model, tokens, fv, [-1, -1])

    def fail(x, hook):
        raise RuntimeError("from the hook")

    with pytest.raises(RuntimeError, match="from the block"):
        with patch(model, [fv, vector(model, 0)]), patch(model, vector(model, 2)):
            raise RuntimeError("from the block")
    assert state(model) == before
    with patch(model, fv):
        for fails in model, lambda ids: model.generate(ids, 3, verbose=False, **GREEDY):
            with pytest.raises(RuntimeError, match="from the hook"), model.hooks(fwd_hooks=[(AT, fail)]):
                fails(tokens)
            assert_same(run(model, tokens), expected)
    assert state(model) == before
    assert torch.equal(run(model, tokens), clean)


def test_removal_in_any_order(model):
    a, b, c, tokens = vector(model), vector(model, seed=1), vector(model, layer=0), prompts()
    clean, before, expected = run(model, tokens), state(model), oracle(model, tokens, c, [-1, -1])
    first, second, third = patch(model, a), patch(model, b), patch(model, c)
    first.remove()
    second.remove()
    assert_same(run(model, tokens), expected)
    third.remove()
    assert state(model) == before
    assert torch.equal(run(model, tokens), clean)


def test_a_handle_that_nobody_keeps_stays_active(llama):
    clean = run(llama, prompts())
    patch(llama, vector(llama))
    gc.collect()
    assert not torch.equal(run(llama, prompts()), clean)
    lens_of(llama).patches[0].remove()
    assert torch.equal(run(llama, prompts()), clean)


def test_a_forward_that_the_network_already_had_is_put_back(llama):
    """Some tools, such as accelerate, give a module a forward of its own."""
    network, calls = llama.original_model, []
    plain = network.forward

    def counted(*args, **kwargs):
        calls.append(1)
        return plain(*args, **kwargs)

    network.__dict__["forward"] = counted
    try:
        with patch(llama, vector(llama)):
            run(llama, prompts())
        assert network.__dict__["forward"] is counted and len(calls) == 1
    finally:
        del network.__dict__["forward"]


# Errors


BAD_STRENGTHS = [float("nan"), float("inf"), "2", None, True]


@pytest.mark.parametrize("strength", BAD_STRENGTHS, ids=repr)
def test_a_strength_that_is_no_finite_number(llama, strength):
    with pytest.raises(InputError, match=f"strength is {strength!r}; give a finite number"):
        patch(llama, vector(llama), strength=strength)


@pytest.mark.parametrize("tokens", ["all", None, 3])
def test_unknown_tokens(llama, tokens):
    with pytest.raises(InputError, match=f"tokens is {tokens!r}; give 'last'"):
        patch(llama, vector(llama), tokens=tokens)


@pytest.mark.parametrize("fv, found", [(torch.zeros(32), "Tensor"), (None, "NoneType"), (["antonym"], "str")])
def test_something_else_than_a_function_vector(llama, fv, found):
    with pytest.raises(InputError, match=f"fv holds {found}; give a FunctionVector"):
        patch(llama, fv)


def test_no_vectors(llama):
    with pytest.raises(InputError, match="fv is an empty list"):
        patch(llama, [])


def test_a_layer_or_a_size_or_a_hook_point_that_the_model_does_not_have(llama):
    before, lens = state(llama), lens_of(llama)
    with pytest.raises(InputError, match="Layer 3 is outside 0..2 of tiny/llama"):
        patch(llama, [vector(llama), vector(llama, layer=3)])
    with pytest.raises(InputError, match="The vector has 5 numbers"):
        patch(llama, FunctionVector(torch.ones(5), 1, model=lens.name))
    with pytest.raises(InputError, match="tiny/llama has no hook point 'blocks.1.hook_nowhere'"):
        patch(llama, FunctionVector(torch.ones(32), 1, site="hook_nowhere", model=lens.name))
    assert state(llama) == before


def test_a_model_of_another_name_is_refused_and_another_spelling_is_a_warning(llama):
    with pytest.raises(InputError, match="made on 'other' and this model is 'tiny/llama'"):
        patch(llama, FunctionVector(torch.ones(32), 1, model="other"))
    with pytest.warns(UserWarning, match="made on 'other/llama'; this model is 'tiny/llama'"):
        patch(llama, FunctionVector(torch.ones(32), 1, model="other/llama")).remove()


BAD_MASKS = [
    (torch.ones(2, 5), r"attention_mask is \[2, 5\]; the tokens are \[batch, pos\] = \[2, 6\]"),
    (torch.ones(3, 6), r"attention_mask is \[3, 6\]; the tokens are \[batch, pos\] = \[2, 6\]"),
    (torch.zeros(2, 1, 6, 6), "attention_mask is 4-dimensional; while patched, give"),
    (torch.ones(6), "attention_mask is 1-dimensional; while patched, give"),
    (torch.tensor([[0.0] + [1.0] * 5, [-1e9] + [1.0] * 5]), "attention_mask holds -1000000000.0; give 1"),
    (torch.tensor([[1] * 6, [2] * 6]), "attention_mask holds 2; give 1 for a token and 0 for padding"),
    (torch.tensor([[1] * 6, [0] * 6]), "Row 1 of attention_mask has no 1"),
    (torch.tensor([[1] * 6, [0, 1, 0, 1, 1, 0]]), r"Row 1 of attention_mask is \[0, 1, 0, 1, 1, 0\], with a 0 between"),
]


@pytest.mark.parametrize("mask, message", BAD_MASKS)
def test_masks_that_do_not_say_where_prompts_end(llama, mask, message):
    with patch(llama, vector(llama)):
        with pytest.raises(InputError, match=message):
            run(llama, prompts(), attention_mask=mask)
        with pytest.raises(InputError, match=message):
            llama.generate(prompts(), 2, attention_mask=mask, verbose=False)
        with pytest.raises(InputError, match=message):
            llama.hf_generate(prompts(), 2, attention_mask=mask)


@pytest.mark.parametrize("mask, message", BAD_MASKS[-2:])
def test_a_bad_mask_is_refused_before_anything_runs(model, mask, message):
    seen, hook = [], ("blocks.0.hook_resid_pre", lambda x, hook: seen.append(x))
    with patch(model, vector(model)), model.hooks(fwd_hooks=[hook]):
        for given in prompts(), ["w1 w2 w3 w4 w5 w6"] * 2:
            with pytest.raises(InputError, match=message):
                run(model, given, attention_mask=mask, prepend_bos=False)
    assert not seen


def test_a_mask_that_is_no_tensor(llama):
    with patch(llama, vector(llama)), pytest.raises(InputError, match="attention_mask is a list; while patched"):
        llama.original_model(prompts(), attention_mask=[[1] * 6] * 2)


def test_a_mask_behind_a_cache_that_fits_neither_the_new_tokens_nor_all(llama):
    cache = DynamicCache()
    run(llama, prompts()[:, :4], **cached(llama, cache))
    with patch(llama, vector(llama)):
        with pytest.raises(InputError, match=r"is \[2, 5\]; the tokens are .* \[2, 2\], or \[2, 6\] with the 4 cached"):
            run(llama, prompts()[:, 4:], attention_mask=torch.ones(2, 5), **cached(llama, cache))


def test_a_prompt_without_tokens(model):
    with patch(model, vector(model)), pytest.raises(InputError, match="The prompt '' has no tokens"):
        run(model, ["w1 w2", ""], prepend_bos=False, padding_side="right")


def test_a_forward_without_tokens(llama):
    with patch(llama, vector(llama)):
        with pytest.raises(InputError, match=r"was given \['attention_mask'\]; while patched, give token ids"):
            llama.original_model(attention_mask=torch.ones(2, 6))


def test_an_activation_of_another_shape_than_the_tokens(llama):
    def shorten(module, inputs, x):
        return x[:, 1:]

    point = lens_of(llama).points[AT]
    hook = point.register_forward_hook(shorten)
    try:
        with patch(llama, vector(llama)), pytest.raises(ParityError, match=r"blocks.1.hook_resid_post is \[2, 5, 32\]"):
            run(llama, prompts())
    finally:
        hook.remove()


# Prompts


def test_columns_of_prompts_that_are_cached_in_part():
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 0, 0]])
    whole = Prompts.of((3, 4), mask=mask)
    assert whole.last.tolist() == [2, 3, 0] and whole.end == 4
    behind = Prompts.of((3, 2), past=2, mask=mask)
    assert behind.last.tolist() == whole.last.tolist() and behind.end == whole.end
    assert Prompts.of((1, 2), past=2, mask=torch.tensor([[1, 0, 1, 1]])).last.tolist() == [3]  # a gap in the cache
    last, new = behind.columns((3, 2), 2, torch.device("cpu"))
    assert last.tolist() == [[True, False], [False, True], [False, False]] and not new.any()
    last, new = behind.columns((3, 1), 4, torch.device("cpu"))
    assert not last.any() and new.all()


def test_a_mask_of_the_new_tokens_alone_counts_from_behind_the_cache():
    found = Prompts.of((3, 3), past=4, mask=torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]]))
    assert found.last.tolist() == [5, 6, 3] and found.end == 7


def test_a_prompt_stands_for_each_of_its_beams():
    last, _ = Prompts(torch.tensor([0, 2]), 3).columns((4, 3), 0, torch.device("cpu"))
    assert last.long().argmax(1).tolist() == [0, 0, 2, 2]


def test_a_handle_says_what_it_adds_and_whether_it_is_active(llama):
    fv = FunctionVector(torch.ones(32), 1, relation="antonym")
    with patch(llama, fv, 2.0) as first, patch(llama, fv) as second:
        assert repr(first) == "Patch('antonym' at layer 1, strength 2; active, 2 patches on the model)"
    assert repr(second) == "Patch('antonym' at layer 1, strength 1; removed)"


def test_a_patch_that_a_forward_passes_by_is_told_of():
    """A layer that was replaced may not have the hook points that the model knows: added, or told of."""
    model, fv, ids = tiny.build("llama"), FunctionVector(torch.ones(32), 1), torch.tensor([[3, 9, 5]])
    with patch(model, fv):
        expected = model(ids)
    layers = model.original_model.model.layers
    layers[1] = copy.deepcopy(layers[1])
    with patch(model, fv):
        try:
            assert torch.allclose(model(ids), expected)  # TransformerLens 3.9 finds the new ones
        except ParityError as error:
            assert "was not reached" in str(error) and "unpatch" in str(error)
