"""Texts and tokens for lm-evaluation-harness: what a request's text is to a TransformerLens model."""

import logging
from typing import Any

from jinja2 import TemplateError

from ...ground.errors import InputError
from ...models.lens import Model, lens_of
from ...models.tokens import token_ids
from .lm_eval_names import TemplateLM

log = logging.getLogger("fv_lens")


class TokenizedLM(TemplateLM):
    """The part of `PatchedLM` that knows the tokenizer: special tokens, ids of texts, and the chat form.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.

    Raises:
        InputError: no tokenizer.
    """

    def __init__(self, model: Model):
        super().__init__()
        lens = lens_of(model)
        self.model, self.tokenizer, self._device = model, lens.model.tokenizer, lens.device
        if self.tokenizer is None:
            raise InputError(f"{lens.name} has no tokenizer, and requests are texts. Load it with one.")

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text; None where the tokenizer has none."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token that an empty context consists of: BOS, or else EOS.

        Raises:
            InputError: the tokenizer has neither.
        """
        for token in (self.tokenizer.bos_token_id, self.eot_token_id):
            if token is not None:
                return token
        raise InputError(
            f"The tokenizer of {lens_of(self.model).name} has neither a BOS nor an EOS token, of which an empty "
            "context would consist; ask for tasks with contexts."
        )

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's name, by which the harness knows requests that it has kept."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text under the model's own BOS rule, or without special tokens; never two BOS tokens."""
        if add_special_tokens is False:
            return self.tokenizer(string, add_special_tokens=False)["input_ids"]
        ids, bos = token_ids(lens_of(self.model).model, string), self.tokenizer.bos_token_id
        begins_with_bos = bos is not None and string.startswith(self.tokenizer.bos_token)  # by a chat template
        return ids[1:] if begins_with_bos and ids[:2] == [bos, bos] else ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        before, behind = super()._encode_pair(context, continuation)
        return before or [self.prefix_token_id], behind  # of a context of spaces nothing is left

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Write a conversation as the tokenizer's chat template does, without the system's turn if it takes none.

        Raises:
            InputError: the tokenizer has no chat template.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(f"The tokenizer of {lens_of(self.model).name} has no chat template; ask without one.")

        def conversation(turns: list[dict[str, str]]) -> str:
            return self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )  # fmt: skip

        try:
            return conversation(chat_history)
        except TemplateError:
            log.warning("The chat template takes no system turn, which is left out.")
            return conversation([turn for turn in chat_history if turn["role"] != "system"])
