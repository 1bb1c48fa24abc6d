"""The shape of a model from its configuration: a network without weights, weighed, counted and placed."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from ....ground.errors import InputError
from ....ground.text_files import FilePath
from ....models.libraries import first_line, quiet, quoting
from ....models.load import REMEDY
from ....models.placement import planned
from .flops import Flops, Work, counted
from .shape import Placed, Shape


def configuration(name: FilePath, source: FilePath) -> Any:
    """The configuration of a model, from its folder (a `Path`) or the hub.

    Raises:
        InputError: it is damaged, or cannot be had.
    """
    local = isinstance(source, Path)
    try:
        with quiet():
            return transformers.AutoConfig.from_pretrained(source, local_files_only=local)
    except Exception as error:  # OSError, ValueError, KeyError: each damage has its own
        where = "be read" if local else "be had from the Hugging Face hub"
        remedy = "Check its config.json." if local else "Check the name and the network, or give a model folder's path."
        line = first_line(error)
        raise InputError(f"The configuration of {str(name)!r} cannot {where}: {line} {remedy}") from None


def shape_of(
    name: FilePath, config: Any, dtype: torch.dtype = torch.float32, n_devices: int = 1, memory: float | None = None
) -> Shape:
    """What the cost of a model depends on, and where its parts go on `n_devices` of `memory` bytes each.

    Raises:
        InputError: transformers cannot build it, or it has no list of blocks.
    """
    with quoting(str(name), REMEDY), quiet(), torch.device("meta"):
        network: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    c = config.get_text_config()
    n_layers, n_heads, d_model = c.num_hidden_layers, c.num_attention_heads, c.hidden_size
    d_mlp = getattr(c, "intermediate_size", None)
    lists = [x for x in network.modules() if isinstance(x, nn.ModuleList) and len(x) == n_layers]
    if not lists:
        raise InputError(f"{name!r} has no list of {n_layers} blocks, so its cost cannot be counted.")
    blocks = max(lists, key=_n_weights)
    matrices = [(weight.shape[0], weight.shape[1]) for weight in blocks[0].parameters() if weight.dim() == 2]
    sizes: dict[str, Any] = dict(
        weights=tuple(map(_n_weights, blocks)), n_parameters=_n_weights(network), d_model=d_model,
        d_mlp=d_mlp if isinstance(d_mlp, int) else 4 * d_model, n_heads=n_heads,
        n_kv_heads=getattr(c, "num_key_value_heads", None) or n_heads,
        d_head=getattr(c, "head_dim", None) or d_model // n_heads, d_vocab=c.vocab_size,
        matrix=max(matrices, key=lambda size: size[0] * size[1]),
    )  # fmt: skip
    places = _places(network, blocks, n_devices, memory)
    flops, uncounted = _flops(network, blocks, sizes)
    return Shape(**sizes, flops=flops, uncounted=uncounted, placed=places)


def _places(network: Any, blocks: nn.ModuleList, n_devices: int, memory: float | None) -> Placed:
    """Where the parts of a network go, by the rule by which `load_model` spreads one."""
    where = planned(network, n_devices, memory)

    def device(name: str) -> int:
        """The device of a module: its own, or its parent's."""
        while name not in where and name:
            name = name.rpartition(".")[0]
        return where[name]

    names = {id(module): name for name, module in network.named_modules()}
    weights = [0.0] * (n_devices + 1)
    for name, parameter in network.named_parameters():
        weights[device(name)] += parameter.numel() * parameter.element_size()
    ends = [
        n_devices if module is None else device(f"{names[id(module)]}.weight")
        for module in (network.get_input_embeddings(), network.get_output_embeddings())
    ]
    # A block may be split where one is larger than a device; it then counts where it begins.
    of_blocks = [device(next((n for n, _ in block.named_parameters(names[id(block)])), "")) for block in blocks]
    return Placed(tuple(of_blocks), ends[0], ends[1], tuple(weights))


def _flops(network: Any, blocks: nn.ModuleList, sizes: dict[str, Any]) -> tuple[Flops, str]:
    """Operations as counted, or, where a network does not run without numbers, two a weight; and why."""
    n = len(blocks)
    try:
        with quiet():
            network.set_experts_implementation("batched_mm")  # runs the experts that are chosen, without choosing
    except Exception:  # whatever networks without experts raise
        pass
    head = network.get_output_embeddings()
    unembedding = 2 * _n_weights(head) if head is not None else 2 * sizes["d_model"] * sizes["d_vocab"]
    try:
        with quiet():
            return counted(network, blocks), ""
    except Exception as error:  # each network has its own
        works = tuple(Work(2 * weights) for weights in sizes["weights"][:n])
        return Flops(works, works, unembedding, unembedding), first_line(error)


def _n_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def cut(config: Any, n_layers: int) -> Any:
    """A copy of a configuration with its first `n_layers` blocks, lists by block cut as well."""
    short = copy.deepcopy(config)
    text: Any = short.get_text_config()
    whole = text.num_hidden_layers
    for key, value in list(vars(text).items()):
        if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == whole:
            setattr(text, key, value[:n_layers])
    text.num_hidden_layers = n_layers
    return short
