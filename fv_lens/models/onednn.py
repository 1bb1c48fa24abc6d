"""Linear maps on a CPU through oneDNN, which torch ships but does not use for float32.

torch gives float32 products to the BLAS it was built with, which is mostly MKL. On AMD processors with AVX-512 oneDNN
multiplies 1.1 to 2.4 times faster, at 8 rows and more. Both round in float32; only the order of the sums differs.

Weights that models transpose before each product, `linear(x, weight.T.contiguous())`, are read in place: a copy of an
unembedding takes as long as a product with it of a hundred rows.

`only` leaves tokens out of the products: those that nothing reads, as after the shorter answers of a batch, and those
that repeat another row's token, as where prompts begin alike.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import MappingProxyType
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

P = ParamSpec("P")
R = TypeVar("R")
LEAST_ROWS = 8  # with fewer, products are memory-bound, and both take equally long

# The operator torch.compile uses for linear layers; where a build of torch lacks it, torch's own way stays.
_product: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


class _Selection(NamedTuple):
    """Indices of the tokens that linear maps are computed of, and the place among these of each token's output.

    The place is their number where the output is 0. `shared`: whether several tokens take one output.
    """

    computed: Int[Tensor, " computed"]
    places: Int[Tensor, " token"]
    shared: bool

    @classmethod
    def of(cls, read: Bool[Tensor, "row token"], same: Int[Tensor, "row token"] | None = None) -> "_Selection":
        flat = read.flatten().cpu()  # where oneDNN multiplies, wherever the tokens are
        own = torch.arange(len(flat), device="cpu")
        first = own if same is None else same.flatten().cpu()
        chosen = flat & (first == own)
        assert chosen[first[flat]].all(), "a token that is read takes the output of one that is not computed"
        computed = chosen.nonzero()[:, 0]
        places = torch.where(flat, (chosen.cumsum(0) - 1)[first], len(computed))
        return cls(computed, places, len(computed) < int(flat.sum()))


# For tokens of the shape `[row, token]`; none where all are computed.
_selections: ContextVar[Mapping[torch.Size, _Selection]] = ContextVar("_selections", default=MappingProxyType({}))


@contextmanager
def only(
    read: Bool[Tensor, "row token"], last: int | None = None, same: Int[Tensor, "row token"] | None = None
) -> Iterator[None]:
    """Compute linear maps only where needed in this context: tokens not `read` give 0, repeated ones share one output.

    It holds for linear maps of `[row, token, d]` that oneDNN is given, and of `[row, last, d]`, the last tokens of each
    row, of which logits are computed; all others are whole.

    Args:
        read: which tokens are read; none of them may see one that is not.
        last: how many tokens of each row have logits.
        same: for each token, the index in `[row * token]` of the first token that is read and has the same history, the
            token itself included; its own index if there is none. A causal model computes the same numbers for both,
            whatever is trained, so one output serves both and the sum of their gradients is exact.
    """
    parts = [(read, _Selection.of(read, same))]
    if last is not None:
        parts.append((read[:, -last:], _Selection.of(read[:, -last:])))
    token = _selections.set({of.shape: part for of, part in parts if len(part.computed) < of.numel()})
    try:
        yield
    finally:
        _selections.reset(token)


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
        if function is Tensor.contiguous and not kwargs and len(args) == 1 and _is_transposed_weight(*args):
            return _Transposed.of(*args)
        if function is linear and not kwargs:
            args = tuple(x.in_place if isinstance(x, _Transposed) else x for x in args)
            if _fits(*args):
                selection = _selections.get().get(args[0].shape[:-1])
                if selection is not None:
                    return _LinearOfSelected.apply(selection, *args)
                return _Linear.apply(*args)
        # Where weights are `[in, out]`, models call addmm(bias, x, weight) instead.
        if function is torch.addmm and not kwargs and _fits(args[1], args[2].t(), args[0]):
            return _Linear.apply(args[1], args[2].t(), args[0])
        return function(*args, **kwargs)


class _Transposed(Tensor):
    """What `contiguous` returns of a transposed weight: products read it in place, all else reads a copy."""

    weight: Tensor
    copied: Tensor | None

    @classmethod
    def of(cls, weight: Tensor) -> "_Transposed":
        transposed = weight.as_subclass(cls)
        transposed.weight, transposed.copied = weight, None
        return transposed

    @property
    def in_place(self) -> Tensor:
        return self.weight if self.copied is None else self.copied  # what holds the copy may have changed it

    def copy(self) -> Tensor:
        if self.copied is None:
            self.copied = self.weight.contiguous()
        return self.copied

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in _ASKED_FIRST:
            return function(args[0].weight)
        args, kwargs = tree_map_only(cls, cls.copy, (args, kwargs or {}))
        return function(*args, **kwargs)


# What models ask of a weight before they multiply with it, which the layout does not change.
_ASKED_FIRST = {getattr(Tensor, name).__get__ for name in ("device", "dtype", "shape")}


def _is_transposed_weight(x: Tensor) -> bool:
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


class _LinearOfSelected(torch.autograd.Function):
    """As `_Linear` of the selected tokens; the others take an output of theirs, or 0."""

    @staticmethod
    def forward(ctx: Any, selection: _Selection, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.selection, ctx.weight = selection, weight
        rows = _product(x.flatten(0, -2).index_select(0, selection.computed), weight, bias, "none", [], "")
        return pad(rows, (0, 0, 0, 1)).index_select(0, selection.places).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor, None, None]:
        (computed, places, shared), flat = ctx.selection, slope.flatten(0, -2)
        if shared:
            of_rows = flat.new_zeros(len(computed) + 1, flat.shape[1]).index_add_(0, places, flat)[:-1]
        else:
            of_rows = flat.index_select(0, computed)
        rows = _product(of_rows, ctx.weight.t(), None, "none", [], "")
        result = rows.new_zeros(len(flat), rows.shape[1]).index_copy_(0, computed, rows)
        return None, result.unflatten(0, slope.shape[:-1]), None, None
