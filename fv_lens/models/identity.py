"""Which model a result is of: a record by which a copy of the model is told from another of the same name.

The same weights are laid out differently by TransformerLens' two model classes and by its versions, so that their hash
tells two models apart only where class, version and dtype agree. Elsewhere log-probabilities on fixed tokens do.
"""

import importlib.metadata

import torch
from pydantic import Field

from ..ground.errors import InputError
from ..ground.schema import Hash, LogProb, Schema, Text
from .lens import Lens

N_TOKENS, N_WORDS = 8, 32  # of the fixed prompt, and of the vocabulary behind it
EXACT, ROUNDED = 0.01, 0.3  # nats by which float32 copies may differ, and those of which one is in half precision


class Identity(Schema):
    """A model as it was when this was recorded.

    `weights`: SHA-256 of its parameters, in the layout of `kind`. `log_probs`: of tokens spread over the vocabulary,
    behind a fixed prompt, in nats.
    """

    name: str
    kind: Text
    dtype: Text
    weights: Hash
    log_probs: list[LogProb] = Field(min_length=1)

    def same_layout(self, other: "Identity") -> bool:
        """Whether the hashes of both say if they are the same model."""
        return (self.kind, self.dtype) == (other.kind, other.dtype)

    def difference(self, other: "Identity") -> float:
        """The largest difference of their log-probabilities, in nats; infinite for two vocabularies."""
        if len(self.log_probs) != len(other.log_probs):
            return float("inf")
        return max(abs(own - others) for own, others in zip(self.log_probs, other.log_probs))

    def why_other(self, other: "Identity") -> str | None:
        """The reason why `other` is not a copy of this model; None where it is one."""
        if self.same_layout(other) and self.weights != other.weights:
            return "their weights have another SHA-256"
        most = EXACT if self.dtype == other.dtype == "torch.float32" else ROUNDED
        nats = self.difference(other)
        return None if nats <= most else f"log-probabilities differ by {nats:.2g} nats, and copies by {most:g} at most"

    def check(self, other: "Identity", what: str) -> None:
        """Raise an InputError, which calls the result `what`, unless `other` is a copy of this model."""
        if reason := self.why_other(other):
            raise InputError(
                f"{what} was made on other weights than those of {other.name!r}, although it names {self.name!r}: "
                f"{reason}. Load the model it was made on, in the state it had then."
            )


@torch.no_grad()
def identity_of(lens: Lens) -> Identity:
    """The record of a model, as it is now: with its adapters, and the user's hooks in its log-probabilities.

    Raises:
        InputError: the model is patched, and so another one; its numbers are NaN, or differ from call to call.
    """
    if lens.patches:
        raise InputError(f"{lens.name} is patched; take the patches off first, with fv_lens.unpatch(model).")
    d_vocab = lens.cfg.d_vocab
    ids = (torch.arange(1, N_TOKENS + 1, device=lens.device) * 31 % d_vocab)[None]
    words = torch.arange(N_WORDS) * d_vocab // N_WORDS
    log_probs, again = (
        lens.logits(ids, torch.ones_like(ids))[0, -1].double().log_softmax(-1).cpu()[words] for _ in range(2)
    )
    if not log_probs.isfinite().all():
        raise InputError(f"{lens.name} gives NaN or infinite log-probabilities; check its weights and dtype.")
    if (log_probs - again).abs().max() > EXACT / 10:
        raise InputError(
            f"{lens.name} gives other numbers each time, as with dropout; call model.eval() first, so that it can be "
            "told from other models."
        )
    return Identity(
        name=lens.name or "",
        kind=f"{type(lens.model).__name__} of TransformerLens {importlib.metadata.version('transformer-lens')}",
        dtype=str(lens.dtype),
        weights=lens.weights_hash,
        log_probs=[min(0.0, round(x, 4)) for x in log_probs.tolist()],
    )
