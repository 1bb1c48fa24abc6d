"""HookedTransformers give what the bridge gives, or are refused."""

import pytest

from fv_lens.ground.errors import InputError
from fv_lens.models.load import load_model

from .. import tiny
from .made import logits, put, save

hooked_only = pytest.mark.skipif(not tiny.HOOKED_INSTALLED, reason="HookedTransformer left in TransformerLens 4.0")


@hooked_only
@pytest.mark.parametrize(
    "settings", [{}, {"num_key_value_heads": 4}, {"head_dim": 16}, {"tie_word_embeddings": True}], ids=str
)
def test_hooked_llama_agrees_with_the_bridge(tmp_path, settings):
    folder = save(tmp_path / "tiny-llama", **settings)
    hooked = load_model(folder, cls="hooked")
    assert type(hooked).__name__ == "HookedTransformer"
    assert hooked.cfg.model_name == "tiny-llama"
    assert (logits(hooked) - logits(load_model(folder, cls="bridge"))).abs().max() < 1e-4


@hooked_only
def test_hooked_default_adds_no_bos(cache, wheel):
    put(wheel, cache)
    assert load_model(cls="hooked").to_tokens("w1").tolist() == [[1]]


@hooked_only
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gpt2", {}),
        ("llama", {"attention_bias": True}),
        ("llama", {"mlp_bias": True}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    ],
)
def test_hooked_refuses_what_it_would_get_wrong(tmp_path, name, settings):
    folder = save(tmp_path / "model", name, **settings)
    with pytest.raises(InputError, match='^cls="hooked" takes folders of Llamas without .*load it with cls="bridge"'):
        load_model(folder, cls="hooked")


@pytest.mark.skipif(tiny.HOOKED_INSTALLED, reason="TransformerLens 3.x has HookedTransformer")
def test_hooked_on_4_says_how_to_get_it():
    with pytest.raises(InputError, match=r'left TransformerLens in 4.0 \(4.* is installed\).*"transformer-lens<4"'):
        load_model(cls="hooked")
