"""Whether a model's own decoding with a key-value cache equals full forwards, under the libraries that are installed.

transformers renames what it hands to attention now and then. Code that looks for the old name then finds no cache and
decodes without one, from the last token alone, and nothing raises: the tokens are wrong.
"""

import contextlib
import io
from importlib import metadata

import torch
from torch import Tensor

from ..errors import ParityError
from .base import Lens
from .state import bare

PROMPT_TOKENS, NEW_TOKENS = 8, 3
KNOWN_GOOD = 'pip install "transformer-lens==4.3.0" "transformers==5.23.0"'


def check_cached_steps(lens: Lens) -> None:
    """Compare the model's own `generate` with a full forward on what it wrote, once for the model's conditions.

    Hooks of others, patches and train mode are off meanwhile: it is the libraries that are checked.

    Raises:
        ParityError: a cached step gives other logits; the message names both versions and the cure.
    """
    with lens.state.lock:
        if lens.parity.cached_steps is None:
            with bare(lens.model, lens.network):
                lens.parity.cached_steps = _cached_steps_are_exact(lens)
    if not lens.parity.cached_steps:
        raise ParityError(
            f"{lens.name} decodes wrongly with its key-value cache: what it generates differs from full forwards. "
            f"transformer-lens {metadata.version('transformer-lens')} does not work with transformers "
            f"{metadata.version('transformers')} here; install versions that work together, such as: {KNOWN_GOOD}"
        )


@torch.no_grad()
def _cached_steps_are_exact(lens: Lens) -> bool:
    steps: list[Tensor] = []

    def keep(module, inputs, logits):
        steps.append(logits.float())

    keep.of_fv_lens = True
    generate = getattr(type(lens.model), "generate", None)
    ids = torch.arange(1, 1 + PROMPT_TOKENS, device=lens.device)[None] % lens.cfg.d_vocab
    how = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "stop_at_eos": False, "return_type": "tokens"}
    handle = lens.model.unembed.register_forward_hook(keep)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            written = generate(lens.model, ids, verbose=False, use_past_kv_cache=True, **how)
        cached = torch.stack([logits[0, -1] for logits in steps])
        steps.clear()
        type(lens.model).forward(lens.model, written[:, :-1])
        full = steps[-1][0, -len(cached) :]
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a model that cannot generate, or not with a cache, says so itself when it is asked to
        return True
    finally:
        handle.remove()
    tolerance = (full.amax() - full.amin()) * (1e-3 if lens.full_precision else 5e-2)
    return not full.isfinite().all() or bool((cached - full).abs().max() <= tolerance)
