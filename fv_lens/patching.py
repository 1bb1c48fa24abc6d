"""Patching: add function vectors to a model's activations at the last token of every prompt.

A hook adds the vector; which tokens get it, `positions` says.
"""

from functools import partial

import torch
from torch import Tensor

from .errors import InputError, ParityError, finite_number
from .lens import Lens, lens_of
from .positions import Watch
from .vectors import FunctionVector, as_vectors


def patch(model: object, fv: object, strength: object = 1.0, tokens: object = "last") -> "Patch":
    """Add `strength * fv.vector` at the last token of every prompt: to the residual stream after block `fv.layer`, or
    where else in that block the vector's `site` says.

    The patch is active from the call on, until the `with` block ends or `remove()` is called. Several patches add up,
    and may be removed in any order. What the model is asked, it is asked as before: `run_with_hooks` and
    `run_with_cache` see the patched model, `reset_hooks()` leaves the patch in place.

    Which token is a prompt's last: with strings, the last of each, on whichever side they are padded; with an
    `attention_mask`, the last 1 of each row; with other tokens, the last column. `generate`, `generate_stream` and
    `hf_generate` add the vector at the last prompt token, with and without a cache; start them while the patch is
    active. Outside of them every forward is a prompt, or the end of one where it continues a cache.

    Args:
        fv: a FunctionVector, or several that are added each at its own layer and site, such as `distributed_vectors`.
        strength: a finite number that multiplies the vector; 0 changes nothing.
        tokens: "last" for the last prompt token; "every" for each token that a generating method writes as well.

    Raises:
        InputError: no vector, a strength that is not finite, unknown `tokens`, or a vector that does not belong to the
            model. While patched: a mask that is not 2-D, does not fit the tokens, or holds other than one run of 1s per
            row; or a generating method that has no last prompt token (`diffusion_generate`).

    Example:
        >>> with patch(model, antonym, strength=2.0):
        ...     print(model.generate("hot", max_new_tokens=1))
        >>> handle = patch(model, antonym)
        >>> handle.remove()
    """
    lens = lens_of(model)
    vectors = as_vectors(fv)
    for vector in vectors:
        vector.check(lens)
    strength = finite_number("strength", strength)
    if tokens not in ("last", "every"):
        raise InputError(f"tokens is {tokens!r}; give 'last' (prompt token) or 'every' (generated tokens as well).")
    return Patch(lens, vectors, strength, every=tokens == "every")


class Patch:
    """Vectors on a model, from `patch`; a context manager that removes them at its end."""

    def __init__(self, lens: Lens, vectors: list[FunctionVector], strength: float, every: bool):
        names = [f"blocks.{vector.layer}.{vector.site}" for vector in vectors]
        self.lens, self.every = lens, every
        self.watch = lens.patches[0].watch if lens.patches else Watch(lens.model)
        # Hooks of PyTorch, not of TransformerLens: those are removed by reset_hooks().
        self.hooks = [
            lens.points[name].register_forward_hook(partial(self._add, name, strength, vector.vector))
            for name, vector in zip(names, vectors)
        ]
        lens.patches.append(self)

    def remove(self) -> None:
        """Take the vectors off the model; with its last patch goes all else that patching put there."""
        if self not in self.lens.patches:
            return
        for hook in self.hooks:
            hook.remove()
        self.lens.patches.remove(self)
        if not self.lens.patches:
            self.watch.close()

    def __enter__(self) -> "Patch":
        return self

    def __exit__(self, *exception) -> None:
        self.remove()

    def _add(self, name: str, strength: float, vector: Tensor, module, inputs, x: Tensor) -> Tensor | None:
        if self.watch.now is None or strength == 0:  # a block that is called by itself runs no prompt
            return None
        last, new = self.watch.now
        where = (last | new if self.every else last).to(x.device)
        if x.shape[:-1] != where.shape:
            raise ParityError(f"{name} is {list(x.shape)} in a forward of [batch, pos] = {list(where.shape)} tokens.")
        return torch.where(where[..., None], x + (strength * vector).to(x), x)
