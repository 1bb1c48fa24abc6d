"""Analogies A:B :: C:?, solved with a composite vector: completed in words, or chosen among answers.

The vector is made from A:B alone and added at the last token of a prompt for C: "Q: C\\nA:", or the same with A:B shown
before it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.prompts import FewShot, PromptTemplate
from ..engine.batches import batch
from ..engine.completion import completions
from ..engine.whatif import WhatIf, what_if
from ..ground import display
from ..ground.errors import InputError, whole_number
from ..models.lens import Lens, Model, lens_of
from ..vectors.function_vector import FunctionVector
from .basis import Basis, check_pair, check_words
from .compose import composed
from .composition import CompositionLike, composition

Words = tuple[tuple[str, float], ...]  # each with its log-probability, in nats
Choice = str | Sequence[str]  # D, or C and D
MOST_TOKENS = 6  # of a completed word
SENTENCE = PromptTemplate(question="{word}", separator=" ")  # asks "A is to B as C is to"


@dataclass(frozen=True)
class AnalogyAnswer:
    """The answer to an analogy, with the vector and without it (`plain_...`).

    `completions`: the likeliest words with the log-probability of each, in nats. `weights`: relation -> weight, largest
    first. `scores`: of each choice, log P(D | C) in nats; `choice`: the index of the best, in the order given.
    """

    source: tuple[str, str]
    target: str | None
    completions: Words
    plain_completions: Words
    weights: Mapping[str, float]
    choices: tuple[Choice, ...] = ()
    scores: tuple[float, ...] = ()
    plain_scores: tuple[float, ...] = ()
    vector: FunctionVector | None = field(default=None, repr=False)

    @property
    def choice(self) -> int | None:
        """The index of the best choice with the vector; None without choices."""
        return int(np.argmax(self.scores)) if self.scores else None

    @property
    def plain_choice(self) -> int | None:
        """The index of the best choice without the vector."""
        return int(np.argmax(self.plain_scores)) if self.plain_scores else None

    def to_frame(self) -> pd.DataFrame:
        """One line per completion, or per choice: what it is, with the vector, without it."""
        if self.choices:
            shown = list(zip(map(_choice_text, self.choices), self.scores, self.plain_scores))
            return pd.DataFrame(shown, columns=["choice", "score", "plain_score"])
        plain = dict(self.plain_completions)
        lines = [(word, log_prob, plain.get(word, np.nan)) for word, log_prob in self.completions]
        return pd.DataFrame(lines, columns=["word", "log_prob", "plain_log_prob"])

    def __repr__(self) -> str:
        best = [word for word, _ in self.completions[:1]]
        if self.choice is not None:
            best = [_choice_text(self.choices[self.choice])]
        return f"AnalogyAnswer({', '.join(map(repr, [self.asked, *best]))})"

    def _repr_html_(self) -> str:
        columns = {"with the vector": self.completions, "without": self.plain_completions}
        choices = [
            (_choice_text(choice), score, plain, i == self.choice, i == self.plain_choice)
            for i, (choice, score, plain) in enumerate(zip(self.choices, self.scores, self.plain_scores))
        ]
        return display.answer(self.asked, self.weights, columns, choices)

    @property
    def asked(self) -> str:
        """The analogy in words, with ? for what was asked for."""
        return f"{self.source[0]} : {self.source[1]} :: {self.target or '?'} : ?"

    def __str__(self) -> str:
        lines = [self.asked]
        lines.append("weights      " + ", ".join(f"{name} {w:.2f}" for name, w in list(self.weights.items())[:5]))
        for title, words in (("with", self.completions), ("without", self.plain_completions)):
            if words:
                lines.append(f"{title:<13}" + ", ".join(f"{word} {np.exp(value):.2f}" for word, value in words))
        for i, (choice, score, plain) in enumerate(zip(self.choices, self.scores, self.plain_scores)):
            marks = "*" * (i == self.choice) + " (without)" * (i == self.plain_choice)
            lines.append(f"  {_choice_text(choice):<24}{score:8.2f}{plain:8.2f}  {marks}".rstrip())
        return "\n".join(lines)


def solve_analogy(
    model: Model,
    vectors: Mapping[str, FunctionVector],
    pair: tuple[str, str],
    target: str | None = None,
    choices: Sequence[Choice] | None = None,
    k: int = 5,
    how: CompositionLike = "posterior",
) -> AnalogyAnswer:
    """Answer A:B :: C:? with the composite of a library.

    Args:
        model: a HookedTransformer or TransformerBridge.
        vectors: the library, relation -> FunctionVector, as `finetune_all` returns it.
        pair: A and B.
        target: C; None where each choice is a pair C:D of its own.
        choices: words D to choose from, or pairs C:D; None to complete freely.
        k: how many completions to list.
        how: a `Composition`, a name of `METHODS`, or what `fit_composition` returned (of which `whole` is taken); its
            `n_shots` says whether the prompt shows A:B.

    Raises:
        InputError: a word that is not text or has no tokens; an empty library; vectors of two models or layers; a
            single choice; choices that do not fit the target.

    Example:
        >>> answer = solve_analogy(model, vectors, ("hot", "cold"), "big")
        >>> answer.completions[0], next(iter(answer.weights.items()))
        (('small', -0.76), ('antonym', 0.65))
    """
    lens, settings, k = lens_of(model), composition(how), whole_number("k", k, least=1)
    library, pair = Basis.of(lens, vectors), check_pair(pair)
    pairs = _choice_pairs(target, choices)
    check_words(lens, [word for both in pairs for word in both] if target is None or pairs else [target])
    composite = composed(lens, library, pair, settings)
    whatif, shown = library.edit(composite.vector), (pair,) if settings.n_shots else ()
    patched: Words = ()
    plain: Words = ()
    if target is not None:
        text = library.template.prompt(target, shown)
        patched, plain = (likeliest(lens, text, active, k) for active in ([whatif], []))
    scores = np.zeros((0, 2))
    if pairs:
        scores = choice_scores(lens, library.template, [(shown, pairs)], [whatif])[0]
    return AnalogyAnswer(
        pair, target, patched, plain, composite.weights or {}, tuple(choices or ()),
        tuple(scores[:, -1].tolist()), tuple(scores[:, 0].tolist()), composite,
    )  # fmt: skip


def choice_scores(
    lens: Lens,
    template: PromptTemplate,
    items: Sequence[tuple[Sequence[Sequence[str]], Sequence[Sequence[str]]]],
    whatifs: Sequence[WhatIf],
    progress: Callable[[int], Any] | None = None,
) -> list[Float[np.ndarray, "choice row"]]:
    """log P(D | C) of every choice C:D, in nats: without a vector in column 0, with each what-if behind it.

    Args:
        asked: of each question, the demonstrations before C and its choices as pairs.
        whatifs: their edits hold a vector for all questions, or one for each, `[question, d_model]`.
    """
    owners = torch.tensor([i for i, (_, pairs) in enumerate(items) for _ in pairs], device="cpu")
    shots = [FewShot(c, (d,), tuple((a, b) for a, b in shown)) for shown, pairs in items for c, d in pairs]
    prompts = batch(lens, shots, template)
    spread = [[edit.for_prompts(owners) for edit in whatif] for whatif in whatifs]
    log_probs = completions(lens, prompts, spread, progress).log_prob
    return np.split(log_probs, np.cumsum([len(pairs) for _, pairs in items])[:-1])


@torch.no_grad()
def likeliest(lens: Lens, text: str, whatifs: Sequence[WhatIf], k: int) -> Words:
    """The `k` likeliest first tokens after a prompt, each completed greedily to a word: (word, log-probability).

    The last of `whatifs`, or none, acts at the prompt's last token. A word ends before a new line or the end of the
    text, and has at most six tokens; two that read alike are one.
    """
    ids, k = lens.tokens(text), min(k, lens.cfg.d_vocab)
    words: dict[str, float] = {}

    def read(logits: Tensor, prompt: Tensor) -> Tensor:
        best = logits[:, -1].log_softmax(-1).topk(k)
        return torch.stack([best.values, best.indices.float()], -1)  # ids are exact below 2 ** 24

    def top(tails: list[list[int]]) -> Tensor:
        tokens = torch.tensor([ids + tail for tail in tails], device="cpu")
        return what_if(lens, tokens, torch.ones_like(tokens), whatifs, read, tail=1 + len(tails[0]))[:, -1]

    begun = top([[]])[0]
    open_words = {int(token): ([int(token)], float(value)) for value, token in begun}
    while open_words:
        tails = {key: value for key, value in open_words.items() if not lens.endings[value[0][-1]]}
        for key in open_words.keys() - tails.keys():
            _add_word(lens, words, open_words[key][0][:-1], open_words[key][1])
        open_words = {}
        if not tails:
            break
        follow = top([tail for tail, _ in tails.values()])[:, 0]
        for (key, (tail, value)), (more, token) in zip(tails.items(), follow):
            if len(tail) == MOST_TOKENS:
                _add_word(lens, words, tail, value)
            else:
                ends = bool(lens.endings[int(token)])
                open_words[key] = (tail + [int(token)], value + (0.0 if ends else float(more)))
    ranked = sorted(words.items(), key=lambda word: -word[1])
    return tuple((word, round(value, 6)) for word, value in ranked if word)[:k]


def _add_word(lens: Lens, words: dict[str, float], tokens: list[int], log_prob: float) -> None:
    word = "".join(lens.text(token) for token in tokens).strip()
    words[word] = float(np.logaddexp(words.get(word, -np.inf), log_prob))


def _choice_pairs(target: Any, choices: Any) -> list[tuple[Any, Any]]:
    """Choices as pairs C:D."""
    if choices is None:
        if target is None:
            raise InputError("target is None and there are no choices; give C, or choices that are pairs C:D.")
        return []
    if isinstance(choices, str) or not isinstance(choices, Sequence) or len(choices) < 2:
        raise InputError(f"choices is {choices!r}; give at least two to choose from, or None to complete.")
    for choice in choices:
        word = isinstance(choice, str)
        pair = isinstance(choice, list | tuple) and len(choice) == 2 and all(isinstance(part, str) for part in choice)
        if not (word if target is not None else pair):
            expected = "words D" if target is not None else "pairs (C, D), as target is None"
            raise InputError(f"The choice {choice!r} does not fit target {target!r}; give {expected}.")
    return [(target or "", choice) if isinstance(choice, str) else (choice[0], choice[1]) for choice in choices]


def _choice_text(choice: Choice) -> str:
    return choice if isinstance(choice, str) else " : ".join(choice)
