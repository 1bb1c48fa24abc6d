"""The adapter for HookedTransformer (TransformerLens 3.x), whose cache holds keys before rotation."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from einops import einsum
from torch import Tensor, nn
from torch.nn.functional import pad

from .base import Attend, Lens, Prefix
from .hooking import Hook
from .onednn import through_onednn

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint


@dataclass
class _Entry:
    """One layer's keys and values, in the form HookedTransformer's attention asks for: `[batch, pos, head, d_head]`."""

    layer: int
    attend: Attend
    past_keys: Tensor

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.attend(self.layer, k.transpose(1, 2), v.transpose(1, 2))
        return keys.transpose(1, 2), values.transpose(1, 2)


class _Cache(list[_Entry]):
    """A cache of `_Entry`s that stores nothing; `mask` `[batch, pos]` belongs to the tokens already in it."""

    def __init__(self, model: Any, attend: Attend, mask: Tensor, like: Tensor):
        heads = model.cfg.n_key_value_heads or model.cfg.n_heads
        past = like.new_empty(1).expand(*mask.shape, heads, model.cfg.d_head)  # only its shape is read
        super().__init__(_Entry(layer, attend, past) for layer in range(model.cfg.n_layers))
        self.mask = mask

    def append_attention_mask(self, new: Tensor) -> Tensor:
        return torch.cat([self.mask, new.to(self.mask)], 1)


class HookedLens(Lens):
    """A HookedTransformer, seen through the verbs of `Lens`."""

    @property
    def embedding(self) -> Tensor:
        return self.model.W_E

    @property
    def _embeddings(self) -> nn.Module:
        return self.model.embed

    def _project(self, layer: int, rows: Tensor) -> Tensor:
        w = self.model.blocks[layer].attn.W_O
        return einsum(rows.unflatten(1, w.shape[:2]), w, "row head d_head, head d_head d_model -> row d_model")

    def logits(self, ids: Tensor, mask: Tensor, hooks: Sequence[Hook] = (), last: int = 1) -> Tensor:
        if self.user_hooks:
            with self.hooks(hooks):
                return self.model(ids, attention_mask=mask)[:, -last:]
        with self.hooks(hooks):
            x = self.model(ids, attention_mask=mask, stop_at_layer=self.n_layers)
        return self.readout(self._final_norm(x[:, -last:]))

    @through_onednn
    def prefix(self, ids: Tensor, mask: Tensor) -> Prefix:
        kept: dict[int, tuple[Tensor, Tensor]] = {}

        def keep(layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            kept[layer] = k, v
            return k, v

        cache = _Cache(self.model, keep, mask[:, :0], self.parameter)
        with self.state.lock:
            self.model(ids, attention_mask=mask, past_kv_cache=cache, stop_at_layer=self.n_layers)
        keys, values = zip(*(kept[layer] for layer in range(self.n_layers)))
        return Prefix(list(keys), list(values), mask)

    @through_onednn
    def step(
        self, prefix: Prefix, ids: Tensor, mask: Tensor, attend: Attend, hooks: Sequence[Hook], alone: bool
    ) -> Tensor:
        n = prefix.length
        cache = _Cache(self.model, attend, mask[:, :n], self.parameter)
        with self.hooks(hooks), self._unmasked() if alone else nullcontext():
            x = self.model(ids, attention_mask=mask[:, n:], past_kv_cache=cache, stop_at_layer=self.n_layers)
        return self._final_norm(x)

    @contextmanager
    def _unmasked(self) -> Iterator[None]:
        """No causal mask in this thread: rows that are positions are masked by their own hooks."""
        here, attentions = threading.get_ident(), [block.attn for block in self.model.blocks]
        before = [attention.__dict__.get("apply_causal_mask") for attention in attentions]

        def unless_here(masked: Callable[..., Tensor], scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return scores if threading.get_ident() == here else masked(scores, *args, **kwargs)

        for attention in attentions:
            attention.__dict__["apply_causal_mask"] = partial(unless_here, attention.apply_causal_mask)
        try:
            yield
        finally:
            for attention, masked in zip(attentions, before):
                del attention.__dict__["apply_causal_mask"]
                attention.__dict__ |= {} if masked is None else {"apply_causal_mask": masked}

    @through_onednn
    def readout(self, rows: Tensor) -> Tensor:
        return _capped(self.model.unembed(rows), self.cfg.output_logits_soft_cap)

    @through_onednn
    def unembed(self, residual: Tensor) -> Tensor:
        rows = residual.to(self.device, self.dtype).split(1 if self.user_hooks else len(residual))
        return torch.cat([self.readout(self._final_norm(x[None]))[0] for x in rows])

    def _final_norm(self, x: Tensor) -> Tensor:
        return x if self.cfg.normalization_type is None else self.model.ln_final(x)

    def slots(self, keys: Tensor) -> Tensor:
        return pad(keys, (0, 0, 0, 1))

    def own_score(self, layer: int, prefix: Prefix, now: dict[str, Tensor]) -> list[Hook]:
        n, attention = prefix.length, self.model.blocks[layer].attn
        seen, padding = pad(prefix.mask, (0, 1), value=1), (prefix.mask == 0)[:, None, None]
        rotary = self.cfg.positional_embedding_type == "rotary"

        def query(q: Tensor, hook: "HookPoint") -> None:
            now["q"] = q

        def scores(s: Tensor, hook: "HookPoint") -> Tensor:
            q, k = now["q"], now["k"].transpose(1, 2)
            k = attention.apply_rotary(k, n, seen.to(k.device)) if rotary else k
            own = (q * k.repeat_interleave(q.shape[2] // k.shape[2], 2)).sum(-1).transpose(1, 2)
            s[..., n] = _capped(own / attention.attn_scale, self.cfg.attn_scores_soft_cap)
            s[..., :n].masked_fill_(padding.to(s.device), -torch.inf)
            return s

        at = f"blocks.{layer}.attn."
        return [(at + ("hook_rot_q" if rotary else "hook_q"), query), (at + "hook_attn_scores", scores)]


def _capped(x: Tensor, cap: float | None) -> Tensor:
    return cap * torch.tanh(x / cap) if cap and cap > 0 else x
