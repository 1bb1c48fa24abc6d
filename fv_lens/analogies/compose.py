"""Composite function vectors: a library of tuned vectors, mixed to fit one pair of words A:B.

`composite = scale * sum_r w_r v_r + shared + pair_scale * pair part`. The weights say how well each vector of the
library explains the pair; `shared` is one vector for all analogies, fitted on analogies of other relations; the pair
part is what a few gradient steps on the pair itself add. `shared` and the pair part are optional.

Source: Kang et al. 2026 (arXiv 2601.08169) mix fine-tuned vectors for analogies; "affine" weights are after their
equation 4. The other weightings, centring, the shared vector and the pair part are ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..engine.batches import PromptBatch
from ..engine.edits import CPU_FLOAT32
from ..engine.gradients import Rows
from ..ground import storage
from ..ground.errors import InputError
from ..models.lens import Lens, Model, lens_of
from ..vectors.function_vector import FunctionVector, union
from ..vectors.optimizer import RATE
from .affine import affine_scores, affine_weights, check_not_empty
from .basis import Basis, check_pair, explained, pairs_batch
from .composition import Composition, CompositionLike, composition

WEIGHT_STEPS, WEIGHT_RATE = 10, 0.3  # of weights fitted to the pair by Adam, in logits
PAIR_RATE = RATE  # Adam's step of the pair part, in root mean squares of the residual stream


def weights_of(
    log_probs: Float[Tensor, "pair row"],
    how: Composition,
    allowed: Bool[Tensor, "pair vector"] | None = None,
) -> Float[Tensor, "pair vector"]:
    """Weights from the log-probabilities of `explained`, for each pair over the vectors it is `allowed`; they sum to 1.

    Raises:
        InputError: a pair that is allowed no vector.
    """
    plain, scores = log_probs[:, :1], log_probs[:, 1:]
    allowed = torch.ones_like(scores, dtype=torch.bool) if allowed is None else allowed
    check_not_empty(allowed)
    flat = allowed / allowed.sum(1, keepdim=True)
    if how.weighting == "uniform":
        return flat
    if how.weighting == "gain":
        gained = (scores - plain).clamp(min=0) * allowed
        total = gained.sum(1, keepdim=True)
        return torch.where(total > 0, gained / total.clamp(min=1e-30), flat)
    if how.weighting == "affine":
        scores, known = affine_scores(scores, how.scored_by, allowed)
        return affine_weights(scores, how.affine_map, how.affine_bias, known)
    hidden = scores.masked_fill(~allowed, -torch.inf)
    if how.weighting == "single":
        return torch.nn.functional.one_hot(hidden.argmax(1), scores.shape[1]).float()
    return (hidden / how.temperature).softmax(1)


@torch.inference_mode(False)
@torch.enable_grad()
def fitted_weights(
    lens: Lens, library: Basis, sources: PromptBatch, allowed: Bool[Tensor, "pair vector"]
) -> Float[Tensor, "pair vector"]:
    """Softmax weights of each pair, moved by Adam from uniform ones to lower the loss of its B."""
    logits = torch.zeros(allowed.shape, **CPU_FLOAT32).masked_fill(~allowed, -torch.inf).requires_grad_()
    adam = torch.optim.Adam([logits], lr=WEIGHT_RATE)
    rows = Rows(lens, sources, range(len(sources)), library.first.layer)
    for _ in range(WEIGHT_STEPS):
        adam.zero_grad()
        vectors = logits.softmax(1) @ library.matrix
        vectors.backward(rows.gradient(vectors.detach())[1])
        assert logits.grad is not None  # `backward` reaches it
        logits.grad.nan_to_num_(0.0)
        adam.step()
    return logits.detach().softmax(1)


@torch.inference_mode(False)
def pair_parts(
    lens: Lens, sources: PromptBatch, layer: int, starts: Float[Tensor, "pair d_model"], steps: int
) -> Float[Tensor, "step pair d_model"]:
    """The change from its start of each pair's vector, after 0, 1, ... `steps` Adam steps on the pair's own loss.

    All pairs are in one batch, one vector each.
    """
    rows = Rows(lens, sources, range(len(sources)), layer)
    moving = list(starts.clone())
    groups = [{"params": [vector], "lr": PAIR_RATE * size} for vector, size in zip(moving, rows.residual_rms.tolist())]
    adam, added = torch.optim.Adam(groups), [torch.zeros_like(starts)]
    for _ in range(steps):
        for vector, slope in zip(moving, rows.gradient(torch.stack(moving))[1]):
            vector.grad = slope
        adam.step()
        added.append(torch.stack(moving) - starts)
    return torch.stack(added)


class Composer:
    """Composites of many source pairs from one library; what several settings share is computed once.

    Args:
        pairs: the source pairs A:B; a repeated pair is scored once.
        pair_steps: the most steps of a pair part that will be needed; fewer steps then cost nothing more.
    """

    def __init__(self, lens: Lens, library: Basis, pairs: Sequence[Sequence[str]], pair_steps: int = 0):
        self.lens, self.library = lens, library
        places: dict[tuple[str, str], int] = {}
        self.place = torch.tensor([places.setdefault(check_pair(pair), len(places)) for pair in pairs], device="cpu")
        self.sources = pairs_batch(lens, list(places), library.template)
        self.pair_steps = pair_steps
        self._parts: dict[tuple[int, bytes], Tensor] = {}  # (pair, start) -> `[step, d_model]`
        self._fitted: dict[bytes, Tensor] = {}

    @cached_property
    def log_probs(self) -> Float[Tensor, "pair row"]:
        """`explained`, for each pair given."""
        return explained(self.lens, self.library, self.sources)[self.place]

    def weights(
        self, how: Composition, allowed: Bool[Tensor, "pair vector"] | None = None
    ) -> Float[Tensor, "pair vector"] | None:
        """The weights of each pair over the vectors `allowed` it, by any weighting; None for "none"."""
        if how.weighting == "none":
            return None
        if how.weighting != "gradient":
            return weights_of(self.log_probs, how.aligned(self.library.names), allowed)
        allowed = (
            torch.ones(len(self.place), len(self.library), dtype=torch.bool, device="cpu")
            if allowed is None
            else allowed
        )
        check_not_empty(allowed)
        key = allowed.numpy().tobytes()
        if key not in self._fitted:
            self._fitted[key] = fitted_weights(self.lens, self.library, self.sources.select(self.place), allowed)
        return self._fitted[key]

    def weights_of_each(
        self, each: Sequence[Composition], allowed: Bool[Tensor, "pair vector"] | None = None
    ) -> Float[Tensor, "pair vector"]:
        """The weights of each pair by its own settings; zeros where these are "none"."""
        weights = torch.zeros(len(self.place), len(self.library), **CPU_FLOAT32)
        for settings, indices in _grouped(each):
            if (found := self.weights(settings, allowed)) is not None:
                weights[indices] = found[indices]
        return weights

    def coefficients(
        self, how: Composition, allowed: Bool[Tensor, "pair vector"] | None = None
    ) -> Float[Tensor, "pair vector"]:
        """Coefficient of each library vector in a composite: the weight, perhaps centred, times scale."""
        weights = self.weights(how, allowed)
        if weights is None:
            return torch.zeros(len(self.place), len(self.library), **CPU_FLOAT32)
        if how.center:
            flat = torch.ones_like(weights) if allowed is None else allowed.float()
            weights = weights - flat / flat.sum(1, keepdim=True)
        return how.scale * weights

    def vectors(
        self, how: Composition | Sequence[Composition], allowed: Bool[Tensor, "pair vector"] | None = None
    ) -> Float[Tensor, "pair d_model"]:
        """The composite of each pair, by one setting for all or one for each."""
        each = [how] * len(self.place) if isinstance(how, Composition) else list(how)
        if len(each) != len(self.place):
            raise InputError(f"There are {len(each)} settings for {len(self.place)} pairs; give one for each, or one.")
        composites = torch.zeros(len(self.place), self.lens.d_model, **CPU_FLOAT32)
        for settings, indices in _grouped(each):
            for name, part in (("shared", settings.shared), ("start", settings.start)):
                if part is not None and part.shape != composites.shape[1:]:
                    raise InputError(
                        f"The settings' {name} vector has {part.numel()} numbers; the residual stream of "
                        f"{self.lens.name} has {self.lens.d_model}. Fit the settings on this model."
                    )
            if settings.uses_library:
                composites[indices] = (self.coefficients(settings, allowed) @ self.library.matrix)[indices]
            if settings.shared is not None:
                composites[indices] += settings.shared
        for steps in sorted({settings.pair_steps for settings in each if settings.pair_steps and settings.pair_scale}):
            indices = [i for i, settings in enumerate(each) if settings.pair_steps == steps and settings.pair_scale]
            scales = torch.tensor([each[i].pair_scale for i in indices], **CPU_FLOAT32)
            composites[indices] += scales[:, None] * self._pair_parts([each[i].start for i in indices], indices, steps)
        return composites

    def _pair_parts(
        self, starts: Sequence[Tensor | None], which: Sequence[int], steps: int
    ) -> Float[Tensor, "pair d_model"]:
        """`pair_parts` of some of the pairs, each from its start, cached by pair and start."""
        start_vectors = [torch.zeros(self.lens.d_model, **CPU_FLOAT32) if start is None else start for start in starts]
        keys = [(int(self.place[i]), start.numpy().tobytes()) for i, start in zip(which, start_vectors)]
        new = {
            key: start
            for key, start in zip(keys, start_vectors)
            if key not in self._parts or len(self._parts[key]) <= steps
        }
        if new:
            sources, layer = self.sources.select([place for place, _ in new]), self.library.first.layer
            most = max(steps, self.pair_steps)
            parts = pair_parts(self.lens, sources, layer, torch.stack(list(new.values())), most)
            self._parts |= dict(zip(new, parts.unbind(1)))
        return torch.stack([self._parts[key][steps] for key in keys])


def _grouped(each: Sequence[Composition]) -> list[tuple[Composition, list[int]]]:
    """The settings, each once, with the places that have them."""
    places: dict[int, list[int]] = {}
    for i, settings in enumerate(each):
        places.setdefault(id(settings), []).append(i)
    return [(each[indices[0]], indices) for indices in places.values()]


def compose(
    model: Model, vectors: Mapping[str, FunctionVector], pair: tuple[str, str], how: CompositionLike = "posterior"
) -> FunctionVector:
    """The composite of a library for one pair A:B.

    Args:
        model: a HookedTransformer or TransformerBridge.
        vectors: the library, relation -> FunctionVector, as `finetune_all` returns it.
        pair: A and B.
        how: a `Composition`, a name of `METHODS`, or what `fit_composition` returned (its `whole` is used).

    Returns:
        A FunctionVector of method "composite" with `.weights` (relation -> weight, largest first) and `.source`. Its
        parents are the library's vectors with what the composite holds of each; shared and pair parts have no parent.

    Raises:
        InputError: a word without tokens, an empty library, vectors of two models or layers, an unknown method.

    Example:
        >>> cfv = compose(model, vectors, ("hot", "cold"))
        >>> next(iter(cfv.weights.items()))
        ('antonym', 0.65)
    """
    lens = lens_of(model)
    return composed(lens, Basis.of(lens, vectors), pair, composition(how))


def composed(lens: Lens, library: Basis, pair: tuple[str, str], how: Composition) -> FunctionVector:
    """`compose`, from a library that is checked already."""
    composer = Composer(lens, library, [pair])
    weights: dict[str, float] = {}
    held: dict[str, float] = {}
    shares = composer.weights(how)
    if shares is not None:
        weights = dict(sorted(zip(library.names, shares[0].tolist()), key=lambda share: -share[1]))
        held = dict(zip(library.names, composer.coefficients(how)[0].tolist()))
    mixed = [fv for name, fv in zip(library.names, library.vectors) if held.get(name)]
    records = {name: fv.record | {"training": None} for name, fv in zip(library.names, library.vectors)}
    return replace(
        library.first, vector=composer.vectors(how)[0], method="composite", relation=None, data_hash=None,
        split_seed=None, heads=(), strength=1.0, training=None, template=library.template.to_dict(), weights=weights,
        aliases=union("aliases", mixed), kin=union("kin", mixed),
        source=tuple(pair), frozen_rms=None, parents=[(held[name], records[name]) for name in weights if held[name]],
        versions=storage.versions(),
    )  # fmt: skip
