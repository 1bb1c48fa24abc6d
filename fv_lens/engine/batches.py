"""Prompts as tokens: batches with their masks and the tokens of every right answer."""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from ..datasets.prompts import FewShot, PromptTemplate
from ..ground.errors import InputError, whole_number


@runtime_checkable
class Tokens(Protocol):
    """The tokeniser that `batch` needs: a `Lens`, or anything else that applies the model's BOS rule."""

    n_ctx: int

    @property
    def pad_id(self) -> int: ...

    def tokens(self, text: str) -> list[int]: ...


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """Prompts as left-padded tokens, with their answers in context.

    Args:
        tokens: token ids, `[prompt, pos]`; the last position is each prompt's last token.
        mask: 1 where a token is the prompt's, 0 where it is padding, `[prompt, pos]`.
        answer_ids: the first token of each prompt's first listed answer, `[prompt]`.
        answers: for each prompt and each of its answers, all of the answer's token ids.
        texts: the prompts as text.
        words: the query words.
    """

    tokens: Int[Tensor, "prompt pos"]
    mask: Int[Tensor, "prompt pos"]
    answer_ids: Int[Tensor, " prompt"]
    answers: tuple[tuple[tuple[int, ...], ...], ...]
    texts: tuple[str, ...]
    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices: Iterable[int] | Tensor) -> "PromptBatch":
        """The prompts at `indices`, in the order given; columns that then hold nothing but padding are dropped.

        Raises:
            InputError: no indices, or one outside the batch.

        Example:
            >>> batch(lens, prompts).select([2, 0]).words == (prompts[2].word, prompts[0].word)
            True
        """
        rows = [
            whole_number("a prompt's index", index, least=0)
            for index in torch.as_tensor(indices, device="cpu").tolist()
        ]
        if not rows or max(rows) >= len(self):
            raise InputError(f"the indices of prompts are {rows}; give at least one, all in 0..{len(self) - 1}")
        longest = int(self.mask[rows].sum(dim=1).max())
        return PromptBatch(
            tokens=self.tokens[rows, -longest:],
            mask=self.mask[rows, -longest:],
            answer_ids=self.answer_ids[rows],
            answers=tuple(self.answers[row] for row in rows),
            texts=tuple(self.texts[row] for row in rows),
            words=tuple(self.words[row] for row in rows),
        )

    @classmethod
    def joined(cls, parts: Sequence["PromptBatch"], pad_id: int) -> "PromptBatch":
        """Several batches as one, padded on the left with `pad_id` to the longest prompt of all."""
        width = max(part.tokens.shape[1] for part in parts)

        def padded(name: str, value: int) -> Tensor:
            rows = (getattr(part, name) for part in parts)
            return torch.cat([pad(x, (width - x.shape[1], 0), value=value) for x in rows])

        def chained(name: str) -> tuple[Any, ...]:
            return tuple(chain.from_iterable(getattr(part, name) for part in parts))

        return cls(
            padded("tokens", pad_id), padded("mask", 0), torch.cat([part.answer_ids for part in parts]),
            chained("answers"), chained("texts"), chained("words"),
        )  # fmt: skip


def batch(lens: Tokens, prompts: Sequence[FewShot], template: PromptTemplate = PromptTemplate()) -> PromptBatch:
    """Write the prompts with the template and tokenise them and their answers.

    An answer's tokens are those that it adds to its prompt, so they are right also where the tokenizer joins words.

    Raises:
        InputError: no prompts; an answer that adds no token or changes the prompt's own tokens; a prompt that, with its
            longest answer, exceeds `lens.n_ctx`.

    Example:
        >>> prompts = batch(lens, few_shot(relation, n_prompts=25, n_shots=10))
        >>> prompts.tokens.shape == prompts.mask.shape == (25, prompts.tokens.shape[1])
        True
    """
    if not prompts:
        raise InputError("there are no prompts to batch; give at least one")
    tokens = functools.cache(lens.tokens)
    texts, ids, answers = [], [], []
    for shots in prompts:
        text = template.prompt(shots.word, shots.demonstrations)
        listed = [template.answer.format(answer=answer) for answer in shots.answers]
        texts.append(text)
        ids.append(tokens(text))
        answers.append(tuple(_answer_tokens(tokens, text, answer, shots.word) for answer in listed))
        longest = max(map(len, answers[-1]))
        if len(ids[-1]) + longest > lens.n_ctx:
            raise InputError(
                f"the prompt for {shots.word!r} has {len(ids[-1])} tokens and its longest answer {longest}, more than "
                f"the model's context of {lens.n_ctx}; give shorter words or fewer shots"
            )
    padded, mask = _padded(ids, lens.pad_id)
    return PromptBatch(
        tokens=padded,
        mask=mask,
        answer_ids=torch.tensor([listed[0][0] for listed in answers], device="cpu"),
        answers=tuple(answers),
        texts=tuple(texts),
        words=tuple(shots.word for shots in prompts),
    )


def padded_texts(lens: Tokens, texts: Sequence[str]) -> tuple[Int[Tensor, "text pos"], Int[Tensor, "text pos"]]:
    """Left-padded tokens and mask of texts that have no answers.

    Raises:
        InputError: no texts; one that is not a string, has no tokens, or has more than `lens.n_ctx`.
    """
    if not texts:
        raise InputError("there are no texts; give at least one")
    return _padded([_text_tokens(lens, text) for text in texts], lens.pad_id)


def _text_tokens(lens: Tokens, text: str) -> list[int]:
    if not isinstance(text, str):
        raise InputError(f"a text is {text!r}; give a string, such as 'The weather today is'")
    shown, ids = repr(text if len(text) <= 40 else f"{text[:40]}..."), lens.tokens(text)
    if not ids:
        raise InputError(f"the text {shown} has no tokens; give some words, or leave it out")
    if len(ids) > lens.n_ctx:
        raise InputError(
            f"the text {shown} has {len(ids)} tokens, more than the model's context of {lens.n_ctx}; give a shorter one"
        )
    return ids


def _padded(ids: Sequence[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    width = max(map(len, ids))
    tokens = torch.tensor([[pad_id] * (width - len(row)) + row for row in ids], device="cpu")
    return tokens, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device="cpu")


def _answer_tokens(tokens: Callable[[str], list[int]], text: str, answer: str, word: str) -> tuple[int, ...]:
    prompt, whole = tokens(text), tokens(text + answer)
    if whole[: len(prompt)] != prompt:
        raise InputError(
            f"the answer {answer!r} of {word!r} changes the prompt's own tokens: the tokenizer joins the two; end the "
            "template's question earlier (before a space, say) and begin its answer there"
        )
    if len(whole) == len(prompt):
        raise InputError(f"the answer {answer!r} of {word!r} adds no token of its own; leave it out of the relation")
    return tuple(whole[len(prompt) :])
