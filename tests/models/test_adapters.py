"""Twins: trained as plain PyTorch trains, counted right, and the user's model is left as it was."""

import pytest
import torch
from torch import nn

from fv_lens.ground.errors import InputError
from fv_lens.models.adapters import twin, with_lora, with_soft_prompt
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.patching import patch

from .. import tiny

peft = pytest.importorskip("peft")

BRIDGES = [
    name if name in ("llama", "gpt2") else pytest.param(name, marks=pytest.mark.slow) for name in tiny.ARCHITECTURES
]
each_bridge = pytest.mark.parametrize("name", BRIDGES)
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def fingerprint(model):
    """All that could differ in a model after something was done to it."""
    modules = {name: (type(m), m.training, *map(len, (m._forward_hooks, m._backward_hooks))) for name, m in
               [*model.named_modules(), *model.original_model.named_modules()]}  # fmt: skip
    parameters = {name: (p.detach().clone(), p.requires_grad, p.grad) for name, p in model.named_parameters()}
    return modules, parameters


def same(before, after):
    (modules, parameters), (now, others) = before, after
    return modules == now and parameters.keys() == others.keys() and all(
        torch.equal(value, others[name][0]) and (on, grad) == others[name][1:]
        for name, (value, on, grad) in parameters.items()
    )  # fmt: skip


@each_bridge
def test_virtual_tokens_are_those_of_pefts_own_prompt_tuning(name):
    adapted = with_soft_prompt(lens_of(tiny.build(name)), 3)
    ids = torch.cat([torch.tensor([adapted.virtual]), IDS], 1)
    log_probs = adapted.logits(ids, torch.ones_like(ids), 1)[0, -1].log_softmax(-1)
    (gradient,) = torch.autograd.grad(log_probs[3], adapted.parameters)

    plain = peft.get_peft_model(tiny.network(name), peft.PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=3)).eval()
    rows = plain.prompt_encoder["default"].embedding.weight
    rows.data.copy_(adapted.parameters[0].detach())
    expected = plain(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[0, -1].log_softmax(-1)
    (slope,) = torch.autograd.grad(expected[3], rows)
    assert (log_probs - expected).abs().max() <= 1e-5
    assert (gradient - slope).norm() <= 1e-4 * slope.norm() and slope.norm() > 1e-3
    assert adapted.n_parameters == 3 * 32


@each_bridge
def test_virtual_tokens_begin_as_embeddings_of_the_vocabulary(name):
    made = tiny.build(name)
    adapted = with_soft_prompt(lens_of(made), 4, seed=1)
    known = made.original_model.get_input_embeddings()(torch.arange(256)[None])[0]
    distances = (adapted.parameters[0][:, None] - known).detach().norm(dim=2).min(1).values
    assert distances.max() <= 1e-5
    again, other = (with_soft_prompt(lens_of(made), 4, seed=seed).parameters[0] for seed in (1, 2))
    assert torch.equal(again, adapted.parameters[0]) and not torch.equal(other, again)


class Low(nn.Module):
    """A linear map with a product of two thin matrices added to it, in plain PyTorch."""

    def __init__(self, base, a, b):
        super().__init__()
        self.base, self.a, self.b = base, nn.Parameter(a.clone()), nn.Parameter(b.clone())

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T


def maps(block):
    attention, mlp = block.self_attn, block.mlp
    return [(attention, n) for n in ("q_proj", "k_proj", "v_proj", "o_proj")] + [
        (mlp, n) for n in ("gate_proj", "up_proj", "down_proj")
    ]


@pytest.mark.parametrize("layers", [[1], [0, 1, 2]])
def test_lora_is_a_product_of_thin_matrices_on_every_map_of_the_blocks(layers):
    adapted = with_lora(lens_of(tiny.build("llama")), layers)
    generator = torch.Generator().manual_seed(3)
    for parameter in adapted.parameters:
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    ones = torch.ones_like(IDS)
    log_probs = adapted.logits(IDS, ones, 1)[0, -1].log_softmax(-1)
    gradients = torch.autograd.grad(log_probs[3], adapted.parameters)

    net = tiny.network("llama")
    owners = [place for layer in layers for place in maps(net.model.layers[layer])]
    trained = dict(adapted.lens.network.named_parameters())
    hand = {}
    for layer in layers:
        for owner, name in maps(net.model.layers[layer]):
            (a,), (b,) = (
                [p for key, p in trained.items() if f"layers.{layer}." in key and name in key and f"lora_{ab}" in key]
                for ab in "AB"
            )
            low = Low(getattr(owner, name), a.detach(), b.detach())
            setattr(owner, name, low)
            hand |= {id(a): low.a, id(b): low.b}
    expected = net(input_ids=IDS).logits[0, -1].log_softmax(-1)
    own = [hand[id(parameter)] for parameter in adapted.parameters]
    slopes = torch.autograd.grad(expected[3], own)
    assert (log_probs - expected).abs().max() <= 1e-5
    for gradient, slope in zip(gradients, slopes):
        assert (gradient - slope).norm() <= 1e-4 * slope.norm()
    sizes = sum(sum(getattr(owner, name).base.weight.shape) for owner, name in owners)
    assert adapted.n_parameters == sizes == len(layers) * (64 + 48 + 48 + 64 + 3 * (32 + 48))


@each_bridge
def test_every_adapter_is_reached_and_adds_nothing_at_first(name):
    """Fused query, key and value maps stand in some networks beside their parts, and are not called."""
    made = tiny.build(name)
    clean = made(IDS)[0, -1]
    adapted = with_lora(lens_of(made), range(3), rank=2)
    ones = torch.ones_like(IDS)
    assert torch.allclose(adapted.logits(IDS, ones, 1)[0, -1], clean, atol=1e-5)
    for parameter in adapted.parameters:
        parameter.data.normal_(0, 0.3)
    adapted.logits(IDS, ones, 1)[0, -1].log_softmax(-1)[3].backward()
    assert all(parameter.grad is not None and parameter.grad.norm() > 0 for parameter in adapted.parameters)
    assert {
        parameter.shape[0] if parameter.shape[0] == 2 else parameter.shape[1] for parameter in adapted.parameters
    } == {2}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_adapters_of_models_in_half_precision_take_steps_of_float32(name, dtype):
    made = tiny.build(name).to(dtype)
    clean = made(IDS)[0, -1]
    adapted = with_lora(lens_of(made), range(3))
    starts = [parameter.detach().clone() for parameter in adapted.parameters]
    ones, adam = torch.ones_like(IDS), torch.optim.Adam(adapted.parameters, 1e-5)
    for _ in range(2):  # of the two matrices of each adapter, the first has no gradient before the second moves
        logits = adapted.logits(IDS, ones, 1)[0, -1]
        adam.zero_grad()
        (-logits.float().log_softmax(-1)[3]).backward()
        adam.step()
    assert clean.dtype == logits.dtype == adapted.lens.dtype == dtype
    for parameter, start in zip(adapted.parameters, starts):
        moved = (parameter - start).abs()
        assert parameter.dtype == torch.float32 and moved.isfinite().all()
        assert 0 < moved.max() < 3e-5 and (moved > 0).float().mean() > 0.5


# The user's model


@each_bridge
@pytest.mark.parametrize("make", [lambda lens: with_soft_prompt(lens, 2), lambda lens: with_lora(lens, range(3))])
def test_the_model_is_not_touched_by_what_is_done_to_its_twin(name, make):
    made = tiny.build(name)
    made.original_model.requires_grad_(True)
    lens = lens_of(made)
    clean, before, state = made(IDS), fingerprint(made), torch.get_rng_state()
    adapted = make(lens)
    ids = torch.cat([torch.tensor([adapted.virtual], dtype=torch.long), IDS], 1)
    adapted.logits(ids, torch.ones_like(ids), 1).square().mean().backward()
    with torch.no_grad():
        for parameter in adapted.parameters:
            parameter.add_(1)
    assert same(before, fingerprint(made)) and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made(IDS), clean)
    own = {id(module) for module in [*made.modules(), *made.original_model.modules()]}
    assert not own & {id(module) for module in [*adapted.lens.model.modules(), *adapted.lens.network.modules()]}


def test_a_twin_holds_no_second_copy_of_the_weights():
    made = tiny.build("llama")
    own = {parameter.data_ptr() for parameter in made.parameters()}
    copied = twin(lens_of(made))
    assert {parameter.data_ptr() for parameter in copied.model.parameters()} == own
    assert not any(parameter.requires_grad for parameter in copied.model.parameters())


# What is refused


def test_a_patch_and_hooks_are_refused():
    made = tiny.build("llama")
    with patch(made, FunctionVector(torch.ones(32), 1)), pytest.raises(InputError, match="A patch is active"):
        twin(lens_of(made))
    handle = made.original_model.register_forward_hook(lambda module, given, out: out)
    with pytest.raises(InputError, match="has a forward hook at .*Take it off"):
        lens = lens_of(made)
        lens.renew()
        twin(lens)
    handle.remove()


def test_adapters_of_the_users_are_refused_and_not_trained_along():
    made = tiny.build("llama")
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=r".*q_proj\._original_component"), made.original_model)
    with pytest.raises(InputError, match="has adapters of PEFT on it already; merge them"):
        with_lora(lens_of(made), [1])


def test_a_model_loaded_in_inference_mode_is_refused():
    with torch.inference_mode():
        made = tiny.build("llama")
    with pytest.raises(InputError, match="nothing can be trained; load it outside"):
        with_soft_prompt(lens_of(made), 1)


@pytest.mark.skipif(not tiny.HOOKED_INSTALLED, reason="TransformerLens 4 has no HookedTransformer")
def test_a_hooked_transformer_is_refused():
    with pytest.raises(InputError, match='is a HookedTransformer.*load_model\\(..., cls="bridge"\\)'):
        with_lora(lens_of(tiny.build("hooked-llama")), [1])


def test_without_peft_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(InputError, match=r'pip install "fv-lens\[baselines\]"'):
        with_soft_prompt(lens_of(tiny.build("llama")), 1)
