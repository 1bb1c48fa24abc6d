"""Whether a model's own decoding with a key-value cache equals full forwards, under the libraries that are installed.

transformers renames what it hands to attention now and then. Code that looks for the old name then finds no cache and
decodes without one, from the last token alone, and nothing raises: the tokens are wrong.
"""

import contextlib
import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig, LlamaForCausalLM

from ..ground.errors import ParityError
from .base import Lens
from .bridge import BridgeLens
from .state import mark_as_own, without_hooks

PROMPT_TOKENS, NEW_TOKENS = 8, 3
KNOWN_GOOD = ("4.3.0", "5.23.0"), ("3.9.0", "5.23.0")  # of transformer-lens and of transformers

log = logging.getLogger("fv_lens")
_here = threading.local()


@contextmanager
def aside() -> Iterator[None]:
    """Exempt this thread's calls from the watch on a patched model."""
    before, _here.aside = is_aside(), True
    try:
        yield
    finally:
        _here.aside = before


def is_aside() -> bool:
    """Whether this thread is in `aside`, so that its calls are the check's own and not the user's."""
    return getattr(_here, "aside", False)


def check_cached_steps(lens: Lens) -> None:
    """Compare the model's own `generate` with a full forward on what it wrote, once for the model's conditions.

    The user's hooks, patches and train mode are off during the check, which is of the libraries.

    Raises:
        ParityError: a cached step gives other logits; the message names both versions and the cure.
    """
    with lens.state.lock:
        if lens.parity.cached_steps is None:
            with without_hooks(lens.model, lens.network), aside():
                lens.parity.cached_steps = _cached_steps_are_exact(lens)
    if not lens.parity.cached_steps:
        installed = metadata.version("transformer-lens"), metadata.version("transformers")
        lens_version, hf_version = KNOWN_GOOD[int(installed[0].split(".")[0]) < 4]
        cure = f'pip install "transformer-lens=={lens_version}" "transformers=={hf_version}", which work together; or'
        raise ParityError(
            f"{lens.name} decodes wrongly with its key-value cache: what it generates differs from full forwards, with "
            f"transformer-lens {installed[0]} and transformers {installed[1]}. The cure: "
            f"{'' if installed in KNOWN_GOOD else cure + ' '}decode without a cache, use_past_kv_cache=False in "
            "generate, and use_cache=False beside it in hf_generate."
        )


def check_libraries(lens: Lens) -> None:
    """As `check_cached_steps`, but only where the libraries decode a plain Llama wrongly, too.

    An architecture that TransformerLens alone decodes wrongly with a cache still runs in full forwards.

    Raises:
        ParityError: as `check_cached_steps`.
    """
    if hasattr(lens.model, "original_model") and not _decode_a_plain_llama(lens.model.tokenizer):
        check_cached_steps(lens)


def _decode_a_plain_llama(tokenizer: Any) -> bool:
    """Whether the libraries decode a tiny random Llama correctly; its tokenizer is another model's and never used."""
    sizes: dict[str, Any] = dict(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # making the network draws from the user's stream
        network = LlamaForCausalLM(LlamaConfig(**sizes)).float().eval()
        for parameter in network.parameters():
            parameter.data.normal_(generator=generator)
        model = TransformerBridge.boot_transformers("plain", hf_model=network, tokenizer=tokenizer, device="cpu")
        return _cached_steps_are_exact(BridgeLens(model))


@torch.no_grad()
def _cached_steps_are_exact(lens: Lens) -> bool:
    model = lens.model
    steps: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        steps.append(logits[0].detach().float().cpu())

    mark_as_own(keep)
    length = max(2, min(PROMPT_TOKENS, lens.n_ctx - NEW_TOKENS))
    ids = torch.arange(1, 1 + length, device=lens.device)[None] % lens.cfg.d_vocab
    handle = model.unembed.register_forward_hook(keep)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            written = model.generate(
                ids, max_new_tokens=NEW_TOKENS, do_sample=False, stop_at_eos=False, return_type="tokens",
                verbose=False, use_past_kv_cache=True,
            )  # fmt: skip
        cached = torch.stack([logits[-1] for logits in steps])
        full = []
        for step in range(len(cached)):  # as generate would without a cache
            steps.clear()
            model(written[:, : length + step])
            full.append(steps[-1][-1])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model that cannot generate, or not with a cache, raises on the user's own call
        log.debug("%s: generate raised %r", lens.name, error)
        return True
    finally:
        handle.remove()
    expected = torch.stack(full)
    tolerance = (expected.amax() - expected.amin()) * (1e-3 if lens.full_precision else 5e-2)
    return not expected.isfinite().all() or bool((cached - expected).abs().max() <= tolerance)
