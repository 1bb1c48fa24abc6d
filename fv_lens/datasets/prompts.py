"""Prompts as text: the template, and few-shot and corrupted draws from a relation; `batches` tokenises them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from string import Formatter

import numpy as np

from ..ground.errors import InputError, whole_number
from ..ground.streams import Stream, generator
from ..models.chat import ChatParts, chat_parts
from ..models.model import Model
from .relations import Relation, pairs_for

Pair = tuple[str, tuple[str, ...]]  # of a relation: the word and its right answers


@dataclass(frozen=True)
class PromptTemplate:
    """How words become a prompt; the default is that of Todd et al. 2024, "Q: hot\\nA: cold\\n\\nQ: big\\nA:".

    Args:
        question: the part before an answer, with `{word}` in it. It should end where the answer's own token begins, so
            the space before the answer belongs to `answer`.
        answer: the answer, with `{answer}` in it.
        separator: the text after each demonstration.
        prefix: the text before everything else.

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

    def __post_init__(self) -> None:
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

    @classmethod
    def chat(cls, model: Model, question: str = "{word}") -> "PromptTemplate":
        """The model's own chat form: each demonstration is a user's turn and the model's answer to it.

        Its four parts are read off the tokenizer's chat template, with whatever system turn that has by itself. A BOS
        token that the model's tokens begin with anyway does not stand in it twice.

        Args:
            question: the user's turn, with `{word}` in it, such as "The opposite of {word}?".

        Raises:
            InputError: the tokenizer has no chat template, or one whose turns do not simply follow each other.

        Example:
            >>> template = PromptTemplate.chat(model)
            >>> effects = indirect_effects(model, "antonym", template=template)
        """
        cls(question=question)  # which is what says what is wrong with it
        return cls.of_chat(chat_parts(model), question)

    @classmethod
    def of_chat(cls, parts: ChatParts, question: str = "{word}") -> "PromptTemplate":
        """The chat form of these parts."""
        header, reply = (part.replace("{", "{{").replace("}", "}}") for part in (parts.header, parts.reply))
        return cls(f"{header}{question}{reply}", "{answer}", parts.end, parts.start)

    def to_dict(self) -> dict[str, str]:
        """The four parts by name; `from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, parts: Mapping[str, str]) -> "PromptTemplate":
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

    def __post_init__(self) -> None:
        if isinstance(self.answers, str) or not self.answers:
            raise InputError(f"the answers of {self.word!r} are {self.answers!r}; give a tuple with at least one")


def few_shot(relation: Relation, n_prompts: int, n_shots: int, seed: int = 0) -> tuple[FewShot, ...]:
    """Draw `n_prompts` intact prompts from a relation, normally its train part.

    The queries are a random permutation of the words, repeated if there are fewer words than prompts. Demonstrations
    are drawn without replacement and show their first answer. They never include the query; a pair that would give its
    answer away (one that has the query among its answers, or whose word answers the query) is used only when there are
    too few other pairs.

    Raises:
        InputError: `n_prompts` below 1, `n_shots` below 0, or fewer than `n_shots` pairs beside the query.

    Example:
        >>> few_shot(relation, n_prompts=25, n_shots=2, seed=0)[0]
        FewShot(word='hot', answers=('cold',), demonstrations=(('up', 'down'), ('late', 'early')))
    """
    rng = generator(seed, Stream.FEW_SHOT)
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
    rng, draw = generator(seed, Stream.DEMONSTRATIONS), _draw_corrupted if shuffled else _draw
    return tuple(draw(pair, demonstrations, n_shots, rng) for pair in queries.pairs)


def corrupted(relation: Relation, n_prompts: int, n_shots: int, seed: int = 0) -> tuple[FewShot, ...]:
    """Draw `n_prompts` prompts as `few_shot` does, their demonstration answers deranged by `corrupt`.

    A draw that cannot be deranged is drawn again. The draws are not those of `few_shot` with the same seed.

    Raises:
        InputError: as in `few_shot`; `n_shots` below 2; or a query for which none of 100 draws can be deranged, because
            one answer serves too many words.
    """
    n_shots, rng = whole_number("n_shots", n_shots, least=2), generator(seed, Stream.CORRUPTED)
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


def _queries(relation: Relation, n_prompts: int, rng: np.random.Generator) -> list[Pair]:
    n_prompts, order = whole_number("n_prompts", n_prompts, least=1), rng.permutation(len(relation))
    return [relation.pairs[order[i % len(order)]] for i in range(n_prompts)]


def _draw(pair: Pair, relation: Relation, n_shots: int, rng: np.random.Generator) -> FewShot:
    query, right = pair
    n_shots = whole_number("n_shots", n_shots, least=0)
    others = [relation.pairs[i] for i in rng.permutation(len(relation)) if relation.pairs[i][0] != query]
    if len(others) < n_shots:
        raise InputError(
            f"relation {relation.name!r} has {len(others)} pairs besides the query {query!r}, and {n_shots} shots need "
            f"{n_shots}; give more pairs or fewer shots (vectors are made from the train part, two fifths of a "
            f"relation's pairs, so {n_shots} shots take {pairs_for(n_shots + 1)} pairs or more)"
        )
    # A stable sort: still at random, but the pairs that give the answer away come last.
    others.sort(key=lambda other: query in other[1] or other[0] in right)
    return FewShot(query, right, tuple((word, answers[0]) for word, answers in others[:n_shots]))


def _draw_corrupted(pair: Pair, relation: Relation, n_shots: int, rng: np.random.Generator) -> FewShot:
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
