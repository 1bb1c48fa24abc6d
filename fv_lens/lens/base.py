"""The seam: what fv_lens asks of TransformerLens, said once for HookedTransformer and TransformerBridge.

The verbs are few: `tokens` (text to ids under the model's BOS rule), `logits` (a full forward, the slow truth),
`prefix` (keys and values of the tokens before those of a step), `step` (a few tokens over a prefix, with hooks),
`readout` (logits of what a step returns), `unembed` (logits of any residual), `text` (what a token reads as), `endings`
(which tokens end an answer) and `W_O` (what a head writes). Beside this package only `models`, which loads, and
`positions`, which follows calls from outside, know of TransformerLens.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InputError, ParityError

Hook = tuple[str, Callable]
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
    """A model of the user's, seen through the verbs above. Get one with `lens_of(model)`."""

    def __init__(self, model):
        self.model, self.cfg = model, model.cfg
        self.points = model.hook_dict
        self.n_layers, self.n_heads = self.cfg.n_layers, self.cfg.n_heads
        self.d_model, self.d_head = self.cfg.d_model, self.cfg.d_head
        self.n_ctx = self.cfg.n_ctx
        self.name = self.cfg.model_name
        # What the seam found out about the model by trying, and what patches are on it at the moment.
        self.plain_readout: bool | None = None
        self.findings: dict = {}
        self.patches: list = []
        self.made_on = self.state

    @property
    def parameter(self) -> Tensor:
        return next(self.model.parameters())

    @property
    def device(self) -> torch.device:
        return self.parameter.device

    @property
    def dtype(self) -> torch.dtype:
        return self.parameter.dtype  # a Bridge's cfg.dtype can be wrong

    @property
    def full_precision(self) -> bool:
        """Whether products round as float32 does: no other dtype's do, nor those of a GPU that may use TF32."""
        matmul = torch.backends.cuda.matmul
        if hasattr(matmul, "fp32_precision"):  # from torch 2.9 on; where it was set, asking for allow_tf32 raises
            tf32 = matmul.fp32_precision == "tf32"
        else:
            tf32 = matmul.allow_tf32
        return self.dtype == torch.float32 and not (tf32 and self.device.type == "cuda")

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
        """'centered' if what heads write has zero mean over d_model (a processing mode), else 'raw'."""
        w = self.W_O(0).float()
        return "centered" if w.mean(-1).abs().max() < 5e-3 * w.std() else "raw"

    @property
    def state(self) -> tuple:
        """What the weights are now; findings hold for as long as it does."""
        return self.processing, self.dtype, self.device, self.full_precision

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the weights in their order: tells which model a result came from, whatever its name."""
        found = hashlib.sha256()
        for parameter in self.model.parameters():
            found.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return found.hexdigest()

    def W_O(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Output matrices of the heads of one layer, without bias."""
        return self.model.blocks[layer].attn.W_O.detach()

    def tokens(self, text: str) -> list[int]:
        """Ids of `text` under the model's own BOS rule, never truncated.

        `model.to_tokens` decides (`cfg.default_prepend_bos`); a bare `model.tokenizer(text)` may add a BOS of its own.
        """
        if self.model.tokenizer is None:
            raise InputError("The model has no tokenizer, so words cannot become tokens. Load it with one.")
        if getattr(self.model.tokenizer, "bos_token", None) is None:
            return self.model.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.model.to_tokens(text, truncate=False, move_to_device=False)[0].tolist()

    def text(self, token: int) -> str:
        """What a token adds to a text, with the space it may begin with."""
        if self.model.tokenizer is None:
            raise InputError("The model has no tokenizer, so tokens cannot become words. Load it with one.")
        # Some tokenizers drop the space at the start of a text, so the token is read behind another.
        before, decode = self.tokens("a")[-1:], self.model.tokenizer.decode
        start, whole = (decode(ids, clean_up_tokenization_spaces=False) for ids in (before, [*before, token]))
        return whole.removeprefix(start)

    @property
    def endings(self) -> Bool[Tensor, " vocab"]:
        """Which tokens begin with a newline or end the text: the first that may follow a whole answer."""
        if "endings" not in self.findings:
            tokenizer = self.model.tokenizer
            if tokenizer is None:
                raise InputError("The model has no tokenizer, so where an answer ends is unknown. Load it with one.")
            known = range(min(len(tokenizer), self.cfg.d_vocab))
            texts = tokenizer.batch_decode([[token] for token in known], clean_up_tokenization_spaces=False)
            ends = torch.zeros(self.cfg.d_vocab, dtype=torch.bool)
            ends[: len(known)] = torch.tensor([text.startswith(("\n", "\r")) for text in texts])
            unknown = {tokenizer.unk_token_id} - {tokenizer.bos_token_id, tokenizer.eos_token_id}
            last = set(tokenizer.all_special_ids) - unknown
            ends[[token for token in last if token < self.cfg.d_vocab]] = True
            self.findings["endings"] = ends.to(self.device)
        return self.findings["endings"]

    @contextmanager
    def hooks(self, hooks: Sequence[Hook]) -> Iterator[None]:
        """Run with `(name, function)` hooks; a name that the model does not have raises (a Bridge 3.9 ignores it)."""
        for name, _ in hooks:
            if name not in self.points:
                raise ParityError(f"{self.name} has no hook point {name!r}, so an edit there would do nothing.")
        with self.model.hooks(fwd_hooks=list(hooks)):
            yield

    @contextmanager
    def blocks_through(self, run: Callable) -> Iterator[None]:
        """Send every block's forward through `run(layer, forward, *args, **kwargs)`."""
        own = [block.__dict__.get("forward") for block in self.model.blocks]
        for layer, block in enumerate(self.model.blocks):
            block.__dict__["forward"] = partial(run, layer, block.forward)
        try:
            yield
        finally:
            for block, forward in zip(self.model.blocks, own):
                del block.__dict__["forward"]
                block.__dict__ |= {} if forward is None else {"forward": forward}

    def logits(
        self, ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], hooks: Sequence[Hook] = (), last: int = 1
    ) -> Float[Tensor, "batch last vocab"]:
        """Next-token logits of the last positions by a full forward: the slow truth."""
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
        """Run a few tokens over a prefix; what enters the unembedding comes back, see `readout`.

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

    def lone_rows(self, prefix: Prefix) -> tuple[Attend, list[Hook]]:
        """The attention of rows that are positions of one forward: each row sees the prefix and itself, no other row.

        The cache hands out the prefix's keys and spare slots behind them. `hook_attn_scores` writes each row's own
        `q . k` into one slot's column, `hook_pattern` keeps the weight it gets, `hook_z` adds weight x own value.
        The tensors edited in place are the forward's own temporaries: rows are never differentiated in this form.
        """
        n, now, hooks = prefix.length, {}, []

        def attend(layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            now["k"], now["v"] = k, v
            return self._slots(prefix.keys[layer]), pad(prefix.values[layer], (0, 0, 0, 1))

        def pattern(p: Tensor, hook) -> None:
            now["weight"] = p[..., n:].transpose(1, 2)

        def z(z: Tensor, hook) -> Tensor:
            value = now["v"].repeat_interleave(z.shape[2] // now["v"].shape[1], 1)
            return z.addcmul_(now["weight"], value.transpose(1, 2))

        for layer in range(self.n_layers):
            at = f"blocks.{layer}.attn."
            hooks += [*self._own_score(layer, prefix, now), (at + "hook_pattern", pattern), (at + "hook_z", z)]
        return attend, hooks

    def _slots(self, keys: Tensor) -> Tensor:
        """The prefix's keys `[batch, kv_head, pos, d_head]` with spare slots behind them."""
        raise NotImplementedError

    def _own_score(self, layer: int, prefix: Prefix, now: dict) -> list[Hook]:
        """Hooks that leave `[batch, head, row, prefix + 1]` scores, the last column each row's with its own key."""
        raise NotImplementedError
