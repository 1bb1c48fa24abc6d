"""Operations of a model from its configuration, beside those that torch counts while models run."""

import pytest
import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode

from fv_lens.models.source import Source
from fv_lens.studies.reproduce.dry_run import network as networks
from fv_lens.studies.reproduce.dry_run.cost import Kind
from fv_lens.studies.reproduce.dry_run.flops import Work
from fv_lens.studies.reproduce.dry_run.network import configuration, cut, shape_of

from ... import tiny

MIXTURE = dict(**tiny.GROUPED, num_local_experts=4, num_experts_per_tok=2)
NAMES = ["llama", "gpt2", "neox", "gemma2", "qwen3", "mistral", "bloom"]


def shape(network):
    return shape_of("tiny", network.config)


def eager(name):
    """A tiny network whose attention is products of matrices: torch counts no fused ones on a CPU."""
    network = tiny.network(name)
    network.set_attn_implementation("eager")
    return network


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_prompt_takes_what_torch_counts(name):
    network = eager(name)
    whole = counted(lambda: network(torch.ones(3, 11, dtype=torch.long), logits_to_keep=1, use_cache=False))
    assert shape(network).whole(3, 11).flop == pytest.approx(whole, rel=2e-3)  # rotary angles are counted by prompt


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
def test_rows_behind_a_prefix_take_what_torch_counts(name):
    network = eager(name)
    with torch.no_grad():
        cache = network(torch.ones(4, 9, dtype=torch.long)).past_key_values
        rows = counted(lambda: network(torch.ones(4, 2, dtype=torch.long), past_key_values=cache, logits_to_keep=2))
    cost = shape(network).run(Kind.ROW, 8, 11) + shape(network).read(8)
    assert cost.flop == pytest.approx(rows, rel=2e-3)


@pytest.mark.parametrize("name", ["llama", "gemma2", "neox"])
def test_the_way_back_takes_what_torch_counts(name):
    network = eager(name).requires_grad_(False)
    entering = network.get_input_embeddings()(torch.ones(2, 10, dtype=torch.long)).requires_grad_()

    def learn():
        network(inputs_embeds=entering, use_cache=False).logits.sum().backward()

    cost = shape(network).run(Kind.STEP, 20, 10, backward=True) + shape(network).read(20, backward=True)
    assert cost.flop == pytest.approx(counted(learn), rel=2e-3)


def test_a_mixture_runs_the_experts_that_it_chooses():
    network = hf.MixtralForCausalLM(hf.MixtralConfig(**MIXTURE))
    block = network.model.layers[0]
    chosen = sum(x.numel() for x in block.self_attn.parameters()) + 4 * 32  # a router to four experts
    chosen += 2 * 3 * 32 * 48  # of two of them, three matrices
    assert shape(network).flops.forward[0].token == 2 * chosen and not shape(network).uncounted


def test_blocks_that_differ_are_counted_each():
    config = hf.Qwen2Config(**tiny.GROUPED)
    config.num_hidden_layers, config.layer_types = 6, ["full_attention"] * 6
    network = hf.Qwen2ForCausalLM(config)
    with torch.device("meta"):
        wide = hf.Qwen2ForCausalLM(hf.Qwen2Config(**tiny.GROUPED | dict(intermediate_size=96)))
        meta = hf.Qwen2ForCausalLM(config)
        meta.model.layers[4] = wide.model.layers[0]
    found = networks.counted(meta, meta.model.layers).forward
    plain = shape(network).flops.forward
    assert [work.token - plain[0].token for work in found] == [0, 0, 0, 0, 2 * 3 * 32 * 48, 0]


def test_a_network_that_does_not_run_without_numbers_counts_its_weights_and_says_why(monkeypatch):
    def refuse(*args):
        raise NotImplementedError("nonzero of nothing\nmore")

    monkeypatch.setattr(networks, "counted", refuse)
    found = shape(tiny.network("llama"))
    assert found.uncounted == "nonzero of nothing"
    assert found.flops.forward == tuple(Work(2 * weights) for weights in found.weights)
    assert found.flops.read == 2 * 256 * 32


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_weighed_without_any(name, tmp_path):
    network = tiny.network(name)
    network.config.save_pretrained(tmp_path)
    found = shape_of(tmp_path, configuration(tmp_path, Source("tiny", tmp_path, False).folder))
    assert found.n_parameters == sum(weight.numel() for weight in network.parameters())
    assert len(found.weights) == 3 and found.placed.weights == (4 * found.n_parameters, 0)


def test_a_configuration_is_cut_to_its_first_blocks():
    config = hf.Gemma2Config(**tiny.GROUPED, head_dim=16)
    short = cut(config, 2)
    assert short.num_hidden_layers == 2 == len(short.layer_types) and config.num_hidden_layers == 3
    assert len(hf.Gemma2ForCausalLM(short).model.layers) == 2
