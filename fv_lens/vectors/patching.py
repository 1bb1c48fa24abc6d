"""Patching: add function vectors to a model's activations at the last token of every prompt, or where `at` says."""

from collections.abc import Sequence
from typing import Literal, SupportsFloat

from torch import nn
from transformers import PreTrainedModel

from ..ground.errors import finite_number
from ..models.kinds import adapter_of
from ..models.lens import Model, lens_of
from ..models.positions import At, as_at
from .function_vector import FunctionVector, as_vectors
from .handles import Patch, check_tokens


def patch(
    model: Model,
    fv: FunctionVector | Sequence[FunctionVector],
    strength: SupportsFloat = 1.0,
    tokens: Literal["last", "every"] = "last",
    at: At = None,
) -> "Patch":
    """Add `strength * fv.vector` at the last token of every prompt: to the residual stream after block `fv.layer`, or
    where else in that block the vector's `site` says.

    `patch` *adds* to an activation and keeps what is there, whereas the activation patching of TransformerLens
    (`transformer_lens.patching`) *replaces* it with that of another run. The same addition as plain hooks:
    `FunctionVector.hooks`.

    The patch is active from this call until the `with` block ends, `remove()` is called, or `unpatch(model)` takes
    all patches off. Several patches add up, and may be removed in any order. The model is called as before:
    `run_with_hooks` and `run_with_cache` see the patched model, `reset_hooks()` leaves the patch in place. A copy of
    the model (`copy.deepcopy`, pickle) is not patched; a compiled model runs uncompiled while patched. Threads may
    share a patched model: their calls wait for each other.

    A prompt's last token is, for strings, the last of each, on whichever side they are padded; with an
    `attention_mask`, the last 1 of each row; for other tokens, the last column. `generate`, `generate_stream` and
    `hf_generate` add the vector at the last prompt token, with or without a cache, and finish with the patches they
    began with. Any other forward is taken as a prompt, or, if it continues a cache, as the end of one.

    If a forward contains more than the prompts, such as a prompt and its answer, say with `at` where prompts end.

    Args:
        fv: a FunctionVector, or several that are added each at its own layer and site, such as `distributed_vectors`.
        strength: a finite number that multiplies the vector; 0 changes nothing.
        tokens: "last" for the last prompt token; "every" for each token that a generating method writes as well.
        at: the tokens that get the vector instead of each prompt's last. A column, or one for each row: from 0 on they
            count from the first token, padding and cached tokens included (a token that is cached already gets
            nothing); below 0 from each row's last token, which is -1. Or a mask `[batch, pos]`, 1 at the tokens that
            get it. In a generating method all of these count within its prompts. `handle.at = ...` changes it for later
            calls in the thread that sets it.

    Raises:
        InputError: no vector, a strength that is not finite, unknown `tokens`, an `at` of another form, a vector that
            does not belong to the model, or a site from which it would not reach the residual stream; or a model that
            shares its layers with it, such as a shallow copy, is patched. While patched: a call of such a copy; a mask
            that is not 2-D, does not fit the tokens, or holds other than one run of 1s per row; an `at` that names
            padding or does not fit the batch; or a generating method that has no last prompt token
            (`diffusion_generate`).
        ParityError: the installed libraries decode wrongly with a cache (checked before it is first used).

    Example:
        >>> with patch(model, antonym, strength=2.0):
        ...     print(model.generate("hot", max_new_tokens=1))
        >>> handle = patch(model, antonym)
        >>> handle.remove()

        Log-likelihood of a whole answer, in one forward over prompt and answer:

        >>> prompt, whole = model.to_tokens("Q: hot\\nA:"), model.to_tokens("Q: hot\\nA: very cold")
        >>> n = prompt.shape[1]
        >>> with patch(model, antonym, at=n - 1):
        ...     log_probs = model(whole).log_softmax(-1)
        >>> log_probs[0, n - 1 : -1].gather(1, whole[0, n:, None]).sum()

        The same as lm-evaluation-harness asks for it, one call of `loglikelihood` after the other:

        >>> def loglikelihood(context, continuation):
        ...     prompt, whole = model.to_tokens(context), model.to_tokens(context + continuation)
        ...     n = handle.at = prompt.shape[1] - 1
        ...     log_probs, answer = model(whole)[0, n:-1].log_softmax(-1), whole[0, n + 1 :]
        ...     greedy = bool((log_probs.argmax(-1) == answer).all())
        ...     return float(log_probs.gather(1, answer[:, None]).sum()), greedy
        >>> with patch(model, antonym) as handle:
        ...     results = [loglikelihood(*request) for request in requests]

        Perplexity of texts with the vector at every token: batch after batch of padded ids with their masks.

        >>> with patch(model, antonym) as handle:
        ...     for ids, mask in batches:
        ...         handle.at = mask
        ...         logits = model(ids, attention_mask=mask)
    """
    lens = lens_of(model)
    vectors = as_vectors(fv)
    for vector in vectors:
        vector.check(lens)
    strength, at = finite_number("strength", strength), as_at(at)
    return Patch(lens, vectors, strength, every=check_tokens(tokens) == "every", at=at)


def unpatch(model: Model | PreTrainedModel | nn.Module) -> None:
    """Take all patches off a model, whoever holds their handles; a model without any is left as it is.

    Those of `FunctionVector.apply` on a Hugging Face model as well.

    Example:
        >>> handle = patch(model, antonym)
        >>> handle = patch(model, antonym)  # the cell was run twice, and the first handle is lost
        >>> unpatch(model)
    """
    for active in list(adapter_of(model).patches):
        active.remove()
