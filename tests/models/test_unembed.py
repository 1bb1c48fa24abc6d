"""The unembedding of any residual is what the model's own modules make of it."""

from contextlib import nullcontext

import pytest
import torch

from fv_lens.ground.errors import ParityError
from fv_lens.models.lens import lens_of

from .. import oracles, tiny
from ..evaluation.read import noise
from ..oracles import EXACT, difference, unembedded


def loud(name: str):
    """A tiny model whose logits are so large that a soft cap shows."""
    model = tiny.build(name)
    for parameter in model.unembed.parameters():
        parameter.data.mul_(20)
    return model


def test_the_unembedding_of_the_last_residual_is_the_logits_of_a_full_forward(model):
    prompt = torch.tensor(oracles.random_prompts(11))
    with torch.no_grad():
        logits, cache = model.run_with_cache(prompt)
        found = lens_of(model).unembed(cache["blocks.2.hook_resid_post"][0])
    assert difference(found, logits[0]) <= EXACT


def test_any_residual_is_unembedded_as_the_modules_of_the_model_do(model):
    residuals = 5 * noise(3, 32)
    expected = torch.stack([unembedded(model, residual) for residual in residuals])
    assert difference(lens_of(model).unembed(residuals), expected) <= EXACT


def test_a_soft_cap_behind_the_unembedding_is_kept():
    model, residual = loud("gemma2"), 5 * noise(1, 32)
    found = lens_of(model).unembed(residual)[0]
    assert 25 < found.abs().max() <= 30 < model.unembed(model.ln_final(residual[None])).abs().max()
    assert difference(found, unembedded(model, residual[0])) <= 1e-4


def test_more_residuals_than_the_context_has_positions(model):
    residuals = noise(300, 32)
    found = lens_of(model).unembed(residuals)
    assert found.shape == (300, 256)
    for row in (0, 127, 128, 299):
        assert difference(found[row], lens_of(model).unembed(residuals[row : row + 1])[0]) <= EXACT


def test_a_model_that_does_not_read_the_last_block_is_refused(llama, monkeypatch):
    lens = type(lens_of(llama))(llama)
    monkeypatch.setattr(lens, "hooks", lambda hooks: nullcontext())
    with pytest.raises(ParityError, match="blocks.2.hook_resid_post"):
        lens.unembed(noise(2, 32))
