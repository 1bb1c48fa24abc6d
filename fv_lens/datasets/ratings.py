"""Human ratings of how alike the relations of two word pairs are, over SemEval-2012's relations.

Peterson, Chen & Griffiths (2020), Parallelograms revisited (Cognition 205, 104440), and Chen, Peterson & Griffiths
(2017, arXiv 1705.04416). The ratings are not bundled; they are in `relsim_mean_ratings.csv`.
"""

import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import spearmanr

from ..ground.errors import InputError
from ..ground.streams import Stream, generator
from ..ground.text_files import FilePath, own_path, read_text, table_records
from ..ground.words import check_text

FILE = "relsim_mean_ratings.csv"
COLUMNS = (
    "relation1", "relation2", "pair1_word1", "pair1_word2", "pair2_word1", "pair2_word2", "mean_rating", "num_ratings",
)  # fmt: skip
SCALE = (1, 7)
Cells = dict[tuple[int, int], list[float]]  # the ratings of two relations, the lower place first


@dataclass(frozen=True, eq=False)
class HumanMatrix:
    """Mean ratings of relation against relation, `values` `[relation, relation]`, symmetric, NaN where none were asked.

    `counts`: the number of comparisons in each cell. `ceiling`: split-half reliability of the cells off the diagonal,
    Spearman's rho with the Spearman-Brown correction, mean over random halves of the comparisons (a perfect model of
    the true means reaches about its square root). Judges are not resampled. None if a cell has a single comparison.
    """

    names: tuple[str, ...]
    values: Float[np.ndarray, "relation relation"] = field(repr=False)
    counts: np.ndarray = field(repr=False)
    ceiling: float | None = None

    def to_frame(self) -> pd.DataFrame:
        """The ratings with the relations' names."""
        return pd.DataFrame(self.values, self.names, self.names)


@dataclass(frozen=True, eq=False)
class PairRatings:
    """Rated comparisons of word pairs, one a line of `frame`: relation1, relation2, pair1, pair2, rating (1-7), n."""

    frame: pd.DataFrame = field(repr=False)

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def relations(self) -> list[str]:
        """Codes of the relations, sorted."""
        return sorted({*self.frame.relation1, *self.frame.relation2})

    @property
    def main(self) -> list[str]:
        """The relations whose pairs were compared with those of more than one other: each of the ten main ones."""
        apart = self.frame[self.frame.relation1 != self.frame.relation2]
        both = pd.concat([apart[["relation1", "relation2"]].set_axis(["a", "b"], axis=1),
                          apart[["relation2", "relation1"]].set_axis(["a", "b"], axis=1)])  # fmt: skip
        return sorted(name for name, others in both.groupby("a").b.nunique().items() if others > 1)

    @property
    def pairs(self) -> list[tuple[str, tuple[str, str]]]:
        """(relation, pair) of every pair that was compared, each once, sorted."""
        ends = [(f"relation{i}", f"pair{i}") for i in (1, 2)]
        return sorted({item for relation, pair in ends for item in zip(self.frame[relation], self.frame[pair])})

    def select(self, keep: np.ndarray) -> "PairRatings":
        """The comparisons where `keep` is true."""
        return PairRatings(self.frame[keep].reset_index(drop=True))

    def matrix(self, names: list[str] | None = None, seed: int = 0, n_halves: int = 200) -> HumanMatrix:
        """Mean rating of the comparisons of each two relations; the ten main ones, or those named.

        Raises:
            InputError: a relation that was not rated.
        """
        names = self.main if names is None else list(names)
        if unknown := [name for name in names if name not in self.relations]:
            raise InputError(
                f"No comparison of relation {unknown[0]!r} was rated; rated are {', '.join(self.relations)}."
            )
        place = {name: i for i, name in enumerate(names)}
        cells: Cells = {}
        for a, b, rating in zip(self.frame.relation1, self.frame.relation2, self.frame.rating):
            if a in place and b in place:
                cells.setdefault((min(place[a], place[b]), max(place[a], place[b])), []).append(rating)
        values, counts = np.full((len(names), len(names)), np.nan), np.zeros((len(names), len(names)), dtype=int)
        for (i, j), ratings in cells.items():
            values[i, j] = values[j, i] = np.mean(ratings)
            counts[i, j] = counts[j, i] = len(ratings)
        return HumanMatrix(tuple(names), values, counts, _ceiling(cells, seed, n_halves))


def load_ratings(path: FilePath) -> PairRatings:
    """Read the ratings from the file, or from a folder that has it somewhere.

    Raises:
        InputError: no such file, a missing column, a rating outside 1..7, a number of raters that is not whole and
            above 0, a comparison listed twice. The message names the file, the line and the column.

    Example:
        >>> ratings = load_ratings("peterson_chen_griffiths")
        >>> len(ratings), len(ratings.main), ratings.matrix().values.shape
        (6194, 10, (10, 10))
    """
    source = own_path(path)
    file = next(iter(sorted(source.rglob(FILE))), None) if os.path.isdir(source) else source
    if file is None:
        raise InputError(f"{str(source)!r} has no {FILE}; give that file, or a folder that holds it.")
    try:
        return PairRatings(pd.DataFrame(_comparisons(read_text(file))))
    except InputError as error:
        raise InputError(f"{file}: {error}; give {FILE}, or a folder that holds it") from None


def _comparisons(text: str) -> list[dict[str, Any]]:
    (_, columns), rows = table_records(text)
    if missing := [name for name in COLUMNS if name not in columns]:
        raise InputError(f"this file has no column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
    if not rows:
        raise InputError("this file has a header and no ratings")
    comparisons: list[dict[str, Any]] = []
    first: dict[frozenset[Any], int] = {}
    for number, cells in rows:
        for name in COLUMNS[:6]:
            check_text(cells[name], f"line {number} has {name}")
        rating, n = (_number(cells[name], f"line {number} has {name}") for name in COLUMNS[6:])
        if not SCALE[0] <= rating <= SCALE[1]:
            raise InputError(f"line {number} has mean_rating {rating:g}; ratings are {SCALE[0]} to {SCALE[1]}")
        if n < 1 or n != int(n):
            raise InputError(f"line {number} has num_ratings {n:g}; expected a whole number of people, at least 1")
        sides = [(cells[f"relation{i}"], (cells[f"pair{i}_word1"], cells[f"pair{i}_word2"])) for i in (1, 2)]
        # A comparison is unordered, so that the matrix of relations is symmetric.
        if (other := first.setdefault(frozenset(sides), number)) != number:
            raise InputError(f"lines {other} and {number} both rate {' and '.join(':'.join(p) for _, p in sides)}")
        (relation1, pair1), (relation2, pair2) = sides
        comparisons.append({
            "relation1": relation1, "relation2": relation2, "pair1": pair1, "pair2": pair2, "rating": rating,
            "n": int(n),
        })  # fmt: skip
    return comparisons


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where} {text!r}; expected a number")
    return number


def _ceiling(cells: Cells, seed: int, n_halves: int) -> float | None:
    """Reliability of the cells off the diagonal."""
    apart = [np.array(ratings) for (i, j), ratings in sorted(cells.items()) if i != j]
    if len(apart) < 3 or min(map(len, apart)) < 2:
        return None
    rng, reliabilities = generator(seed, Stream.HALVES), []
    for _ in range(n_halves):
        halves = []
        for ratings in apart:
            permuted = rng.permutation(ratings)
            halves.append((permuted[: len(permuted) // 2].mean(), permuted[len(permuted) // 2 :].mean()))
        rho = spearmanr(*zip(*halves)).statistic
        reliabilities.append(2 * rho / (1 + rho))
    return float(np.mean(reliabilities))
