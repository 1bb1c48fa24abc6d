"""Decoding with a cache is checked once against full forwards, and refused where it is wrong."""

from importlib import metadata

import pytest
import torch
from transformers import DynamicCache

from fv_lens.ground.errors import ParityError
from fv_lens.models.cached import check_cached_steps, is_aside
from fv_lens.models.lens import lens_of
from fv_lens.vectors.patching import patch

from .. import tiny
from ..vectors.patched import AT, GREEDY, cached, empty_cache, greedy, is_bridge, prompts, run, state, vector

MORE = dict(verbose=False, **GREEDY)


@pytest.fixture(params=["llama", "gpt2", *[name for name in tiny.NAMES if name in tiny.HOOKED]])
def forgetful(request):
    """A model whose attention meets no cached keys, as if the cache had come under another name."""
    model = tiny.build(request.param)
    if is_bridge(model):

        class Empty(DynamicCache):
            def update(self, k, v, layer_idx, *args, **kwargs):
                super().update(k, v, layer_idx, *args, **kwargs)
                return k, v

        plain = model.original_model.forward

        def forward(*args, **kwargs):
            cache = kwargs.get("past_key_values")
            if cache is None and kwargs.get("use_cache"):
                cache = Empty()
            n = kwargs["input_ids"].shape[1] if "input_ids" in kwargs else args[0].shape[1]
            mask = kwargs.get("attention_mask")
            kwargs["attention_mask"] = None if mask is None or mask.shape[1] != n else mask
            return plain(*args, **(kwargs | {"past_key_values": cache}))

        model.original_model.__dict__["forward"] = forward
    else:
        from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry as Entry

        patcher = pytest.MonkeyPatch()
        append = Entry.append

        def forget(self, k, v):
            n = k.shape[1]
            return tuple(torch.cat([0 * x[:, :-n], x[:, -n:]], 1) for x in append(self, k, v))

        patcher.setattr(Entry, "append", forget)
        request.addfinalizer(patcher.undo)
    return model


@pytest.mark.slow
def test_a_cache_that_is_ignored_is_refused_wherever_it_is_used(forgetful):
    fv, ids = vector(forgetful), prompts(1)
    message = "decodes wrongly with its key-value cache.*transformer-lens .* and transformers .*cure: .*use_past_kv"
    right = greedy(forgetful, ids, fv, [5], 4, False)
    assert not torch.equal(
        forgetful.generate(ids, 4, **MORE), forgetful.generate(ids, 4, use_past_kv_cache=False, **MORE)
    )
    before = state(forgetful)
    with patch(forgetful, fv):
        calls = [
            lambda: forgetful.generate(ids, 4, **MORE), lambda: list(forgetful.generate_stream(ids, 4, **MORE)),
            lambda: run(forgetful, ids, **cached(forgetful, empty_cache(forgetful, 1))),
        ]  # fmt: skip
        if is_bridge(forgetful):
            calls.append(lambda: forgetful.hf_generate(ids, 4, do_sample=False))
            calls.append(lambda: forgetful.original_model(ids, past_key_values=DynamicCache()))
        for call in calls * 2:
            with pytest.raises(ParityError, match=message):
                call()
        assert torch.equal(forgetful.generate(ids, 4, use_past_kv_cache=False, **MORE), right)
        run(forgetful, ids)
    assert state(forgetful) == before


def test_versions_that_do_not_fit_are_named_with_ones_that_do(forgetful, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: {"transformer-lens": "4.9.1", "transformers": "9.0"}[name])
    with pytest.raises(ParityError, match=r"4.9.1 and transformers 9.0.*pip install .transformer-lens==4.3.0. .transf"):
        check_cached_steps(lens_of(forgetful))


def test_a_model_whose_cache_is_right_passes_and_is_asked_once(model):
    lens, seen = lens_of(model), []
    with model.hooks(fwd_hooks=[(AT, lambda x, hook: seen.append(1))]):
        pass
    lens.parity.cached_steps = None
    check_cached_steps(lens)
    assert lens.parity.cached_steps is True and not is_aside()
    with patch(model, vector(model)):
        handle = model.unembed.register_forward_hook(lambda *args: seen.append(args[2].shape))
        try:
            lens_of(model)  # finds a hook of the user's: other conditions
            model.generate(prompts(), 2, **MORE)
            first = len(seen)
            model.generate(prompts(), 2, **MORE)
        finally:
            handle.remove()
    assert len(seen) - first == first == 2  # the check itself runs without hooks of others


@pytest.mark.slow
def test_the_check_is_made_without_patches_train_mode_and_hooks_of_others():
    model, ids = tiny.build("gpt2"), prompts(1)
    with patch(model, vector(model), strength=50.0, tokens="every"):
        with model.hooks(fwd_hooks=[(AT, lambda x, hook: x + torch.randn_like(x))]):
            model.generate(ids, 2, **MORE)
            assert lens_of(model).parity.cached_steps
    model.train()
    model.original_model.train()
    with patch(model, vector(model)):
        model.generate(ids, 2, **MORE)
        assert lens_of(model).parity.cached_steps and model.training


def test_a_model_that_cannot_generate_says_so_itself(monkeypatch):
    model = tiny.build("llama")

    def refuse(*args, **kwargs):
        raise NotImplementedError("no decoder")

    monkeypatch.setattr(type(model), "generate", refuse)
    check_cached_steps(lens_of(model))
    with patch(model, vector(model)), pytest.raises(NotImplementedError, match="no decoder"):
        model.generate(prompts(), 2)


def test_out_of_memory_is_not_taken_for_a_verdict(monkeypatch):
    model = tiny.build("llama")

    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(type(model), "generate", fail)
    with pytest.raises(torch.OutOfMemoryError):
        check_cached_steps(lens_of(model))
    assert lens_of(model).parity.cached_steps is None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    model = tiny.build("llama").to(dtype)
    check_cached_steps(lens_of(model))
    assert lens_of(model).parity.cached_steps
