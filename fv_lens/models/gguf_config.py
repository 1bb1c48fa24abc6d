"""The configuration of a GGUF file's model, with what transformers' reader passes over without a word.

Where it leaves a field out, a model has the default of its class: another size, or other rotary positions.
"""

import contextlib
from typing import Any

import numpy as np

from ..ground.errors import InputError
from .gguf_checks import EMBEDDING
from .gguf_header import Header

SIZES = {
    "context_length": "max_position_embeddings",
    "attention.key_length": "head_dim",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
DIVISORS = "rope_freqs.weight"
# How Llama 3.1 and later divide frequencies, apart from the factor of the lowest ones.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def is_of_positions(tensor: str) -> bool:
    """Whether a tensor of a GGUF file holds factors of rotary frequencies, which are not parameters of a model."""
    return tensor.startswith("rope_")


def complete(header: Header, config: Any) -> None:
    """Give the `config` of a text model what the file says of sizes and rotary positions.

    Raises:
        InputError: the file scales positions in a way that a configuration cannot say.
    """
    config.vocab_size = header.tensors[EMBEDDING].shape[0]  # the reader counts tokens, and there may be rows to spare
    for field, attribute in SIZES.items():
        size, has_two = _field(header, field), hasattr(config, f"global_{attribute}")  # of two the reader knows which
        if isinstance(size, int) and not has_two and getattr(config, attribute, size) != size:
            with contextlib.suppress(AttributeError):  # some configurations work it out
                setattr(config, attribute, size)
    if rope := getattr(config, "rope_parameters", None):
        # Layers with a window, where they are told apart, have a base of their own, and no scaling.
        _set_rotary(header, config, rope.get("full_attention", rope))


def _set_rotary(header: Header, config: Any, rope: dict[str, Any]) -> None:
    if base := _field(header, "rope.freq_base"):
        rope["rope_theta"] = base
    if "partial_rotary_factor" in rope and (n_rotated := _field(header, "rope.dimension_count")):
        d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        rope["partial_rotary_factor"] = n_rotated / d_head
    kind, tensors = _field(header, "rope.scaling.type") or "none", sorted(filter(is_of_positions, header.tensors))
    if rope.get("rope_type", "default") != "default" or (kind == "none" and not tensors):
        return
    if kind == "linear" and not tensors and (factor := _field(header, "rope.scaling.factor")):
        rope |= {"rope_type": "linear", "factor": factor}
        return
    if kind == "none" and tensors == [DIVISORS]:
        divisors = _values(header)
        factor = float(divisors.max())
        if np.allclose(divisors, _llama3_divisors(rope["rope_theta"], len(divisors), factor), rtol=1e-4):
            rope |= {"rope_type": "llama3", "factor": factor, **LLAMA3}
            return
    what = f"holds {', '.join(tensors)}" if tensors else f"says rope.scaling.type = {kind!r}"
    raise InputError(
        f"{str(header.file)!r} scales rotary positions in a way that transformers does not read from GGUF files (it "
        f"{what}); give the folder or hub name of the model it was made from"
    )


def _field(header: Header, name: str) -> Any:
    return header.fields.get(f"{header.architecture}.{name}")


def _values(header: Header) -> np.ndarray:
    tensor = header.tensors[DIVISORS]
    return np.fromfile(header.file, "<f4", tensor.size, offset=header.start + tensor.offset)


def _llama3_divisors(base: float, n: int, factor: float) -> np.ndarray:
    """What Llama 3 divides each of `n` frequencies by: the lowest by `factor`, the highest by 1."""
    rotations = LLAMA3["original_max_position_embeddings"] / (2 * np.pi * base ** (np.arange(n) / n))
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    kept = np.clip((rotations - low) / (high - low), 0, 1)
    return 1 / (kept + (1 - kept) / factor)
