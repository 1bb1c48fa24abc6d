"""Prompts: the template, few-shot and corrupted draws from a relation, and batches of tokens.

`few_shot`, `with_demonstrations` and `corrupted` choose words, `batch` turns them into tokens. A `lens` here is any
object with `tokens(text) -> list[int]` (which puts BOS where the model wants it), `n_ctx` and `pad_id`.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from string import Formatter
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch.nn.functional import pad

from .errors import InputError, whole_number
from .relations import Relation, pairs_for


@dataclass(frozen=True)
class PromptTemplate:
    """How words become a prompt; the default is that of Todd et al. 2024, "Q: hot\\nA: cold\\n\\nQ: big\\nA:".

    Args:
        question: the part before an answer, with `{word}` in it. It should end where the answer's own token begins, so
            the space before the answer belongs to `answer`.
        answer: the answer, with `{answer}` in it.
        separator: stands after each demonstration.
        prefix: stands before all else.

    Raises:
        InputError: a field that is missing, unknown or not plain (`{word!r}`), or a brace that is not doubled.

    Example:
        >>> PromptTemplate().prompt("big", [("hot", "cold")])
        'Q: hot\\nA: cold\\n\\nQ: big\\nA:'
    """

    question: str = "Q: {word}\nA:"
    answer: str = " {answer}"
    separator: str = "\n\n"
    prefix: str = ""

    def __post_init__(self):
        for part, field in (("question", "word"), ("answer", "answer")):
            text = getattr(self, part)
            try:
                fields = {parsed[1:] for parsed in Formatter().parse(text) if parsed[1] is not None}
            except ValueError as error:
                raise InputError(f"the template's {part} is {text!r}: {error}; double a brace that is text") from None
            if fields != {(field, "", None)}:
                raise InputError(f"the template's {part} is {text!r}; it takes {{{field}}} and no other field")

    def prompt(self, word: str, demonstrations: Sequence[tuple[str, str]] = ()) -> str:
        """The text that asks for `word`'s answer after the `(word, answer)` demonstrations."""
        # Only the template's parts are formatted, each once: a word may itself hold braces.
        shown = (
            self.question.format(word=x) + self.answer.format(answer=y) + self.separator for x, y in demonstrations
        )
        return self.prefix + "".join(shown) + self.question.format(word=word)

    def to_dict(self) -> dict[str, str]:
        """The four parts by name; `from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, parts: Mapping) -> "PromptTemplate":
        """The template that `to_dict` gave; an InputError where a part is unknown or not a string."""
        known = cls().to_dict()
        for part, text in parts.items():
            if part not in known or not isinstance(text, str):
                raise InputError(f"template part {part!r} is {text!r}; give strings for {', '.join(known)}")
        return cls(**parts)


@dataclass(frozen=True)
class FewShot:
    """One prompt in words: the query word, its right answers, and the (word, answer) demonstrations before it."""

    word: str
    answers: Sequence[str]
    demonstrations: Sequence[tuple[str, str]] = ()

    def __post_init__(self):
        if isinstance(self.answers, str) or not self.answers:
            raise InputError(f"the answers of {self.word!r} are {self.answers!r}; give a tuple with at least one")


def few_shot(relation: Relation, n_prompts: int, n_shots: int, seed: int = 0) -> tuple[FewShot, ...]:
    """Draw `n_prompts` intact prompts from a relation, as a rule from its train part.

    The queries are a random permutation of the words, over and over where there are fewer words than prompts.
    Demonstrations are drawn without replacement and show their first answer. The query is never among them; a pair that
    would give its answer away (one that has the query among its answers, or whose word answers the query) is among them
    only when the other pairs are too few.

    Raises:
        InputError: `n_prompts` below 1, `n_shots` below 0, or fewer than `n_shots` pairs beside the query.

    Example:
        >>> few_shot(relation, n_prompts=25, n_shots=2, seed=0)[0]
        FewShot(word='hot', answers=('cold',), demonstrations=(('up', 'down'), ('late', 'early')))
    """
    rng = _generator(seed, stream=0)
    return tuple(_draw(pair, relation, n_shots, rng) for pair in _queries(relation, n_prompts, rng))


def with_demonstrations(
    queries: Relation, demonstrations: Relation, n_shots: int, seed: int = 0, shuffled: bool = False
) -> tuple[FewShot, ...]:
    """One prompt for each pair of `queries`, in order, its demonstrations drawn as in `few_shot` from the other part.

    With `shuffled`, the demonstrations' answers are deranged as in `corrupted`: the form without the relation.

    Raises:
        InputError: `n_shots` below 0, or fewer than `n_shots` pairs of `demonstrations` beside the query; with
            `shuffled`, as in `corrupted`.

    Example:
        >>> train, validation, test = relation.split()
        >>> len(with_demonstrations(test, train, n_shots=10)) == len(test)
        True
    """
    rng, draw = _generator(seed, stream=1), _draw_corrupted if shuffled else _draw
    return tuple(draw(pair, demonstrations, n_shots, rng) for pair in queries.pairs)


def corrupted(relation: Relation, n_prompts: int, n_shots: int, seed: int = 0) -> tuple[FewShot, ...]:
    """Draw `n_prompts` prompts as `few_shot` does, their demonstration answers deranged by `corrupt`.

    A draw that cannot be deranged is drawn again. The draws are not those of `few_shot` with the same seed.

    Raises:
        InputError: as in `few_shot`; `n_shots` below 2; or a query for which none of 100 draws can be deranged, because
            one answer serves too many words.
    """
    n_shots, rng = whole_number("n_shots", n_shots, least=2), _generator(seed, stream=2)
    return tuple(_draw_corrupted(pair, relation, n_shots, rng) for pair in _queries(relation, n_prompts, rng))


def corrupt(shots: FewShot, answers: Mapping[str, Sequence[str]], rng: np.random.Generator) -> FewShot | None:
    """Permute the demonstration answers so that none stays in its place or comes to a word for which it is right.

    What is right is looked up in `answers`, as in `Relation.answers`. None if 500 shuffles find no such permutation.

    Source: Todd et al. 2024 shuffle the labels; here, unlike there, no label may stay right by chance.
    """
    if len(shots.demonstrations) < 2:
        return None
    words, shown = zip(*shots.demonstrations)
    n = len(words)
    right = np.array([[i == j or shown[j] in answers.get(words[i], ()) for j in range(n)] for i in range(n)])
    shuffles = rng.permuted(np.tile(np.arange(n), (500, 1)), axis=1)
    wrong_everywhere = ~right[np.arange(n), shuffles].any(axis=1)
    if not wrong_everywhere.any():
        return None
    shuffle = shuffles[wrong_everywhere.argmax()]
    return FewShot(shots.word, shots.answers, tuple((word, shown[j]) for word, j in zip(words, shuffle)))


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

    tokens: Int[torch.Tensor, "prompt pos"]
    mask: Int[torch.Tensor, "prompt pos"]
    answer_ids: Int[torch.Tensor, " prompt"]
    answers: tuple[tuple[tuple[int, ...], ...], ...]
    texts: tuple[str, ...]
    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices: Iterable) -> "PromptBatch":
        """The prompts at `indices`, in the order given; columns that hold nothing but padding then are dropped.

        Raises:
            InputError: no indices, or one outside the batch.

        Example:
            >>> batch(lens, prompts).select([2, 0]).words == (prompts[2].word, prompts[0].word)
            True
        """
        rows = [whole_number("a prompt's index", index, least=0) for index in torch.as_tensor(indices).tolist()]
        if not rows or max(rows) >= len(self):
            raise InputError(f"prompts {rows} are to be selected; give at least one index, all in 0..{len(self) - 1}")
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

        def padded(name: str, value: int) -> torch.Tensor:
            rows = (getattr(part, name) for part in parts)
            return torch.cat([pad(x, (width - x.shape[1], 0), value=value) for x in rows])

        def chained(name: str) -> tuple:
            return tuple(chain.from_iterable(getattr(part, name) for part in parts))

        return cls(
            padded("tokens", pad_id), padded("mask", 0), torch.cat([part.answer_ids for part in parts]),
            chained("answers"), chained("texts"), chained("words"),
        )  # fmt: skip


def batch(lens: Any, prompts: Sequence[FewShot], template: PromptTemplate = PromptTemplate()) -> PromptBatch:
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
        added = [template.answer.format(answer=answer) for answer in shots.answers]
        texts.append(text)
        ids.append(tokens(text))
        answers.append(tuple(_answer_tokens(tokens, text, answer, shots.word) for answer in added))
        longest = max(map(len, answers[-1]))
        if len(ids[-1]) + longest > lens.n_ctx:
            raise InputError(
                f"the prompt for {shots.word!r} has {len(ids[-1])} tokens and its longest answer {longest}, more than "
                f"the model's context of {lens.n_ctx}; give shorter words or fewer shots"
            )
    width = max(map(len, ids))
    return PromptBatch(
        tokens=torch.tensor([[lens.pad_id] * (width - len(prompt)) + prompt for prompt in ids]),
        mask=torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in ids]),
        answer_ids=torch.tensor([listed[0][0] for listed in answers]),
        answers=tuple(answers),
        texts=tuple(texts),
        words=tuple(shots.word for shots in prompts),
    )


def _answer_tokens(tokens: Callable, text: str, answer: str, word: str) -> tuple[int, ...]:
    prompt, whole = tokens(text), tokens(text + answer)
    if whole[: len(prompt)] != prompt:
        raise InputError(
            f"the answer {answer!r} of {word!r} changes the prompt's own tokens: the tokenizer joins the two; end the "
            "template's question earlier (before a space, say) and begin its answer there"
        )
    if len(whole) == len(prompt):
        raise InputError(f"the answer {answer!r} of {word!r} adds no token of its own; leave it out of the relation")
    return tuple(whole[len(prompt) :])


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([whole_number("seed", seed, least=0), stream])


def _queries(relation: Relation, n_prompts: int, rng: np.random.Generator) -> list[tuple]:
    n_prompts, order = whole_number("n_prompts", n_prompts, least=1), rng.permutation(len(relation))
    return [relation.pairs[order[i % len(order)]] for i in range(n_prompts)]


def _draw(pair: tuple, relation: Relation, n_shots: int, rng: np.random.Generator) -> FewShot:
    query, right = pair
    n_shots = whole_number("n_shots", n_shots, least=0)
    others = [relation.pairs[i] for i in rng.permutation(len(relation)) if relation.pairs[i][0] != query]
    if len(others) < n_shots:
        raise InputError(
            f"relation {relation.name!r} has {len(others)} pairs beside the query {query!r} and {n_shots} shots need "
            f"{n_shots}; give more pairs or fewer shots (vectors are made from the train part, two fifths of a "
            f"relation's pairs, so {n_shots} shots take {pairs_for(n_shots + 1)} pairs or more)"
        )
    # A stable sort: still at random, but the pairs that give the answer away come last.
    others.sort(key=lambda other: query in other[1] or other[0] in right)
    return FewShot(query, right, tuple((word, answers[0]) for word, answers in others[:n_shots]))


def _draw_corrupted(pair: tuple, relation: Relation, n_shots: int, rng: np.random.Generator) -> FewShot:
    for _ in range(100):
        shots = corrupt(_draw(pair, relation, n_shots, rng), relation.answers, rng)
        if shots is not None:
            return shots
    served = Counter(answer for answers in relation.answers.values() for answer in answers)
    answer, n_words = served.most_common(1)[0]
    raise InputError(
        f"relation {relation.name!r}: in 100 draws of {n_shots} demonstrations no permutation made every answer wrong; "
        f"{answer!r} serves {n_words} of {len(relation)} words: give pairs with other answers, or fewer shots"
    )
