"""Autocast, other default dtypes and devices, inference mode, half and double precision."""

import pytest
import torch
import transformers as hf
from torch.utils._python_dispatch import TorchDispatchMode
from transformer_lens.model_bridge import TransformerBridge

from fv_lens.analogies.solve import solve_analogy
from fv_lens.engine import whatif
from fv_lens.engine.gradients import Rows
from fv_lens.engine.whatif import what_if
from fv_lens.evaluation.controls import Controls
from fv_lens.evaluation.decoding import decode
from fv_lens.evaluation.evaluate import evaluate
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.mediation import indirect_effects
from fv_lens.vectors.optimizer import Tuning
from fv_lens.vectors.summed import function_vector
from fv_lens.vectors.tuning import finetune

from .. import oracles, tiny
from ..oracles import EXACT, difference
from .exact import FEW, PROMPTS, assert_exact, network, noise, one_token, whatifs_of


@pytest.mark.slow
def test_autocast_is_found_out_about_and_close_to_full_forwards(words):
    model = tiny.build("llama")
    exact = indirect_effects(model, words, **FEW)
    with torch.autocast("cpu", torch.bfloat16):
        found = indirect_effects(model, words, **FEW)
    assert not torch.equal(found.values, exact.values)
    assert difference(found.values, exact.values) <= 0.1 * exact.values.abs().max()
    assert torch.equal(indirect_effects(model, words, **FEW).values, exact.values)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_another_default_dtype_changes_no_number(words, dtype):
    model = tiny.build("llama")
    expected = everything(model, words)
    try:
        torch.set_default_dtype(dtype)
        found = everything(model, words)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(found, expected):
        assert a.dtype == b.dtype and difference(a, b) <= EXACT


@pytest.mark.slow
def test_another_default_device_changes_no_number(words):
    """On "meta" no tensor holds a number, so one that was made there would be noticed."""
    model = tiny.build("llama")
    expected = everything(model, words)
    try:
        torch.set_default_device("meta")
        found = everything(model, words)
    finally:
        torch.set_default_device(None)
    for a, b in zip(found, expected):
        assert a.device.type == "cpu" and difference(a, b) <= EXACT


@pytest.mark.slow
def test_inference_mode_changes_no_number(words):
    model = tiny.build("llama")
    expected = everything(model, words)
    with torch.inference_mode():
        found = everything(model, words)
    for a, b in zip(found, expected):
        assert difference(a.clone(), b) <= EXACT


@pytest.mark.slow
def test_a_model_that_was_loaded_in_inference_mode_is_refused_where_gradients_are_needed(words):
    with torch.inference_mode():
        model = tiny.build("llama")
    assert_exact(model)
    with pytest.raises(InputError, match="loaded in torch.inference_mode"):
        finetune(model, words, layer=1, how=Tuning(steps=1))


def everything(model, words):
    effects = indirect_effects(model, words, **FEW)
    fv = function_vector(model, words, effects.top(2), 1, effects.mean_z)
    tuned = finetune(model, words, layer=1, how=Tuning(steps=2))
    score = evaluate(model, words, fv, controls=Controls(mean_z=effects.mean_z))
    return (
        effects.values,
        effects.mean_z,
        fv.vector,
        tuned.vector,
        torch.tensor(score.words.log_prob.to_numpy(), device="cpu"),
    )


def test_half_precision_that_overflows_is_named(words):
    net = network(tiny.build("llama"))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.Linear) and module.out_features == 32 and module.in_features == 48:
                module.weight.mul_(2e4)
    model = TransformerBridge.boot_transformers(
        "tiny/half", hf_model=rebuilt(net).half(), tokenizer=tiny.tokenizer(), device="cpu", dtype=torch.float16
    )
    with pytest.raises(InputError, match="overflow in torch.float16.*float32 or bfloat16"):
        indirect_effects(model, words, **FEW)


def rebuilt(net):
    made = hf.LlamaForCausalLM(net.config)
    for module in made.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, 0, 0.2)
            if module.in_features == 48:
                module.weight.data.mul_(2e4)
    return made.eval()


@pytest.mark.slow
def test_a_model_in_double_precision_is_exact_in_every_fast_form():
    net = hf.LlamaForCausalLM(hf.LlamaConfig(**tiny.GROUPED)).double().eval()
    for parameter in net.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.2)
    model = TransformerBridge.boot_transformers(
        "tiny/double", hf_model=net, tokenizer=tiny.tokenizer(), device="cpu", dtype=torch.float64
    )
    lens = lens_of(model)
    assert lens.full_precision
    found = what_if(lens, *oracles.padded(PROMPTS), whatifs_of(lens), one_token)
    expected = [[oracles.log_probs(model, ids, edits) for edits in [[], *whatifs_of(lens)]] for ids in PROMPTS]
    assert difference(found, torch.stack([torch.stack(rows) for rows in expected])) <= EXACT
    assert lens.parity.forms[0] == "as positions"


class WithoutDouble(TorchDispatchMode):
    """As a device that has no float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = [x for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor)]
        assert all(x.dtype != torch.float64 for x in made), f"{function} made float64 on the device"
        return out


@pytest.mark.slow
def test_nothing_on_the_device_is_double(words, monkeypatch):
    """Apple's GPUs have no float64: the model's forwards, and what reads logits, must do without."""
    model = tiny.build("llama")
    lens_type, read = type(lens_of(model)), whatif._read

    def without_double(run):
        def checked(*args, **kwargs):
            with WithoutDouble():
                return run(*args, **kwargs)

        return checked

    for verb in ("logits", "prefix", "step", "readout", "unembed"):
        monkeypatch.setattr(lens_type, verb, without_double(getattr(lens_type, verb)))
    monkeypatch.setattr(whatif, "_read", without_double(read))
    monkeypatch.setattr(Rows, "_losses", without_double(Rows._losses))
    assert all(x.isfinite().all() for x in everything(model, words))
    library = {f"relation {i}": FunctionVector(noise(32, seed=i), 1, relation=f"relation {i}") for i in range(3)}
    assert solve_analogy(model, library, ("w1", "w2"), "w3").completions
    assert decode(model, library["relation 0"], 5, "model") and decode(model, library["relation 0"], 5)
