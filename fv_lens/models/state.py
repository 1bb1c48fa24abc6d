"""State that fv_lens keeps on a model: its patches, and results of comparisons with full forwards by condition.

Whether a fast form is exact depends on more than weights: on active dropout, on the user's own hooks and adapters, on
autocast. So results are kept with the `conditions` they were measured under, and are measured again under others.
"""

import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

HOOKS = {
    "forward hook": "_forward_hooks",
    "forward pre-hook": "_forward_pre_hooks",
    "backward hook": "_backward_hooks",
    "backward pre-hook": "_backward_pre_hooks",
}
UserHook = tuple[nn.Module | None, str, int]  # where it stands (None: on every module), its kind, its number
Form = Literal["as positions", "as batch elements", "in full forwards", "one by one"]  # of rows, see `engine.forms`
KEPT = 8  # conditions whose findings a model keeps
LIBRARIES = frozenset(
    "accelerate apex auto_gptq awq bitsandbytes causal_conv1d compressed_tensors deepspeed fla flash_attn gptqmodel "
    "hqq kernels liger_kernel mamba_ssm megablocks optimum peft quanto torch torchao transformer_lens transformers "
    "transformers_modules xformers".split()
)
SIMPLE, COLLECTIONS = (bool, int, float, str), (list, tuple, set, frozenset, dict)


_count = itertools.count(1)
_numbers: weakref.WeakKeyDictionary[Callable[..., Any], int] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Arrival:
    """How a layer's attention output `a` enters the residual stream: as `gain * a`, or as `gain * a / rms(a)`.

    `gain`: `[d_model]`; None where it enters as it is. `eps`: what the norm adds to the mean square of `a`; None
    without a norm.
    """

    gain: Tensor | None = None
    eps: float | None = None

    def rms(self, output: Tensor) -> Tensor:
        """The norm's divisor for attention outputs `[..., d_model]`: their root mean square; 1 without a norm."""
        if self.eps is None:
            return torch.ones_like(output[..., 0])
        return (output.square().mean(-1) + self.eps).sqrt()


@dataclass
class Parity:
    """Results of comparisons with full forwards under one set of conditions; see `engine.forms` and `.gradients`.

    Args:
        length: tokens of the longest prompt compared; 0 before the first comparison.
        forms: the exact forms of rows, fastest first.
        padding: whether left padding changes nothing.
        batches_exact: whether a prompt has the same logits beside others, padded ones, as by itself.
        sites: (layer, site) -> (length, forms), for vectors added elsewhere than at `hook_resid_post`.
        several_tokens: (length, forms) for rows of several tokens.
        sharing: (length, whether prompts that begin alike may have their beginning run once).
        gradients: (layers, whether answers have several tokens) -> (length, whether blocks below may be skipped).
        plain_readout: whether logits are the unembedding alone; None where not known yet.
        unembeds_rows: whether logits are made position by position, out of the last block's output.
        head_layers: the layers whose `hook_z` is `[batch, pos, n_heads, d_head]`; None where not known yet.
        plain_writes: layer -> whether the residual stream moves by what the heads' output projection writes.
        arrivals: layer -> how attention's output enters the residual stream, None where it was not understood.
        attention_outputs: layer -> the hook point where what heads write can be added, None where there is none.
        cached_steps: whether decoding with a cache equals full forwards; None where not known yet.
        reaching: (layer, site) -> whether a vector added there reaches the residual stream.
    """

    length: int = 0
    forms: list[Form] = field(default_factory=list)
    padding: bool = True
    batches_exact: bool = True
    sites: dict[tuple[int, str], tuple[int, list[Form]]] = field(default_factory=dict)
    several_tokens: tuple[int, list[Form]] = (0, [])
    sharing: tuple[int, bool] = (0, False)
    gradients: dict[tuple[tuple[int, ...], bool], tuple[int, bool]] = field(default_factory=dict)
    plain_readout: bool | None = None
    unembeds_rows: bool = False
    head_layers: tuple[int, ...] | None = None
    plain_writes: dict[int, bool] = field(default_factory=dict)
    arrivals: "dict[int, Arrival | None]" = field(default_factory=dict)
    attention_outputs: dict[int, str | None] = field(default_factory=dict)
    cached_steps: bool | None = None
    reaching: dict[tuple[int, str], bool] = field(default_factory=dict)


class State:
    """The state in a model's `__dict__`. A deep copy or pickle of the model gets an empty one.

    A shallow copy has the same `__dict__` entries, so the state remembers its model, by a weak reference that does not
    keep the model alive.
    """

    def __init__(self, model: nn.Module | None = None):
        self._model = None if model is None else weakref.ref(model)
        self.parities: dict[int, Parity] = {}
        # Of a room above this one: the patches that are on the model, and what follows the calls of a patched model.
        self.patches: list[Any] = []
        self.watch: Any = None
        self.endings: Tensor | None = None
        self.blocks: list[nn.Module] | None = None  # of a Hugging Face model without TransformerLens
        self.warned: set[str] = set()
        self.lock = threading.RLock()  # one thread at a time has hooks of fv_lens on the model

    def parity_under(self, key: int) -> Parity:
        """The parity under the conditions of this hash; results of the `KEPT` latest conditions are kept."""
        parity = self.parities.pop(key, None) or Parity()
        self.parities[key] = parity
        while len(self.parities) > KEPT:
            self.parities.pop(next(iter(self.parities)))
        return parity

    def is_of(self, model: nn.Module) -> bool:
        """Whether this is the state of this very object, not of one that it was copied from."""
        return self._model is not None and self._model() is model

    def __deepcopy__(self, memo: dict[int, Any]) -> "State":
        return State()

    def __reduce__(self) -> tuple[type["State"], tuple[()]]:
        return State, ()


def conditions(
    model: nn.Module, network: nn.Module, hooks: Sequence[UserHook], devices: Collection[torch.device], *more: Hashable
) -> int:
    """A hash of all that decides which forms are exact, apart from the numbers in the weights.

    The kinds and the plain settings of the network's modules (dropout, train flags, adapters and which of them are
    active), the `user_hooks`, autocast on its devices, the model's configuration and whatever is given as `more`.
    """
    settings = tuple(_settings(module) for module in modules(network))
    kinds = sorted({device.type for device in devices})
    autocast = tuple((torch.is_autocast_enabled(kind), str(torch.get_autocast_dtype(kind))) for kind in kinds)
    attention = str(getattr(getattr(network, "config", None), "_attn_implementation", None))
    numbers = tuple((kind, number) for _, kind, number in hooks)
    return hash((settings, numbers, autocast, attention, _plain(vars(model.cfg)), *more))


def user_hooks(*roots: nn.Module) -> list[UserHook]:
    """The user's own hooks, replaced forwards and inserted modules: those of neither fv_lens nor a library.

    A module counts if neither a library nor the package of the model itself defines it, such as a steering wrapper.

    Returns each with its module (None: every module), its kind, and the unique number that PyTorch gave it.
    """
    hooks: list[UserHook] = []
    packages = LIBRARIES.union(map(_package_of, roots), {__package__.partition(".")[0]})
    for kind, attribute in HOOKS.items():
        everywhere = getattr(torch_module, f"_global{attribute}", {})
        hooks += [(None, kind, number) for number, hook in everywhere.items() if _is_foreign(hook)]
    for module in modules(*roots):
        for kind, attribute in HOOKS.items():
            registered = module.__dict__.get(attribute) or {}
            hooks += [(module, kind, number) for number, hook in registered.items() if _is_foreign(hook)]
        forward = module.__dict__.get("forward")
        if forward is not None and _is_replaced(forward):
            hooks.append((module, "replaced forward", _number_of(forward)))
        if _package_of(module) not in packages:
            hooks.append((module, f"module {type(module).__name__}", 0))
    return hooks


def _package_of(module: nn.Module) -> str:
    return type(module).__module__.partition(".")[0]


def places(hooks: Sequence[UserHook], *roots: nn.Module) -> list[str]:
    """Where hooks stand, in words: "forward hook at blocks.0.hook_out"."""
    names = {id(module): name for root in roots for name, module in root.named_modules()}
    where = []
    for module, kind, _ in hooks:
        point = getattr(module, "name", None) if hasattr(module, "fwd_hooks") else None
        place = "every module" if module is None else point or names.get(id(module)) or type(module).__name__
        where.append(f"{kind} at {place}")
    return where


@contextmanager
def without_hooks(*roots: nn.Module) -> Iterator[None]:
    """The model without hooks of the user's or patches, and in evaluation mode."""
    hooked: list[tuple[nn.Module, str, dict[int, Callable[..., Any]]]] = []
    trained: list[nn.Module] = []
    for module in modules(*roots):
        for attribute in HOOKS.values():
            hooks = module.__dict__.get(attribute) or {}
            if any(_is_foreign(hook) or _is_own(hook) for hook in hooks.values()):
                hooked.append((module, attribute, hooks))
        if module.training:
            trained.append(module)
    try:
        for module, attribute, hooks in hooked:
            rest = [(key, hook) for key, hook in hooks.items() if not (_is_foreign(hook) or _is_own(hook))]
            module.__dict__[attribute] = OrderedDict(rest)
        for module in trained:
            module.training = False
        yield
    finally:
        for module, attribute, hooks in hooked:  # with those that a library has added since
            hooks.update(module.__dict__[attribute])
            module.__dict__[attribute] = hooks
        for module in trained:
            module.training = True


def mark_as_own(function: Callable[..., Any], **notes: Any) -> None:
    """Mark a hook or method as fv_lens's, so that it does not count as the user's, and leave notes on it."""
    function.__dict__.update(notes, of_fv_lens=True)


def _is_own(hook: Callable[..., Any]) -> bool:
    return getattr(hook, "of_fv_lens", False)


def _is_foreign(hook: Callable[..., Any]) -> bool:
    """Whether a hook is the user's: libraries register hooks of their own, to record activations or compute weights."""
    if _is_own(hook) or type(hook).__module__.startswith("torch.nn.utils."):  # those of weight_norm and its kin
        return False
    return not isinstance(hook, FunctionType) or not _of_library(hook)


def _of_library(function: Callable[..., Any]) -> bool:
    """Whether a function was written in a library; TransformerLens wraps users' hooks in one of its own."""
    package, _, rest = (getattr(function, "__module__", None) or "").partition(".")
    return package in LIBRARIES and (package, rest) != ("transformer_lens", "hook_points")


def _is_replaced(forward: Callable[..., Any]) -> bool:
    """Whether a module's own forward is the user's; accelerate replaces forwards, too."""
    return not _is_own(forward) and not _of_library(getattr(forward, "func", forward))


def modules(*roots: nn.Module) -> Iterator[nn.Module]:
    """All modules of the trees, each once; several times faster than `Module.modules`."""
    waiting, seen = list(roots), set()
    while waiting:
        module = waiting.pop()
        if module is not None and id(module) not in seen:
            seen.add(id(module))
            yield module
            waiting.extend(module.__dict__["_modules"].values())


def _settings(module: nn.Module) -> tuple[Any, ...]:
    """A module's kind and settings; of TransformerLens' modules only the train flag, as they store activations."""
    kind, settings = type(module), module.__dict__
    forward = settings.get("forward")
    replaced = 0 if forward is None or _is_own(forward) else _number_of(forward)
    if kind.__module__.startswith("transformer_lens."):
        return kind, kind.forward, module.training, replaced
    return kind, kind.forward, replaced, _plain(settings)


def _number_of(function: Callable[..., Any]) -> int:
    """A number unique to a function, never reused once the function is gone."""
    try:
        return _numbers.setdefault(function, next(_count))
    except TypeError:  # what cannot be referred to weakly
        return id(function)


def _plain(settings: Mapping[str, Any]) -> tuple[tuple[str, Hashable], ...]:
    """Names and values of those settings that are numbers, text or collections of these."""
    plain: list[tuple[str, Hashable]] = []
    for name, value in settings.items():
        if isinstance(value, SIMPLE):
            plain.append((name, value))
        elif isinstance(value, COLLECTIONS) and value and name not in HOOKS.values():
            items = [*value, *value.values()] if isinstance(value, dict) else value
            if all(isinstance(item, SIMPLE) for item in items):
                plain.append((name, repr(value)))
    return tuple(plain)
