"""How alike vectors are: similarity matrices, their stability over seeds, and points of multidimensional scaling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats
from sklearn.manifold import MDS

from ..ground import display
from ..ground.errors import InputError
from ..ground.scores import Score
from ..vectors.function_vector import FunctionVector

Metric = Literal["cosine", "euclidean"]
METRICS = get_args(Metric)


@dataclass(frozen=True, eq=False)
class Similarity:
    """Similarity of vectors, `values` `[vector, vector]`; higher is more alike.

    `centered`: the mean vector was subtracted first. Without that, what all vectors share (the form of an answer) makes
    up most of a cosine.
    """

    names: tuple[str, ...]
    values: Float[np.ndarray, "vector vector"] = field(repr=False)
    metric: Metric
    centered: bool

    def __repr__(self) -> str:
        return f"Similarity({len(self.names)} vectors, {self.metric}{', centred' if self.centered else ''})"

    def _repr_html_(self) -> str:
        return display.similarity(self.to_frame(), self.metric, self.centered)

    def to_frame(self) -> pd.DataFrame:
        """The matrix with the vectors' names."""
        return pd.DataFrame(self.values, self.names, self.names)

    def select(self, names: Sequence[str]) -> "Similarity":
        """The rows and columns of some vectors; an InputError names one that is missing."""
        if missing := [name for name in names if name not in self.names]:
            raise InputError(f"There is no vector of {missing[0]!r}; there are {', '.join(self.names)}.")
        places = [self.names.index(name) for name in names]
        return Similarity(tuple(names), self.values[np.ix_(places, places)], self.metric, self.centered)


def similarity_matrix(
    vectors: Mapping[str, FunctionVector], metric: Metric = "cosine", center: bool = True
) -> Similarity:
    """Pairwise similarity of the vectors of a mapping.

    Args:
        vectors: name -> FunctionVector, all of one model at one place.
        metric: "cosine", or "euclidean" (the negative distance).
        center: subtract the mean over the vectors from each first.

    Raises:
        InputError: fewer than two vectors, vectors of two models or layers, an unknown metric.

    Example:
        >>> similarity_matrix(finetune_all(model, ["antonym", "synonym", "hypernym"])).to_frame()
    """
    if metric not in METRICS:
        raise InputError(f"metric is {metric!r}; choose from {', '.join(METRICS)}.")
    if not isinstance(vectors, Mapping) or len(vectors) < 2:
        raise InputError("Give a mapping from name to FunctionVector with at least two vectors to compare.")
    for name, fv in vectors.items():
        if not isinstance(fv, FunctionVector):
            raise InputError(f"{name!r} is {type(fv).__name__}; give a FunctionVector.")
    (first, reference), *others = vectors.items()
    for name, fv in others:
        if len(fv.vector) != len(reference.vector):
            raise InputError(
                f"{first!r} has {len(reference.vector)} numbers and {name!r} {len(fv.vector)}; they must agree."
            )
        for what in ("model", "layer", "site", "token", "processing", "bos"):
            value, expected = getattr(fv, what), getattr(reference, what)
            if value != expected:
                raise InputError(f"Vectors of {what} {expected!r} ({first!r}) and {value!r} ({name!r}) do not compare.")
    matrix = np.stack([fv.vector.double().numpy() for fv in vectors.values()])
    matrix = matrix - matrix.mean(0) if center else matrix
    if metric == "cosine":
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
        values = matrix @ matrix.T / np.maximum(norms @ norms.T, 1e-300)
    else:
        values = -np.linalg.norm(matrix[:, None] - matrix[None], axis=-1)
    return Similarity(tuple(vectors), values, metric, center)


def stability(similarities: Sequence[Similarity]) -> Score:
    """Mean Spearman's rho between the matrices of each two seeds, with the lowest and highest as `low` and `high`."""
    if len(similarities) < 2:
        raise InputError(f"Stability takes matrices of two seeds or more; got {len(similarities)}.")
    names = similarities[0].names
    flat = [similarity.select(names).values[np.triu_indices(len(names), 1)] for similarity in similarities]
    rhos = [float(stats.spearmanr(a, b).statistic) for a, b in combinations(flat, 2)]
    return Score(float(np.mean(rhos)), min(rhos), max(rhos), len(rhos))


def mds(similarity: Similarity, seed: int = 0) -> pd.DataFrame:
    """Points of metric multidimensional scaling, columns x and y, one a vector; distances are 1 - cosine."""
    distances = 1 - similarity.values if similarity.metric == "cosine" else -similarity.values
    distances = np.clip((distances + distances.T) / 2, 0, None)
    np.fill_diagonal(distances, 0)
    scaling = MDS(2, metric="precomputed", init="random", n_init=8, random_state=seed)
    return pd.DataFrame(scaling.fit_transform(distances), similarity.names, ["x", "y"])
