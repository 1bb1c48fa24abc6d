"""The adapter: what fv_lens needs from TransformerLens, stated once for HookedTransformer and TransformerBridge.

The verbs are few: `tokens` (text to ids under the model's BOS rule), `logits` (a full forward, the slow reference),
`prefix` (keys and values of the tokens before those of a step), `step` (a few tokens over a prefix, with hooks),
`readout` (logits of what a step returns), `unembed` (logits of any residual), `text` (what a token reads as), `endings`
(which tokens end an answer) and `writes` (what heads write). No module outside this room knows
TransformerLens; `calls` and `arguments` follow the methods that users call.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..ground.errors import ParityError
from .devices import device_of
from .hooking import BlockRun, Hook, HookFunction, blocks_through, with_hooks
from .model import Model
from .state import Parity, State, UserHook, conditions, user_hooks
from .tokens import ending_tokens, token_ids, token_text
from .weights import is_centered, is_full_precision, weights_hash

HEAD_OUTPUT = "attn.hook_z"


Attend = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a batch of left-padded prompts up to, not including, the tokens of a step.

    `keys`, `values`: one `[batch, kv_head, pos, d_head]` per layer, as the model's own cache holds them.
    `mask`: `[batch, pos]`, 1 at tokens and 0 at padding.
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Int[Tensor, "batch pos"]

    @property
    def length(self) -> int:
        return self.mask.shape[1]


class Lens:
    """The user's model, behind the verbs above. Get one with `lens_of(model)`."""

    model: Any  # a Model; the two lines of TransformerLens type their parts differently, or not at all
    parity: Parity
    user_hooks: list[UserHook]
    full_precision: bool  # whether products round as float32 does, or better; see `is_full_precision`

    def __init__(self, model: Model, state: State | None = None):
        self.model, self.cfg = model, model.cfg
        self.network: Any = getattr(model, "original_model", model)  # Hugging Face's, where there is one
        self.n_layers, self.n_heads = self.cfg.n_layers, self.cfg.n_heads
        self.d_model, self.d_head = self.cfg.d_model, self.cfg.d_head
        self.n_ctx = self.cfg.n_ctx
        self.name = self.cfg.model_name
        self.state = State(self.model) if state is None else state
        self._is_settled = False
        self.renew()

    def renew(self) -> None:
        """Inspect the model again: set `user_hooks` to those on it now and `parity` to what is known of it now.

        Called where work begins, never inside `hooks`; patches may be on the model.
        """
        if self._is_settled:
            return
        with self.state.lock:
            self.user_hooks = user_hooks(self.model, self.network)
            self.full_precision = is_full_precision(self.model, self.dtype, self.devices)
            more = self.processing, self.dtype, tuple(self.devices), self.full_precision
            key = conditions(self.model, self.network, self.user_hooks, self.devices, *more)
            self.parity = self.state.parity_under(key)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Inspect the model once for work of many parts, between which nobody else has a turn to change it."""
        if self._is_settled:
            yield
            return
        self.renew()
        self._is_settled = True
        try:
            yield
        finally:
            self._is_settled = False

    @property
    def one_by_one(self) -> bool:
        """Whether each prompt needs its own forward: the user has hooks on the model, or batching changes logits."""
        return bool(self.user_hooks) or not self.parity.batches_exact

    @property
    def patches(self) -> list[Any]:
        """The patches that are on the model at the moment."""
        return self.state.patches

    @cached_property
    def points(self) -> Mapping[str, nn.Module]:
        """The model's hook points by name, aliases included."""
        return self.model.hook_dict

    @property
    def parameter(self) -> Tensor:
        """A parameter whose dtype represents all: not quantised, and not offloaded unless all are."""
        floats = (p for p in self.model.parameters() if p.is_floating_point())
        first = next(floats)
        return first if first.device.type != "meta" else next((p for p in floats if p.device.type != "meta"), first)

    @cached_property
    def device(self) -> torch.device:
        """Where prompts enter the model: the device of its embeddings, to which logits of full forwards come back."""
        return self._device_of(self._embeddings)

    def device_of(self, layer: int) -> torch.device:
        """Where a block runs."""
        return self._of_blocks[layer]

    @cached_property
    def _of_blocks(self) -> list[torch.device]:
        return [self._device_of(block) for block in self.model.blocks]

    def _device_of(self, part: nn.Module) -> torch.device:
        return device_of(part) or self.parameter.device

    @cached_property
    def devices(self) -> list[torch.device]:
        """All devices that parts of the model run on, from where prompts enter to where logits are made; each once."""
        return list(dict.fromkeys([self.device, *self._of_blocks, self._device_of(self.model.unembed)]))

    @property
    def gpus(self) -> list[torch.device]:
        """Those of its devices that are GPUs."""
        return [device for device in self.devices if device.type == "cuda"]

    @property
    def dtype(self) -> torch.dtype:
        return self.parameter.dtype  # a Bridge's cfg.dtype can be wrong

    @property
    def pad_id(self) -> int:
        tokenizer = self.model.tokenizer
        return (tokenizer.pad_token_id if tokenizer is not None else None) or 0

    @property
    def bos(self) -> bool:
        """Whether `tokens` starts with a beginning-of-sequence token."""
        ids, bos = self.tokens("a"), getattr(self.model.tokenizer, "bos_token_id", None)
        return bool(ids) and bos is not None and ids[0] == bos

    @property
    def processing(self) -> str:
        """'centered' if what is written to the residual stream has zero mean over d_model (a processing mode).

        Else 'raw'. Judged by the embeddings: every model has them, and the mode centres all weights that write.
        """
        return "centered" if is_centered(self.embedding.detach()) else "raw"

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the weights in order, which identifies the model of a result whatever its name."""
        return weights_hash(self.model)

    @property
    def embedding(self) -> Float[Tensor, "vocab d_model"]:
        """The token embeddings."""
        raise NotImplementedError

    @property
    def _embeddings(self) -> nn.Module:
        """The module that holds them."""
        raise NotImplementedError

    @torch.no_grad()
    def writes(self, layer: int, z: Float[Tensor, "row head d_head"]) -> Float[Tensor, "row d_model"]:
        """Head outputs through the model's own output projection, without its bias; float32 on the CPU.

        Computed as the projection of each row minus that of zeros, so that adapters on it count, quantised and
        transposed weights are used as the model uses them, and the bias cancels.

        Raises:
            InputError: the layer has no output projection, or its heads are not `[n_heads, d_head]`.
            ParityError: the projection gives different numbers for the same input (dropout).
        """
        device = self.device_of(layer)
        rows = torch.cat([torch.zeros_like(z[:1]), z]).flatten(1).to(device, self.dtype)
        with torch.autocast(device.type, enabled=False):
            once, again = (self._project(layer, rows).float() for _ in range(2))
        if not torch.allclose(once, again, rtol=0, atol=0, equal_nan=True):
            raise ParityError(
                f"The output projection of layer {layer} of {self.name} gives different numbers for the same input "
                "(dropout of an adapter?). Call model.eval() first."
            )
        return (once[1:] - once[:1]).cpu()

    def _project(self, layer: int, rows: Float[Tensor, "row heads"]) -> Float[Tensor, "row d_model"]:
        """The output projection of a layer's attention, called by itself."""
        raise NotImplementedError

    @property
    def head_layers(self) -> tuple[int, ...]:
        """The layers with attention heads that can be edited: whose `hook_z` is `[batch, pos, n_heads, d_head]`."""
        if self.parity.head_layers is None:
            self.parity.head_layers = self._measured_head_layers()
        return self.parity.head_layers

    @torch.no_grad()
    def _measured_head_layers(self) -> tuple[int, ...]:
        shapes: dict[int, tuple[int, ...]] = {}
        names = {layer: f"blocks.{layer}.{HEAD_OUTPUT}" for layer in range(self.n_layers)}

        def see(layer: int) -> HookFunction:
            return lambda x, hook: shapes.__setitem__(layer, tuple(x.shape[2:]))

        ids = torch.arange(1, 4, device=self.device)[None] % self.cfg.d_vocab
        hooks = [(name, see(layer)) for layer, name in names.items() if name in self.points]
        self.logits(ids, torch.ones_like(ids), hooks)
        if len(shapes) < len(hooks):
            silent = next(name for layer, name in names.items() if name in self.points and layer not in shapes)
            raise ParityError(f"A hook at {silent} of {self.name} was not called, so an edit there changed nothing.")
        return tuple(layer for layer in names if shapes.get(layer) == (self.n_heads, self.d_head))

    def tokens(self, text: str) -> list[int]:
        """Ids of `text` under the model's own BOS rule, never truncated."""
        return token_ids(self.model, text)

    def text(self, token: int) -> str:
        """The text of a token, with any space it begins with."""
        return token_text(self.model, token)

    @property
    def endings(self) -> Bool[Tensor, " vocab"]:
        """Mask of the tokens that begin with a newline or end the text, one of which must follow a whole answer."""
        if self.state.endings is None:
            self.state.endings = ending_tokens(self.model)
        return self.state.endings.to(self.device)

    @contextmanager
    def hooks(self, hooks: Sequence[Hook]) -> Iterator[None]:
        """Run with `(name, function)` hooks, in forwards of this thread only.

        A hook name that the model does not have raises a ParityError (a Bridge 3.9 would ignore it).
        """
        for name, _ in hooks:
            if name not in self.points:
                raise ParityError(f"{self.name} has no hook point {name!r}, so an edit there would do nothing.")
        with self.state.lock, with_hooks(self.model, hooks):
            yield

    @contextmanager
    def blocks_through(self, run: BlockRun) -> Iterator[None]:
        """Send every block's forward in this thread through `run(layer, forward, *args, **kwargs)`."""
        with self.state.lock, blocks_through(self.model, run):
            yield

    def logits(
        self, ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], hooks: Sequence[Hook] = (), last: int = 1
    ) -> Float[Tensor, "batch last vocab"]:
        """Next-token logits of the last positions by a full forward: the slow reference.

        The user's own hooks see all positions, as in any forward of theirs.
        """
        raise NotImplementedError

    def prefix(self, ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]) -> Prefix:
        """One forward over the tokens before those of a step, keeping keys and values only."""
        raise NotImplementedError

    def step(
        self,
        prefix: Prefix,
        ids: Int[Tensor, "row new"],
        mask: Int[Tensor, "row pos"],
        attend: Attend,
        hooks: Sequence[Hook],
        alone: bool,
    ) -> Tensor:
        """Run a few tokens over a prefix; returns what enters the unembedding, see `readout`.

        `attend(layer, k, v)` says which keys and values `[row, kv_head, pos, d_head]` the new tokens' queries meet.
        With `alone`, rows are positions that may see the prefix and themselves (`lone_rows`), not a causal sequence.
        """
        raise NotImplementedError

    def readout(self, rows: Tensor) -> Tensor:
        """Logits of the rows of a `step`: `[..., vocab]`."""
        raise NotImplementedError

    def unembed(self, residual: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """Logits of residuals that leave the last block: the model's own final norm, unembedding, soft cap and scale.

        Raises:
            ParityError: the model does not read its last block's output (checked on first use, on a Bridge).
        """
        raise NotImplementedError

    def slots(self, keys: Tensor) -> Tensor:
        """The prefix's keys `[batch, kv_head, pos, d_head]` with spare slots behind them."""
        raise NotImplementedError

    def own_score(self, layer: int, prefix: Prefix, now: dict[str, Tensor]) -> list[Hook]:
        """Hooks that turn scores into `[batch, head, row, prefix + 1]`, with each row's own key in the last column."""
        raise NotImplementedError
