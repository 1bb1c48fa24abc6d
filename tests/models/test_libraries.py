"""fv_lens with the libraries that are installed.

Fast forms stay fast, decoding with a cache is right, and what is known to be wrong is refused. These tests also run
where every library is the newest that `pyproject.toml` admits, and, the last one, where a version that it excludes was
forced in.
"""

from importlib import metadata

import pytest
import torch
from packaging.requirements import Requirement

from fv_lens import indirect_effects, patch
from fv_lens.engine.forms import POSITIONS
from fv_lens.engine.whatif import what_if
from fv_lens.ground.errors import ParityError
from fv_lens.models.cached import check_cached_steps
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector

from .. import oracles, tiny
from ..oracles import EXACT, Change

PLAIN = ["llama", "gpt2", "neox", *(tiny.HOOKED if tiny.HOOKED_INSTALLED else [])]
N_NEW = 6


def excluded() -> bool:
    """Whether the installed transformers is one that fv_lens does not admit."""
    known = [Requirement(text) for text in metadata.requires("fv-lens") or []]
    (admitted,) = [one.specifier for one in known if one.name == "transformers"]
    return not admitted.contains(metadata.version("transformers"), prereleases=True)


with_admitted_versions = pytest.mark.skipif(excluded(), reason="transformers is a version that fv_lens excludes")


@pytest.mark.slow
@with_admitted_versions
@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_model_runs_in_the_fastest_form(name):
    lens = lens_of(tiny.build(name))
    what_if(lens, *oracles.padded(oracles.random_prompts(9, 13)), [], lambda logits, prompt: prompt)
    assert lens.parity.forms[0] == POSITIONS


@pytest.mark.slow(but=1)
@with_admitted_versions
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("cache", [True, False], ids=["cached", "uncached"])
@torch.no_grad()
def test_generating_with_a_vector_equals_full_forwards(name, cache):
    model, (prompt,) = tiny.build(name), oracles.random_prompts(9)
    fv = FunctionVector(2 * torch.randn(32, generator=torch.Generator().manual_seed(1)), 1)
    how = dict(max_new_tokens=N_NEW, do_sample=False, stop_at_eos=False, return_type="tokens", verbose=False)
    with patch(model, fv):
        written = model.generate(torch.tensor([prompt]), use_past_kv_cache=cache, **how)[0, len(prompt) :].tolist()
    expected = []
    for _ in range(N_NEW):
        logits = oracles.logits(model, prompt, [Change(1, fv.vector)], expected)[-1]
        expected.append(int(logits.argmax()))
    assert written == expected


@pytest.mark.slow(but=1)
@with_admitted_versions
@pytest.mark.parametrize("name", tiny.NAMES)
def test_decoding_with_a_cache_is_found_exact(name):
    lens = lens_of(tiny.build(name))
    check_cached_steps(lens)
    assert lens.parity.cached_steps is True


@with_admitted_versions
@torch.no_grad()
def test_a_head_map_of_the_default_model_equals_full_forwards(default_model):
    effects = indirect_effects(default_model, "antonym", n_prompts=1, n_mean_prompts=4, n_shots=4)
    assert lens_of(default_model).parity.forms[0] == POSITIONS
    (prompt,), answer = oracles.unpadded(effects.batch), int(effects.batch.answer_ids[0])
    for layer, head in [(0, 0), (14, 5), (29, 8), *effects.top(2)]:
        edits = [Change(layer, effects.mean_z[layer, head], head)]
        before, after = (oracles.log_probs(default_model, prompt, some)[answer] for some in ([], edits))
        assert abs(float(after - before - effects.log_prob_values[0, layer, head])) <= 10 * EXACT


@with_admitted_versions
@torch.no_grad()
def test_a_head_map_of_a_real_post_norm_model_equals_full_forwards(gemma):
    effects = indirect_effects(gemma, "present-past", n_prompts=5, n_mean_prompts=4, n_shots=10)
    prompts, answers = oracles.unpadded(effects.batch), effects.batch.answer_ids.tolist()
    for i, (prompt, answer) in enumerate(zip(prompts, answers)):
        before = oracles.log_probs(gemma, prompt, [])[answer]
        for layer, head in [(0, 0), (17, 3), effects.top(1)[0]]:
            after = oracles.log_probs(gemma, prompt, [Change(layer, effects.mean_z[layer, head], head)])[answer]
            assert abs(float(after - before - effects.log_prob_values[i, layer, head])) <= 10 * EXACT


@pytest.mark.skipif(not excluded(), reason="transformers is a version that fv_lens admits")
def test_an_excluded_version_is_refused_at_first_use(words):
    """When this fails, the versions named work together: lift the exclusion in pyproject.toml."""
    versions = [metadata.version(name) for name in ("transformer-lens", "transformers")]
    fv = FunctionVector(torch.ones(32), 1)
    for name in ("llama", "gpt2", "mistral"):
        model = tiny.build(name)
        with pytest.raises(ParityError, match="decodes wrongly with its key-value cache") as refused:
            indirect_effects(model, words, n_prompts=2, n_shots=3, n_mean_prompts=3)
        assert all(version in str(refused.value) for version in versions) and "pip install" in str(refused.value)
        with pytest.raises(ParityError, match="decodes wrongly"), patch(model, fv):
            model.generate(torch.tensor([[3, 9, 5]]), max_new_tokens=2, verbose=False)
