"""Which tokens of a forward are the last of their prompts, and which were generated after them.

`Prompts` says it for a batch, from its shape and mask. `Watch` learns it from the calls that reach a model: while it is
there, it stands around the model's forward and its generating methods.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .errors import InputError

INPUTS = ("input", "input_ids", "inputs", "inputs_embeds")  # what forward and generate call their prompts


@dataclass(frozen=True, eq=False)
class Prompts:
    """The ends of a batch of prompts, counted in columns from the first token on, cached tokens included.

    Args:
        last: column of each prompt's last token; a single one stands for all rows.
        end: the first column behind the prompts and their padding, where generated tokens begin.

    Example:
        >>> Prompts.of((2, 3), mask=torch.tensor([[1, 1, 0], [0, 1, 1]])).last
        tensor([1, 2])
    """

    last: Int[Tensor, " prompt"]
    end: int

    @classmethod
    def of(cls, shape: tuple[int, int], past: int = 0, mask: object = None) -> "Prompts":
        """The prompts that end in `[batch, pos]` tokens behind `past` cached ones.

        Their last tokens are the last 1s of `mask`, or stand in the last column if there is none.

        Raises:
            InputError: a mask that does not say where the prompts' tokens are, see `check_mask`.
        """
        end = past + shape[1]
        if mask is None:
            return cls(torch.tensor([end - 1]), end)
        check_mask(mask, shape, past)
        first = end - mask.shape[1]  # a mask may leave the cached tokens out
        counted = mask.long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)
        return cls(first + counted.amax(1) - 1, end)  # a row without a 1 has ended in the tokens left out

    def columns(
        self, shape: tuple[int, int], past: int, device: torch.device
    ) -> tuple[Bool[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Which of `[batch, pos]` tokens behind `past` cached ones are last prompt tokens, and which are generated.

        Where a batch has grown (beams, several sequences per prompt), each prompt stands for as many rows in a row.
        """
        rows, length = shape
        column = torch.arange(past, past + length, device=device)
        last = (column == self.last.to(device)[:, None]).repeat_interleave(rows // len(self.last), 0)
        return last, (column >= self.end).expand(rows, length)


def check_mask(mask: object, shape: tuple[int, int], past: int) -> None:
    """Raise an InputError unless every row of `mask` shows one run of tokens: padding at its sides, nowhere between.

    It may be as wide as the tokens of this forward, `shape`, or as those and the `past` cached ones together. Cached
    tokens may have gaps, which a padded prefix leaves behind, and a prompt may have ended among them.
    """
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        found = f"{mask.dim()}-dimensional" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise InputError(f"attention_mask is {found}; while patched, give [batch, pos] of 1 and 0.")
    rows, length = shape
    if tuple(mask.shape) not in {(rows, length), (rows, past + length)}:
        also = f", or {[rows, past + length]} with the {past} cached ones" if past else ""
        raise InputError(f"attention_mask is {list(mask.shape)}; the tokens are [batch, pos] = {[rows, length]}{also}.")
    wrong = mask[(mask != 0) & (mask != 1)]
    if len(wrong):
        raise InputError(f"attention_mask holds {wrong[0].item()}; give 1 for a token and 0 for padding.")
    seen = mask.bool()
    for row in (~seen.any(1)).nonzero()[:1, 0].tolist() if mask.shape[1] == past + length else ():
        raise InputError(f"Row {row} of attention_mask has no 1, so that prompt has no last token.")
    own = seen[:, -length:]
    starts = own[:, 0].long() + (own[:, 1:] & ~own[:, :-1]).sum(1)
    for row in (starts > 1).nonzero()[:1, 0].tolist():
        raise InputError(
            f"Row {row} of attention_mask is {own[row].int().tolist()}, with a 0 between 1s; pad at a side."
        )


@dataclass
class _Generation:
    """A generating method at work.

    `masked`: whether the caller said where padding is, by a mask or a side. A mask that a method makes up from pad
    tokens does not count, for the pad token may be one of the prompt's. `prompts`: None until they are tokens.
    """

    masked: bool
    prompts: Prompts | None = None


class Watch:
    """Stands around a model's forward and generating methods and says, during a forward, which tokens get vectors.

    `now` is a pair of `[batch, pos]`: the last prompt tokens, and the tokens generated since. It is there while the
    network runs, in which every call ends: on a Bridge the Hugging Face model, else the model itself.
    """

    def __init__(self, model):
        self.model, self.network = model, getattr(model, "original_model", model)
        self.now: tuple[Tensor, Tensor] | None = None
        self.texts: Prompts | None = None
        self.generation: _Generation | None = None
        self.wraps = ExitStack()
        self._wrap(self.network, "forward", self._forward)
        self._wrap(model, "forward", self._forward_of_texts)
        for name in dir(type(model)):
            if name in ("generate", "generate_stream"):
                self._wrap(model, name, self._generate)
            elif "generate" in name and not name.startswith("_") and name != "hf_generate":  # that is network.generate
                self._wrap(model, name, partial(self._refuse, name))
        if self.network is not model and hasattr(self.network, "generate"):
            self._wrap(self.network, "generate", self._generate)
            if hasattr(self.network, "generate_batch"):
                self._wrap(self.network, "generate_batch", partial(self._refuse, "generate_batch"))

    def close(self) -> None:
        self.wraps.close()

    def _wrap(self, owner: Any, name: str, replacement: Callable) -> None:
        """Send calls of a method through `replacement(run, given)`: the call as it was made, and its arguments."""
        method, own = getattr(owner, name), owner.__dict__.get(name)
        _, *names = inspect.signature(getattr(type(owner), name)).parameters  # a method of the instance may hide them

        @functools.wraps(method)
        def wrapper(*args, **kwargs):
            return replacement(partial(method, *args, **kwargs), dict(zip(names, args)) | kwargs)

        def restore():
            if own is None:
                del owner.__dict__[name]
            else:
                owner.__dict__[name] = own

        owner.__dict__[name] = wrapper
        self.wraps.callback(restore)

    @contextmanager
    def _during(self, **state) -> Iterator[None]:
        before = {name: getattr(self, name) for name in state}
        self.__dict__.update(state)
        try:
            yield
        finally:
            self.__dict__.update(before)

    def _forward(self, run: Callable, given: dict) -> Any:
        tokens, past, mask = self._as_tokens(_input(given), given), _past(given), given.get("attention_mask")
        if tokens is None:
            raise InputError(f"This forward was given {sorted(given)}; while patched, give token ids or embeddings.")
        shape, generation = _shape(tokens), self.generation
        if generation is None:
            prompts = self.texts or Prompts.of(shape, past, mask)
        else:
            if generation.prompts is None:
                generation.prompts = Prompts.of(shape, past, mask if generation.masked else None)
            prompts = generation.prompts
        with self._during(now=prompts.columns(shape, past, tokens.device)):
            return run()

    def _forward_of_texts(self, run: Callable, given: dict) -> Any:
        """Strings padded on the right reach the network without a mask; here it is still known how long each is."""
        texts, prompts = _input(given), None
        if isinstance(texts, list) and given.get("attention_mask") is None:
            past = _past(given)
            prompts = Prompts.of(_shape(self._as_tokens(texts, given)), past)
            if (_side(given) or self.model.tokenizer.padding_side) == "right":
                lengths = [self._as_tokens(text, given).shape[1] for text in texts]
                if 0 in lengths:
                    raise InputError(f"The prompt {texts[lengths.index(0)]!r} has no tokens, so it has no last one.")
                prompts = Prompts(past + torch.tensor(lengths) - 1, prompts.end)
        with self._during(texts=prompts):
            return run()

    def _generate(self, run: Callable, given: dict) -> Any:
        tokens, mask = _input(given), given.get("attention_mask")
        generation = _Generation(masked=mask is not None or _side(given) is not None)
        if isinstance(tokens, Tensor) and _side(given) is None:
            generation.prompts = Prompts.of(_shape(tokens), 0, mask)
        with self._during(generation=generation):
            result = run()
        return self._stream(result, generation) if inspect.isgenerator(result) else result

    def _stream(self, stream: Iterator, generation: _Generation) -> Iterator:
        """The stream is at work while it is asked for its next piece; forwards between two pieces are their own."""
        while True:
            with self._during(generation=generation):
                try:
                    piece = next(stream)
                except StopIteration:
                    return
            yield piece

    def _refuse(self, name: str, run: Callable, given: dict) -> Any:
        raise InputError(
            f"{name} has no last prompt token that a patch could know of. Remove the patch first, or use generate, "
            "generate_stream or hf_generate."
        )

    def _as_tokens(self, tokens: Any, given: dict) -> Tensor | None:
        """Strings as the model's forward will tokenise them; a tensor as it is."""
        if tokens is None or isinstance(tokens, Tensor):
            return tokens
        return self.model.to_tokens(tokens, **{k: given[k] for k in ("prepend_bos", "padding_side") if k in given})


def _input(given: dict) -> Any:
    return next((given[name] for name in INPUTS if given.get(name) is not None), None)


def _past(given: dict) -> int:
    """How many tokens the key-value cache holds: Hugging Face's, or HookedTransformer's."""
    if given.get("past_key_values") is not None:
        return int(given["past_key_values"].get_seq_length())
    return 0 if given.get("past_kv_cache") is None else given["past_kv_cache"][0].past_keys.shape[1]


def _side(given: dict) -> str | None:
    side = given.get("padding_side")
    return side if side in ("left", "right") else None  # HookedTransformer has a value of its own for "not given"


def _shape(tokens: Tensor) -> tuple[int, int]:
    """`[batch, pos]` of token ids or embeddings; ids of a single prompt may come without a batch."""
    return (1, len(tokens)) if tokens.dim() == 1 else tuple(tokens.shape[:2])
