"""Operations that torch counts while something runs, and a shape of a model with operations made up."""

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fv_lens.studies.reproduce.dry_run.flops import Flops, Work
from fv_lens.studies.reproduce.dry_run.shape import Placed, Shape


class Counting(TorchDispatchMode):
    """Adds up the operations of all products of matrices, on the way back as well."""

    flop = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.flop += count(*args, **(kwargs or {}), out_val=out)
        return out


def shape_with(*blocks: int) -> Shape:
    """A shape whose blocks take two operations for each of so many weights, and 16 for each key; 32 on the way back."""
    there, back = (tuple(Work(2 * weights, key) for weights in blocks) for key in (16, 32))
    return Shape(
        blocks, sum(blocks) + 50, d_model=4, d_mlp=8, n_heads=2, n_kv_heads=1, d_head=2, d_vocab=10, matrix=(8, 4),
        flops=Flops(there, back, 100, 100), placed=Placed((0,) * len(blocks), 0, 0, (4 * sum(blocks) + 200, 0)),
    )  # fmt: skip
