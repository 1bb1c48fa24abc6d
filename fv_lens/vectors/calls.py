"""Following the calls of a patched model: which tokens of the forward that is running get which patch's vectors.

`Watch` stands around the model's forward and its generating methods while a patch is there. What it learns of a call it
keeps for the calling thread alone, and calls of different threads wait for each other, for TransformerLens notes down
on its modules what passes.
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
from ..models.cached import check_cached_steps, is_aside
from ..models.lens import Lens, lens_of
from ..models.replaced import has_hooks_of_others, replace_method, uncompiled
from .arguments import CACHES, begins_twice, input_of, past_of, shape_of, side_of
from .call_state import Calls, Generation, Hooked
from .frames import method_at_work, methods_at_work, shared_parts
from .positions import Prompts

GENERATING = ("generate", "generate_stream")
LOCKED = ("run_with_hooks", "run_with_cache")  # others' hooks are on the model meanwhile

log = logging.getLogger("fv_lens")

Run = Callable[[], Any]  # the call as it was made
Given = dict[str, Any]  # its arguments, by name


class Watch:
    """Follows the calls of one model while `held`. Kept with what else fv_lens keeps on a model, and holds no model."""

    def __init__(self, lens: Lens):
        self.reference, self.state = weakref.ref(lens.model), lens.state
        self.calls = Calls()
        self.held: dict[Hooked, int] = {}  # patch -> how many want it on the model
        self.wraps = ExitStack()
        self.on_their_way: set[int] = set()  # threads in whose forward the first patch came

    @property
    def model(self) -> Any:
        """The model whose calls are followed; who asks holds it, or is called by it."""
        return self.reference()

    @property
    def network(self) -> Any:
        """Where every call ends: on a Bridge the Hugging Face model, else the model itself."""
        return getattr(self.model, "original_model", self.model)

    def tokens_of(self, patch: Hooked) -> tuple[Tensor, Tensor] | None:
        """The tokens of the forward that runs in this thread that get a patch's vectors, and the generated ones."""
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
    def _during(self, **now: Any) -> Iterator[None]:
        """The model for this thread alone, with what its call is at."""
        with self.state.lock:
            before = {name: getattr(self.calls, name) for name in now}
            self.calls.__dict__.update(now)
            try:
                yield
            finally:
                self.calls.__dict__.update(before)

    def _locked(self, run: Run, given: Given) -> Any:
        with self._during():
            return run()

    def _outer_forward(self, run: Run, given: Given) -> Any:
        """Strings padded on the right reach the network without a mask; here it is still known how long each is."""
        with self._during(inside=True):
            texts, prompts = input_of(given), None
            if isinstance(texts, list) and given.get("attention_mask") is None:
                past = past_of(given) or 0
                prompts = Prompts.of(shape_of(self._as_tokens(texts, given)), past)
                if (side_of(given) or self.model.tokenizer.padding_side) == "right":
                    lengths = [self._as_tokens(text, given).shape[1] for text in texts]
                    if 0 in lengths:
                        raise InputError(
                            f"The prompt {texts[lengths.index(0)]!r} has no tokens, so it has no last one."
                        )
                    prompts = Prompts(past + torch.tensor(lengths) - 1, prompts.end)
            if self.calls.generation is None:
                self._check_cache(given)
            with self._during(texts=prompts):
                return run()

    def _forward(self, run: Run, given: Given) -> Any:
        with self._during():
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
                self._warn_of_two_bos(tokens, prompts.mask)
            columns = {patch: of.columns(shape, past or 0, tokens.device) for patch, of in ends.items()}
            with self._during(now=columns, reached=set()), uncompiled():
                result = run()
                self._check_reached(columns, given)
                return result

    def _check_reached(self, patches: Iterable[Hooked], given: Given) -> None:
        """Raise a ParityError where a whole forward has passed a patch's hook points by: an edit that did nothing."""
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
        with self._during():
            self.refuse_copies()
            if given.get("use_past_kv_cache", True) and given.get("use_cache", True):
                self._check_cache()
            tokens, mask = input_of(given), given.get("attention_mask")
            patches = {patch: patch.at for patch in self.state.patches}
            generation = Generation(patches, masked=mask is not None or side_of(given) is not None)
            if isinstance(tokens, Tensor) and side_of(given) is None:
                generation.prompts, generation.rows = Prompts.of(shape_of(tokens), 0, mask), shape_of(tokens)[0]
            with self._during(generation=generation):
                result = run()
        return self._stream(result, generation) if inspect.isgenerator(result) else result

    def _stream(self, stream: Iterator[Any], generation: Generation) -> Iterator[Any]:
        """The stream is at work while it is asked for its next piece; calls between two pieces are their own.

        It goes on as it was begun, also where its patches have been removed since.
        """
        while True:
            with self._during(generation=generation):
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
            f"{name} has no last prompt token that a patch could know of. Remove the patch first, or use generate, "
            "generate_stream or hf_generate."
        )

    def refuse_copies(self) -> None:
        """Raise an InputError where another model's call, a shallow copy's, has come to the layers: it is not followed.

        For where no call of the watched model is known to be at work.
        """
        ours = self.model, self.network
        parts = shared_parts(*ours)
        for owner, _ in methods_at_work(sys._getframe(), ours, ["forward", "hf_generate", *GENERATING]):
            if any(owner is one for one in ours):
                return
            if parts & shared_parts(owner):
                raise InputError(
                    f"This {type(owner).__name__} shares its layers with a patched model, as a shallow copy does. Ask "
                    "the patched model itself, remove its patch, or copy it with copy.deepcopy."
                )

    def _refuse_unknown_generation(self) -> None:
        """Where its prompt ends was not seen, so that every token would be taken for the last of a prompt."""
        if name := method_at_work(sys._getframe(), [self.model, self.network], GENERATING):
            raise InputError(
                f"This {name} was begun before the patch, or by a method taken from the model before it, so where its "
                "prompts end is unknown. Begin it again, as a method of the patched model."
            )

    def _begun_before(self) -> bool:
        """Whether this thread's forward was on its way when the first patch came: what texts it had is not known."""
        if self.calls.inside or threading.get_ident() not in self.on_their_way:
            return False
        self.on_their_way.discard(threading.get_ident())
        return method_at_work(sys._getframe(), [self.model], ["forward"]) is not None

    def _check_cache(self, given: Given | None = None) -> None:
        """Raise a ParityError where decoding with a cache is wrong, before anything of a call is at work."""
        if given is None or any(given.get(name) is not None for name in CACHES):
            check_cached_steps(lens_of(self.model))

    def _warn_of_two_bos(self, tokens: Tensor, mask: Tensor | None) -> None:
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
