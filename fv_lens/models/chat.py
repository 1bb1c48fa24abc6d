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

    def without(self, bos: str) -> "ChatParts":
        """The parts without a BOS token at their start."""
        return self._replace(start=self.start.removeprefix(bos))


def chat_parts(model: Any) -> ChatParts:
    """The parts from which a model's chat template makes a conversation whose turns follow each other.

    Without the BOS token that the model's tokens begin with anyway.

    Raises:
        InputError: there is no chat template, or it cannot be taken apart so.
    """
    tokenizer = model.tokenizer
    parts = parts_of(tokenizer, model.cfg.model_name)
    if tokenizer.bos_token and token_ids(model, "a")[:1] == [tokenizer.bos_token_id]:
        parts = parts.without(tokenizer.bos_token)
    return parts


def parts_of(tokenizer: Any, name: str | None) -> ChatParts:
    """The parts from which a tokenizer's chat template makes a conversation whose turns follow each other.

    Args:
        name: of the model, for errors.

    Raises:
        InputError: there is no chat template, or it cannot be taken apart so.
    """
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"The tokenizer of {name} has no chat template; give a PromptTemplate of your own, such as "
            "PromptTemplate(question='Q: {word}\\nA:')."
        )

    def conversation(words: list[str], open_ended: bool) -> str:
        turns = [{"role": ("user", "assistant")[i % 2], "content": word} for i, word in enumerate(words)]
        try:
            return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=open_ended)
        except Exception as error:  # whatever a template raises
            raise InputError(f"The chat template of {name} fails: {error}") from error

    whole = conversation(WORDS[:2], open_ended=False)
    prompted = conversation(WORDS[:3], open_ended=True)
    try:
        before, rest = prompted.split(WORDS[0])
        reply, rest = rest.split(WORDS[1])
        between, last = rest.split(WORDS[2])
        end = whole.split(WORDS[1])[1]
    except (ValueError, IndexError):
        raise _unlike(name) from None
    header = between.removeprefix(end)
    parts = ChatParts(before.removesuffix(header), header, last, end)
    made = parts.start + "".join(f"{header}{a}{last}{b}{end}" for a, b in (WORDS[:2], WORDS[2:4]))
    if f"{made}{header}{WORDS[4]}{last}" != conversation(WORDS, open_ended=True) or reply != last:
        raise _unlike(name)
    return parts


def _unlike(name: str | None) -> InputError:
    return InputError(
        f"The chat template of {name} does not write turns one after the other (it changes earlier "
        "turns, or opens an answer with text of its own); give a PromptTemplate of your own."
    )
