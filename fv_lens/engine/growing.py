"""Batches that grow from block to block: a row joins at the layer of its first edit and is not run below it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from ..models.lens import Lens


def told_apart(lens: Lens, n_rows: int, n_positions: int) -> int:
    """The least size of a batch of these rows that is neither a number of heads nor of positions.

    So its dimension is recognised in masks and position embeddings; the surplus rows never run.
    """
    return max(n_rows, lens.n_heads + 1, n_positions + 1)


@contextmanager
def growing(
    lens: Lens, alive: Sequence[int], batch: int, join: Callable[[int, Tensor], Tensor], tuples: bool = False
) -> Iterator[None]:
    """Run each block with its first `alive[layer]` rows in a forward of `batch` rows, and no block without any.

    Args:
        alive: rows that enter each block, and in the end those that leave the last.
        join: `(layer, x)` -> the rows that enter the block, of which `x` begins with those that left the one below.
        tuples: whether blocks return tuples, of which the first part is the stream.
    """

    def through(layer: int, forward: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
        def living(t: Any) -> Any:
            """Masks and position embeddings were made for all rows; some have batch x head in one dimension."""
            if not isinstance(t, Tensor) or t.dim() < 2 or len(t) % batch:
                return t
            return t[: alive[layer] * (len(t) // batch)]

        if alive[layer]:
            args, kwargs = tree_map(living, (args, kwargs))
            out = forward(join(layer, x), *args, **kwargs)
        else:
            x = x.to(lens.device_of(layer))  # where it would have come out
            out = (x, None) if tuples else x
        if layer < lens.n_layers - 1 or alive[layer] == alive[-1]:
            return out
        return (join(layer + 1, out[0]), *out[1:]) if isinstance(out, tuple) else join(layer + 1, out)

    with lens.blocks_through(through):
        yield
