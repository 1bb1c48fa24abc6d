"""Training on a model's twin, by the rule that vectors are tuned by: Adam, and the step of lowest validation loss.

Of a few learning rates, each is tried for some steps, and the one that is best then goes on to the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ...datasets.prompts import PromptTemplate
from ...datasets.relations import Split
from ...engine.batches import PromptBatch
from ...engine.chunks import groups, with_answers
from ...engine.edits import CPU_FLOAT32
from ...engine.parity import measured
from ...ground.errors import InputError
from ...models.adapters import Adapted
from ...models.lens import Lens
from ...models.onednn import only
from ...vectors.optimizer import EVERY, Tuning, task

TRIAL = 6  # steps that each learning rate is tried for


@dataclass(frozen=True, eq=False)
class TrainingPrompts:
    """The prompts that are trained on, and those that training is stopped by: the same as of a tuned vector."""

    train: PromptBatch
    validation: PromptBatch

    @classmethod
    def of(cls, lens: Lens, split: Split, template: PromptTemplate) -> "TrainingPrompts":
        """Zero-shot prompts of the pairs."""
        prompts = task(lens, [split.train], [split.validation], 0, template)
        return cls(prompts.train, prompts.validation)


@dataclass(frozen=True)
class Trained:
    """The learning rate and the step that were kept, and the loss of validation pairs at each step measured.

    `losses`: step -> nats per answer, at the rate that was kept.
    """

    rate: float
    step: int
    losses: dict[int, float] = field(repr=False)

    @property
    def loss(self) -> float:
        """The validation loss of the step that was kept."""
        return self.losses[self.step]


class AnswerRows:
    """Prompts with their first listed answers as targets, on a twin: losses, and gradients of what is trained."""

    def __init__(self, adapted: Adapted, prompts: PromptBatch, first_token: bool = False):
        self.adapted, lens = adapted, adapted.lens
        lens.renew()
        prompts = behind_virtual_tokens(adapted, prompts)
        answers = [listed[0][:1] if first_token else listed[0] for listed in prompts.answers]
        self.n_tokens = torch.tensor([len(answer) for answer in answers], **CPU_FLOAT32)
        parity = measured(lens, prompts.tokens.to(lens.device), prompts.mask.to(lens.device))
        self.chunks: list[_Chunk] = []
        for rows in groups(lens, parity, prompts, answers, 0, exact=False):
            ids, mask, targets = with_answers(prompts, answers, rows)
            read = mask.bool()  # neither padding nor what fills up shorter answers
            read[:, -targets.shape[1] :] &= targets >= 0
            same = first_with_same_history(ids, read)
            ids, mask, targets = (x.to(lens.device) for x in (ids, mask, targets))
            self.chunks.append(_Chunk(rows, ids, mask, targets, read, same))

    @torch.no_grad()
    def losses(self) -> Float[Tensor, " row"]:
        """Cross-entropy of each answer, summed over its tokens, in nats."""
        losses = torch.zeros(len(self.n_tokens), **CPU_FLOAT32)
        for chunk in self.chunks:
            losses[chunk.rows] = self._losses(chunk).cpu()
        return losses

    def backward(self, perplexity: bool = False) -> Float[Tensor, " row"]:
        """The losses; the gradient of their mean, or of the mean perplexity, is added to that of the parameters."""
        losses = torch.zeros(len(self.n_tokens), **CPU_FLOAT32)
        for chunk in self.chunks:
            with torch.enable_grad():
                of_rows = self._losses(chunk)
                values = (of_rows / self.n_tokens[chunk.rows].to(of_rows)).exp() if perplexity else of_rows
                (values.sum() / len(losses)).backward()
            losses[chunk.rows] = of_rows.detach().cpu()
        return losses

    def _losses(self, chunk: "_Chunk") -> Float[Tensor, " row"]:
        targets, new = chunk.targets, chunk.targets.shape[1]
        with only(chunk.read, new, chunk.same):
            log_probs = self.adapted.logits(chunk.ids, chunk.mask, new).float().log_softmax(-1)
        own = log_probs.gather(2, targets.clamp(min=0)[..., None])[..., 0]
        return -own.masked_fill(targets < 0, 0).sum(1)


class _Chunk(NamedTuple):
    """Prompts that run together, `rows` of all; `read` and `same` are for `onednn.only`."""

    rows: list[int]
    ids: Int[Tensor, "row pos"]
    mask: Int[Tensor, "row pos"]
    targets: Int[Tensor, "row new"]
    read: Bool[Tensor, "row pos"]
    same: Int[Tensor, "row pos"]


def first_with_same_history(ids: Int[Tensor, "row pos"], read: Bool[Tensor, "row pos"]) -> Int[Tensor, "row pos"]:
    """For each token the index in `[row * pos]` of the first one with the same history: itself and all before it.

    A causal model computes the same there. Tokens that are read follow each other in a row; others have their own.
    """
    same = torch.arange(ids.numel(), device="cpu").reshape(ids.shape)
    known: dict[tuple[int | None, int], int] = {}  # (first token of the history before it, token) -> index
    for row, of_row in enumerate(ids.tolist()):
        before = None
        for at in read[row].nonzero()[:, 0].tolist():
            before = same[row, at] = known.setdefault((before, of_row[at]), row * len(of_row) + at)
    return same


class _Fit:
    """Adam at one rate, which can be left and taken up again: all fits of a twin move the same parameters."""

    def __init__(self, train: AnswerRows, validation: AnswerRows, rate: float, how: Tuning):
        self.train, self.validation, self.rate, self.how = train, validation, rate, how
        self.adapted = train.adapted
        self.adam = torch.optim.Adam(self.adapted.parameters, lr=rate * self.adapted.scale)
        self.values = self.best = self.adapted.values()
        self.losses: dict[int, float] = {}
        self.step, self.best_step, self.broken = 0, 0, False

    def run(self, until: int) -> None:
        """Go on to the step `until`, or to one where the loss is not a number."""
        self.adapted.set(self.values)
        while not self.broken:
            if self.step not in self.losses and (self.step % EVERY == 0 or self.step == self.how.steps):
                loss = self.losses[self.step] = float(self.validation.losses().mean())
                self.broken = not np.isfinite(loss)
                if loss < self.losses[self.best_step] or not self.step:
                    self.best_step, self.best = self.step, self.adapted.values()
            if self.step >= until or self.broken:
                break
            self.adam.zero_grad()
            self.broken = not bool(self.train.backward(self.how.perplexity).isfinite().all())
            if not self.broken:
                self.adam.step()
                self.step += 1
        self.values = self.adapted.values()

    @property
    def lowest(self) -> float:
        """The lowest validation loss so far, infinite where it was not a number from the start."""
        loss = self.losses[self.best_step]
        return loss if np.isfinite(loss) else np.inf


@torch.inference_mode(False)
def train(adapted: Adapted, prompts: TrainingPrompts, rates: Sequence[float], how: Tuning = Tuning()) -> Trained:
    """Train what is on a twin, which then holds the step of lowest validation loss.

    Args:
        rates: learning rates of Adam, in units of `adapted.scale`; each is tried for `TRIAL` steps from the same start.
        how: of it count `steps`, `first_token` and `perplexity`.

    Raises:
        InputError: the loss is not a number before the first step.
    """
    rows, check = (AnswerRows(adapted, part, how.first_token) for part in (prompts.train, prompts.validation))
    fits = [_Fit(rows, check, rate, how) for rate in rates]
    if len(fits) > 1:
        for fit in fits:
            fit.run(min(TRIAL, how.steps))
    best = min(fits, key=lambda fit: fit.lowest if fit.losses else np.inf)
    best.run(how.steps)
    if not np.isfinite(best.lowest):
        raise InputError(
            f"The loss of {adapted.lens.name} is not a number before the first step of training. Load the model in "
            "float32 or bfloat16."
        )
    adapted.set(best.best)
    return Trained(best.rate, best.best_step, best.losses)


def behind_virtual_tokens(adapted: Adapted, prompts: PromptBatch) -> PromptBatch:
    """The prompts with the twin's virtual tokens before each.

    Raises:
        InputError: a prompt then exceeds the model's context.
    """
    virtual, longest = adapted.virtual, max(len(ids) for listed in prompts.answers for ids in listed)
    if not virtual:
        return prompts
    n, width = len(prompts), prompts.tokens.shape[1]
    if width + longest > adapted.lens.n_ctx:
        raise InputError(
            f"The prompts have up to {width} tokens and their answers {longest}, too many behind {len(virtual)} "
            f"virtual tokens of {adapted.lens.name}; give shorter words."
        )
    tokens, mask = (
        pad(prompts.tokens, (len(virtual), 0), value=adapted.lens.pad_id),
        pad(prompts.mask, (len(virtual), 0)),
    )
    first = mask.argmax(1)  # of the prompt's own tokens
    places = first[:, None] - len(virtual) + torch.arange(len(virtual), device="cpu")
    tokens = tokens.scatter(1, places, torch.tensor(virtual, device="cpu").expand(n, -1))
    return replace(prompts, tokens=tokens, mask=mask.scatter(1, places, 1))
