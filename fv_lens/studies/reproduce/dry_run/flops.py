"""Operations of a network without weights, as torch counts them while it runs on meta tensors.

`counted` runs a network forward and backward at two lengths. The operations of a token in a block are linear in the
number of keys that it meets, so two lengths give both parts, and with them those of any rows behind any prefix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

LENGTHS = (64, 256)  # tokens; linear attention works on chunks of 64

Number = float | int


@dataclass(frozen=True)
class Work:
    """Operations of one token: `token` whatever it meets, and `key` for every key that it meets."""

    token: Number
    key: Number = 0

    @classmethod
    def of(cls, whole: Sequence[Number]) -> "Work":
        """That of a token, from the operations of whole prompts of `LENGTHS`, in which each token meets all."""
        short, long = LENGTHS
        key = (whole[1] / long - whole[0] / short) / (long - short)
        return cls(whole[0] / short - key * short, key)

    def __add__(self, other: "Work") -> "Work":
        return Work(self.token + other.token, self.key + other.key)

    def flop(self, n: Number, context: Number) -> Number:
        """Operations of `n` tokens that meet `context` keys each."""
        return n * (self.token + self.key * context)


@dataclass(frozen=True)
class Flops:
    """Of a token: `forward` and `backward` in each block; `read` and `read_backward` outside of all blocks.

    Backward is the gradient with respect to activations alone, as in tuning a vector. What is outside of the blocks
    is the unembedding, but for a few operations in a million.
    """

    forward: tuple[Work, ...]
    backward: tuple[Work, ...]
    read: Number
    read_backward: Number


def counted(network: nn.Module, blocks: nn.ModuleList) -> Flops:
    """Operations of a network on the meta device; of blocks that are alike, the first is run for all.

    It is left with the blocks that were run.

    Raises:
        Exception: whatever the network raises on tensors without numbers.
    """
    kinds = [_kind(block, at) for at, block in enumerate(blocks)]
    which = [kinds.index(kind) for kind in kinds]
    del blocks[max(which) + 1 :]
    names = {id(module): name for name, module in network.named_modules()}
    places = [names[id(block)] for block in blocks]
    of_lengths = [_counts(network, places, length) for length in LENGTHS]
    forward, backward = (
        tuple(Work.of([counts[way][of] for counts in of_lengths]) for of in which) for way in ("forward", "backward")
    )
    outside, outside_backward = (of_lengths[1][way][-1] / LENGTHS[1] for way in ("forward", "backward"))
    return Flops(forward, backward, outside, outside_backward)


def _counts(network: Any, places: Sequence[str], length: int) -> dict[str, list[int]]:
    """Operations of one prompt of `length` tokens, of each block and outside of them all, by the way: there, back."""
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    counter = FlopCounterMode(display=False)

    def so_far() -> list[int]:
        by_module: Mapping[str, Mapping[Any, int]] = counter.get_flop_counts()
        named = {name.partition(".")[2]: sum(counts.values()) for name, counts in by_module.items()}
        of_blocks = [named.get(place, 0) for place in places]
        return [*of_blocks, counter.get_total_flops() - sum(of_blocks)]

    network.requires_grad_(False).eval()
    entering = network.get_input_embeddings().register_forward_hook(lambda module, args, out: out.requires_grad_())
    try:
        with torch.enable_grad(), _Agreeing(), counter:
            logits: Tensor = network(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            forward = so_far()
            logits.sum().backward()
    finally:
        entering.remove()
    return {"forward": forward, "backward": [both - one for both, one in zip(so_far(), forward)]}


class _Agreeing(TorchDispatchMode):
    """Answers yes where a network asks a tensor without numbers: whether all tokens are seen, as they are."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True if args[0].dtype == torch.bool else 1
        return func(*args, **(kwargs or {}))


def _kind(block: nn.Module, at: int) -> tuple[object, ...]:
    """What the operations of a block depend on: its modules with their plain settings, but for its own number."""
    parts: list[object] = []
    for name, module in block.named_modules():
        plain = {key: x for key, x in vars(module).items() if isinstance(x, int | float | str | None)}
        settings = sorted((key, x) for key, x in plain.items() if not (x == at and "layer" in key))
        shapes = [(key, tuple(x.shape)) for key, x in module.named_parameters(recurse=False)]
        parts.append((name, type(module), repr(settings), tuple(shapes)))
    return tuple(parts)
