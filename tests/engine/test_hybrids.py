"""Models whose layers have no heads, or heads of several shapes: what needs no head works, and head maps say so."""

import logging

import numpy as np
import pytest
import torch
import transformers as hf
from transformer_lens.model_bridge import TransformerBridge

from fv_lens.engine.gradients import Rows
from fv_lens.evaluation.controls import Controls
from fv_lens.evaluation.decoding import decode
from fv_lens.evaluation.evaluate import evaluate
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.choice import choose
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.mediation import indirect_effects
from fv_lens.vectors.optimizer import Tuning
from fv_lens.vectors.tuning import finetune

from .. import oracles, tiny
from ..oracles import EXACT, difference

FEW = dict(n_prompts=2, n_shots=3, n_mean_prompts=3)
GROUPED = tiny.GROUPED
LATENT = dict(
    num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12,
    n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=24, first_k_dense_replace=1,
    n_group=1, topk_group=1,
)  # fmt: skip
LINEAR = dict(
    head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8,
    num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=24,
)  # fmt: skip
TWO_WIDTHS = dict(
    head_dim=8, global_head_dim=16, sliding_window=8, hidden_size_per_layer_input=0, num_kv_shared_layers=0
)
MAMBA = dict(vocab_size=256, hidden_size=32, num_hidden_layers=3)

# What builds each, and the layers whose heads can be edited.
HYBRIDS = {
    "lfm2": (
        lambda: hf.Lfm2ForCausalLM(
            hf.Lfm2Config(**GROUPED, layer_types=["conv", "full_attention", "conv"], block_multiple_of=8)
        ),
        [1],
    ),
    "qwen3-next": (
        lambda: hf.Qwen3NextForCausalLM(
            hf.Qwen3NextConfig(
                **GROUPED, **LINEAR, layer_types=["linear_attention", "full_attention", "linear_attention"]
            )
        ),
        [1],
    ),
    "jamba": (
        lambda: hf.JambaForCausalLM(
            hf.JambaConfig(
                **GROUPED,
                attn_layer_period=2,
                attn_layer_offset=1,
                num_experts=4,
                expert_layer_period=2,
                use_mamba_kernels=False,
                mamba_d_state=8,
            )  # fmt: skip
        ),
        [1],
    ),
    "deepseek-v3": (lambda: hf.DeepseekV3ForCausalLM(hf.DeepseekV3Config(**tiny.SIZE | LATENT)), []),
    "gemma4": (
        lambda: hf.Gemma4ForCausalLM(
            hf.Gemma4TextConfig(
                **GROUPED, **TWO_WIDTHS, layer_types=["sliding_attention", "sliding_attention", "full_attention"]
            )
        ),
        [0, 1],
    ),
    "recurrent-gemma": (
        lambda: hf.RecurrentGemmaForCausalLM(
            hf.RecurrentGemmaConfig(**tiny.SIZE | dict(num_key_value_heads=1), attention_window_size=16, lru_width=32)
        ),
        [],
    ),
    "mamba": (lambda: hf.MambaForCausalLM(hf.MambaConfig(**MAMBA, state_size=8)), []),
}


if tiny.HOOKED_INSTALLED:
    del HYBRIDS["deepseek-v3"]  # which TransformerLens 3.9 runs without a causal mask


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=HYBRIDS)
def hybrid(request):
    """(model, layers with heads)"""
    make, layers = HYBRIDS[request.param]
    torch.manual_seed(0)
    net = make().eval()
    for parameter in net.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    net.config.architectures = [type(net).__name__]
    model = TransformerBridge.boot_transformers(
        f"tiny/{request.param}", hf_model=net, tokenizer=tiny.tokenizer(), device="cpu"
    )
    return model, layers


@pytest.fixture(scope="module")
def few_words():
    from fv_lens.datasets.relations import Relation

    return Relation("successor", [(f"w{i}", f"w{i + 1}") for i in range(0, 60, 2)])


@pytest.mark.slow
def test_the_layers_with_heads_are_found(hybrid):
    model, layers = hybrid
    assert list(lens_of(model).head_layers) == layers


@pytest.mark.slow
def test_a_vector_is_tuned_with_the_gradients_of_full_forwards(hybrid, few_words):
    from fv_lens.datasets.prompts import FewShot
    from fv_lens.engine.batches import batch

    model, _ = hybrid
    prompts = batch(lens_of(model), [FewShot("w3", ("w5 w9",)), FewShot("w4 w7", ("w8",))])
    vectors, answers = noise(2, 32), [listed[0] for listed in prompts.answers]
    found = Rows(lens_of(model), prompts, [0, 1], 1).gradient(vectors)
    expected = oracles.losses_and_gradient(model, oracles.unpadded(prompts), map(list, answers), [0, 1], 1, vectors)
    for a, b in zip(found, expected):
        assert difference(a, b) <= 1e-4 * max(1, b.abs().max())
    tuned = finetune(model, few_words, layer=1, how=Tuning(steps=2))
    assert len(tuned.training["losses"]) == 2


@pytest.mark.slow(but=1)
def test_a_vector_is_scored_as_by_full_forwards(hybrid, few_words):
    model, _ = hybrid
    fv = FunctionVector(noise(32), 1, model=model.cfg.model_name)
    scores = evaluate(model, few_words, fv, controls=False).words
    for word, log_prob in zip(scores.word, scores.log_prob):
        ids, [answer] = oracles.in_words(model, f"Q: {word}\nA:", few_words.answers[word])
        expected = oracles.continuation_log_probs(model, ids, list(answer), [oracles.Change(1, fv.vector)]).sum()
        assert abs(float(expected) - log_prob) <= EXACT
    assert len(decode(model, fv, 5).to_frame()) == 10


@pytest.mark.slow
def test_a_head_map_has_the_layers_that_have_heads(hybrid, few_words, caplog):
    model, layers = hybrid
    lens_of(model).state.warned.clear()
    if not layers:
        with pytest.raises(InputError, match="No layer of .* has heads.*finetune"):
            indirect_effects(model, few_words, **FEW)
        return
    with caplog.at_level(logging.WARNING, "fv_lens"):
        effects = indirect_effects(model, few_words, **FEW)
    absent = [layer for layer in range(3) if layer not in layers]
    assert caplog.text.count("are left out of the head map") == 1 and ", ".join(map(str, absent)) in caplog.text
    assert effects.values[:, absent].isnan().all() and effects.values[:, layers].isfinite().all()
    prompts, answers = oracles.unpadded(effects.batch), effects.batch.answer_ids.tolist()
    for layer in layers:
        for head in range(4):
            for i, (ids, answer) in enumerate(zip(prompts, answers)):
                edit = oracles.Change(layer, effects.mean_z[layer, head], head)
                before, after = (oracles.log_probs(model, ids, edits)[answer].exp() for edits in ([], [edit]))
                assert abs(float(after - before - effects.values[i, layer, head])) <= EXACT
    n = 4 * len(layers)
    assert {layer for layer, _ in effects.top(n)} == set(layers)
    with pytest.raises(InputError, match=f"there are {n} heads"):
        effects.top(n + 1)


@pytest.mark.slow
def test_heads_are_chosen_among_those_that_exist(hybrid, few_words):
    model, layers = hybrid
    if layers:
        effects = indirect_effects(model, few_words, **FEW)
        with np.errstate(all="raise"):
            fv = choose(model, few_words, effects, strengths=(1,))
            assert {layer for layer, _ in fv.heads} <= set(layers)
            drawn = evaluate(model, few_words, fv, controls=Controls(2, effects.mean_z, effects.attention_rms)).controls
            assert ("random heads" in drawn) == (effects.n_heads >= 2 * len(fv.heads)), "of layers with heads"
