"""What a composite needs of its library: how many vectors, which, and how many of them get a weight."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from ..datasets.question_split import families_of
from ..datasets.questions import Question
from ..engine.batches import batch
from ..engine.completion import completions
from ..ground import scores
from ..ground.errors import InputError, whole_number
from ..ground.streams import Stream, generator
from ..models.lens import Model, lens_of
from ..vectors.function_vector import FunctionVector
from .basis import Basis, allowed_for
from .compose import Composer
from .composition import CompositionLike, settings_for
from .scores import LibraryName, exclusion
from .unseen import some_unseen

COLUMNS = ["pool", "vectors", "measure", "value", "low", "high", "n"]


@dataclass(frozen=True)
class Pools:
    """Which pools of vectors are tried beside the whole library; sizes that the library is too small for
    are skipped.

    Args:
        sizes: numbers of vectors drawn from the library, `draws` times each.
        merged: numbers of groups into which vectors are joined by their cosine; each group is one vector, their mean.
        noise: numbers of random vectors, as long as those of the library on average, that join it.
        top: numbers of vectors with the largest weights, which alone are mixed.
        draws: of pools of one size; an answer counts by its mean over them.
        seed: seed of draws and noise.

    Raises:
        InputError: numbers below 1, or a seed below 0.
    """

    sizes: Sequence[int] = (10, 20, 40)
    merged: Sequence[int] = (10, 20, 40)
    noise: Sequence[int] = (10, 50)
    top: Sequence[int] = (1, 3, 10)
    draws: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sizes", "merged", "noise", "top"):
            for count in getattr(self, name):
                whole_number(name, count, least=1)
        whole_number("draws", self.draws, least=1)
        whole_number("seed", self.seed, least=0)


class _Pool(NamedTuple):
    """One pool: which vectors of the extended library it has, and the most that may have a weight."""

    name: str
    size: int
    vectors: Bool[Tensor, " vector"]
    top: int | None = None


def pool_scores(
    model: Model,
    vectors: Mapping[str, FunctionVector],
    questions: Sequence[Question],
    how: CompositionLike = "posterior",
    pools: Pools = Pools(),
    *,
    library: LibraryName = "family left out",
) -> pd.DataFrame:
    """Whole answers completed with composites from other pools of vectors than the whole library.

    Args:
        model: a HookedTransformer or TransformerBridge.
        vectors: the library, relation -> FunctionVector.
        questions: analogies. Those on a pair that a vector was tuned on are left out, with a warning, see `unseen`.
        how: the composite; of fitted folds those are used that fit `library`. An affine map is for the vectors it was
            fitted with: then give pools without `merged` and `noise`.
        pools: which are tried.
        library: what is left out of each pool for each analogy. A merged vector is left out if one of its parts is.

    Returns:
        One line per pool and measure: pool ("whole", "drawn", "merged", "with noise", "largest weights"), vectors (how
        many), measure ("accuracy", or "minus whole", paired), value, low, high and n.

    Raises:
        InputError: no analogies, or none left; an empty library; a pool that leaves an analogy without a vector.

    Example:
        >>> pool_scores(model, vectors, parts.test).query("pool == 'drawn'")
    """
    if not questions:
        raise InputError("There are no analogies to measure pools on; give some.")
    lens, exclude, families = lens_of(model), exclusion(library), families_of(questions)
    own = Basis.of(lens, vectors)
    questions, left_out = some_unseen(questions, vectors.values())
    if left_out:
        warnings.warn(f"{left_out} analogies were left out: they have a pair that was tuned on.", stacklevel=2)
    each = settings_for(how, questions, exclude is not None)
    extended = _Extended(own, pools)
    may = extended.allowed(allowed_for(own, questions, exclude, families))
    composer = Composer(lens, extended.library, [question.source for question in questions])
    every, whatifs = list(extended.pools()), []
    for pool in every:
        some = may & pool.vectors
        if pool.top is not None:
            # Below a weight of 0, so that a vector that is left out is not among the largest.
            weights = composer.weights_of_each(each, some).masked_fill(~some, -1)
            largest = weights.topk(min(pool.top, weights.shape[1]), 1).indices
            some &= torch.zeros_like(some).scatter_(1, largest, True)
        whatifs.append(extended.library.edit(composer.vectors(each, some)))
    prompts = batch(lens, [question.asked(by.n_shots) for question, by in zip(questions, each)], own.template)
    right = completions(lens, prompts, whatifs).right[:, 1:].astype(float)
    return _frame(every, right, [question.kin or i for i, question in enumerate(questions)])


class _Extended:
    """A library with its merged vectors and noise behind its own, and the pools that are drawn from it."""

    def __init__(self, own: Basis, how: Pools):
        self.how, self.n, self.rng = how, len(own), generator(how.seed, Stream.POOLS)
        self.groups = {count: _groups(own, count) for count in how.merged if count < self.n}
        self.parts = [part for parts in self.groups.values() for part in parts]
        size = max(how.noise, default=0), own.matrix.shape[1]
        noises = torch.from_numpy(self.rng.standard_normal(size)).float()
        noises *= own.matrix.norm(dim=1).mean() / noises.norm(dim=1, keepdim=True)
        matrix = torch.cat([own.matrix, *(own.matrix[part].mean(0)[None] for part in self.parts), noises])
        names = (*own.names, *(f"merged {i}" for i in range(len(self.parts))), *(f"noise {i}" for i in range(size[0])))
        self.library = Basis(names, matrix, tuple(replace(own.first, vector=vector) for vector in matrix))

    def allowed(self, own: Bool[Tensor, "pair vector"]) -> Bool[Tensor, "pair extended"]:
        """The vectors each pair may have, given those of the library itself: merged ones of such alone, and noise."""
        merged = [own[:, part].all(1, keepdim=True) for part in self.parts]
        n_noise = len(self.library) - self.n - len(self.parts)
        return torch.cat([own, *merged, torch.ones(len(own), n_noise, dtype=torch.bool, device="cpu")], 1)

    def pools(self) -> Iterator[_Pool]:
        """The whole library first."""
        whole, place = list(range(self.n)), self.n
        yield _Pool("whole", self.n, self._mask(whole))
        for size in self.how.sizes:
            for _ in range(self.how.draws if size < self.n else 0):
                drawn = sorted(self.rng.choice(self.n, size, replace=False).tolist())
                yield _Pool("drawn", size, self._mask(drawn))
        for parts in self.groups.values():
            yield _Pool("merged", len(parts), self._mask(range(place, place + len(parts))))
            place += len(parts)
        for count in self.how.noise:
            yield _Pool("with noise", self.n + count, self._mask([*whole, *range(place, place + count)]))
        for count in self.how.top:
            if count < self.n:
                yield _Pool("largest weights", count, self._mask(whole), count)

    def _mask(self, places: Iterable[int]) -> Bool[Tensor, " vector"]:
        mask = torch.zeros(len(self.library), dtype=torch.bool, device="cpu")
        mask[list(places)] = True
        return mask


def _groups(library: Basis, count: int) -> list[list[int]]:
    """Places of the vectors in about `count` groups, joined by average cosine distance."""
    tree = linkage(library.matrix.double().numpy(), "average", "cosine")
    labels = fcluster(tree, count, "maxclust")
    return [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]


def _frame(pools: Sequence[_Pool], right: np.ndarray, groups: Sequence[str | int]) -> pd.DataFrame:
    """Scores of each pool; several draws of one size are one line."""
    lines = []
    for name, size in dict.fromkeys((pool.name, pool.size) for pool in pools):
        of_pool = [i for i, pool in enumerate(pools) if (pool.name, pool.size) == (name, size)]
        values = right[:, of_pool].mean(1)
        measures = {"accuracy": (values, scores.SHARE)}
        if name != "whole":
            measures["minus whole"] = (values - right[:, 0], scores.GAIN)
        for measure, (numbers, within) in measures.items():
            score = scores.clustered_mean(numbers, groups, within=within)
            lines.append((name, size, measure, score.value, *score.ends, score.n))
    return pd.DataFrame(lines, columns=COLUMNS)
