"""The seam to TransformerBridge 3.9 and 4.x: the model under it is Hugging Face's, and so is its cache."""

import inspect

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from .base import Attend, Lens, Prefix


class BridgeLens(Lens):
    """A TransformerBridge, seen through the verbs of `Lens`."""

    def __init__(self, model):
        super().__init__(model)
        self.takes_positions = "position_ids" in inspect.signature(model.original_model.forward).parameters

    def _run(self, ids, mask, cache=None, position_ids=None):
        more = {} if position_ids is None or not self.takes_positions else {"position_ids": position_ids}
        if cache is not None:
            more |= {"past_key_values": cache, "use_cache": True}
        return self.model(ids, attention_mask=mask, **more)

    def logits(self, ids, mask, hooks=(), last=1):
        tail = [("unembed.hook_in", lambda x, hook: x[:, -last:])]
        with self.hooks([*hooks, *tail]):
            return self._run(ids, _or_none(mask), position_ids=_positions(mask))

    def prefix(self, ids, mask):
        cache = DynamicCache()
        with self.hooks([("unembed.hook_in", lambda x, hook: x[:1, -1:])]):
            self._run(ids, _or_none(mask), cache, _positions(mask))
        return Prefix([layer.keys for layer in cache.layers], [layer.values for layer in cache.layers], mask)

    def step(self, prefix, ids, mask, attend, hooks, alone):
        kept = {}

        def keep(x, hook):
            kept["rows"] = x
            return x if self.plain_readout is False else x[:1, :1]

        with self.hooks([*hooks, ("unembed.hook_in", keep)]):
            seen = self._open_mask(prefix) if alone else mask
            logits = self._run(ids, seen, _Attending(attend, prefix.length), _positions(mask)[:, -ids.shape[1] :])
        if self.plain_readout is None:
            # Soft caps and logit scales act after the unembedding, inside the model: then every row must pass there.
            first = self.model.unembed(kept["rows"][:1, :1])
            self.plain_readout = torch.allclose(first.float(), logits.float(), rtol=1e-4, atol=1e-4)
            if not self.plain_readout:
                return self.step(prefix, ids, mask, attend, hooks, alone)
        return kept["rows"] if self.plain_readout else logits

    def _open_mask(self, prefix):
        """An additive mask `[batch, 1, 1, key]` that hides the prefix's padding and nothing else."""
        hidden = pad(prefix.mask == 0, (0, self.d_head))
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill(hidden, torch.finfo(self.dtype).min)[:, None, None]

    def readout(self, rows):
        return self.model.unembed(rows) if self.plain_readout else rows

    def _slots(self, keys):
        # The slots hold the identity, so the scores there are the query itself, as the model rotated and scaled it.
        eye = torch.eye(self.d_head, dtype=keys.dtype, device=keys.device)
        return torch.cat([keys, eye.expand(*keys.shape[:2], -1, -1)], 2)

    def _own_score(self, layer, prefix, now):
        n = prefix.length

        def scores(s, hook):
            query = s[..., n:].unflatten(1, (now["k"].shape[1], -1))
            own = (query * now["k"][:, :, None]).sum(-1).flatten(1, 2)
            s = s[..., : n + 1]
            s[..., n] = own
            return s

        return [(f"blocks.{layer}.attn.hook_attn_scores", scores)]


class _Attending(DynamicCache):
    """A cache that stores nothing: `attend` says which keys and values each layer's queries meet."""

    def __init__(self, attend: Attend, length: int):
        super().__init__()
        self.attend, self.length = attend, length

    def update(self, k, v, layer_idx, *args, **kwargs):
        return self.attend(layer_idx, k, v)

    def get_seq_length(self, *args, **kwargs):
        return self.length

    def get_mask_sizes(self, query, *args, **kwargs):
        return self.length + (query if isinstance(query, int) else len(query)), 0


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _or_none(mask: Tensor) -> Tensor | None:
    return None if mask.all() else mask
