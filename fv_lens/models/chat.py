"""The parts of a model's chat form, read off its tokenizer's template."""

from typing import Any, NamedTuple

from ..ground.errors import InputError
from .tokens import token_ids

WORDS = [f"fvlens{name}" for name in ("one", "two", "three", "four", "five")]  # that no template holds


class ChatParts(NamedTuple):
    """Text before the first turn, before and after what a user says, and after what the model says."""

    start: str
    header: str
    reply: str
    end: str


def chat_parts(model: Any) -> ChatParts:
    """The parts from which the chat template makes a conversation whose turns follow each other.

    Raises:
        InputError: there is no chat template, or it cannot be taken apart so.
    """
    tokenizer = model.tokenizer
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"The tokenizer of {model.cfg.model_name} has no chat template; give a PromptTemplate of your own, such as "
            "PromptTemplate(question='Q: {word}\\nA:')."
        )

    def conversation(words: list[str], open_ended: bool) -> str:
        turns = [{"role": ("user", "assistant")[i % 2], "content": word} for i, word in enumerate(words)]
        try:
            return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=open_ended)
        except Exception as error:  # whatever a template raises
            raise InputError(f"The chat template of {model.cfg.model_name} fails: {error}") from error

    whole = conversation(WORDS[:2], open_ended=False)
    prompted = conversation(WORDS[:3], open_ended=True)
    try:
        before, rest = prompted.split(WORDS[0])
        reply, rest = rest.split(WORDS[1])
        between, last = rest.split(WORDS[2])
        end = whole.split(WORDS[1])[1]
    except (ValueError, IndexError):
        raise _unlike(model) from None
    header = between.removeprefix(end)
    parts = ChatParts(before.removesuffix(header), header, last, end)
    made = parts.start + "".join(f"{header}{a}{last}{b}{end}" for a, b in (WORDS[:2], WORDS[2:4]))
    if f"{made}{header}{WORDS[4]}{last}" != conversation(WORDS, open_ended=True) or reply != last:
        raise _unlike(model)
    bos = getattr(tokenizer, "bos_token", None)
    if bos and token_ids(model, "a")[:1] == [tokenizer.bos_token_id]:
        parts = parts._replace(start=parts.start.removeprefix(bos))
    return parts


def _unlike(model: Any) -> InputError:
    return InputError(
        f"The chat template of {model.cfg.model_name} does not write turns one after the other (it changes earlier "
        "turns, or opens an answer with text of its own); give a PromptTemplate of your own."
    )
