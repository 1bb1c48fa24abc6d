"""Vectors that are measured, not trained: activation addition and mean difference, placed on validation words.

Both are differences of residuals at the last token of two kinds of prompts, one for each layer that is tried; contrast,
layer and strength are those that complete the validation words best, as for summed vectors.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from torch import Tensor

from ...datasets.prompts import FewShot, PromptTemplate, corrupted, few_shot
from ...datasets.relations import Relation
from ...engine.batches import padded_texts
from ...engine.whatif import residuals_of_layers
from ...ground.errors import InputError
from ...models.lens import Lens
from ...vectors.function_vector import FunctionVector
from ...vectors.sweeps import STRENGTHS, layer_grid, on_validation, quality_of
from ...vectors.tuning_pairs import shuffled
from .names import ACTIVATION_ADDITION, MEAN_DIFFERENCE

SHOTS = 10
Texts = tuple[list[str], list[str]]  # of prompts with what is wanted, and of prompts without


def activation_addition(
    lens: Lens, relation: Relation, template: PromptTemplate, instruction: str | None = None, seed: int = 0
) -> tuple[FunctionVector, str]:
    """The mean difference over train pairs of a prompt that shows the relation and one that does not, and its choice.

    Contrasts: "Q: hot\\nA: cold" against "Q: hot\\nA:", and against the same with a wrong answer; the zero-shot prompt
    behind an instruction against the prompt alone, where there is an instruction.

    Source: Turner et al. 2023, Steering language models with activation engineering (arXiv 2308.10248): `c * (h(p+) -
    h(p-))` of one pair of prompts, added from the first token on. Here there is a pair of prompts for each train pair,
    and the last token counts, where function vectors are added.
    """
    train = relation.split().train
    bare = [template.prompt(word) for word in train.words]

    def answered(part: Relation) -> list[str]:
        return [template.prompt(word) + template.answer.format(answer=listed[0]) for word, listed in part.pairs]

    contrasts: dict[str, Texts] = {"answered": (answered(train), bare)}
    try:
        contrasts["right against wrong"] = answered(train), answered(shuffled(train, relation, seed))
    except InputError:  # few answers serve all words, so that none is wrong
        pass
    if instruction:
        with suppress(InputError):  # nobody knows where it belongs in this template
            asked = instructed(lens, template, instruction)
            contrasts["instructed"] = [asked.prompt(word) for word in train.words], bare
    return _placed(lens, relation, template, contrasts, ACTIVATION_ADDITION)


def mean_difference(
    lens: Lens, relation: Relation, template: PromptTemplate, seed: int = 0
) -> tuple[FunctionVector, str]:
    """The mean residual of intact few-shot prompts minus that of zero-shot or shuffled ones, and its choice.

    Source: the layer-average baseline of Todd et al. 2024; difference in means, Marks and Tegmark 2024.
    """
    train = relation.split().train
    n, shots = len(train), min(SHOTS, len(train) - 1)

    def written(prompts: Sequence[FewShot]) -> list[str]:
        return [template.prompt(prompt.word, prompt.demonstrations) for prompt in prompts]

    intact = few_shot(train, n, shots, seed)
    contrasts: dict[str, Texts] = {
        "against zero-shot": (written(intact), written([FewShot(x.word, x.answers) for x in intact]))
    }
    try:
        contrasts["against shuffled"] = written(intact), written(corrupted(train, n, shots, seed))
    except InputError:  # as above, or too few pairs
        pass
    return _placed(lens, relation, template, contrasts, MEAN_DIFFERENCE)


def instructed(lens: Lens, template: PromptTemplate, instruction: str) -> PromptTemplate:
    """The template with an instruction before all else; in the model's chat form, at the start of the user's turn.

    Raises:
        InputError: the template holds special tokens of the model, but is not its chat form, so where a user speaks is
            not known.
    """
    if (header := _user_header(lens, template)) is not None:
        text = instruction.replace("{", "{{").replace("}", "}}")
        return replace(template, question=f"{header}{text}\n{template.question.removeprefix(header)}")
    added = getattr(lens.model.tokenizer, "added_tokens_decoder", {}).values()
    for token in (str(token) for token in added if token.special):
        if any(token in part for part in template.to_dict().values()):
            raise InputError(
                f"the template holds the special token {token!r} and is not the chat form of {lens.name}, so where an "
                "instruction belongs is not known; give PromptTemplate.chat(model), or a template of plain text"
            )
    return replace(template, prefix=f"{instruction}{template.separator}{template.prefix}")


def _user_header(lens: Lens, template: PromptTemplate) -> str | None:
    """What opens a user's turn in the template's question; None where this is not the model's chat form."""
    try:
        form = PromptTemplate.chat(lens.model)
    except InputError:
        return None
    header, _, reply = form.question.partition("{word}")
    question = template.question
    is_form = question.startswith(header) and question.endswith(reply)
    return header if is_form and replace(form, question=question, prefix=template.prefix) == template else None


def best_of(
    lens: Lens, relation: Relation, candidates: Sequence[Sequence[FunctionVector]], template: PromptTemplate, what: str
) -> int:
    """The place of the vectors that complete the validation words best, added together; the first of equals."""
    (measured,) = on_validation(lens, [relation], [[vectors] for vectors in candidates], template, what)
    return int(quality_of(measured)[1:].round(9).argmax())


def _placed(
    lens: Lens, relation: Relation, template: PromptTemplate, contrasts: Mapping[str, Texts], method: str
) -> tuple[FunctionVector, str]:
    layers = layer_grid(lens)
    names: list[str] = []
    vectors: list[FunctionVector] = []
    means: dict[tuple[str, ...], Tensor] = {}  # of texts that stand in two contrasts, once
    for contrast, (shown, plain) in contrasts.items():
        for texts in (shown, plain):
            if tuple(texts) not in means:
                means[tuple(texts)] = residuals_of_layers(lens, *padded_texts(lens, texts), layers).mean(1)
        difference = means[tuple(shown)] - means[tuple(plain)]
        for layer, vector in zip(layers, difference):
            made = FunctionVector.on(lens, vector, layer, relation, template, method=method)
            vectors += [made.strengthened(strength) for strength in STRENGTHS]
            names += [f"{contrast}, layer {layer}, strength {strength:g}" for strength in STRENGTHS]
    best = best_of(lens, relation, [[vector] for vector in vectors], template, method)
    return vectors[best], names[best]
