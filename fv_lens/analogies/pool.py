"""What a composite needs of its library: how many vectors, which, and how many of them with a weight."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
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
from .compose import Composer
from .composition import CompositionLike, composition
from .library import Library, allowed
from .scores import LIBRARIES, LibraryName

COLUMNS = ["pool", "vectors", "measure", "value", "low", "high", "n"]


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
    *,
    library: LibraryName = "family left out",
    sizes: Sequence[int] = (10, 20, 40),
    merged: Sequence[int] = (10, 20, 40),
    noise: Sequence[int] = (10, 50),
    top: Sequence[int] = (1, 3, 10),
    draws: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Whole answers completed with composites from other pools of vectors than the whole library.

    Args:
        model: a HookedTransformer or TransformerBridge.
        vectors: the library, relation -> FunctionVector.
        questions: analogies on pairs that no vector was tuned on, see `unseen`.
        how: the composite. An affine map is for the vectors it was fitted with: then give no `merged` and no `noise`.
        library: what is left out of each pool for each analogy. A merged vector is left out if one of its parts is.
        sizes: numbers of vectors drawn from the library, `draws` times each.
        merged: numbers of groups into which vectors are joined by their cosine; each group is one vector, their mean.
        noise: numbers of random vectors, as long as those of the library on average, that join it.
        top: numbers of vectors with the largest weights, which alone are mixed.
        draws: of pools of one size; an answer counts by its mean over them.
        seed: seed of draws and noise.

    Returns:
        One line per pool and measure: pool ("whole", "drawn", "merged", "with noise", "largest weights"), vectors (how
        many), measure ("accuracy", or "minus whole", paired), value, low, high and n. Numbers that the library does not
        reach are left out.

    Raises:
        InputError: no analogies; an empty library; a pool that leaves an analogy without a vector; numbers below 1.

    Example:
        >>> pool_scores(model, vectors, parts.test).query("pool == 'drawn'")
    """
    if not questions:
        raise InputError("There are no analogies to measure pools on; give some.")
    for name, counts in dict(sizes=sizes, merged=merged, noise=noise, top=top, draws=[draws]).items():
        for count in counts:
            whole_number(name, count, least=1)
    if library not in LIBRARIES:
        raise InputError(f"library is {library!r}; choose from {', '.join(LIBRARIES)}.")
    lens, settings = lens_of(model), composition(how)
    own = Library.of(lens, vectors)
    rng, n = generator(seed, Stream.POOLS), len(own)
    groups = {count: _groups(own, count) for count in merged if count < n}
    more = {f"merged {count}, {i}": part for count, parts in groups.items() for i, part in enumerate(parts)}
    noises = torch.from_numpy(rng.standard_normal((max(noise, default=0), lens.d_model))).float()
    noises *= own.matrix.norm(dim=1).mean() / noises.norm(dim=1, keepdim=True)
    matrix = torch.cat([own.matrix, *(own.matrix[part].mean(0)[None] for part in more.values()), noises])
    names = (*own.names, *more, *(f"noise {i}" for i in range(len(noises))))
    extended = Library(names, matrix, tuple(replace(own.first, vector=vector) for vector in matrix))

    def mask(places: Sequence[int]) -> Tensor:
        return torch.isin(torch.arange(len(names), device="cpu"), torch.tensor(places, device="cpu"))

    def pools() -> Iterator[_Pool]:
        whole = list(range(n))
        yield _Pool("whole", n, mask(whole))
        for size in sizes:
            for _ in range(draws if size < n else 0):
                yield _Pool("drawn", size, mask(sorted(rng.choice(n, size, replace=False).tolist())))
        for count, parts in groups.items():
            yield _Pool("merged", len(parts), mask([names.index(f"merged {count}, {i}") for i in range(len(parts))]))
        for count in noise:
            at = n + len(more)
            yield _Pool("with noise", n + count, mask([*whole, *range(at, at + count)]))
        for count in top:
            if count < n:
                yield _Pool("largest weights", count, mask(whole), count)

    own_may = allowed(
        own, [question.relation for question in questions], LIBRARIES[library], families_of(questions),
        [question.family for question in questions],
    )  # fmt: skip
    of_groups = [own_may[:, part].all(1, keepdim=True) for part in more.values()]
    may = torch.cat([own_may, *of_groups, torch.ones(len(questions), len(noises), dtype=torch.bool)], 1)
    composer = Composer(lens, extended, [question.source for question in questions])
    every, whatifs = list(pools()), []
    for pool in every:
        some = may & pool.vectors
        if pool.top is not None and (weights := composer.weights(settings, some)) is not None:
            largest = weights.topk(min(pool.top, weights.shape[1]), 1).indices
            some &= torch.zeros_like(some).scatter_(1, largest, True)
        whatifs.append(extended.edit(composer.vectors(settings, some)))
    prompts = batch(lens, [question.asked(settings.n_shots) for question in questions], own.template)
    right = completions(lens, prompts, whatifs).right[:, 1:].astype(float)
    return _frame(every, right, [question.kin or i for i, question in enumerate(questions)])


def _groups(library: Library, count: int) -> list[list[int]]:
    """Places of the vectors in about `count` groups, joined by average cosine distance."""
    tree = linkage(library.matrix.double().numpy(), "average", "cosine")
    labels = fcluster(tree, count, "maxclust")
    return [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]


def _frame(pools: Sequence[_Pool], right: np.ndarray, groups: Sequence[object]) -> pd.DataFrame:
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
