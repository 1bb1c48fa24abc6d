"""How what heads write arrives in the residual stream, against autograd with the divisor of the norm held."""

import pytest
import torch
import transformers as hf

import fv_lens
from fv_lens import InputError
from fv_lens.models.arrival import arrival, can_be_summed, is_normed
from fv_lens.models.lens import lens_of
from fv_lens.vectors.mediation import mean_outputs
from fv_lens.vectors.summed import function_vector, head_sum

from .. import tiny
from ..oracles import difference

HEADS = [(2, 3), (0, 1), (2, 0), (1, 1)]
POST_NORM = {
    "gemma2": tiny.ARCHITECTURES["gemma2"],
    "glm4": lambda: hf.Glm4ForCausalLM(hf.Glm4Config(**tiny.GROUPED, head_dim=8, pad_token_id=0)),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**tiny.GROUPED)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**tiny.GROUPED, head_dim=16, sliding_window=8)),
    "exaone4": lambda: hf.Exaone4ForCausalLM(hf.Exaone4Config(**tiny.GROUPED, sliding_window=8)),
}


def post_norm(name: str, monkeypatch):
    """A tiny model whose norms have gains of their own."""
    monkeypatch.setitem(tiny.ARCHITECTURES, name, POST_NORM[name])
    model = tiny.build(name)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.original_model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name != "gemma2")) for name in POST_NORM])
def model(request, monkeypatch):
    return post_norm(request.param, monkeypatch)


def words() -> fv_lens.Relation:
    return fv_lens.Relation("moved", [(f"w{i}", f"w{i + 60}") for i in range(40)])


def behind_attention(model, layer: int) -> torch.nn.Module:
    """Hugging Face's own module of the norm behind attention."""
    block = model.original_model.model.layers[layer]
    for name in ("post_self_attn_layernorm", "post_attention_layernorm"):
        if hasattr(block, name):
            return getattr(block, name)
    raise AssertionError(f"no norm in {block}")


def contribution_by_autograd(model, layer: int, z: torch.Tensor, rms: float, monkeypatch) -> torch.Tensor:
    """The derivative of the stream behind attention along `z` `[head, d_head]`, with the norm dividing by `rms`."""
    norm = behind_attention(model, layer)
    inner = getattr(norm, "original_component", norm)
    plus_one = "Gemma" in type(inner).__name__

    def held(x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        return x / rms * (inner.weight + plus_one)

    seen = {}

    def stream(t: torch.Tensor) -> torch.Tensor:
        def moves(x, hook):
            x = x.clone()
            x[:, -1] = x[:, -1] + t * z
            return x

        def see(x, hook):
            seen["x"] = x[0, -1]

        hooks = [(f"blocks.{layer}.attn.hook_z", moves), (f"blocks.{layer}.hook_resid_mid", see)]
        model.run_with_hooks(torch.arange(1, 6)[None], fwd_hooks=hooks)
        return seen["x"]

    with monkeypatch.context() as patched:
        for module in {norm, inner}:
            patched.setitem(module.__dict__, "forward", held)
        _, slope = torch.autograd.functional.jvp(stream, torch.zeros(()), torch.ones(()))
    return slope.detach().float()


def test_a_sum_is_the_derivative_of_the_stream_with_the_norms_divisor_held(model, monkeypatch):
    lens = lens_of(model)
    means = mean_outputs(model, words(), n_prompts=8, n_shots=3)
    assert means.attention_rms is not None
    for layer, head in HEADS:
        z = torch.zeros(lens.n_heads, lens.d_head)
        z[head] = means.z[layer, head]
        expected = contribution_by_autograd(model, layer, z, float(means.attention_rms[layer]), monkeypatch)
        found = head_sum(lens, [(layer, head)], means.z, means.attention_rms)
        assert difference(found, expected) <= 1e-5 * float(expected.abs().max())


def test_the_mean_size_is_that_of_what_attention_puts_out_in_intact_prompts(model):
    from fv_lens.datasets.prompts import few_shot

    relation, template = words(), fv_lens.PromptTemplate()
    sizes = []
    for prompt in few_shot(relation.split().train, 8, 3, 0):
        text = template.prompt(prompt.word, prompt.demonstrations)
        _, cache = model.run_with_cache(torch.tensor([lens_of(model).tokens(text)]))
        eps = [arrival(lens_of(model), layer).eps for layer in range(3)]
        outputs = [cache[f"blocks.{layer}.attn.hook_out"][0, -1] for layer in range(3)]
        sizes.append([float((x.double().square().mean() + e).sqrt()) for x, e in zip(outputs, eps)])
    found = mean_outputs(model, relation, n_prompts=8, n_shots=3).attention_rms
    assert difference(found, torch.tensor(sizes).mean(0)) <= 1e-5


def test_vectors_of_heads_behind_a_norm_record_the_size_it_was_held_at(tmp_path, monkeypatch):
    model, relation = post_norm("gemma2", monkeypatch), words()
    effects = fv_lens.indirect_effects(model, relation, 2, 2, 4)
    fv = function_vector(model, relation, HEADS, 1, effects.mean_z, effects.attention_rms)
    assert fv.frozen_rms == {str(layer): float(effects.attention_rms[layer]) for layer in (0, 1, 2)}
    fv.save(tmp_path / "v.safetensors")
    effects.save(tmp_path / "e.safetensors")
    assert fv_lens.FunctionVector.load(tmp_path / "v.safetensors").frozen_rms == fv.frozen_rms
    assert torch.equal(fv_lens.HeadEffects.load(tmp_path / "e.safetensors").attention_rms, effects.attention_rms)
    assert (2 * fv).frozen_rms is None and fv.strengthened(2).frozen_rms == fv.frozen_rms


def test_without_sizes_they_are_those_of_the_usual_prompts(monkeypatch):
    model, relation = post_norm("gemma2", monkeypatch), words()
    means = mean_outputs(model, relation)
    given = function_vector(model, relation, HEADS, 1, means.z, means.attention_rms)
    assert torch.equal(function_vector(model, relation, HEADS, 1, means.z).vector, given.vector)
    assert torch.equal(function_vector(model, relation, HEADS, 1).vector, given.vector)
    with pytest.raises(InputError, match="attention_rms beside mean_z"):
        head_sum(lens_of(model), HEADS, means.z)
    for wrong in (torch.ones(2), -torch.ones(3)):
        with pytest.raises(InputError, match="3 numbers above 0"):
            function_vector(model, relation, HEADS, 1, means.z, wrong)


def test_where_heads_write_to_the_stream_nothing_is_held():
    model, relation = tiny.build("llama"), words()
    effects = fv_lens.indirect_effects(model, relation, 2, 2, 4)
    fv = function_vector(model, relation, HEADS, 1, effects.mean_z)
    assert effects.attention_rms is None and fv.frozen_rms is None
    assert arrival(lens_of(model), 0).gain is None and not is_normed(lens_of(model), 0)


def test_a_multiplier_behind_attention_multiplies_the_sum():
    """A hook of the user's."""
    model, relation = tiny.build("llama"), words()
    mean_z = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    plain = {head: function_vector(model, relation, [head], 1, mean_z).vector for head in HEADS}
    handle = model.blocks[2].attn.register_forward_hook(
        lambda module, inputs, out: (0.25 * out[0], *out[1:]) if isinstance(out, tuple) else 0.25 * out
    )
    assert not is_normed(lens_of(model), 2) and can_be_summed(lens_of(model))
    for head in HEADS:
        factor = 0.25 if head[0] == 2 else 1.0
        found = function_vector(model, relation, [head], 1, mean_z)
        assert difference(found.vector, factor * plain[head]) <= 1e-5 * float(plain[head].abs().max())
        assert found.frozen_rms is None
    handle.remove()


@pytest.mark.slow
def test_granites_multiplier_is_found(monkeypatch):
    config = hf.GraniteConfig(**tiny.GROUPED, residual_multiplier=0.3)
    monkeypatch.setitem(tiny.ARCHITECTURES, "granite", lambda: hf.GraniteForCausalLM(config))
    lens, z = lens_of(tiny.build("granite")), torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    expected = 0.3 * sum(lens.writes(layer, z[layer, None])[0] for layer in range(3))
    found = head_sum(lens, [(layer, head) for layer in range(3) for head in range(4)], z)
    assert difference(found, expected) <= 1e-5 * float(expected.abs().max())


def test_what_cannot_be_held_fixed_is_refused_with_a_way_out():
    model = tiny.bent()
    with pytest.raises(InputError, match=r"layer 0 .* cannot be held fixed.*finetune\(\.\.\., 'zero'\)"):
        arrival(lens_of(model), 0)
    assert not can_be_summed(lens_of(model)) and arrival(lens_of(model), 1).gain is None


@pytest.mark.slow
def test_a_bias_in_front_of_a_norm_is_refused(monkeypatch):
    """The norm divides by what the bias is part of."""
    config = hf.Olmo2Config(**tiny.GROUPED, attention_bias=True)
    monkeypatch.setitem(tiny.ARCHITECTURES, "olmo2", lambda: hf.Olmo2ForCausalLM(config))
    model = tiny.build("olmo2")
    biases = [x for name, x in model.original_model.named_parameters() if ".o_proj." in name and name.endswith("bias")]
    assert len(biases) == 3
    for bias in biases:
        bias.data = torch.randn_like(bias)
    with pytest.raises(InputError, match="cannot be held fixed"):
        arrival(lens_of(model), 0)


@pytest.mark.skipif(not tiny.HOOKED_INSTALLED, reason="TransformerLens 4 has no HookedTransformer")
def test_a_hooked_transformer_with_norms_behind_attention():
    from ..vectors.test_summed_over_relations import POST_NORM as SIZES

    transformer_lens = pytest.importorskip("transformer_lens")
    torch.manual_seed(0)
    config = transformer_lens.HookedTransformerConfig(**SIZES)
    model = transformer_lens.HookedTransformer(config, tokenizer=tiny.tokenizer()).eval()
    for block in model.blocks:
        block.ln1_post.w.data = torch.rand_like(block.ln1_post.w) + 0.5
    lens = lens_of(model)
    for layer, block in enumerate(model.blocks):
        found = arrival(lens, layer)
        assert difference(found.gain, block.ln1_post.w.detach()) <= 1e-5
        assert found.eps == pytest.approx(model.cfg.eps, rel=1e-3)
