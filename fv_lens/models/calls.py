"""Watching the calls of a patched model: which tokens of the current forward get which patch's vectors.

`Watch` wraps the model's forward and its generating methods while it is patched. What it learns about a call is kept
for the calling thread only, and calls of different threads wait for each other, as TransformerLens stores activations
on its modules.
"""

import inspect
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..ground.errors import InputError, ParityError
from .arguments import CACHES, begins_twice, input_of, past_of, refuse_guidance, shape_of, side_of
from .cached import check_cached_steps, is_aside
from .call_state import Calls, Generation, Hooked, Watched
from .frames import method_at_work, methods_at_work, shared_parts
from .lens import lens_of
from .positions import Prompts
from .replaced import has_hooks_of_others, replace_method, uncompiled

GENERATING = ("generate", "generate_stream")
LOCKED = ("run_with_hooks", "run_with_cache")  # these put hooks of their own on the model

log = logging.getLogger("fv_lens")

Run = Callable[[], Any]  # the call as it was made
Given = dict[str, Any]  # its arguments, by name


class Watch:
    """Watches the calls of one model while patches are `held`. Part of the model's `State`, with a weak reference."""

    def __init__(self, lens: Watched):
        self.reference, self.state = weakref.ref(lens.model), lens.state
        self.calls = Calls()
        self.held: dict[Hooked, int] = {}  # patch -> how many want it on the model
        self.wraps = ExitStack()
        self.on_their_way: set[int] = set()  # threads that were in a forward when the first patch was put on

    @property
    def model(self) -> Any:
        """The watched model, which is alive whenever this is called."""
        return self.reference()

    @property
    def network(self) -> Any:
        """Where every call ends: on a Bridge the Hugging Face model, else the model itself."""
        return getattr(self.model, "original_model", self.model)

    def tokens_of(self, patch: Hooked) -> tuple[Tensor, Tensor] | None:
        """Masks of the current forward's tokens that get a patch's vectors, and of its generated tokens."""
        return None if self.calls.now is None else self.calls.now.get(patch)

    def hold(self, patches: Iterable[Hooked]) -> None:
        """Put patches on the model, or count one more reason for them to be there."""
        if not self.held:
            self._open()
        for patch in patches:
            self.held[patch] = self.held.get(patch, 0) + 1
            if self.held[patch] == 1:
                patch.add_hooks()

    def release(self, patches: Iterable[Hooked]) -> None:
        """Take back one reason of `hold` for each patch; with its last reason a patch leaves the model."""
        for patch in patches:
            self.held[patch] -= 1
            if self.held[patch] == 0:
                del self.held[patch]
                patch.remove_hooks()
        if not self.held:
            self.wraps.close()

    def _open(self) -> None:
        model, network = self.model, self.network
        if has_hooks_of_others(self, model, network):
            raise InputError(
                f"Another model that shares its layers with this {type(model).__name__} is patched, as when one is a "
                "shallow copy of the other. Remove that patch first, or patch copy.deepcopy(model)."
            )
        frames = {thread: f for thread, f in sys._current_frames().items() if thread != threading.get_ident()}
        self.on_their_way = {thread for thread, frame in frames.items() if method_at_work(frame, [model], ["forward"])}
        self._wrap(network, "forward", self._forward)
        self._wrap(model, "forward", self._outer_forward)
        self._wrap_generation()

    def _wrap_generation(self) -> None:
        model, network = self.model, self.network
        for name in dir(type(model)):
            if name in GENERATING:
                self._wrap(model, name, self._generate)
            elif "generate" in name and not name.startswith("_") and name != "hf_generate":  # that is network.generate
                self._wrap(model, name, partial(self._refuse, name))
            elif name in LOCKED:
                self._wrap(model, name, self._locked)
        if network is not model and hasattr(network, "generate"):
            self._wrap(network, "generate", self._generate)
            if hasattr(network, "generate_batch"):
                self._wrap(network, "generate_batch", partial(self._refuse, "generate_batch"))

    def _wrap(self, owner: Any, name: str, replacement: Callable[[Run, Given], Any]) -> None:
        def through(run: Run, given: Given) -> Any:
            return run() if is_aside() else replacement(run, given)

        self.wraps.callback(replace_method(owner, name, through))

    @contextmanager
    def _holding(self, **now: Any) -> Iterator[None]:
        """Hold the model for this thread, with `now` as the state of its call."""
        with self.state.lock:
            before = {name: getattr(self.calls, name) for name in now}
            self.calls.__dict__.update(now)
            try:
                yield
            finally:
                self.calls.__dict__.update(before)

    def _locked(self, run: Run, given: Given) -> Any:
        with self._holding():
            return run()

    def _outer_forward(self, run: Run, given: Given) -> Any:
        """Record how long each text is: strings padded on the right reach the network without a mask."""
        with self._holding(inside=True):
            texts, prompts = input_of(given), None
            if isinstance(texts, list) and given.get("attention_mask") is None:
                past = past_of(given) or 0
                prompts = Prompts.of(shape_of(self._as_tokens(texts, given)), past)
                if (side_of(given) or self.model.tokenizer.padding_side) == "right":
                    lengths = [self._as_tokens(text, given).shape[1] for text in texts]
                    if 0 in lengths:
                        raise InputError(
                            f"The prompt {texts[lengths.index(0)]!r} has no tokens; give prompts of at least one."
                        )
                    prompts = Prompts(past + torch.tensor(lengths) - 1, prompts.end)
            if self.calls.generation is None:
                self._check_cache(given)
            with self._holding(texts=prompts):
                return run()

    def _forward(self, run: Run, given: Given) -> Any:
        with self._holding():
            texts, past, mask = input_of(given), past_of(given), given.get("attention_mask")
            if texts is None:
                raise InputError(
                    f"This forward was given {sorted(given)}; while patched, give token ids or embeddings."
                )
            tokens = self._as_tokens(texts, given)
            shape, generation = shape_of(tokens), self.calls.generation
            if generation is None:
                if not self.calls.inside:
                    self.refuse_copies()
                self._refuse_unknown_generation()
                if self._begun_before():
                    return run()
                if not self.calls.inside:
                    self._check_cache(given)
                prompts = self.calls.texts or Prompts.of(shape, past or 0, mask)
                ends = {patch: self._ends(patch.at, prompts, shape[0], past) for patch in self.state.patches}
            else:
                past = generation.seen if past is None else past
                if generation.prompts is None:
                    generation.prompts = Prompts.of(shape, past, mask if generation.masked else None)
                    generation.rows = shape[0]
                prompts = generation.prompts
                if not generation.ends:
                    generation.ends = {
                        patch: self._ends(at, prompts, generation.rows, 0) for patch, at in generation.patches.items()
                    }
                generation.seen, ends = past + shape[1], generation.ends
            if not past:
                self._warn_of_bos(tokens, prompts.mask)
            columns = {patch: of.columns(shape, past or 0, tokens.device) for patch, of in ends.items()}
            with self._holding(now=columns, reached=set()), uncompiled():
                result = run()
                self._check_reached(columns, given)
                return result

    def _check_reached(self, patches: Iterable[Hooked], given: Given) -> None:
        """Raise a ParityError if a whole forward did not call a patch's hook points: the edit did nothing."""
        parts = [given.get(name) for name in ("start_at_layer", "stop_at_layer")]
        if any(part is not None for part in parts):
            return
        for patch in patches:
            if patch in self.state.patches and patch not in self.calls.reached:
                raise ParityError(
                    f"{patch!r} was not reached in this forward, so it changed nothing: the model's layers are not the "
                    "ones it was put on. Take it off with fv_lens.unpatch(model), load the model again if its layers "
                    "were replaced, and patch it again."
                )

    @staticmethod
    def _ends(at: Tensor | None, prompts: Prompts, rows: int, past: int | None) -> Prompts:
        if past is None and at is not None and (at.dim() == 2 or (at >= 0).any()):
            raise InputError(
                "The cache of this forward does not say how many tokens it holds, so where the columns of `at` are is "
                "unknown; give `at` as a negative number, which counts from each row's last token."
            )
        return prompts.at(at, rows, past or 0)

    def _generate(self, run: Run, given: Given) -> Any:
        with self._holding():
            self.refuse_copies()
            refuse_guidance(given, self.network)
            if given.get("use_past_kv_cache", True) and given.get("use_cache", True):
                self._check_cache()
            tokens, mask = input_of(given), given.get("attention_mask")
            patches = {patch: patch.at for patch in self.state.patches}
            generation = Generation(patches, masked=mask is not None or side_of(given) is not None)
            if isinstance(tokens, Tensor) and side_of(given) is None:
                generation.prompts, generation.rows = Prompts.of(shape_of(tokens), 0, mask), shape_of(tokens)[0]
            with self._holding(generation=generation):
                result = run()
        return self._stream(result, generation) if inspect.isgenerator(result) else result

    def _stream(self, stream: Iterator[Any], generation: Generation) -> Iterator[Any]:
        """The stream under its patches, which are held only while it yields a piece; calls in between are separate.

        It continues as it began, even if its patches have been removed since.
        """
        while True:
            with self._holding(generation=generation):
                self.hold(generation.patches)
                try:
                    piece = next(stream)
                except StopIteration:
                    return
                finally:
                    self.release(generation.patches)
            yield piece

    def _refuse(self, name: str, run: Run, given: Given) -> Any:
        raise InputError(
            f"{name} does not say which token is a prompt's last, so a patch cannot act. Remove the patch first, or "
            "use generate, generate_stream or hf_generate."
        )

    def refuse_copies(self) -> None:
        """Raise an InputError if the layers were called by another model, a shallow copy, whose calls are not watched.

        Used where no call of the watched model is known to be running.
        """
        ours = self.model, self.network
        parts = shared_parts(*ours)
        for owner, _ in methods_at_work(sys._getframe(), ours, ["forward", "hf_generate", *GENERATING]):
            if any(owner is own for own in ours):
                return
            if parts & shared_parts(owner):
                raise InputError(
                    f"This {type(owner).__name__} shares its layers with a patched model, as a shallow copy does. Call "
                    "the patched model itself, remove its patch, or copy it with copy.deepcopy."
                )

    def _refuse_unknown_generation(self) -> None:
        """Refuse a generation whose prompt was not seen: each of its tokens would be taken for a prompt's last."""
        if name := method_at_work(sys._getframe(), [self.model, self.network], GENERATING):
            raise InputError(
                f"This {name} was begun before the patch, or by a method taken from the model before it, so where its "
                "prompts end is unknown. Begin it again, as a method of the patched model."
            )

    def _begun_before(self) -> bool:
        """Whether this thread's forward had begun when the first patch was put on, so that its texts are unknown."""
        if self.calls.inside or threading.get_ident() not in self.on_their_way:
            return False
        self.on_their_way.discard(threading.get_ident())
        return method_at_work(sys._getframe(), [self.model], ["forward"]) is not None

    def _check_cache(self, given: Given | None = None) -> None:
        """Raise a ParityError if decoding with a cache is wrong, before the call does anything."""
        if given is None or any(given.get(name) is not None for name in CACHES):
            check_cached_steps(lens_of(self.model))

    def _warn_of_bos(self, tokens: Tensor, mask: Tensor | None) -> None:
        bos = getattr(self.model.tokenizer, "bos_token_id", None)
        if "two BOS" not in self.state.warned and begins_twice(bos, tokens, mask):
            self.state.warned.add("two BOS")
            log.warning(
                "These prompts begin with two BOS tokens (%s), which few models have seen: a chat template writes one "
                "and the tokenizer adds another. Give the template's text to model.to_tokens(text, prepend_bos=False), "
                "or its ids (tokenize=True) to the model.",
                bos,
            )

    def _as_tokens(self, tokens: Any, given: Given) -> Tensor:
        """Strings as the model's forward will tokenise them; a tensor as it is."""
        if isinstance(tokens, Tensor):
            return tokens
        return self.model.to_tokens(tokens, **{k: given[k] for k in ("prepend_bos", "padding_side") if k in given})
