"""Copies of a patched model are unpatched and their own; wrappers act as what they wrap; nothing stays behind."""

import copy
import gc
import pickle
import weakref

import pytest
import torch

import fv_lens
from fv_lens.ground.errors import InputError, ParityError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.patching import patch, unpatch

from .. import tiny
from .patched import GREEDY, adding, assert_same, greedy, is_bridge, oracle, padded, prompts, run, state, vector


@pytest.fixture
def fresh():
    return tiny.build("llama")


@pytest.fixture
def uncompiled_again():
    yield
    torch.compiler.reset()


def own_things(model) -> list[str]:
    """What fv_lens has left on a model's objects, its state apart."""
    roots = [model, *([model.original_model] if is_bridge(model) else [])]
    modules = {id(m): m for root in roots for m in root.modules()}.values()
    hooks = [hook for m in modules for hook in [*m._forward_hooks.values(), *m._forward_pre_hooks.values()]]
    values = [value for m in modules for value in m.__dict__.values()]
    return [repr(x) for x in [*hooks, *values] if callable(x) and hasattr(x, "of_fv_lens")]


@torch.no_grad()
def halved(model):
    for parameter in model.parameters():
        parameter.mul_(0.5)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.NAMES)
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_is_unpatched_and_its_own(name, how):
    model, ids = tiny.build(name), prompts()
    if how == "pickle":
        try:
            pickle.dumps(model)
        except Exception as error:
            pytest.skip(f"TransformerLens cannot be pickled here: {error}")
    clean = run(model, ids)
    with patch(model, vector(model)), patch(model, vector(model, layer=0), tokens="every"):
        twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
        patched = run(model, ids)
        assert not own_things(twin) and not lens_of(twin).patches
        assert torch.equal(run(twin, ids), clean)
    halved(twin)
    assert not torch.allclose(run(twin, ids), clean)
    assert torch.equal(run(model, ids), clean) and not torch.equal(patched, clean)
    expected = oracle(twin, ids, vector(twin), [5, 5]), greedy(twin, ids, vector(twin), [5, 5], 3, False)
    with patch(twin, vector(twin)):
        assert torch.equal(run(model, ids), clean)
        assert_same(run(twin, ids), expected[0])
        assert torch.equal(twin.generate(ids, 3, verbose=False, **GREEDY), expected[1])


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("part", ["block", "network", "hook point", "list"])
def test_copies_of_parts(fresh, part):
    def of(model):
        return {
            "block": lambda: model.blocks[1], "network": lambda: model.original_model,
            "hook point": lambda: lens_of(model).points["blocks.1.hook_resid_post"], "list": lambda: model.blocks,
        }[part]()  # fmt: skip

    ids, clean = prompts(), run(fresh, prompts())
    with patch(fresh, vector(fresh)):
        twin = copy.deepcopy(of(fresh))
        assert not own_things(twin)
        if part == "network":
            assert_same(twin(ids).logits, clean)
    assert not own_things(of(fresh))


def test_a_shallow_copy_says_what_it_is(model):
    with patch(model, vector(model)):
        twin = copy.copy(model)
        patched = run(model, prompts())
    for call in (lambda: twin(prompts()), lambda: twin.generate(prompts(), 2, verbose=False)):
        with pytest.raises(InputError, match="is a shallow copy of a patched model and shares its layers"):
            call()
    assert not own_things(model)
    with patch(model, vector(model)):
        assert torch.equal(run(model, prompts()), patched)


NAMES = ["llama", "gpt2", *[name for name in tiny.NAMES if name in tiny.HOOKED]]


def calls_of(model) -> dict:
    """Ways to ask a model, each of which gives a tensor."""
    ids, more = prompts(), dict(verbose=False, **GREEDY)
    calls = {
        "forward": lambda: run(model, ids),
        "hooks": lambda: model.run_with_hooks(ids, fwd_hooks=[]),
        "generate": lambda: model.generate(ids, 3, **more),
        "no cache": lambda: model.generate(ids, 3, use_past_kv_cache=False, **more),
    }
    if is_bridge(model):
        calls["hf_generate"] = lambda: model.hf_generate(ids, max_new_tokens=3, do_sample=False)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("used", ["never", "asked", "patched"])
@pytest.mark.parametrize("name", NAMES)
def test_a_shallow_copy_of_an_unpatched_model_is_patched_as_any_model(name, used):
    """Before it was copied, fv_lens had been at the original or not; vectors go to the tokens of the copy's calls."""
    model = tiny.build(name)
    if used != "never":
        lens_of(model)
    if used == "patched":
        with patch(model, vector(model)):
            run(model, prompts())
    before = copy.deepcopy(model)
    twin, fv = copy.copy(model), vector(model)
    logits, tokens = oracle(before, prompts(), fv, [5, 5]), greedy(before, prompts(), fv, [5, 5], 3, False)
    for patched, other in [(twin, model), (model, twin)]:
        assert lens_of(twin).model is twin and lens_of(model).model is model
        with patch(patched, fv):
            assert_same(run(patched, prompts()), logits)
            for way, call in calls_of(patched).items():
                if "generate" in way or way == "no cache":
                    assert torch.equal(call(), tokens), way
            assert not lens_of(other).patches
        assert not own_things(model) and not own_things(twin)


@pytest.mark.slow
@pytest.mark.parametrize("patched", ["original", "copy"])
@pytest.mark.parametrize("name", NAMES)
def test_who_shares_layers_with_a_patched_model_is_told_so(name, patched):
    model = tiny.build(name)
    lens_of(model)
    twin = copy.copy(model)
    here, there = (model, twin) if patched == "original" else (twin, model)
    clean = {way: call() for way, call in calls_of(there).items()}
    expected = oracle(model, prompts(), vector(model), [5, 5])
    with patch(here, vector(here)) as handle:
        for way, call in calls_of(there).items():
            with pytest.raises(InputError, match="shares its layers with a patched model"):
                call()
                pytest.fail(way)
        for layer in 1, 2:
            with pytest.raises(InputError, match="Another model that shares its layers with this .* is patched"):
                patch(there, vector(there, layer=layer))
        assert not lens_of(there).patches and lens_of(here).patches == [handle]
        assert_same(run(here, prompts()), expected)
    assert not own_things(model) and not own_things(twin)
    for way, call in calls_of(there).items():
        assert torch.equal(call(), clean[way])
    with patch(there, vector(there)):
        assert_same(run(there, prompts()), expected)


def test_a_shallow_copy_of_the_network_is_told_so_as_well(fresh):
    twin, ids = copy.copy(fresh.original_model), prompts()
    clean = twin(ids).logits
    with patch(fresh, vector(fresh)), pytest.raises(InputError, match="This LlamaForCausalLM shares its layers"):
        twin(ids)
    assert_same(twin(ids).logits, clean)


@pytest.mark.slow
def test_a_stream_goes_on_only_where_no_copy_has_been_patched_since(fresh):
    twin = copy.copy(fresh)
    with patch(fresh, vector(fresh)):
        stream = fresh.generate_stream(prompts(1), 4, max_tokens_per_yield=1, verbose=False, **GREEDY)
        next(stream)
    with patch(twin, vector(twin)), pytest.raises(InputError, match="shares its layers"):
        next(stream)
    assert not own_things(fresh)


@pytest.mark.slow
def test_a_forward_and_hooks_of_others_are_copied_as_without_a_patch(fresh):
    seen = []

    def note(module, inputs, output):
        seen.append(module)

    fresh.original_model.register_forward_hook(note)
    lens_of(fresh).points["blocks.1.hook_resid_post"].register_forward_hook(note)
    with patch(fresh, vector(fresh)):
        twin = copy.deepcopy(fresh)
    run(twin, prompts())
    assert len(seen) == 2 and twin.original_model in seen


# Wrappers


def wrappers(backend="eager"):
    yield "torch.compile", lambda model: torch.compile(model, backend=backend)
    yield "DataParallel", torch.nn.DataParallel
    yield "nested", lambda model: torch.nn.DataParallel(torch.compile(model, backend=backend))


@pytest.mark.slow
@pytest.mark.parametrize("name, wrap", wrappers())
def test_a_wrapper_stands_for_its_model(fresh, name, wrap, uncompiled_again):
    fv, wrapped = vector(fresh), wrap(fresh)
    assert lens_of(wrapped).model is fresh
    logits, tokens = oracle(fresh, prompts(), fv, [5, 5]), greedy(fresh, prompts(), fv, [5, 5], 3, False)
    with patch(wrapped, fv):
        assert_same(run(wrapped, prompts()), logits)
        assert len(lens_of(fresh).patches) == 1
        if name == "torch.compile":
            assert torch.equal(wrapped.generate(prompts(), 3, verbose=False, **GREEDY), tokens)
    relation = fv_lens.Relation("shift", [(f"w{i}", f"w{i + 60}") for i in range(60)])
    few = dict(n_prompts=2, n_shots=2, n_mean_prompts=2)
    of_wrapped, of_model = (fv_lens.indirect_effects(one, relation, **few) for one in (wrapped, fresh))
    torch.testing.assert_close(of_wrapped.values, of_model.values)


@pytest.mark.slow
@pytest.mark.parametrize(
    "compiled, backend",
    [("model", "eager"), ("model", "aot_eager"), ("function", "aot_eager"), ("block in place", "eager"),
     ("block in place", "aot_eager"), ("in place", "eager"), ("network in place", "aot_eager")],
)  # fmt: skip
def test_what_was_compiled_before_respects_a_patch_put_on_later(fresh, compiled, backend, uncompiled_again):
    """And after the patch, all is as before."""
    twin, ids, fv, call = copy.deepcopy(fresh), prompts(), vector(fresh), fresh
    if compiled == "model":
        call = torch.compile(fresh, backend=backend)
    elif compiled == "in place":
        fresh.compile(backend=backend)
    elif compiled == "network in place":
        fresh.original_model.compile(backend=backend)
    elif compiled == "block in place":
        fresh.blocks[1].compile(backend=backend)
    else:
        call = torch.compile(lambda tokens: fresh(tokens) * 1, backend=backend)
    clean = run(twin, ids)
    for _ in range(2):
        assert_same(run(call, ids), clean)
    for strength in 1.0, -2.0:
        with patch(fresh, fv, strength):
            expected = twin.run_with_hooks(ids, fwd_hooks=adding(fv, [5, 5], strength))
            assert_same(run(call, ids), expected)
            assert_same(run(call, ids[:, :4]), twin.run_with_hooks(ids[:, :4], fwd_hooks=adding(fv, [3, 3], strength)))
        assert_same(run(call, ids), clean)


@pytest.mark.slow
def test_what_is_compiled_under_a_patch_forgets_it_with_the_patch(fresh, uncompiled_again):
    clean, fv = run(fresh, prompts()), vector(fresh)
    with patch(fresh, fv):
        compiled = torch.compile(fresh, backend="eager")
        patched = run(compiled, prompts())
    assert_same(patched, oracle(fresh, prompts(), fv, [5, 5]))
    assert_same(run(compiled, prompts()), clean)


def test_data_parallel_over_several_devices_is_refused(fresh):
    wrapped = torch.nn.DataParallel(fresh)
    wrapped.device_ids = [0, 1]
    with pytest.raises(InputError, match="DataParallel over 2 devices runs copies of its model.*model.module"):
        patch(wrapped, vector(fresh))


@pytest.mark.slow
def test_an_adapter_around_the_bridge_and_around_its_network(fresh):
    peft = pytest.importorskip("peft")
    how = peft.LoraConfig(r=4, target_modules=r".*o_proj\._original_component", init_lora_weights=False)
    wrapped, fv = peft.get_peft_model(fresh, how).eval(), vector(fresh)
    assert lens_of(wrapped).model is fresh
    with patch(wrapped, fv):
        patched = run(wrapped, prompts())
    assert_same(patched, oracle(fresh, prompts(), fv, [5, 5]))

    other = tiny.build("llama")
    around_network = peft.get_peft_model(other.original_model, how)
    with pytest.raises(InputError, match="got PeftModel around LlamaForCausalLM .*Give the TransformerBridge itself"):
        patch(around_network, fv)
    with patch(other, fv):
        patched = run(other, prompts())
    assert_same(patched, oracle(other, prompts(), fv, [5, 5]))

    tuned = peft.get_peft_model(tiny.build("llama"), peft.PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(InputError, match="puts virtual tokens before the prompts"):
        patch(tuned, fv)


def test_a_wrapper_that_only_passes_attributes_on_is_refused(fresh):
    class Around(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.__dict__["inner"] = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

    with pytest.raises(InputError, match="got Around"):
        patch(Around(fresh), vector(fresh))


# Nothing is left behind


def test_unpatch_takes_off_patches_whose_handles_are_lost(model):
    before, clean = state(model), run(model, prompts())
    for _ in range(3):
        patch(model, vector(model))
    handle = patch(model, [vector(model, 0), vector(model, 2)])
    assert not torch.equal(run(model, prompts()), clean)
    fv_lens.unpatch(model)
    assert state(model) == before and torch.equal(run(model, prompts()), clean)
    handle.remove()
    unpatch(model)
    assert state(model) == before and not own_things(model)


def test_an_unpatched_model_is_left_as_it_is(fresh):
    before = set(fresh.__dict__) | {"_fv_lens"}
    unpatch(fresh)
    assert set(fresh.__dict__) <= before


@pytest.mark.slow
@pytest.mark.parametrize("use", ["patch", "generate", "stream", "handle", "site", "copy"])
@pytest.mark.parametrize("name", ["llama", "gpt2", *[name for name in tiny.NAMES if name in tiny.HOOKED]])
def test_a_model_that_was_patched_is_freed_without_the_garbage_collector(name, use):
    model = tiny.build(name)
    site = "hook_attn_out" if use == "site" else "hook_resid_post"
    handle = patch(model, fv_lens.FunctionVector(vector(model).vector, 1, site=site))
    if use == "generate":
        model.generate(prompts(), 2, verbose=False, **GREEDY)
    if use == "stream":
        list(model.generate_stream(prompts(1), 3, max_tokens_per_yield=1, verbose=False, **GREEDY))
    if use == "copy":
        model = copy.deepcopy(model)
        handle = patch(model, vector(model))
    run(model, prompts())
    handle.remove()
    if use != "handle":
        del handle
    gc.collect()
    gc.disable()
    try:
        alive = weakref.ref(model)
        if use == "handle":
            del handle
        del model
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.slow
def test_strings_and_masks_after_copying(fresh):
    """A copy follows its own calls: strings and padding as in any model."""
    with patch(fresh, vector(fresh)):
        twin = copy.deepcopy(fresh)
    fv, (tokens, mask, last) = vector(twin), padded("right")
    expected = oracle(fresh, tokens, fv, last, attention_mask=mask)
    with patch(twin, fv):
        assert_same(run(twin, tokens, attention_mask=mask), expected)


# Conditions


@pytest.mark.slow
def test_decoding_with_a_cache_is_checked_under_each_condition_of_a_patched_model(fresh, monkeypatch):
    """What was found in one dtype is not believed of another; what was found once is not looked for again."""
    asked = []

    def exact_in_float32(lens):
        asked.append(lens.dtype)
        return lens.dtype == torch.float32

    monkeypatch.setattr("fv_lens.models.cached._cached_steps_are_exact", exact_in_float32)
    with patch(fresh, vector(fresh)):
        for _ in range(2):
            fresh.generate(prompts(), 3, verbose=False, **GREEDY)
        fresh.bfloat16()
        with pytest.raises(ParityError, match="decodes wrongly with its key-value cache"):
            fresh.generate(prompts(), 3, verbose=False, **GREEDY)
        fresh.float()
        fresh.generate(prompts(), 3, verbose=False, **GREEDY)
    assert asked == [torch.float32, torch.bfloat16]
