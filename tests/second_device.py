"""A second device on a machine that has one: `torch.device("second:0")`, whose tensors meet no tensor of the CPU.

Its tensors report it as their device and hold their numbers in a tensor of the CPU, out of reach. As on a GPU, an
operation on tensors of both devices raises, but for a number without dimensions, for an index into a tensor, and for
`copy_` and `to`, which move what they are given.

PyTorch registers a device for the rest of the process, so `second_device` is called in tests, not where it is imported.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class Elsewhere(Tensor):
    """A tensor on the second device."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "Elsewhere":
        tensor = Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=numbers.stride(), storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype, device=second_device(),
        )  # fmt: skip
        tensor.numbers = numbers
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        return self.numbers.tolist()

    def __format__(self, form: str) -> str:
        return format(self.numbers, form)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        _check_one_device(function, args, kwargs)
        target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else second_device()
        here, own = tree_map_only(Elsewhere, lambda tensor: tensor.numbers, (args, kwargs))
        result = function(*here, **({**own, "device": "cpu"} if "device" in own else own))
        for tensor, numbers in zip(tree_leaves((args, kwargs)), tree_leaves((here, own))):
            assert not isinstance(tensor, Elsewhere) or tensor.shape == numbers.shape, f"{function} resizes a tensor"
        if function is aten.copy_.default:
            return args[0]
        if target.type == "cpu":
            return result
        return return_and_correct_aliasing(function, args, kwargs, tree_map_only(Tensor, Elsewhere, result))


def _check_one_device(function: Any, args: tuple, kwargs: dict) -> None:
    if function in MOVES:
        return
    indices = tree_leaves(args[1]) if function in INDEXED else []
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and not any(x is at for at in indices)]
    strangers = [x for x in given if not isinstance(x, Elsewhere)]
    all_here = len(strangers) == len(given)  # then the indices are the tensors from elsewhere
    if all_here or any(x.dim() for x in strangers):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {function} was given some of two")


def announce() -> None:
    """Let PyTorch count the device. Autograd counts once, when something first goes backward in a process."""
    torch._C._acc.register_python_privateuseone_device_guard(backend_registration._DummyDeviceGuard())


@functools.cache
def second_device() -> torch.device:
    """The device, registered when it is first asked for."""

    class Hooks(torch._C._acc.PrivateUse1Hooks):
        def is_available(self) -> bool:
            return False  # so that nothing chooses it by itself

        def has_primary_context(self, index: int) -> bool:
            return True

        def is_built(self) -> bool:
            return True

    class Module(backend_registration._DummyBackendModule):
        def is_available(self) -> bool:
            return False

        def device_count(self) -> int:
            return 0  # of those that have random numbers of their own

        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    backend_registration._setup_privateuseone_for_python_backend("second", Module(), Hooks())
    library = torch.library.Library("aten", "IMPL")

    def empty(size: Any, *args: Any, **kwargs: Any) -> Tensor:
        return Elsewhere(torch.empty(size, dtype=kwargs.get("dtype")))

    def empty_strided(size: Any, stride: Any, **kwargs: Any) -> Tensor:
        return Elsewhere(torch.empty_strided(size, stride, dtype=kwargs.get("dtype")))

    def copy_from(source: Tensor, target: Tensor, *args: Any) -> Tensor:  # where `torch.tensor` moves what it made
        numbers, own = (x.numbers if isinstance(x, Elsewhere) else x for x in (source, target))
        own.copy_(numbers)
        return target

    def made(function: Any, *args: Any, **kwargs: Any) -> Tensor:  # what PyTorch would make by resizing an empty tensor
        return Elsewhere(function(*args, dtype=kwargs.get("dtype")))

    library.impl("empty.memory_format", empty, "PrivateUse1")
    for name in ("arange", "arange.start", "arange.start_step", "eye", "eye.m"):
        library.impl(name, functools.partial(made, getattr(torch, name.partition(".")[0])), "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    second_device.library = library  # whose kernels end with it
    return torch.device("second", 0)
