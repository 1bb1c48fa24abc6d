"""Vectors against human judgement: rho between how alike vectors are and how alike people find their relations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..datasets.ratings import HumanMatrix
from ..ground import display
from ..ground.errors import InputError
from ..ground.markup import card, facts
from ..ground.scores import Score
from ..vectors.function_vector import FunctionVector
from .rank_correlation import fisher_z, jackknife, mantel_p, matrix_rho, rho_interval
from .similarity import Metric, Similarity, similarity_matrix


@dataclass(frozen=True)
class HumanComparison:
    """Spearman's rho between vectors and people over the cells that people rated, off the diagonal.

    `p`: of a one-sided Mantel test. `low`, `high`: a 95 % interval over relations. `ceiling`: split-half reliability.
    """

    rho: float
    p: float
    low: float
    high: float
    n_relations: int
    n_cells: int
    ceiling: float | None = None

    @property
    def score(self) -> Score:
        """Rho with its interval."""
        return Score(self.rho, self.low, self.high, self.n_cells)

    def __str__(self) -> str:
        ceiling = "" if self.ceiling is None else f"; people with themselves {self.ceiling:.2f}"
        return f"rho {self.score}, Mantel p {self.p:.4f}{ceiling}"

    def _repr_html_(self) -> str:
        known = {
            "Spearman's rho": display.scored(self.score),
            "Mantel's p, one-sided": f"{self.p:.4f}",
            "people with themselves": None if self.ceiling is None else f"{self.ceiling:.2f}",
            "relations": self.n_relations,
            "cells off the diagonal": self.n_cells,
        }
        return card("HumanComparison", "vectors and people", facts(known), note="95 % interval over relations.")


def compare_to_humans(
    vectors: Mapping[str, FunctionVector] | Similarity,
    human: HumanMatrix,
    seed: int = 0,
    *,
    n_permutations: int = 10_000,
    metric: Metric = "cosine",
    center: bool = True,
) -> HumanComparison:
    """Spearman's rho between the similarity of vectors and what people say, over the pairs of relations they rated.

    The Mantel test permutes relations: `p = (1 + permutations with a rho as large) / (1 + permutations)`. The interval
    is that of `rho_interval`.

    Args:
        vectors: a mapping that `similarity_matrix` takes, or a `Similarity`.
        human: ratings, see `load_ratings(...).matrix()`.
        seed: of the permutations.
        n_permutations: how many there are.
        metric, center: of `similarity_matrix`; a `Similarity` has its own.

    Raises:
        InputError: a relation without a vector, fewer than four relations, or cells that are all alike or unrated.

    Source: Mantel 1967 (Cancer Research 27, 209-220) for the test.
    """
    similarity = vectors if isinstance(vectors, Similarity) else similarity_matrix(vectors, metric, center)
    vector_values, human_values = similarity.select(human.names).values, human.values
    if len(human.names) < 4:
        raise InputError(f"People rated {len(human.names)} relations; a rank correlation over them takes four or more.")
    rho = matrix_rho(vector_values, human_values)
    if np.isnan(rho):  # no permutation beats NaN, so that p would be the smallest possible
        raise InputError("Spearman's rho is undefined: the vectors or the ratings are all alike or missing.")
    p = mantel_p(vector_values, human_values, n_permutations, seed)
    low, high = rho_interval(vector_values, human_values)
    n_cells = int(np.isfinite(human_values[np.triu_indices(len(human_values), 1)]).sum())
    return HumanComparison(rho, p, low, high, len(human_values), n_cells, human.ceiling)


def difference(first: Similarity, second: Similarity, human: HumanMatrix, level: float = 0.95) -> Score:
    """Rho of one kind of vectors minus that of another, paired over relations, with a jackknife interval."""
    human_values, n = human.values, len(human.names)
    both = [(similarity.select(human.names).values, human_values) for similarity in (first, second)]
    low, high = jackknife(both, lambda z: np.tanh(z[0]) - np.tanh(z[1]), level)
    value = matrix_rho(*both[0]) - matrix_rho(*both[1])
    return Score(float(value), float(low), float(high), n)


def crossed(parts: Sequence[tuple[Similarity, HumanMatrix]], level: float = 0.95) -> Score:
    """Mean rho of several pairs of matrices over the same relations (on Fisher's z), with a jackknife interval."""
    names = parts[0][1].names
    both = [(one.select(names).values, human.values) for one, human in parts]
    low, high = jackknife(both, np.mean, level)
    value = np.tanh(np.mean([fisher_z(matrix_rho(*one)) for one in both]))
    return Score(float(value), float(np.tanh(low)), float(np.tanh(high)), len(names))
