"""Facts about a model's weights: their precision, whether TransformerLens centred them, and their hash."""

import hashlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def is_full_precision(model: nn.Module, dtype: torch.dtype, devices: Collection[torch.device]) -> bool:
    """Whether products round as float32 does, or better: not in half precision, autocast, or TF32 on a GPU.

    False also for quantised weights, whose kernels choose their own precision.
    """
    quantised = not all(parameter.is_floating_point() for parameter in model.parameters())
    kinds = {device.type for device in devices}
    if quantised or any(torch.is_autocast_enabled(kind) for kind in kinds):
        return False
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # from torch 2.9 on; where it was set, asking for allow_tf32 raises
        tf32 = matmul.fp32_precision == "tf32"
    else:
        tf32 = matmul.allow_tf32
    return dtype == torch.float64 or (dtype == torch.float32 and not (tf32 and "cuda" in kinds))


def is_centered(embedding: Float[Tensor, "vocab d_model"]) -> bool:
    """Whether the first embeddings have zero mean over d_model; offloaded ones cannot have been processed."""
    w = embedding[:64].float()
    return w.device.type != "meta" and bool(w.mean(-1).abs().max() < 5e-3 * w.std())


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of the weights in order, wherever they are."""
    digest = hashlib.sha256()
    for parameter in _parameters(model):
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _parameters(model: nn.Module) -> Iterator[Tensor]:
    """As `model.parameters()`, with the numbers of those that accelerate keeps elsewhere between calls."""
    if not is_offloaded(model):
        yield from model.parameters()
        return
    from accelerate.utils import align_module_device  # which has offloaded them

    network: Any = getattr(model, "original_model", model)
    tied: set[nn.Module] = set()
    if getattr(network.config, "tie_word_embeddings", False):  # once they are offloaded, they are two parameters
        tied = set(network.get_output_embeddings().modules())
    seen: dict[int, Tensor] = {}
    for module in model.modules():
        own = {name: x for name, x in module._parameters.items() if x is not None and id(x) not in seen}
        seen |= {id(x): x for x in own.values()}
        if module not in tied:
            with align_module_device(module):
                yield from (x for name in own if (x := module._parameters[name]) is not None)


def is_offloaded(model: nn.Module) -> bool:
    """Whether weights of the model are on the disk, or on the CPU for blocks of a GPU, and loaded for each call."""
    return any(parameter.device.type == "meta" for parameter in model.parameters())
