"""Tiny GGUF files, written as llama.cpp writes them: the inverse of what transformers does when it reads one."""

from pathlib import Path

import gguf
import numpy as np
import torch
import transformers as hf
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

from .. import tiny

PRINTABLE = [chr(i) for i in range(33, 127)]
SPECIALS = ["<unk>", "<s>", "</s>"]
NORMAL, UNKNOWN, CONTROL = 1, 2, 3
BASE = 50_000.0  # of rotary positions; no configuration's default


def small(**more) -> dict:
    """Sizes, in a dictionary of their own: configurations write into that of the rotary positions."""
    return dict(**tiny.GROUPED, rope_parameters={"rope_type": "default", "rope_theta": BASE, **more})


def both() -> dict:
    bases = {"sliding_attention": 10_000.0, "full_attention": BASE}
    return {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()}


MOE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)

# architecture in the file -> the network
NETWORKS = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**small())),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**small())),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**small(), head_dim=16)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**small(), head_dim=16, sliding_window=8)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(  # of six layers the last has no window
        hf.Gemma3TextConfig(
            **tiny.GROUPED | {"num_hidden_layers": 6}, rope_parameters=both(), head_dim=16, sliding_window=8
        )
    ),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**small(), pad_token_id=0)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**tiny.GPT2)),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=256, hidden_size=32, n_layer=3, n_head=4)),
    "starcoder2": lambda: hf.Starcoder2ForCausalLM(hf.Starcoder2Config(**small())),
    "nemotron": lambda: hf.NemotronForCausalLM(hf.NemotronConfig(**small())),
    "stablelm": lambda: hf.StableLmForCausalLM(hf.StableLmConfig(**small(partial_rotary_factor=0.5))),
    "falcon": lambda: hf.FalconForCausalLM(
        hf.FalconConfig(vocab_size=256, hidden_size=32, num_hidden_layers=3, num_attention_heads=4)
    ),
    "qwen2moe": lambda: hf.Qwen2MoeForCausalLM(
        hf.Qwen2MoeConfig(**small(), **MOE, shared_expert_intermediate_size=24, norm_topk_prob=False)
    ),
    "lfm2": lambda: hf.Lfm2ForCausalLM(
        hf.Lfm2Config(**small(), layer_types=["conv", "full_attention", "conv"], block_auto_adjust_ff_dim=False)
    ),
    "qwen3moe": lambda: hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**small(), **MOE, norm_topk_prob=True)),
}


def network(name: str = "llama", tied: bool = False):
    """A tiny random network of one architecture."""
    torch.manual_seed(0)
    made = NETWORKS[name]().eval()
    for parameter in made.parameters():
        parameter.data += torch.empty_like(parameter).normal_(0, 0.2)
    if tied:
        made.config.tie_word_embeddings = True
        made.tie_weights()
    return made


def write(file: Path, made, architecture: str = "llama", quantized: bool = False, **changes) -> Path:
    """Write a network and a small tokenizer as a GGUF file.

    `changes`: fields by name with `__` for `.`, or None to leave a field out. `tokens`, `tensors`: what the file has
    instead, `n_rows` of the embedding.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    fields = {**described(made.config, architecture), **spelling(changes.pop("spelling", "gpt2"))}
    more_tensors = changes.pop("tensors", {})
    fields |= {name.replace("__", "."): value for name, value in changes.items()}
    writer = gguf.GGUFWriter(file, fields.pop("general.architecture"))
    for name, value in fields.items():
        if value is not None:
            add(writer, name, value)
    for name, values in {**named(made, architecture), **more_tensors}.items():
        if quantized and values.ndim == 2 and values.shape[1] % 32 == 0:
            blocks = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def add(writer, name: str, value) -> None:
    kind = gguf.GGUFValueType
    types = {bool: kind.BOOL, int: kind.UINT32, float: kind.FLOAT32, str: kind.STRING, list: kind.ARRAY}
    writer.add_key_value(name, value, types[type(value)])


def described(config, architecture: str) -> dict:
    """The fields that say how large the model is, by transformers' own names for them."""
    known = {plain(name): mapping for name, mapping in GGUF_CONFIG_MAPPING.items()}[plain(architecture)]
    fields = {"general.architecture": architecture, "general.file_type": 0}
    for key, attribute in known.items():
        value = getattr(config, attribute, None) if attribute else None
        if value is not None and attribute != "vocab_size":
            fields[f"{architecture}.{key}"] = value
    if kinds := architecture == "lfm2" and config.layer_types:
        n = config.num_key_value_heads
        fields["lfm2.attention.layer_norm_rms_epsilon"] = config.norm_eps
        fields["lfm2.attention.head_count_kv"] = [n if kind == "full_attention" else 0 for kind in kinds]
    if n := getattr(config, "shared_expert_intermediate_size", None):
        fields[f"{architecture}.expert_shared_feed_forward_length"] = n
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    if rope:
        d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        fields[f"{architecture}.rope.freq_base"] = rope["rope_theta"]
        fields[f"{architecture}.rope.dimension_count"] = int(d_head * rope.get("partial_rotary_factor", 1))
        fields[f"{architecture}.attention.key_length"] = d_head
    if n := getattr(config, "max_position_embeddings", None):
        fields[f"{architecture}.context_length"] = n
    if n := getattr(config, "moe_intermediate_size", None):
        fields[f"{architecture}.expert_feed_forward_length"] = n
    return fields


def plain(architecture: str) -> str:
    return architecture.replace("_", "").replace("-", "")


def spelling(kind: str = "gpt2") -> dict:
    """A small tokenizer: byte-level BPE as GPT-2's, or sentencepiece as Llama's; fewer tokens than embeddings."""
    space = {"gpt2": "Ġ", "llama": "▁"}[kind]
    pieces = [*PRINTABLE, space, "ho", "hot", f"{space}hot", *(["Ċ"] if kind == "gpt2" else [])]
    tokens = [*SPECIALS, *pieces]
    merges = ["h o", "ho t", f"{space} hot"]
    scores = [0.0] * 3 + [-float(i) for i in range(len(pieces))]
    fields = {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL] + [NORMAL] * len(pieces),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
    }
    return fields | ({"tokenizer.ggml.merges": merges} if kind == "gpt2" else {"tokenizer.ggml.scores": scores})


def named(made, architecture: str) -> dict[str, np.ndarray]:
    """The tensors under llama.cpp's names, changed as it changes them."""
    c = made.config
    arch = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(arch, c.num_hidden_layers)
    tensors = {}
    for name, values in made.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        values, (stem, _, suffix) = values.float().numpy(), name.rpartition(".")
        if ".experts." in name:  # of all experts together; gate and up are two tensors there
            stem, suffix = name, "weight"
        if name.endswith("experts.gate_up_proj"):
            block = f"blk.{stem.split('.')[2]}"
            tensors |= {f"{block}.ffn_{part}_exps.weight": x for part, x in zip(("gate", "up"), np.split(values, 2, 1))}
            continue
        short = names.get_name(stem) or names.get_name(stem.removeprefix("transformer."))
        assert short, name
        tensors[f"{short}.{suffix}"] = np.ascontiguousarray(changed(values, short, suffix, architecture, c))
    return tensors


def changed(values: np.ndarray, short: str, suffix: str, architecture: str, config) -> np.ndarray:
    if architecture == "llama" and short.endswith(("attn_q", "attn_k")):
        n_heads = config.num_attention_heads if short.endswith("q") else config.num_key_value_heads
        halves = values.reshape(n_heads, 2, -1, values.shape[-1])
        return halves.swapaxes(1, 2).reshape(values.shape)
    if architecture in ("gemma2", "gemma3", "nemotron") and short.endswith("norm") and suffix == "weight":
        return values + 1
    if architecture == "gpt2" and short.endswith(("attn_qkv", "attn_output", "ffn_up", "ffn_down")):
        return values.T
    if short.endswith("shortconv.conv"):
        return values[:, 0]
    if short.endswith("ffn_gate_inp_shexp"):
        return values[0]
    if architecture == "bloom" and short.endswith("attn_qkv"):
        heads = values.reshape(config.n_head, 3, config.hidden_size // config.n_head, *values.shape[1:])
        return heads.swapaxes(0, 1).reshape(values.shape)
    return values
