"""Completion of prompts under any what-ifs: whether the whole answer is right, and how probable it is.

Right means that an answer's tokens are the most probable ones, one after the other, and that the next most probable
token begins with a newline or ends the text: " smaller" is not " small". Any listed answer will do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..models.lens import Lens
from .batches import PromptBatch
from .prefixes import shared_tokens
from .whatif import Read, WhatIf, logsumexp_, what_if

FEW = 4  # up to this many what-ifs, first listed answers are run at once, whether or not any row begins one
TOGETHER = 1024  # answers times what-ifs in one run


Name = TypeVar("Name")
Which = int | slice | Sequence[int] | np.ndarray  # as numpy takes them


@dataclass(frozen=True, eq=False)
class Completions:
    """Completions of prompts, each field `[prompt, row]`, with the plain prompt in row 0 and the what-ifs after it.

    `right`: an answer is completed as a whole. `log_prob`: of the whole first listed answer, in nats. `rank`: of the
    best answer's first token, 0 = most probable. `first_log_prob`: that the next token begins any answer.
    """

    right: np.ndarray
    log_prob: np.ndarray
    rank: np.ndarray
    first_log_prob: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["Completions"]) -> "Completions":
        """Those of several batches of prompts as one."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def rows(self, which: Which) -> "Completions":
        """The rows at an index, a list of indices or a slice."""
        return Completions(*(getattr(self, name)[:, which] for name in self.__dataclass_fields__))

    def prompts(self, which: Which) -> "Completions":
        """The prompts at a list of indices or a slice."""
        return Completions(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def completions(
    lens: Lens, prompts: PromptBatch, whatifs: Sequence[WhatIf], progress: Callable[[int], Any] | None = None
) -> Completions:
    """Complete each prompt as it is and under each what-if; `progress` is called with the number of prompts begun.

    An answer is run only if its first token is some row's most probable one, and only for such rows. (The first listed
    answer, if it has several tokens, is run for all rows: its log-probability is reported.)

    Raises:
        InputError, ParityError: as `what_if`.
    """
    with lens.settled():
        return _completions(lens, prompts, whatifs, progress)


def _completions(
    lens: Lens, prompts: PromptBatch, whatifs: Sequence[WhatIf], progress: Callable[[int], Any] | None
) -> Completions:
    n, n_rows = len(prompts), 1 + len(whatifs)
    first = _first_tokens(prompts)
    rank, first_log_prob, top, log_prob = (np.zeros((n, n_rows)) for _ in range(4))
    right = np.zeros((n, n_rows), dtype=bool)
    few = len(whatifs) <= FEW
    # Prompts that share a beginning, which is run once, are asked together; else those whose answers are of one length.
    alike = not few or shared_tokens(prompts.tokens, prompts.mask)
    for members in _by_length([0 if alike else len(listed[0]) for listed in prompts.answers]):
        answers: list[tuple[int, ...]] = [prompts.answers[i][0] for i in members] if few else [()] * len(members)
        beginning = _beginning(first[members].to(lens.device), prompts.answer_ids[members].to(lens.device))
        measured = _measure(lens, prompts, members, answers, whatifs, _concatenated(beginning, _whole(lens, answers)))
        rank[members], first_log_prob[members], top[members], log_prob[members] = measured[..., :4].transpose(2, 0, 1)
        if few:
            log_prob[members], right[members] = measured[..., 4], measured[..., 5] > 0
        if progress:
            progress(len(members))
    for members, answers, rows in _open_items(prompts, top, done=few):
        of_rows = [whatifs[row - 1] for row in rows if row]
        measured = _measure(lens, prompts, members, answers, of_rows, _whole(lens, answers))
        columns = [0, *(row for row in rows if row)]
        for k, (i, answer) in enumerate(zip(members, answers)):
            right[i, columns] |= measured[k, :, 1] > 0
            if answer == prompts.answers[i][0] and len(columns) == n_rows:
                log_prob[i, columns] = measured[k, :, 0]
    return Completions(right, log_prob, rank, first_log_prob)


def rows_of(whatifs: Mapping[Name, Sequence[WhatIf]]) -> dict[Name, list[int]]:
    """Name -> the rows of its what-ifs in `completions`, when these are given all of them, one name after the other."""
    ends = np.cumsum([1, *map(len, whatifs.values())]).tolist()
    return {name: list(range(start, end)) for name, start, end in zip(whatifs, ends, ends[1:])}


def _open_items(
    prompts: PromptBatch, top: np.ndarray, done: bool
) -> Iterator[tuple[list[int], list[tuple[int, ...]], list[int]]]:
    """(prompt indices, answers, rows) still to be run, by answer length; `done`: whether first answers are done."""
    open_items = []
    for i, listed in enumerate(prompts.answers):
        for place, answer in enumerate(dict.fromkeys(listed)):
            if place == 0 and done:
                continue
            every = place == 0 and len(answer) > 1
            rows = range(top.shape[1]) if every else np.flatnonzero(top[i] == answer[0]).tolist()
            if len(rows):
                open_items.append((len(answer), tuple(rows), i, answer))
    open_items.sort(key=lambda item: item[:3])
    most = max(1, TOGETHER // top.shape[1])
    while open_items:
        length = open_items[0][0]
        group = [item for item in open_items[:most] if item[0] == length]
        open_items = open_items[len(group) :]
        yield (
            [item[2] for item in group],
            [item[3] for item in group],
            sorted({row for item in group for row in item[1]}),
        )


def _measure(
    lens: Lens,
    prompts: PromptBatch,
    members: Sequence[int],
    answers: Sequence[tuple[int, ...]],
    whatifs: Sequence[WhatIf],
    read: Read,
) -> np.ndarray:
    """`read` of the logits after each prompt and each token of its answer, `[prompt, 1 + what-if, ...]`."""
    part = prompts.select(members)
    behind = _padded(answers).clamp(min=0)  # whatever follows a shorter answer is never read
    tokens, mask = torch.cat([part.tokens, behind], 1), torch.cat([part.mask, torch.ones_like(behind)], 1)
    chosen = torch.tensor(members, device="cpu")
    of_members = [[edit.for_prompts(chosen) for edit in whatif] for whatif in whatifs]
    return what_if(lens, tokens, mask, of_members, read, tail=1 + behind.shape[1]).double().numpy()


def _first_tokens(prompts: PromptBatch) -> Tensor:
    """The first tokens of each prompt's answers, each once, `[prompt, answer]`; -1 where there are no more."""
    return _padded([sorted({ids[0] for ids in listed}) for listed in prompts.answers])


def _padded(lists: Sequence[Sequence[int]]) -> Tensor:
    """Lists of tokens as rows, -1 behind the shorter ones."""
    width = max(map(len, lists))
    return torch.tensor([[*ids, *[-1] * (width - len(ids))] for ids in lists], dtype=torch.long, device="cpu")


def _beginning(answers: Tensor, listed: Tensor) -> Read:
    """Reads (rank, log-probability of any answer's first token, top token, log-probability of the first listed's)."""

    def read(logits: Tensor, prompt: Tensor) -> Tensor:
        logits, first = logits[:, 0], answers.to(logits.device)[prompt]
        right = logits.gather(1, first.clamp(min=0)).masked_fill(first < 0, -torch.inf)
        best, total = right.amax(1, keepdim=True), logits.logsumexp(1)
        # A sum of booleans takes ten times as long as one of floats.
        behind = torch.lt(logits, best, out=torch.empty_like(logits)).sum(1)
        level = ~(right < best) & (first >= 0)  # a tie counts against the answer
        rank = (logits.shape[1] - behind - level.sum(1)).long()
        top = torch.where(rank == 0, first.gather(1, right.argmax(1, keepdim=True))[:, 0], -1)
        shown = logits.gather(1, listed.to(logits.device)[prompt, None])[:, 0]
        return torch.stack([rank.float(), right.logsumexp(1) - total, top.float(), shown - total], 1)

    return read


def _whole(lens: Lens, answers: Sequence[tuple[int, ...]]) -> Read:
    """Reads (log-probability of the prompt's answer, whether its tokens are the top ones and the text then ends)."""
    tokens = _padded(answers).to(lens.device)
    most = tokens.shape[1]
    endings = lens.endings.nonzero()[:, 0] if most else torch.zeros(0, dtype=torch.long)

    def read(logits: Tensor, prompt: Tensor) -> Tensor:
        if not most:
            return logits.new_zeros(len(logits), 2)
        listed, ahead = tokens.to(logits.device)[prompt, :, None], logits[:, :most]
        counts = listed[..., 0] >= 0
        after = logits[torch.arange(len(logits), device=logits.device), counts.sum(1)]
        ends = endings.to(logits.device)
        ending = pad(after[:, ends], (0, 1), value=-torch.inf).amax(-1)  # there may be none
        other = after.index_fill_(1, ends, -torch.inf).amax(-1)
        listed = listed.clamp(min=0)
        own = ahead.gather(2, listed)
        top = own > ahead.scatter_(2, listed, -torch.inf).amax(-1, keepdim=True)  # a tie counts against the answer
        top, total = top[..., 0], logsumexp_(ahead.scatter_(2, listed, own))
        log_prob = (own[..., 0] - total).masked_fill(~counts, 0).sum(1)
        right = ((top | ~counts).all(1) & (ending > other)).float()
        return torch.stack([log_prob, right.masked_fill((ending + other).isnan(), torch.nan)], 1)

    return read


def _concatenated(first: Read, second: Read) -> Read:
    return lambda logits, prompt: torch.cat([first(logits, prompt), second(logits, prompt)], 1)


def _by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of equal length together."""
    return [[i for i, n in enumerate(lengths) if n == length] for length in sorted(set(lengths))]
