"""What heads write is what the model's own output projection makes of it, adapted, quantised or transposed."""

import copy

import pytest
import torch
import transformers as hf
from transformer_lens.model_bridge import TransformerBridge

from fv_lens.engine.whatif import Edit, what_if
from fv_lens.ground.errors import InputError, ParityError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.mediation import indirect_effects
from fv_lens.vectors.summed import distributed_vectors, function_vector

from .. import oracles, tiny
from ..oracles import EXACT, difference

peft = pytest.importorskip("peft")

FEW = dict(n_prompts=2, n_shots=3, n_mean_prompts=3)
HEADS = [(0, 1), (1, 2), (1, 3), (2, 0)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bridge(net):
    return TransformerBridge.boot_transformers("tiny/x", hf_model=net, tokenizer=tiny.tokenizer(), device="cpu")


def projections(net):
    """The output projection of each layer's attention, by the names of the architectures used here."""
    if hasattr(net, "transformer"):
        return [block.attn.c_proj for block in net.transformer.h]
    return [layer.self_attn.o_proj for layer in net.model.layers]


def by_hand(projections, mean_z, heads):
    """Each head's mean output in its slot, through the projection, minus what that makes of zeros."""
    total = 0
    for layer, head in heads:
        z = torch.zeros(1, *mean_z.shape[1:])
        z[0, head] = mean_z[layer, head]
        total = total + projections[layer](z.flatten(1)) - projections[layer](torch.zeros(1, z.numel()))
    return total[0].detach().float()


def adapted(net, targets, layers=None, trained=True, **config):
    made = peft.get_peft_model(net, peft.LoraConfig(r=4, lora_alpha=16, target_modules=targets, **config)).eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in made.named_parameters():
        if trained and "lora_" in name and (layers is None or any(f".{layer}." in name for layer in layers)):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return made


def effects_by_hand(model, effects):
    prompts = oracles.unpadded(effects.batch)
    return oracles.head_effects(model, prompts, effects.batch.answer_ids.tolist(), effects.mean_z)[0]


def assert_vectors_are_exact(model, own, words):
    """The effects equal full forwards, and the sum is what the projections make of the mean outputs."""
    effects = indirect_effects(model, words, **FEW)
    assert difference(effects.values.double(), effects_by_hand(model, effects)) <= EXACT
    fv = function_vector(model, words, HEADS, 1, effects.mean_z)
    assert difference(fv.vector, by_hand(own, effects.mean_z, HEADS)) <= EXACT
    for part in distributed_vectors(model, words, HEADS, effects.mean_z):
        assert difference(part.vector, by_hand(own, effects.mean_z, part.heads)) <= EXACT
    return fv


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True], ids=["changes nothing", "trained"])
@pytest.mark.parametrize("layers", [[0], [1], [2], None], ids=str)
@pytest.mark.parametrize("name, target", [("llama", "o_proj"), ("qwen3", "o_proj"), ("gpt2", "c_proj")])
def test_an_adapter_on_the_output_projection_counts(words, name, target, layers, trained):
    net = tiny.network(name)
    adapted(net, [target], layers, trained, fan_in_fan_out=name == "gpt2")
    own = copy.deepcopy(projections(net))
    assert_vectors_are_exact(bridge(net), own, words)


@pytest.mark.slow
@pytest.mark.parametrize("targets", [["q_proj"], ["k_proj", "v_proj"], ["down_proj"], ["o_proj", "up_proj", "q_proj"]])
def test_adapters_elsewhere_count_in_effects(words, targets):
    net = tiny.network("llama")
    adapted(net, targets)
    own = copy.deepcopy(projections(net))
    assert_vectors_are_exact(bridge(net), own, words)


@pytest.mark.slow
def test_an_adapter_that_is_switched_and_merged_after_a_first_use_counts(words):
    net = tiny.network("llama")
    made = adapted(net, ["o_proj", "v_proj"])
    model, own = bridge(net), projections(net)
    on = assert_vectors_are_exact(model, copy.deepcopy(own), words)
    made.base_model.disable_adapter_layers()
    off = assert_vectors_are_exact(model, copy.deepcopy(own), words)
    made.base_model.enable_adapter_layers()
    assert torch.equal(assert_vectors_are_exact(model, copy.deepcopy(own), words).vector, on.vector)
    made.merge_adapter()
    merged = assert_vectors_are_exact(model, copy.deepcopy(own), words)
    assert difference(merged.vector, on.vector) <= EXACT < difference(off.vector, on.vector)


def test_dropout_of_an_adapter_is_refused(words):
    net = tiny.network("llama")
    adapted(net, ["o_proj"], lora_dropout=0.5).train()
    model = bridge(net)
    model.train()
    with pytest.raises(ParityError, match="eval"):
        function_vector(model, words, HEADS, 1, noise(3, 4, 8))


@pytest.mark.slow
def test_transposed_projections_are_applied_as_the_model_does(words):
    net = tiny.network("gpt2")
    assert type(projections(net)[0]).__name__ == "Conv1D"
    own = copy.deepcopy(projections(net))
    for projection in own:
        projection.bias.data.normal_(0, 1)  # no part of what a head writes
    assert_vectors_are_exact(bridge(net), own, words)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """A tiny Llama in four or eight bits, as transformers loads it."""
    pytest.importorskip("bitsandbytes")
    folder = tmp_path_factory.mktemp("llama")
    config = hf.LlamaConfig(**tiny.GROUPED | dict(hidden_size=64, intermediate_size=128))
    net = hf.LlamaForCausalLM(config)
    for parameter in net.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    net.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_projections_are_applied_as_the_model_does(quantised, words, bits):
    how = dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    config = hf.BitsAndBytesConfig(**how) if bits == 4 else hf.BitsAndBytesConfig(load_in_8bit=True)
    net = hf.AutoModelForCausalLM.from_pretrained(
        quantised, quantization_config=config, dtype=torch.float32, device_map={"": "cpu"}
    )
    model = bridge(net)
    effects = indirect_effects(model, words, **FEW)
    fv = function_vector(model, words, HEADS, 1, effects.mean_z)
    own = [layer.self_attn.o_proj.original_component for layer in net.model.layers]
    scale = fv.vector.abs().max()
    # The kernels multiply in bfloat16, and in eight bits quantise the input too: linear to a percent or so.
    assert difference(fv.vector, by_hand(own, effects.mean_z, HEADS)) <= 0.03 * scale
    found = what_if(lens_of(model), *oracles.padded([[5, 9, 7]]), [[Edit(1, fv.vector)]], lambda x, _: x[:, 0])
    expected = oracles.added_vector(model, [5, 9, 7], 1, fv.vector)
    assert difference(found[0, 1], expected) <= 0.03 * (expected.max() - expected.min())


def test_a_layer_without_heads_is_refused_by_name(words):
    config = hf.Lfm2Config(
        **tiny.SIZE, num_key_value_heads=2, layer_types=["conv", "full_attention", "conv"], block_multiple_of=8
    )
    net = hf.Lfm2ForCausalLM(config).eval()
    net.config.architectures = ["Lfm2ForCausalLM"]
    model = bridge(net)
    with pytest.raises(InputError, match="Layer 0 of tiny/x has no heads; layers 1 have"):
        function_vector(model, words, [(0, 1)], 1, noise(3, 4, 8))
