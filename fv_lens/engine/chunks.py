"""Chunks of rows that share one backward pass: as many as memory holds."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ..models.lens import Lens, Prefix
from ..models.state import Parity
from .batches import PromptBatch

CPU_BYTES = 2**29  # activations that one chunk may hold for the backward pass, besides weights and prefixes
MOST_ROWS, MOST_ROWS_GPU = 448, 8192  # matmuls gain nothing from more
ENOUGH = 1024  # tokens, with which a CPU's products are about as fast as they get


@dataclass(frozen=True, eq=False)
class Begun:
    """The input of the blocks above each row's layer, for the rows of a chunk.

    `prefix`: keys and values of the tokens before the new ones, in each layer those of the rows that run there alone.
    `residual`: what leaves each row's layer. `tuples`: whether blocks return tuples.
    """

    prefix: Prefix
    residual: Float[Tensor, "row new d_model"]
    tuples: bool


@dataclass(frozen=True, eq=False)
class Chunk:
    """Rows that run together: `rows` are their places among all, `new` the tokens from the last prompt token on.

    `owners`: index of each row's vector. `layers`: the block after which it is added, ascending. `targets`:
    `[row, new]`, the token to predict at each of the new tokens, -1 after an answer's end. `above`: what the blocks
    above start from; None if every step is a full forward.
    """

    rows: Int[Tensor, " row"]
    owners: Int[Tensor, " row"]
    layers: Sequence[int]
    ids: Int[Tensor, "row pos"]
    mask: Int[Tensor, "row pos"]
    targets: Int[Tensor, "row new"]
    above: Begun | None = None

    @property
    def new(self) -> int:
        return self.targets.shape[1]

    def alive(self, n_layers: int) -> list[int]:
        """The rows that enter each block, which are the first ones, and in the end all rows."""
        return [sum(at < layer for at in self.layers) for layer in range(n_layers)] + [len(self.layers)]

    @property
    def begun(self) -> Begun:
        """`above`, where it is known that the blocks below need not run."""
        assert self.above is not None
        return self.above


def groups(
    lens: Lens, parity: Parity, prompts: PromptBatch, answers: Sequence[Sequence[int]], layer: int, exact: bool
) -> Iterator[list[int]]:
    """Rows of like answer and prompt lengths, as many as memory allows.

    Answers of other lengths go together on a GPU, and on a CPU in groups of fewer than `ENOUGH` tokens: there more
    chunks cost more than padding after shorter answers. If the user has hooks on the model, each row is a group of its
    own.
    """
    if lens.one_by_one:
        yield from ([row] for row in range(len(prompts)))
        return
    enough = math.inf if lens.gpus else ENOUGH
    lengths = prompts.mask.sum(1).tolist()
    group: list[int] = []
    longest = 0
    for index in sorted(range(len(prompts)), key=lambda i: (-len(answers[i]), -lengths[i])):
        longest = max(longest, lengths[index])
        if group:
            first = group[0]
            filled = len(group) * (len(answers[first]) + (0 if exact else longest)) >= enough
            unequal = (filled and len(answers[first]) != len(answers[index])) or (
                not parity.padding and lengths[first] != lengths[index]
            )
            if unequal or len(group) == most_rows(lens, layer, exact, longest, len(answers[first])):
                yield group
                group, longest = [], lengths[index]
        group.append(index)
    yield group


def with_answers(
    prompts: PromptBatch, answers: Sequence[tuple[int, ...]], rows: Sequence[int]
) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row pos"], Int[Tensor, "row new"]]:
    """Ids, mask and targets of some prompts, with their answers but for the last token behind them; see `Chunk`.

    An answer's last token is predicted, never read. What stands behind a shorter answer is seen by nothing.
    """
    new, longest = max(len(answers[i]) for i in rows), int(prompts.mask[rows].sum(1).max())
    targets = torch.tensor([list(answers[i]) + [-1] * (new - len(answers[i])) for i in rows], device="cpu")
    ids = torch.cat([prompts.tokens[rows][:, -longest:], targets[:, :-1].clamp(min=0)], 1)
    return ids, pad(prompts.mask[rows][:, -longest:], (0, new - 1), value=1), targets


def most_rows(lens: Lens, layer: int, exact: bool, length: int, new: int) -> int:
    """Number of rows of `length` prompt and `new` answer tokens whose backward pass fits the available memory.

    `exact`: whether the blocks above `layer` run alone, on the new tokens, and not whole forwards.
    """
    d_mlp = getattr(lens.cfg, "d_mlp", None) or 4 * lens.d_model
    tokens, blocks = (new, lens.n_layers - layer) if exact else (length + new, lens.n_layers)
    itemsize = lens.parameter.element_size()
    size = bytes_held(
        tokens, length + new, blocks, d_model=lens.d_model, d_mlp=d_mlp, n_heads=lens.n_heads, itemsize=itemsize
    )
    if not exact or lens.parity.plain_readout is False:
        size += 4 * new * lens.cfg.d_vocab * 4
    if lens.gpus:  # the fullest of several
        free, most = min(map(gpu_bytes, lens.gpus)) // 2, MOST_ROWS_GPU
    else:
        free, most = CPU_BYTES, MOST_ROWS
    return max(1, int(min(most, free // size)))


def bytes_held(
    tokens: float | int, length: float | int, blocks: int, *, d_model: int, d_mlp: int, n_heads: int, itemsize: int
) -> float | int:
    """Bytes a row holds for the way back: `tokens` tokens through `blocks` blocks, each meeting `length` keys."""
    return tokens * max(1, blocks) * (14 * d_model + 5 * d_mlp + 3 * n_heads * length) * itemsize


def gpu_bytes(device: torch.device) -> int:
    """Available GPU memory in bytes: what is free, and what torch has reserved but does not use."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept
