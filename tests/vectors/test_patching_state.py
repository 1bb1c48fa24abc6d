"""A patch among hooks, other patches and the engine; what it leaves when it is removed; what it refuses."""

import copy
import gc

import pytest
import torch
from transformers import DynamicCache

from fv_lens.engine.whatif import what_if
from fv_lens.ground.errors import InputError, ParityError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.patching import patch

from .. import tiny
from .patched import AT, GREEDY, adding, assert_same, cached, oracle, prompts, residual, run, state, vector

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@tiny.FAMILIES
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


@pytest.mark.slow
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


def test_a_handle_says_what_it_adds_and_whether_it_is_active(llama):
    fv = FunctionVector(torch.ones(32), 1, relation="antonym")
    with patch(llama, fv, 2.0) as first, patch(llama, fv) as second:
        assert repr(first) == "Patch('antonym' at layer 1, strength 2; active, 2 patches on the model)"
    assert repr(second) == "Patch('antonym' at layer 1, strength 1; removed)"


@pytest.mark.slow
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


@pytest.mark.slow(but=1)
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
