"""Tiny random models, built in memory: one of each architecture family, in each model class that is installed."""

import copy
import functools
import importlib.metadata
import tempfile

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge

HOOKED_INSTALLED = int(importlib.metadata.version("transformer-lens").split(".")[0]) < 4
N_WORDS = 200
SIZE = dict(
    vocab_size=256,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=128,
)
GROUPED = dict(**SIZE, num_key_value_heads=2)
GPT2 = dict(
    vocab_size=256, n_embd=32, n_layer=3, n_head=4, n_positions=128, resid_pdrop=0.0, attn_pdrop=0.0, embd_pdrop=0.0
)

ARCHITECTURES = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)),
    "neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZE)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**GROUPED, head_dim=16, sliding_window=8)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**GROUPED, head_dim=16)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, sliding_window=8)),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=256, hidden_size=32, n_layer=3, n_head=4)),
}
HOOKED = {
    "hooked-gpt2": dict(act_fn="gelu_new", normalization_type="LN", positional_embedding_type="standard"),
    "hooked-llama": dict(
        act_fn="silu", normalization_type="RMS", final_rms=True, gated_mlp=True, positional_embedding_type="rotary",
        rotary_dim=8, rotary_adjacent_pairs=False, n_key_value_heads=2, original_architecture="LlamaForCausalLM",
    ),
}  # fmt: skip
NAMES = [*ARCHITECTURES, *(HOOKED if HOOKED_INSTALLED else ())]


def params(names=NAMES, quick=("llama", "hooked-gpt2")) -> list:
    """Names to parametrize with; all but the quick ones, one of each model class, wait for `pytest --all`."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


# For a test of `model` that runs on each family of architectures after every change, and on the others at `--all`.
FAMILIES = pytest.mark.parametrize(
    "model", params(quick=("llama", "gpt2", "neox", "gemma2", "hooked-gpt2")), indirect=True
)


@functools.cache
def tokenizer(bos: bool = True):
    """A word-level tokenizer of w0 ... w199 and the punctuation of the default template."""
    words = [f"w{i}" for i in range(N_WORDS)] + ["Q", "A", ":", "[UNK]", "<s>", "</s>"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    specials = dict(unk_token="[UNK]", eos_token="</s>", pad_token="</s>") | ({"bos_token": "<s>"} if bos else {})
    folder = tempfile.mkdtemp()
    hf.PreTrainedTokenizerFast(tokenizer_object=made, **specials).save_pretrained(folder)
    return hf.AutoTokenizer.from_pretrained(folder)


def build(name: str, bos: bool = True):
    """A fresh tiny model with random weights large enough for edits to matter."""
    torch.manual_seed(0)
    if name in HOOKED:
        return _hooked(HOOKED[name], name, bos)
    net = network(name)
    net.config.architectures = [type(net).__name__]
    return TransformerBridge.boot_transformers(f"tiny/{name}", hf_model=net, tokenizer=tokenizer(bos), device="cpu")


def network(name: str):
    """The network that `build` puts into a bridge."""
    torch.manual_seed(0)
    net = ARCHITECTURES[name]().eval()
    for parameter in net.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    return net


def chatting(form: str | None, bos: bool = True):
    """A model whose tokenizer has this chat template."""
    model = build("llama", bos)
    model.tokenizer = copy.deepcopy(model.tokenizer)
    model.tokenizer.chat_template = form
    return model


def bent():
    """A model in which what the heads of layer 0 write can neither reach the stream nor be held fixed."""
    model = build("llama")
    model.cfg.model_name = "tiny/bent"

    def bend(module, inputs, out):
        x = out[0] if isinstance(out, tuple) else out
        x = x.sign() * x.abs().sqrt()
        return (x, *out[1:]) if isinstance(out, tuple) else x

    model.blocks[0].attn.register_forward_hook(bend)
    return model


def _hooked(parts: dict, name: str, bos: bool):
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=3, d_model=32, n_ctx=128, d_head=8, n_heads=4, d_mlp=48, d_vocab=256,
        model_name=f"tiny/{name}", device="cpu", initializer_range=0.2, **parts,
    )  # fmt: skip
    return HookedTransformer(config, tokenizer=tokenizer(bos)).eval()
