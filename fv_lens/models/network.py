"""Plain Hugging Face models: where the residual stream of their decoder blocks is, and which tokens their calls run.

`network_of(model)` finds the blocks by what they do: one forward over a few tokens shows which modules hand the stream
on to each other. `NetworkWatch` follows the model's forwards and `generate` as `Watch` does those of TransformerLens.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel

from ..ground.errors import InputError
from .arguments import begins_with
from .cached import aside, is_aside
from .calls import Given, Run, Watch, log
from .devices import device_of
from .frames import method_at_work, owners_at_work
from .lens import unwrapped
from .sites import STREAM
from .state import State, modules, without_hooks
from .weights import is_centered

PROBE_TOKENS = 4
Look = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]  # a forward hook with keywords

_lock = threading.Lock()


class Network:
    """A Hugging Face model as far as vectors are added to it; the names are those of `Lens`.

    `blocks`: its decoder blocks, each of which returns the residual stream, alone or as the first item of a tuple.
    """

    bos: None = None  # whoever makes its token ids decides

    def __init__(self, model: PreTrainedModel, state: State):
        self.model, self.state = model, state
        self.config = model.config.get_text_config(decoder=True)
        n_layers, d_model = (getattr(self.config, name, None) for name in ("num_hidden_layers", "hidden_size"))
        if n_layers is None or d_model is None:
            raise InputError(
                f"The configuration of this {type(model).__name__} has no num_hidden_layers or hidden_size; give a "
                "causal language model, as AutoModelForCausalLM loads it."
            )
        self.n_layers, self.d_model = int(n_layers), int(d_model)
        self.name = model.name_or_path
        if state.watch is None:
            state.watch = NetworkWatch(self)
        if state.blocks is None or not _same(state.blocks, _lists(model, self.n_layers)):
            state.blocks = _measured_blocks(self)
        self.blocks: list[nn.Module] = state.blocks

    @property
    def patches(self) -> list[Any]:
        """The patches that are on the model at the moment."""
        return self.state.patches

    @cached_property
    def points(self) -> Mapping[str, nn.Module]:
        """The blocks by the name of the hook point at their end."""
        return {f"blocks.{layer}.{STREAM}": block for layer, block in enumerate(self.blocks)}

    @property
    def processing(self) -> str:
        """The processing of the weights, as `Lens.processing`."""
        embeddings: Any = self.model.get_input_embeddings()
        return "centered" if is_centered(embeddings.weight.detach()) else "raw"


def network_of(model: PreTrainedModel | nn.Module) -> Network:
    """The network of a Hugging Face model, or of one inside torch.compile's or PEFT's wrappers.

    Raises:
        InputError: another kind of model, one that TransformerLens wraps, an encoder-decoder; or blocks that do not
            hand the residual stream on to each other, or whose forward fails.
    """
    inner = unwrapped(model)
    if not isinstance(inner, PreTrainedModel):
        cure = "For a HookedTransformer or TransformerBridge use fv_lens.patch(model, fv)."
        raise InputError(f"Expected a PreTrainedModel of Hugging Face, got {type(model).__name__}. {cure}")
    if any(type(module).__module__.partition(".")[0] == "transformer_lens" for module in modules(inner)):
        raise InputError(
            f"This {type(inner).__name__} is inside a TransformerBridge, which has changed its modules. Use "
            "fv_lens.patch(bridge, fv), or load the model again."
        )
    if inner.config.is_encoder_decoder:
        raise InputError(
            f"{type(inner).__name__} is an encoder-decoder; a function vector belongs to the last token of a prompt in "
            "a decoder-only model. Give one of those."
        )
    with _lock:
        state = inner.__dict__.get("_fv_lens")
        if state is None or not state.is_of(inner):  # a shallow copy has the state of its original
            state = inner.__dict__["_fv_lens"] = State(inner)
    with state.lock:
        return Network(inner, state)


class NetworkWatch(Watch):
    """Watches the calls of a plain Hugging Face model, whose cache is the library's own."""

    def _wrap_generation(self) -> None:
        if hasattr(self.model, "generate"):  # a model without a head has none
            self._wrap(self.model, "generate", self._generate)
            self._wrap(self.model, "generate_batch", partial(self._refuse, "generate_batch"))

    def _check_cache(self, given: Any = None) -> None:
        pass

    def _forward(self, run: Run, given: Given) -> Any:
        for owner in owners_at_work(sys._getframe(), GenerationMixin.generate):
            if owner is not self.model and any(module is self.model for module in modules(owner)):
                whole, part = type(owner).__name__, type(self.model).__name__
                raise InputError(
                    f"This forward is a step of {whole}.generate, and the vector is on the {part} inside it, which "
                    f"cannot tell the prompt from what is generated. Apply the vector to the {whole}."
                )
        return super()._forward(run, given)

    def refuse_parts(self) -> None:
        """Raise an InputError where blocks run, but not in a call of the model, so that no token is known."""
        if is_aside() or method_at_work(sys._getframe(), [self.model], ["forward"]):  # begun before the vector was put
            return
        self.refuse_copies()
        kind = type(self.model).__name__
        raise InputError(
            f"Blocks of this {kind} ran outside of a call of it, so which tokens end a prompt is unknown, as when a "
            f"part of the model is called by itself. Call the {kind}, or remove the vector first."
        )

    def _warn_of_bos(self, tokens: Tensor, mask: Tensor | None) -> None:
        """Say once if vectors were made on prompts that begin with a BOS token and none of these does, or all do."""
        made = {vector.bos for patch in self.state.patches for vector in patch.vectors} - {None}
        if len(made) != 1 or "BOS" in self.state.warned:
            return
        bos = self.model.config.get_text_config(decoder=True).bos_token_id
        begins = begins_with(bos, tokens, mask)
        if begins is None or made == {begins}:
            return
        self.state.warned.add("BOS")
        have, had = ("begin", "did not") if begins else ("do not begin", "did")
        log.warning(
            "These prompts %s with the BOS token (%s); those that the vector was made on %s. Tokenise them as those "
            "were: FunctionVector.bos says how.",
            have, bos, had,
        )  # fmt: skip


def _lists(model: nn.Module, n: int) -> list[nn.ModuleList]:
    return [part for part in modules(model) if isinstance(part, nn.ModuleList) and len(part) == n]


def _same(blocks: Sequence[nn.Module], lists: Sequence[nn.ModuleList]) -> bool:
    """Whether blocks found before are still one of the model's lists."""
    return any(all(block is part for block, part in zip(blocks, candidate)) for candidate in lists)


@torch.no_grad()
def _measured_blocks(network: Network) -> list[nn.Module]:
    """The list of blocks, all run in one forward, of which each takes what the one before it returned."""
    model, kind = network.model, type(network.model).__name__
    lists = _lists(model, network.n_layers)
    streams: dict[nn.Module, tuple[Tensor | None, Tensor | None]] = {}

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        entry = args[0] if args else kwargs.get("hidden_states")
        streams[module] = _copy(entry), _copy(stream_of(output))

    entrance = device_of(model.get_input_embeddings()) or model.device
    ids = torch.arange(1, 1 + PROBE_TOKENS, device=entrance)[None] % int(network.config.vocab_size)
    with without_hooks(model), aside(), _hooked([block for blocks in lists for block in blocks], see):
        try:
            model(input_ids=ids, use_cache=False)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise InputError(
                f"A forward of this {kind} over {PROBE_TOKENS} tokens, which shows where its blocks are, failed: "
                f"{error!r}. Give a causal language model that runs on token ids alone."
            ) from error
    shape = (1, PROBE_TOKENS, network.d_model)
    candidates = [list(blocks) for blocks in lists if all(block in streams for block in blocks)]
    candidates = [blocks for blocks in candidates if _is_stream([streams[block] for block in blocks], shape)]
    if len(candidates) != 1:
        raise InputError(
            f"{kind} has {len(candidates)} lists of {network.n_layers} decoder blocks each of which hands the residual "
            f"stream {list(shape)} on to the next; expected one. Wrap it in a TransformerBridge and use fv_lens.patch."
        )
    return candidates[0]


@contextmanager
def _hooked(blocks: Sequence[nn.Module], see: Look) -> Iterator[None]:
    handles = [block.register_forward_hook(see, with_kwargs=True) for block in dict.fromkeys(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def stream_of(output: Any) -> Any:
    """The residual stream in what a block returns."""
    return output[0] if isinstance(output, tuple) else output


def _copy(value: Any) -> Tensor | None:
    return value.detach().cpu() if isinstance(value, Tensor) else None


def _is_stream(pairs: Sequence[tuple[Tensor | None, Tensor | None]], shape: tuple[int, ...]) -> bool:
    whole = all(x is not None and tuple(x.shape) == shape for pair in pairs for x in pair)
    return whole and all(torch.equal(out, into) for (_, out), (into, _) in zip(pairs, pairs[1:]))  # type: ignore[arg-type]
