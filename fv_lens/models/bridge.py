"""The adapter for TransformerBridge 3.9 and 4.x: the model under it is Hugging Face's, and so is its cache."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from ..ground.errors import InputError, ParityError
from .base import Attend, Lens, Prefix
from .hooking import Hook
from .model import Model
from .onednn import through_onednn
from .state import State

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint

MOST_AT_ONCE = 128  # residuals unembedded together: their logits stay small


class BridgeLens(Lens):
    """A TransformerBridge, seen through the verbs of `Lens`."""

    def __init__(self, model: Model, state: State | None = None):
        super().__init__(model, state)
        self.takes_positions = "position_ids" in inspect.signature(self.model.original_model.forward).parameters

    def _run(
        self, ids: Tensor, mask: Tensor | None, cache: DynamicCache | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        more: dict[str, Any] = {}
        if position_ids is not None and self.takes_positions:
            more["position_ids"] = position_ids
        if cache is not None:
            more |= {"past_key_values": cache, "use_cache": True}
        return self.model(ids, attention_mask=mask, **more)

    @property
    def embedding(self) -> Tensor:
        return self._embeddings.weight

    @property
    def _embeddings(self) -> Any:
        return self.network.get_input_embeddings()

    def _project(self, layer: int, rows: Tensor) -> Tensor:
        projection = getattr(getattr(self.model.blocks[layer], "attn", None), "o", None)
        if layer not in self.head_layers or projection is None:
            raise InputError(
                f"Layer {layer} of {self.name} has no output projection of heads that could be measured; a vector "
                "tuned from zero needs none: finetune(..., 'zero')."
            )
        return projection.original_component(rows)

    def logits(self, ids: Tensor, mask: Tensor, hooks: Sequence[Hook] = (), last: int = 1) -> Tensor:
        tail: list[Hook] = [] if self.user_hooks else [("unembed.hook_in", lambda x, hook: x[:, -last:])]
        with self.hooks([*hooks, *tail]):
            return self._run(ids, _or_none(mask), position_ids=_positions(mask))[:, -last:]

    @through_onednn
    def prefix(self, ids: Tensor, mask: Tensor) -> Prefix:
        cache = DynamicCache()
        with self.hooks([("unembed.hook_in", lambda x, hook: x[:0, -1:])]):  # no logits are wanted
            self._run(ids, _or_none(mask), cache, _positions(mask))
        layers: list[Any] = cache.layers  # of several kinds, of which attention's have keys and values
        return Prefix([layer.keys for layer in layers], [layer.values for layer in layers], mask)

    @through_onednn
    def step(
        self, prefix: Prefix, ids: Tensor, mask: Tensor, attend: Attend, hooks: Sequence[Hook], alone: bool
    ) -> Tensor:
        kept: dict[str, Tensor] = {}

        def keep(x: Tensor, hook: "HookPoint") -> Tensor:
            kept["rows"], plain = x, self.parity.plain_readout
            return x if plain is False else x[: 0 if plain else 1, :1]  # the first row tells whether it is plain

        with self.hooks([*hooks, ("unembed.hook_in", keep)]):
            seen = self._open_mask(prefix) if alone else mask
            logits = self._run(ids, seen, _Attending(attend, prefix.length), _positions(mask)[:, -ids.shape[1] :])
        if self.parity.plain_readout is None:
            # Soft caps and logit scales act after the unembedding, inside the model: every row must go through them.
            first = self.model.unembed(kept["rows"][:1, :1])
            logits_there = logits.to(first.device)
            self.parity.plain_readout = torch.allclose(first.float(), logits_there.float(), rtol=1e-4, atol=1e-4)
            if not self.parity.plain_readout:
                return self.step(prefix, ids, mask, attend, hooks, alone)
        return kept["rows"] if self.parity.plain_readout else logits

    def _open_mask(self, prefix: Prefix) -> Tensor:
        """An additive mask `[batch, 1, 1, key]` that hides the prefix's padding and nothing else."""
        hidden = pad(prefix.mask == 0, (0, self.d_head))
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill(hidden, torch.finfo(self.dtype).min)[:, None, None]

    @through_onednn
    def readout(self, rows: Tensor) -> Tensor:
        return self.model.unembed(rows) if self.parity.plain_readout else rows

    @through_onednn
    def unembed(self, residual: Tensor) -> Tensor:
        # Soft caps and logit scales are in the model's own code, so that runs: an ordinary forward over as many tokens
        # as there are residuals, which take the place of what its last block puts out.
        if not self.parity.unembeds_rows:
            self._check_unembed()
        rows = residual.to(self.device, self.dtype).split(1 if self.user_hooks else min(MOST_AT_ONCE, self.n_ctx))
        return torch.cat([self._behind_last_block(partial(_replaced_rows, tile), len(tile)) for tile in rows])

    def _behind_last_block(self, change: Callable[[Tensor], Tensor], n: int) -> Tensor:
        """Logits `[n, vocab]` of a forward over `n` tokens, with `change` applied to the last block's output."""
        ids = torch.arange(n, device=self.device)[None] % self.cfg.d_vocab
        with self.hooks([(f"blocks.{self.n_layers - 1}.hook_resid_post", lambda x, hook: change(x))]):
            return self._run(ids, None)[0]

    def _check_unembed(self) -> None:
        """Two positions whose residuals are swapped must swap their logits."""
        plain, swapped = self._behind_last_block(lambda x: x, 2), self._behind_last_block(lambda x: x.flip(1), 2)
        tolerance = (plain.amax() - plain.amin()) * (1e-4 if self.full_precision else 3e-2)
        if not (plain.flip(0) - swapped).abs().max() <= tolerance < (plain[0] - plain[1]).abs().max():
            last = self.n_layers - 1
            raise ParityError(
                f"{self.name} does not compute its logits from blocks.{last}.hook_resid_post position by position, so "
                "vectors cannot be unembedded on it. Read them through the model instead."
            )
        self.parity.unembeds_rows = True

    def slots(self, keys: Tensor) -> Tensor:
        # The slots hold the identity, so the scores there are the query itself, as the model rotated and scaled it.
        eye = torch.eye(self.d_head, dtype=keys.dtype, device=keys.device)
        return torch.cat([keys, eye.expand(*keys.shape[:2], -1, -1)], 2)

    def own_score(self, layer: int, prefix: Prefix, now: dict[str, Tensor]) -> list[Hook]:
        n, cap = prefix.length, getattr(self.cfg, "attn_scores_soft_cap", None) or -1

        def scores(s: Tensor, hook: "HookPoint") -> Tensor:
            query = s[..., n:].unflatten(1, (now["k"].shape[1], -1))
            query = cap * torch.atanh(query / cap) if cap > 0 else query  # the cap was put on each number of it
            own = (query * now["k"][:, :, None]).sum(-1).flatten(1, 2)
            own = cap * torch.tanh(own / cap) if cap > 0 else own
            s = s[..., : n + 1]
            s[..., n] = own
            return s

        return [(f"blocks.{layer}.attn.hook_attn_scores", scores)]


class _Attending(DynamicCache):
    """A cache that stores nothing: `attend` says which keys and values each layer's queries meet."""

    def __init__(self, attend: Attend, length: int):
        super().__init__()
        self.attend, self.length = attend, length

    # Versions of transformers call these with more and other arguments.
    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return self.attend(layer_idx, key_states, value_states)

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int | Tensor, *args: Any, **kwargs: Any) -> tuple[int, int]:
        return self.length + (query_length if isinstance(query_length, int) else len(query_length)), 0


def _replaced_rows(rows: Tensor, x: Tensor) -> Tensor:
    return rows[None].to(x.device)


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _or_none(mask: Tensor) -> Tensor | None:
    return None if mask.all() else mask
