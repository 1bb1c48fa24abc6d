"""Linear maps on a CPU through oneDNN, which torch ships but does not use for float32.

torch gives float32 products to the BLAS it was built with, which is mostly MKL. On AMD processors with AVX-512 oneDNN
multiplies 1.1 to 2.4 times faster, at 8 rows and more. Both round in float32; only the order of the sums differs.

Weights that models turn before each product, `linear(x, weight.T.contiguous())`, are read as they stand: a copy of an
unembedding takes as long as a product with it of a hundred rows.

`only` leaves tokens out of the products: those behind the shorter answers of a batch, which nothing reads.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

P = ParamSpec("P")
R = TypeVar("R")
LEAST_ROWS = 8  # with fewer, products are memory-bound, and both take equally long

# The operator torch.compile uses for linear layers; where a build of torch lacks it, torch's own way stays.
_product: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


# Shape `[row, token]` -> indices of the tokens that are read, place of each token among these; not where all are read.
_read: ContextVar[Mapping[torch.Size, tuple[Tensor, Tensor]]] = ContextVar("_read", default=MappingProxyType({}))


@contextmanager
def only(read: Bool[Tensor, "row token"], last: int | None = None) -> Iterator[None]:
    """Skip the products of all other tokens in this block, whose outputs are 0: for tokens that no other token sees.

    It holds for linear maps of `[row, token, d]` that oneDNN is given, and of `[row, last, d]`, the last tokens of each
    row, of which logits are computed; all others are whole.
    """
    parts = [read] if last is None else [read, read[:, -last:]]
    token = _read.set({part.shape: _places(part) for part in parts if not part.all()})
    try:
        yield
    finally:
        _read.reset(token)


def _places(read: Bool[Tensor, "row token"]) -> tuple[Tensor, Tensor]:
    flat = read.flatten().cpu()  # where oneDNN multiplies, wherever the tokens are
    which = flat.nonzero()[:, 0]
    return which, torch.where(flat, flat.cumsum(0) - 1, len(which))


def through_onednn(verb: Callable[P, R]) -> Callable[P, R]:
    """Run a verb of the lens with its linear maps, and their gradients, through oneDNN where that is exact float32."""

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _OneDnnMode():
            return verb(*args, **kwargs)

    return run


class _OneDnnMode(TorchFunctionMode):
    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.contiguous and not kwargs and len(args) == 1 and _is_turned_weight(*args):
            return _Turned.of(*args)
        if function is linear and not kwargs:
            args = tuple(x.as_it_stands if isinstance(x, _Turned) else x for x in args)
            if _fits(*args):
                read = _read.get().get(args[0].shape[:-1])
                if read is not None:
                    return _LinearOfSome.apply(*read, *args)
                return _Linear.apply(*args)
        # Where weights stand as `[in, out]`, models call addmm(bias, x, weight) instead.
        if function is torch.addmm and not kwargs and _fits(args[1], args[2].t(), args[0]):
            return _Linear.apply(args[1], args[2].t(), args[0])
        return function(*args, **kwargs)


class _Turned(Tensor):
    """What `contiguous` returns of a turned weight: products read it as it stands, all else reads a copy."""

    standing: Tensor
    copied: Tensor | None

    @classmethod
    def of(cls, weight: Tensor) -> "_Turned":
        turned = weight.as_subclass(cls)
        turned.standing, turned.copied = weight, None
        return turned

    @property
    def as_it_stands(self) -> Tensor:
        return self.standing if self.copied is None else self.copied  # what holds the copy may have changed it

    def copy(self) -> Tensor:
        if self.copied is None:
            self.copied = self.standing.contiguous()
        return self.copied

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in _ASKED_FIRST:
            return function(args[0].standing)
        args, kwargs = tree_map_only(cls, cls.copy, (args, kwargs or {}))
        return function(*args, **kwargs)


# What models ask of a weight before they multiply with it, which the layout does not change.
_ASKED_FIRST = {getattr(Tensor, name).__get__ for name in ("device", "dtype", "shape")}


def _is_turned_weight(x: Tensor) -> bool:
    """Whether this is a transposed view of a parameter, which nothing changes while the model runs."""
    return (
        _product is not None
        and isinstance(x._base, nn.Parameter)
        and (x.dtype == torch.float32 and x.layout == torch.strided and x.is_cpu)
        and (x.dim() == 2 and not x.is_contiguous() and x.t().is_contiguous())
        and not torch.is_autocast_enabled("cpu")
    )


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    tensors = [x, weight] if bias is None else [x, weight, bias]
    return (
        _product is not None
        and all(
            tensor.dtype == torch.float32 and tensor.layout == torch.strided and tensor.is_cpu for tensor in tensors
        )
        and (x.dim() > 1 and weight.dim() == 2 and x.shape[-1] == weight.shape[1])
        and (bias is None or bias.shape == weight.shape[:1])
        and x.numel() >= LEAST_ROWS * x.shape[-1]
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors[1:]))
        and not torch.is_autocast_enabled("cpu")
    )


class _Linear(torch.autograd.Function):
    """`x @ weight.T + bias`, differentiable in `x` alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.weight = weight
        return _product(x, weight, bias, "none", [], "")

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return _product(slope, ctx.weight.t(), None, "none", [], ""), None, None


class _LinearOfSome(torch.autograd.Function):
    """As `_Linear` of the tokens that are read, and 0 elsewhere."""

    @staticmethod
    def forward(
        ctx: Any, read: Tensor, places: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        ctx.read, ctx.places, ctx.weight = read, places, weight
        return _of_some(read, places, x, weight, bias)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[None, None, Tensor, None, None]:
        return None, None, _of_some(ctx.read, ctx.places, slope, ctx.weight.t()), None, None


def _of_some(read: Tensor, places: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = _product(x.flatten(0, -2).index_select(0, read), weight, bias, "none", [], "")
    return pad(rows, (0, 0, 0, 1)).index_select(0, places).unflatten(0, x.shape[:-1])
