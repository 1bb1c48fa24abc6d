"""The skeleton of a computation: its own matmuls, recorded once and replayed with nothing between them."""

from functools import partial

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Where the first operand stands. On a CPU the engine's linear maps are oneDNN's (see models/onednn.py), which other
# machines' torch may lack.
MATMULS = {torch.ops.aten.mm.default: 0, torch.ops.aten.addmm.default: 1, torch.ops.aten.bmm.default: 0}
ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
if ONEDNN is not None:
    MATMULS[ONEDNN.default] = 0


class Matmuls(TorchDispatchMode):
    """Records the operands of every matmul: the model's weights themselves, the layout of everything else."""

    def __init__(self, model):
        super().__init__()
        self.weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.calls, self.buffers = [], {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in MATMULS:
            first = MATMULS[func]
            self.calls.append((func, *(self._operand(x, i) for i, x in enumerate(args[first : first + 2]))))
        return func(*args, **(kwargs or {}))

    def _operand(self, x, place):
        if x.untyped_storage().data_ptr() in self.weights:
            return x
        key = (place, tuple(x.shape), tuple(x.stride()), x.dtype)
        if key not in self.buffers:
            size = 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride()))  # expanded ones overlap
            self.buffers[key] = torch.randn(size, dtype=x.dtype, device=x.device).as_strided(x.shape, x.stride())
        return self.buffers[key]

    def replay(self):
        """A function that makes every call again; those of one shape share an output, but oneDNN takes none."""
        outputs, ready = {}, []
        for func, left, right in self.calls:
            if ONEDNN is not None and func is ONEDNN.default:
                ready.append(partial(ONEDNN, left, right, None, "none", [], ""))
                continue
            shape = (*left.shape[:-1], right.shape[-1])
            out = outputs.setdefault((shape, left.dtype), left.new_empty(shape))
            ready.append(partial(torch.mm if left.dim() == 2 else torch.bmm, left, right, out=out))

        @torch.no_grad()
        def run():
            for multiply in ready:
                multiply()

        return run
