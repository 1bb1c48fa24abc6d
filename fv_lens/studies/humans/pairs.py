"""Single pairs against people: how alike two of them are, and how typical each is of its relation."""

from collections.abc import Mapping

import numpy as np
import torch
from scipy.stats import spearmanr

from ...analogies.basis import Basis, explained, pairs_batch
from ...analogies.compose import weights_of
from ...analogies.composition import Composition
from ...datasets.ratings import PairRatings
from ...datasets.semeval import RatedRelation
from ...engine.completion import completions
from ...evaluation.rank_correlation import clustered_rho, rhos_without
from ...ground.scores import Score
from ...models.lens import Lens
from ...vectors.function_vector import FunctionVector

PROFILE = Composition("posterior", temperature=2.0)  # of pairs; the temperature of an earlier look at the same ratings

Made = Mapping[str, Mapping[str, FunctionVector]]  # of one kind
Halves = Mapping[str, Mapping[tuple[str, str], int]]  # code -> pair -> 0 or 1


def half_of(halves: Halves, code: str, pair: tuple[str, str]) -> int:
    """The half of a pair; one that the relation's list does not hold was tuned on in neither, so either will do."""
    return halves[code].get(pair, 0)


def pair_level(
    lens: Lens, made: Made, ratings: PairRatings, halves: Halves
) -> tuple[dict[str, dict[str, Score]], dict[str, dict[str, float]]]:
    """Predicted similarity of two pairs: cosine of their weight profiles, and of their centred composites.

    Returns:
        What predicts -> group of comparisons -> score; measure -> relation -> the rho without it.
    """
    items = ratings.pairs
    place = {item: i for i, item in enumerate(items)}
    profiles: dict[int, np.ndarray] = {}
    composites: dict[int, np.ndarray] = {}
    for h in (0, 1):
        indices = [i for i, (code, pair) in enumerate(items) if half_of(halves, code, pair) == h]
        if not indices:
            continue
        library = Basis.of(lens, made[f"half {1 - h}"])
        sources = pairs_batch(lens, [items[i][1] for i in indices], library.template)
        weights = weights_of(explained(lens, library, sources), PROFILE)
        centred = library.matrix - library.matrix.mean(0)
        for i, weight in zip(indices, weights):
            profiles[i], composites[i] = weight.numpy(), (weight @ centred).numpy()
    frame = ratings.frame
    ends = [[place[item] for item in zip(frame[f"relation{i}"], frame[f"pair{i}"])] for i in (1, 2)]
    columns = [frame[name].to_numpy() for name in ("rating", "relation1", "relation2")]
    within = columns[1] == columns[2]
    scores: dict[str, dict[str, Score]] = {}
    left_out = {}
    for name, parts in (("weight profiles", profiles), ("composites", composites)):
        rows = np.stack([parts[i] for i in range(len(items))])
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        predicted = (unit[ends[0]] * unit[ends[1]]).sum(1)
        for group, keep in (("all", within | True), ("within", within), ("between", ~within)):
            compared = [predicted[keep], *(column[keep] for column in columns)]
            scores.setdefault(name, {})[group] = clustered_rho(*compared)
            left_out[pairs_measure(name, group)] = rhos_without(*compared)
    return scores, left_out


def pairs_measure(name: str, group: str) -> str:
    """The measure of comparisons of pairs by what predicts their similarity, in a group of comparisons."""
    return f"pairs by {name}, {group}, cross-fitted"


def typicalities(
    lens: Lens,
    made: Made,
    relations: Mapping[str, RatedRelation],
    halves: Halves,
) -> tuple[dict[str, float], dict[str, float]]:
    """Spearman's rho between log P(B | A) and rated typicality in each relation, with a vector and without.

    Each pair is scored with the vector made on the other half.
    """
    items = [(code, pair) for code, relation in relations.items() for pair in relation.pairs]
    library = Basis.of(lens, made["all"])
    own = torch.stack([made[f"half {1 - halves[code][pair]}"][code].vector for code, pair in items])
    sources = pairs_batch(lens, [pair for _, pair in items], library.template)
    log_probs = completions(lens, sources, [library.edit(own)]).log_prob
    rhos: tuple[dict[str, float], dict[str, float]] = {}, {}
    codes = np.array([code for code, _ in items])
    for code, relation in relations.items():
        for column, of_column in zip((1, 0), rhos):
            of_column[code] = float(spearmanr(log_probs[codes == code, column], relation.ratings).statistic)
    return rhos
