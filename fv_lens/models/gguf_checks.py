"""Which GGUF files become models: whole ones of a text model, of an architecture that transformers reads."""

import contextlib
import re

from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..ground.errors import InputError
from .gguf_header import Header

EMBEDDING, TOKENS = "token_embd.weight", "tokenizer.ggml.tokens"
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)


def readable_architectures() -> list[str]:
    """The architectures of language models whose GGUF files transformers reads."""
    known = set(GGUF_SUPPORTED_ARCHITECTURES) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    with contextlib.suppress(ImportError):  # transformers had one reader at first
        from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS

        known |= set(GGUF_CONFIG_ARCHS)
    return sorted(known)


def check_header(header: Header) -> None:
    """Raise an InputError for a file that no model can be made of."""
    name, fields = repr(str(header.file)), header.fields
    if (n_parts := number_of_parts(header)) > 1:
        raise InputError(
            f"{name} is one of {n_parts} parts of a model, and transformers reads whole files; join them with "
            "llama.cpp: llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf"
        )
    kind = fields.get("general.type", "model")
    if kind != "model":
        raise InputError(
            f"{name} does not hold a language model: its general.type is {kind!r}; give the model's own file"
        )
    known = readable_architectures()
    if _plain(header.architecture) not in map(_plain, known):
        raise InputError(
            f"{name} holds a model of architecture {header.architecture!r}, whose GGUF files transformers does not "
            f"read; expected one of {', '.join(known)}. Give the folder or hub name of the model it was made from"
        )
    if EMBEDDING not in header.tensors:
        lacks = "no weights, only a vocabulary" if not header.tensors else f"no tensor {EMBEDDING!r}"
        raise InputError(f"{name} holds {lacks}; expected a whole language model: give the model's own file")
    if not fields.get(TOKENS):
        raise InputError(
            f"{name} holds no tokenizer ({TOKENS!r} is missing), and words cannot become tokens without one; "
            "give a file that llama.cpp made from the whole model"
        )
    n_rows = header.tensors[EMBEDDING].shape[0]
    check_vocabulary(header, fields[TOKENS], n_rows)
    if (size := header.file.stat().st_size) < header.n_bytes:
        raise InputError(
            f"{name} has {size} bytes, and its header speaks of {header.n_bytes}: it is truncated; copy or download it "
            "again"
        )


def check_vocabulary(header: Header, n_tokens: int, n_rows: int) -> None:
    """Raise an InputError if there are tokens that the model has no embedding of."""
    if n_tokens > n_rows:
        raise InputError(
            f"the tokenizer in {str(header.file)!r} disagrees with the model: it has {n_tokens} tokens, and the "
            f"embedding has {n_rows} rows; expected a row for each token: give a file with the model's own tokenizer"
        )


def number_of_parts(header: Header) -> int:
    """Number of files that a model was split into, by the header or the name of one of them."""
    named = _PART.search(header.file.name)
    return max(int(header.fields.get("split.count", 1)), int(named[1]) if named else 1)


def _plain(architecture: str) -> str:
    # llama.cpp writes "gpt-oss" and "qwen2moe", transformers "gpt_oss" and "qwen2_moe".
    return re.sub("[-_]", "", architecture)
