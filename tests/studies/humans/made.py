"""Relations that people rated, made up."""

import numpy as np
import pandas as pd

from fv_lens.datasets.ratings import PairRatings
from fv_lens.datasets.semeval import RatedRelation

CODES = ("1a", "2a", "3a", "4b", "5a")
HEADS = [(0, 1), (1, 2), (1, 3)]


def made_relation(r: int, n: int = 10) -> RatedRelation:
    pairs = tuple((f"w{30 * r + i}", f"w{30 * r + 10 + i}") for i in range(n))
    ratings = tuple(float((7 * i + r) % 23) + 1 for i in range(n))
    return RatedRelation(CODES[r], f"relation {r}", "CLASS", "Y of X", pairs, ratings)


RELATIONS = {code: made_relation(r) for r, code in enumerate(CODES)}


def made_ratings(codes=CODES) -> PairRatings:
    rng, lines = np.random.default_rng(0), []
    for i, a in enumerate(codes):
        for b in codes[i:]:
            for k in range(8):
                pairs = [RELATIONS[code].pairs[(k * step) % 10] for code, step in ((a, 1), (b, 3))]
                lines.append((a, b, *pairs, float(rng.uniform(1, 7)), 10))
    return PairRatings(pd.DataFrame(lines, columns=["relation1", "relation2", "pair1", "pair2", "rating", "n"]))
