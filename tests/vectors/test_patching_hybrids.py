"""A patch needs no heads: exact on recurrent, hybrid, quantised and two-width models, against the bare network."""

import copy

import pytest
import torch
import transformers as hf
from transformer_lens.model_bridge import TransformerBridge

from fv_lens.ground.errors import ParityError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.patching import patch

from ..tiny import GROUPED, SIZE, tokenizer
from .patched import GREEDY, SIDES

IDS = torch.tensor([[3, 9, 27, 81, 5, 6, 7, 44], [4, 8, 15, 16, 23, 42, 1, 2]])
LAYERS = [name for name in GROUPED if name != "num_hidden_layers"]
LINEAR = dict(
    linear_conv_kernel_dim=4, linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2,
    linear_num_value_heads=4, head_dim=8, layer_types=["linear_attention", "full_attention", "linear_attention"],
)  # fmt: skip
EXPERTS = dict(num_experts=4, num_experts_per_tok=2)
SSM = dict(vocab_size=256, hidden_size=32, num_hidden_layers=3, state_size=8)
HYBRIDS = {
    "lfm2": lambda: hf.Lfm2ForCausalLM(
        hf.Lfm2Config(**GROUPED, layer_types=["conv", "full_attention", "conv"], block_multiple_of=8)
    ),
    "qwen3-next": lambda: hf.Qwen3NextForCausalLM(
        hf.Qwen3NextConfig(
            **GROUPED, **LINEAR, **EXPERTS, moe_intermediate_size=16, shared_expert_intermediate_size=16
        )
    ),
    "qwen3.5": lambda: hf.Qwen3_5ForCausalLM(hf.Qwen3_5TextConfig(**GROUPED, **LINEAR)),
    "jamba": lambda: hf.JambaForCausalLM(
        hf.JambaConfig(
            **GROUPED, **EXPERTS, attn_layer_offset=1, attn_layer_period=2, expert_layer_offset=1,
            expert_layer_period=2, mamba_d_state=8, mamba_dt_rank=4, use_mamba_kernels=False,
        )
    ),
    "bamba": lambda: hf.BambaForCausalLM(
        hf.BambaConfig(
            **GROUPED, attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8
        )
    ),
    "nemotron-h": lambda: hf.NemotronHForCausalLM(
        hf.NemotronHConfig(
            **{name: GROUPED[name] for name in LAYERS}, head_dim=8, layers_block_type=["mamba", "attention", "mlp"],
            mamba_num_heads=8, mamba_head_dim=8, n_groups=1, ssm_state_size=8, chunk_size=8,
        )
    ),
    "recurrent-gemma": lambda: hf.RecurrentGemmaForCausalLM(
        hf.RecurrentGemmaConfig(
            **{name: n for name, n in GROUPED.items() if name != "max_position_embeddings"}, lru_width=32,
            attention_window_size=16, block_types=["recurrent", "recurrent", "attention"],
        )
    ),
    "mamba": lambda: hf.MambaForCausalLM(hf.MambaConfig(**SSM)),
    "mamba2": lambda: hf.Mamba2ForCausalLM(hf.Mamba2Config(**SSM, num_heads=8, head_dim=8, n_groups=1, chunk_size=8)),
    "gemma4": lambda: hf.Gemma4ForCausalLM(
        hf.Gemma4TextConfig(
            **GROUPED, head_dim=8, global_head_dim=16, sliding_window=8, hidden_size_per_layer_input=0,
            layer_types=["sliding_attention"] * 2 + ["full_attention"], num_kv_shared_layers=0,
        )
    ),
    "deepseek-v3": lambda: hf.DeepseekV3ForCausalLM(
        hf.DeepseekV3Config(
            **SIZE, num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8,
            v_head_dim=12, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=24,
            first_k_dense_replace=1, n_group=1, topk_group=1,
        )
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=HYBRIDS)
def pair(request):
    """A bridge, and a twin of its network that TransformerLens never sees."""
    torch.manual_seed(0)
    try:
        network = HYBRIDS[request.param]().eval()
    except (AttributeError, ImportError) as error:
        pytest.skip(f"this transformers has no such model: {error}")
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    network.config.architectures = [type(network).__name__]
    network.generation_config.eos_token_id = network.config.eos_token_id = None
    twin = copy.deepcopy(network)
    try:
        model = bridged(network, request.param)
    except (ValueError, KeyError, AttributeError) as error:
        pytest.skip(f"this TransformerLens does not know it: {error}")
    with torch.no_grad():
        if not torch.allclose(model(IDS), twin(input_ids=IDS, use_cache=False).logits, atol=1e-4):
            pytest.skip("this TransformerLens runs it wrongly without a patch")
    return model, twin


def bridged(network, name: str):
    return TransformerBridge.boot_transformers(f"tiny/{name}", hf_model=network, tokenizer=tokenizer(), device="cpu")


def vector_of(model, layer: int) -> FunctionVector:
    return FunctionVector(2 * torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(1)), layer)


def bare(twin, ids, fv, columns: list[int], **kwargs) -> torch.Tensor:
    """Logits of the bare network, the vector added to a layer's output by PyTorch's own hook."""
    body = getattr(twin, "model", None) or twin.backbone

    def add(module, inputs, output):
        x = (output[0] if isinstance(output, tuple) else output).clone()
        x[:, columns] += fv.vector.to(x)
        return (x, *output[1:]) if isinstance(output, tuple) else x

    handle = body.layers[fv.layer].register_forward_hook(add)
    try:
        with torch.no_grad():
            return twin(input_ids=ids, use_cache=False, **kwargs).logits
    finally:
        handle.remove()


def written(twin, ids, fv, n: int, every: bool) -> torch.Tensor:
    last = ids.shape[1] - 1
    for _ in range(n):
        columns = [last, *range(last + 1, ids.shape[1])] if every else [last]
        ids = torch.cat([ids, bare(twin, ids, fv, columns)[:, -1:].argmax(-1)], 1)
    return ids


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_forward_in_every_layer(pair, layer):
    model, twin = pair
    fv = vector_of(model, layer)
    for at, column in (None, 7), (3, 3), (-2, 6):
        with patch(model, fv, at=at), torch.no_grad():
            patched = model(IDS)
        torch.testing.assert_close(patched, bare(twin, IDS, fv, [column]), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", ["last", "every"])
@pytest.mark.parametrize("cached", [False, True])
def test_generation(pair, tokens, cached):
    """Exact; or refused, where decoding with a cache is wrong without a patch too."""
    model, twin = pair
    fv = vector_of(model, 1)
    expected = written(twin, IDS, fv, 4, tokens == "every")
    more = dict(max_new_tokens=4, **GREEDY)
    calls = [
        lambda: model.generate(IDS, use_past_kv_cache=cached, verbose=False, **more),
        lambda: model.hf_generate(IDS, use_past_kv_cache=cached, use_cache=cached, **more),
    ]
    for by_hf, call in enumerate(calls):
        try:
            call()
        except AttributeError:  # this TransformerLens cannot, without a patch either
            continue
        try:
            with patch(model, fv, tokens=tokens):
                assert torch.equal(call(), expected)
        except ParityError as error:
            assert "decodes wrongly with its key-value cache" in str(error) and (cached or not by_hf)
            assert not decodes_rightly(model)


@torch.no_grad()
def decodes_rightly(model) -> bool:
    seen, ids = [], IDS[:1]
    handle = model.unembed.register_forward_hook(lambda module, inputs, logits: seen.append(logits[0, -1]))
    try:
        whole = model.generate(ids, 4, verbose=False, **GREEDY)
        decoded, seen[:] = torch.stack(seen), []
        full = torch.stack([model(whole[:, :n])[0, -1] for n in range(8, 12)])
    finally:
        handle.remove()
    return bool(torch.allclose(decoded, full, atol=1e-3))


@pytest.mark.slow
def test_four_bits(tmp_path):
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    sizes = GROUPED | dict(hidden_size=64, intermediate_size=128)
    hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, bos_token_id=204, eos_token_id=205)).save_pretrained(tmp_path)
    how = hf.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )  # fmt: skip
    load = dict(quantization_config=how, dtype=torch.float32, device_map={"": "cpu"})
    network, twin = (hf.AutoModelForCausalLM.from_pretrained(tmp_path, **load) for _ in range(2))
    model = bridged(network, "four-bits")
    fv = vector_of(model, 1)
    with patch(model, fv), torch.no_grad():
        patched = model(IDS)
        generated = model.generate(IDS, 4, verbose=False, **GREEDY)
    torch.testing.assert_close(patched, bare(twin, IDS, fv, [7]), atol=1e-5, rtol=1e-4)
    assert torch.equal(generated, written(twin, IDS, fv, 4, every=False))


@pytest.mark.slow(but=1)
@SIDES
def test_padding_where_the_model_heeds_it(pair, side):
    model, twin = pair
    mask = torch.ones_like(IDS)
    mask[1, slice(0, 3) if side == "left" else slice(5, 8)] = 0
    last = [7, 7 if side == "left" else 4]
    fv, lens = vector_of(model, 1), lens_of(model)
    seen = []
    with patch(model, fv), model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: seen.append(x))]):
        model(IDS, attention_mask=mask)
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: seen.append(x))]):
        model(IDS, attention_mask=mask)
    patched, clean = seen
    moved = (patched - clean).detach()
    assert not lens.patches
    for row, column in enumerate(last):
        torch.testing.assert_close(moved[row, column], fv.vector, atol=1e-4, rtol=1e-4)
        moved[row, column] = 0
    assert moved.abs().max() < 1e-5
