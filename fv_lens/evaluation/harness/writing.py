"""Texts that are generated: how each token is chosen, by the settings that tasks of the harness give, and their end."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ...engine.edits import WhatIf
from ...engine.sequences import Choose, continuations
from ...ground.errors import InputError
from ...models.lens import Lens
from .lm_eval_names import postprocess_generated_text

# In the order in which transformers' own `generate` applies them; each with the value that changes nothing.
SAMPLING: dict[str, tuple[Callable[[Any], LogitsProcessor], Any]] = {
    "temperature": (TemperatureLogitsWarper, 1.0),
    "top_k": (TopKLogitsWarper, 0),
    "top_p": (TopPLogitsWarper, 1.0),
    "min_p": (MinPLogitsWarper, 0.0),
}
KNOWN = ("do_sample", "repetition_penalty", *SAMPLING)


def chooser(settings: Mapping[str, Any]) -> Choose:
    """Greedy choice, or a draw, by generation settings as the harness normalises them.

    Args:
        settings: `do_sample`, `temperature`, `top_k`, `top_p`, `min_p` and `repetition_penalty`, each of which may be
            left out; without `do_sample`, all but the last are ignored, as transformers ignores them.

    Raises:
        InputError: another setting, or a value that transformers refuses.
    """
    given = {name: value for name, value in settings.items() if (name, value) != ("num_beams", 1)}
    if unknown := [name for name in given if name not in KNOWN]:
        raise InputError(
            f"The generation setting {unknown[0]} = {given[unknown[0]]!r} is not supported; give until, max_gen_toks, "
            f"{', '.join(KNOWN)}."
        )
    processors, sampled = LogitsProcessorList(), bool(given.get("do_sample"))
    try:
        if (penalty := given.get("repetition_penalty")) not in (None, 1.0):
            processors.append(RepetitionPenaltyLogitsProcessor(penalty))
        for name, (make, neutral) in SAMPLING.items():
            if sampled and given.get(name) not in (None, neutral):
                processors.append(make(given[name]))
    except ValueError as error:
        raise InputError(f"The generation settings {given!r} are refused by transformers: {error}") from None

    def choose(ids: Tensor, logits: Tensor) -> Tensor:
        scores = processors(ids, logits)  # type: ignore[arg-type]
        return torch.multinomial(scores.softmax(-1), 1)[:, 0] if sampled else scores.argmax(-1)

    return choose


def generated_texts(
    lens: Lens,
    prompts: Sequence[Sequence[int]],
    edits: WhatIf,
    n: int,
    choose: Choose,
    stops: Sequence[str],
    ends: Collection[int | None],
) -> list[str]:
    """Texts that the model writes behind the prompts: at most `n` tokens, up to a stop text or a token of `ends`."""
    decode = lens.model.tokenizer.decode

    def is_done(row: list[int]) -> bool:
        text = decode(row, skip_special_tokens=False)
        return row[-1] in ends or any(stop in text for stop in stops)

    rows = continuations(lens, prompts, edits, n, choose, is_done)
    return [postprocess_generated_text(decode(row, skip_special_tokens=True), list(stops), None) for row in rows]
