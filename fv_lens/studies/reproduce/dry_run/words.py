"""How many tokens a study's words are, by the model's tokenizer or by a rule of thumb."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import transformers

from ....datasets.prompts import PromptTemplate
from ....datasets.relations import Relation
from ....ground.errors import InputError
from ....models.chat import parts_of
from ....models.gguf_model import adds_bos
from ....models.libraries import quiet
from ....models.source import Source
from .flops import Number

PER_WORD = 1.4  # tokens, where there is no tokenizer


@dataclass(frozen=True)
class Words:
    """Mean tokens of a zero-shot prompt, of a demonstration before it, of an answer (the first listed one).

    `long`: the share of answers with several tokens. `several`: of words with several answers. `source`: how tokens
    were counted. `answers`: the tokens of each answer.
    """

    prompt: Number
    shown: Number
    answer: Number
    long: Number
    several: Number
    source: str
    answers: tuple[int, ...] = (1,)


def words_of(source: Source, relations: Sequence[Relation], chat: bool = False) -> Words:
    """Mean tokens of the relations' prompts, demonstrations and answers.

    Args:
        chat: in the model's own chat form.

    Raises:
        InputError: the model has no chat form, or no tokenizer.
    """
    folder = source.folder
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder or source.name, local_files_only=folder is not None
            )
    except Exception:  # whatever it raises where there is none
        tokenizer = None
    bos = None if tokenizer is None else tokenizer.bos_token
    more = int(bos is not None and (adds_bos(tokenizer) if source.own_bos else True))
    template = PromptTemplate()
    if chat and tokenizer is None:
        raise InputError(f"The tokenizer of {source.name} cannot be read, so its chat form is not known.")
    if chat:
        parts = parts_of(tokenizer, source.name)
        template = PromptTemplate.of_chat(parts.without(bos) if bos and more else parts)
    pairs = [(word, answers[0]) for relation in relations for word, answers in relation.pairs]
    several = [len(answers) > 1 for relation in relations for _, answers in relation.pairs]

    def counts(texts: list[str]) -> np.ndarray:
        if tokenizer is None:  # a word as PER_WORD, a mark or line break as one
            return np.array(
                [sum(PER_WORD if x[1:].strip() else 1 for x in re.findall(r"\w+|\n+|\S", t)) for t in texts]
            )
        return np.array([len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]])

    bare, answers = [template.prompt(word) for word, _ in pairs], [template.answer.format(answer=a) for _, a in pairs]
    asked = [template.question.format(word=word) for word, _ in pairs]
    shown = counts([question + answer + template.separator for question, answer in zip(asked, answers)]).mean()
    answer = np.maximum(counts(answers), 1)
    origin = f"estimated at {PER_WORD} a word" if tokenizer is None else "counted"
    return Words(
        prompt=float(counts(bare).mean()) + more, shown=float(shown), answer=float(answer.mean()),
        long=float((answer >= 2).mean()), several=float(np.mean(several)), source=origin,
        answers=tuple(np.round(answer).astype(int).tolist()),
    )  # fmt: skip
