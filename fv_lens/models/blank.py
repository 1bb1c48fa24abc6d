"""Models with random weights and few blocks, to measure how fast a machine runs a larger one of the same kind."""

import tempfile
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models
from transformer_lens.model_bridge import TransformerBridge

from .installing import without_installing
from .libraries import quiet


def blank_model(config: Any, dtype: torch.dtype, device: torch.device) -> TransformerBridge:
    """A model of this configuration with random weights and a tokenizer of three words; nothing is fetched.

    Raises:
        Exception: whatever transformers or TransformerLens raise on a configuration that they do not take.
    """
    random = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with without_installing(), quiet(), random, tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        with device:
            network: Any = transformers.AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation="eager"
            )
        network.config.architectures = [type(network).__name__]
        _tokenizer().save_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = TransformerBridge.boot_transformers(  # which loads the tokenizer again
            folder, hf_model=network, tokenizer=tokenizer, device=str(device), dtype=dtype
        )
    return model.eval()


def _tokenizer() -> Any:
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    made = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special)
