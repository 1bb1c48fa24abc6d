"""The pipeline on the default model, with real words: what the README promises, small."""

import os

import pytest
import torch

import fv_lens

from . import oracles, tiny

pytestmark = pytest.mark.real_model
ASK = {"max_new_tokens": 3, "do_sample": False, "verbose": False}


@pytest.fixture(scope="module", autouse=True)
def two_threads():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def antonym():
    """A part of the bundled relation: 40 test words."""
    return fv_lens.Relation("antonym", fv_lens.load_relation("antonym").pairs[:100])


@pytest.fixture(scope="module")
def effects(default_model, antonym):
    return fv_lens.indirect_effects(default_model, antonym, n_prompts=6, n_mean_prompts=20)


def test_real_words_have_writers_and_cancellers(effects):
    assert effects.mean.shape == (30, 9)
    assert (20, 5) in effects.top(5)
    assert effects.mean.max() > 5 * effects.mean.abs().median() and effects.mean.min() < 0
    assert effects.share_right > 0.4


def test_effects_equal_full_forwards(default_model, effects):
    prompt = effects.batch.tokens[0][effects.batch.mask[0].bool()]
    for layer, head in [*effects.top(2), *effects.top(1, sign=-1), (0, 0), (29, 8)]:

        def edit(z, hook, layer=layer, head=head):
            z[:, -1, head] = effects.mean_z[layer, head]
            return z

        with torch.no_grad():
            logits = default_model.run_with_hooks(prompt[None], fwd_hooks=[(f"blocks.{layer}.attn.hook_z", edit)])
        probability = logits[0, -1].softmax(-1)[effects.batch.answer_ids[0]]
        assert abs(probability - effects.base[0] - effects.values[0, layer, head]) < 1e-5


def test_the_vector_does_on_test_words_what_random_ones_do_not(default_model, antonym, effects, tmp_path):
    fv = fv_lens.choose(default_model, antonym, effects, head_counts=[20], layers=[12, 14, 16])
    fv.save(tmp_path / "antonym.safetensors")
    fv = fv_lens.FunctionVector.load(tmp_path / "antonym.safetensors")
    result = fv_lens.evaluate(default_model, antonym, fv, controls=fv_lens.Controls(mean_z=effects.mean_z))
    for control in ("zero-shot", "random vector", "random heads", "random heads, same norm"):
        assert result.controls[control].accuracy_gain.low > 0, control
    prompt = "Q: big\nA:"
    plain = default_model.generate(prompt, **ASK)
    with fv_lens.patch(default_model, fv):
        patched = default_model.generate(prompt, **ASK)
    assert plain.startswith(prompt) and patched.startswith(prompt) and patched != plain
    assert default_model.generate(prompt, **ASK) == plain


@pytest.mark.skipif(not tiny.HOOKED_INSTALLED, reason="HookedTransformer left TransformerLens in 4.0")
def test_both_model_classes_give_the_same_map(default_model, antonym):
    small = {"n_prompts": 2, "n_mean_prompts": 4}
    hooked = fv_lens.load_model(cls="hooked")
    maps = [fv_lens.indirect_effects(model, antonym, **small).values for model in (default_model, hooked)]
    assert oracles.difference(*maps) < 1e-4 and maps[0].abs().max() > 1e-3
