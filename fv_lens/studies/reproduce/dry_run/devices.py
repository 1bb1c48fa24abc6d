"""What each device of a job holds: parts of the model, and what the engine keeps and runs there."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ....engine.chunks import CPU_BYTES, MOST_ROWS, MOST_ROWS_GPU
from ....engine.whatif import MAX_ROWS, ON_GPU, TILE
from ....evaluation.readings import NEUTRAL_PROMPTS
from .flops import Number
from .shape import Shape
from .words import Words

LIBRARIES = 5e8  # bytes that a process holds before it has a model


@dataclass(frozen=True)
class Holding:
    """What one device holds, in bytes by what it is; `blocks` that run there, and `ends` of the model."""

    blocks: range
    ends: tuple[str, ...]
    memory: Mapping[str, Number]

    @property
    def total(self) -> Number:
        return sum(self.memory.values())

    @property
    def parts(self) -> str:
        """Its parts of the model in words."""
        blocks = f"blocks {self.blocks[0]}-{self.blocks[-1]}" if self.blocks else ""
        return ", ".join(part for part in (*self.ends[:1], blocks, *self.ends[1:]) if part) or "nothing"


def holdings(
    shape: Shape, words: Words, sizes: Sequence[Sequence[int]], n_shots: int, itemsize: int, memory: float | None
) -> list[Holding]:
    """What each device of a job holds, and one more, for what finds no place, where there is such.

    Args:
        sizes: of each relation, how many train, validation and test pairs it has.
        n_shots: demonstrations before the prompts of a head map.
        memory: bytes free on each device before it has a model; None where not known.
    """
    placed, layer, gpu = shape.placed, shape.grid[0], shape.gpu
    n_train, n = sum(size[0] for size in sizes), sum(size[0] + size[1] for size in sizes)
    used = max(placed.weights[:-1])
    free = None if memory is None else max(0.0, memory - used)
    row = shape.row_bytes(words.prompt, words.answer, layer, itemsize)
    most, budget = (MOST_ROWS_GPU, free / 2 if free is not None else row * MOST_ROWS_GPU) if gpu else (
        MOST_ROWS, float(CPU_BYTES))  # fmt: skip
    way_back = max(row, min(row * n_train, row * most, budget))
    keys = 2 * shape.n_kv_heads * shape.d_head * words.prompt
    context = words.prompt + n_shots * words.shown
    row_floats = 3 * shape.n_heads * (context + shape.d_head) + 6 * shape.d_model + 3 * shape.d_mlp
    n_above = shape.n_layers - layer
    found = []
    for device, weights in enumerate(placed.weights):
        blocks = [at for at, of in enumerate(placed.blocks) if of == device]
        above = sum(at >= layer for at in blocks)
        first, last = placed.embedding == device, placed.unembedding == device
        held = {"weights": weights}
        if blocks:
            held["keys and values of tuned rows"] = n * itemsize * keys * sum(at > layer for at in blocks)
            held["their backward pass"] = way_back * above / n_above
            held["what-ifs"] = MAX_ROWS * (ON_GPU if gpu else 1) * row_floats * itemsize
        if first:
            held["tuned rows"] = n * itemsize * words.answer * shape.d_model
        if last:
            held["a tile of logits"] = 4 * TILE * (ON_GPU if gpu else 1) * shape.d_vocab * 4
            held["readings"] = 4 * len(NEUTRAL_PROMPTS) * (1 + len(sizes)) * shape.d_vocab
        if not gpu:
            held["libraries"] = LIBRARIES
        ends = ("embeddings" if first else "", *(["unembedding"] if last else []))
        found.append(Holding(range(blocks[0], blocks[-1] + 1) if blocks else range(0), ends, held))
    return found if placed.weights[-1] else found[:-1]


def available(device: torch.device) -> float | None:
    """Bytes free on a GPU, or all of the host's memory where the system tells."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows has none of it
        return None
