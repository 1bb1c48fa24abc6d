"""Vectors in TransformerLens' own terms: as hooks of `run_with_hooks`, against `patch`; head means from a cache."""

from dataclasses import replace

import pytest
import torch

from fv_lens.datasets.prompts import few_shot
from fv_lens.engine.batches import batch
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.mediation import mean_head_outputs
from fv_lens.vectors.patching import patch
from fv_lens.vectors.summed import distributed_vectors

from .. import oracles

TEXTS = ["w1 w2 w3 w4 w5", "w6 w7", "w8 w9 w10"]
LENGTHS = [6, 3, 4]  # in tokens, for the masks below
PAD = 205


def vector(model, layer=1, seed=0) -> FunctionVector:
    lens = lens_of(model)
    values = 3 * torch.randn(lens.d_model, generator=torch.Generator().manual_seed(seed))
    return FunctionVector(values, layer, model=lens.name, processing=lens.processing)


def prompts(rows=3, length=6) -> torch.Tensor:
    return torch.randint(0, 200, (rows, length), generator=torch.Generator().manual_seed(1))


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of 6, 3 and 4 tokens with padding on a side, and their mask."""
    mask = torch.stack([torch.arange(6) < length for length in LENGTHS]).long()
    mask = mask.flip(1) if side == "left" else mask
    return torch.where(mask == 1, prompts(), PAD), mask


@torch.no_grad()
def with_hooks(model, tokens, hooks, **kwargs) -> torch.Tensor:
    return model.run_with_hooks(tokens, fwd_hooks=hooks, **kwargs)


@torch.no_grad()
def patched(model, tokens, fv, strength=1.0, at=None, **kwargs) -> torch.Tensor:
    with patch(model, fv, strength, at=at):
        return model(tokens, **kwargs)


@torch.no_grad()
def plain(model, tokens, **kwargs) -> torch.Tensor:
    return model(tokens, **kwargs)


# Hooks


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_hooks_do_what_a_patch_does(model, layer):
    fv, tokens = vector(model, layer), prompts()
    logits = with_hooks(model, tokens, fv.hooks(model, strength=2.0))
    assert torch.equal(logits, patched(model, tokens, fv, strength=2.0))
    assert (logits - plain(model, tokens))[:, -1].abs().max() > 0.01


def test_the_hook_point_is_that_of_the_vector(model):
    fv = vector(model)
    assert fv.hook_name == "blocks.1.hook_resid_post"
    assert [name for name, _ in fv.hooks(model)] == [fv.hook_name] and fv.hook_name in model.hook_dict


def test_hooks_of_prompts_padded_on_the_left_do_what_a_patch_does(model):
    fv = vector(model)
    tokens, mask = padded("left")
    logits = with_hooks(model, tokens, fv.hooks(model), attention_mask=mask)
    assert torch.equal(logits, patched(model, tokens, fv, attention_mask=mask))
    logits = with_hooks(model, TEXTS, fv.hooks(model), padding_side="left")
    assert torch.equal(logits, patched(model, TEXTS, fv, padding_side="left"))


def test_prompts_padded_on_the_right_need_to_be_told_where_they_end(model):
    fv = vector(model)
    tokens, mask = padded("right")
    expected = patched(model, tokens, fv, attention_mask=mask)  # finds each row's last token in the mask
    ends = [length - 1 for length in LENGTHS]
    assert torch.equal(with_hooks(model, tokens, fv.hooks(model, at=ends), attention_mask=mask), expected)
    untold = with_hooks(model, tokens, fv.hooks(model), attention_mask=mask)
    assert not torch.allclose(untold[1, ends[1]], expected[1, ends[1]])


@pytest.mark.parametrize("at", [0, 3, -1, -2, [5, 0, -3], [[0, 1, 0, 0, 1, 0]] * 3])
def test_at_means_what_it_means_to_a_patch(model, at):
    fv, tokens = vector(model), prompts()
    logits = with_hooks(model, tokens, fv.hooks(model, at=at))
    assert torch.equal(logits, patched(model, tokens, fv, at=at))


def test_the_hooks_of_several_vectors_stand_beside_each_other_and_beside_those_of_others(model, words):
    layers = lens_of(model).head_layers
    z = torch.randn(3, 4, model.cfg.d_head, generator=torch.Generator().manual_seed(2))
    try:
        vectors = distributed_vectors(model, words, [(layer, 1) for layer in layers], z)
    except InputError:
        pytest.skip("a HookedTransformer with post-norm blocks has no such site")
    tokens, seen = prompts(), []
    hooks = [hook for fv in vectors for hook in fv.hooks(model)]
    hooks.append(("blocks.2.hook_resid_post", lambda x, hook: seen.append(x.shape)))
    assert torch.equal(with_hooks(model, tokens, hooks), patched(model, tokens, vectors))
    assert seen and len({name for name, _ in hooks}) == len(layers) + 1


def test_the_model_is_left_as_it_was(model):
    tokens = prompts()
    before = plain(model, tokens)
    with_hooks(model, tokens, vector(model).hooks(model))
    assert torch.equal(plain(model, tokens), before)
    assert torch.equal(with_hooks(model, tokens, vector(model).hooks(model, strength=0)), before)


def test_hooks_of_another_model_are_refused(llama):
    fv = vector(llama)
    with pytest.raises(InputError, match="another/model"):
        replace(fv, model="another/model").hooks(llama)
    with pytest.raises(InputError, match="Layer 7 is outside"):
        replace(fv, layer=7).hooks(llama)


@pytest.mark.parametrize(
    ("wrong", "said"), [({"strength": float("nan")}, "strength"), ({"at": torch.tensor(1.5)}, "at is tensor")]
)
def test_settings_that_are_wrong_are_refused_at_once(llama, wrong, said):
    with pytest.raises(InputError, match=said):
        vector(llama).hooks(llama, **wrong)


@pytest.mark.parametrize(("at", "said"), [(6, "at is 6"), ([0, 1], "2 columns and the batch has 3 rows")])
def test_an_at_that_does_not_fit_the_batch_is_refused_when_the_hooks_run(llama, at, said):
    with pytest.raises(InputError, match=said):
        with_hooks(llama, prompts(), vector(llama).hooks(llama, at=at))


# Mean head outputs from a cache


def test_mean_head_outputs_are_a_mean_over_a_stacked_cache(model, words):
    lens = lens_of(model)
    prompts = batch(lens, few_shot(words.split().train, 6, 2))
    with torch.no_grad():
        _, cache = model.run_with_cache(prompts.tokens, attention_mask=prompts.mask)
    mean_z = cache.stack_activation("z")[:, :, -1].mean(1)
    expected, _ = mean_head_outputs(model, words, n_prompts=6, n_shots=2)
    assert mean_z.shape == expected.shape == (3, 4, model.cfg.d_head)
    assert oracles.difference(mean_z, expected) <= oracles.EXACT
