"""Vectors of SemEval's relations against people: what `fv-lens humans` measures.

Every vector is made twice, once on each half of a relation's pairs, and compared only with ratings of the other half
(cross-fitting); vectors made on all pairs are compared as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...datasets.prompts import PromptTemplate
from ...datasets.ratings import HumanMatrix, PairRatings
from ...datasets.relations import Relation
from ...datasets.semeval import RatedRelation, halves
from ...evaluation.humans import HumanComparison, compare_to_humans, crossed
from ...evaluation.rank_correlation import z_without
from ...evaluation.similarity import Similarity, similarity_matrix
from ...ground.errors import InputError
from ...ground.progress import no_progress, progress_bar
from ...ground.scores import Score, clustered_mean
from ...models.arrival import can_be_summed
from ...models.lens import Model, lens_of
from ...vectors.effects import mean_effects
from ...vectors.function_vector import FunctionVector
from ...vectors.lessons import Lesson, tune_lessons
from ...vectors.mediation import indirect_effects, mean_outputs
from ...vectors.optimizer import STEPS, Tuning
from ...vectors.summed import Heads, function_vector, residual_difference
from .pairs import Halves, half_of, pair_level, typicalities

KINDS = ("FFV", "FV", "mean difference")
RELATIONS, CROSSED, TYPICALITY = "relations", "relations, cross-fitted", "typicality, cross-fitted"  # measures
HALVES = ("all", "half 0", "half 1")
HEADS_FROM = ("antonym", "country-capital", "present-past", "singular-plural", "hypernym")
N_HEADS, N_SHOTS, N_PROMPTS = 10, 8, 8

Vectors = dict[str, dict[str, dict[str, FunctionVector]]]  # kind -> half -> code -> vector


def human_vectors(
    model: Model,
    relations: Mapping[str, RatedRelation],
    layer: int,
    heads: Heads | None = None,
    *,
    steps: int = STEPS,
    seed: int = 0,
) -> Vectors:
    """Tuned vectors (from zero), summed ones and mean differences of each relation, of all its pairs and of each half.

    Args:
        layer: where tuned vectors and mean differences belong.
        heads: of the summed vectors, added at the same layer; by default the strongest over five bundled ones.

    Raises:
        InputError: a relation with too few pairs; heads that the model does not have.

    Returns:
        kind -> half -> code -> vector; without "FV" on a model whose heads' writes cannot be summed.
    """
    lens, template = lens_of(model), PromptTemplate()
    parts = {half: _parts(relations, half, seed) for half in HALVES}
    listed = [(half, code, relation) for half, some in parts.items() for code, relation in some.items()]
    vectors: Vectors = {kind: {half: {} for half in HALVES} for kind in KINDS}

    splits = [relation.split() for _, _, relation in listed]
    lessons = [Lesson(relation, [split.train], [split.validation]) for (_, _, relation), split in zip(listed, splits)]
    how = Tuning(steps, template=template)
    for (half, code, _), vector in zip(listed, tune_lessons(lens, lessons, [layer], how, "tuning")[layer]):
        if isinstance(vector, InputError):
            raise vector
        vectors["FFV"][half][code] = vector
    if not can_be_summed(lens):
        heads = None
    elif heads is None:
        with no_progress():
            maps = [indirect_effects(model, name, 10, 10, 20, seed) for name in HEADS_FROM]
        heads = mean_effects(maps).top(N_HEADS)
    for half, code, relation in progress_bar(listed, desc="few-shot prompts", unit="relation"):
        train = relation.split().train
        shots = min(N_SHOTS, len(train) - 1)
        if heads is not None:
            with no_progress():
                mean_z, _, attention_rms = mean_outputs(model, relation, N_PROMPTS, shots, seed)
            vectors["FV"][half][code] = function_vector(model, relation, heads, layer, mean_z, attention_rms)
        difference = residual_difference(lens, train, N_PROMPTS, shots, layer, template, seed)
        vectors["mean difference"][half][code] = FunctionVector.on(
            lens, difference, layer, relation, template, method="difference"
        )
    return {kind: some for kind, some in vectors.items() if all(some.values())}


def _parts(relations: Mapping[str, RatedRelation], half: str, seed: int) -> dict[str, Relation]:
    if half == "all":
        return {code: one.relation(seed=seed) for code, one in relations.items()}
    other, placed = 1 - int(half[-1]), halves(relations, seed)
    return {
        code: one.relation([pair for pair, place in placed[code].items() if place == other], seed)
        for code, one in relations.items()
    }


@dataclass(frozen=True, eq=False)
class Comparison:
    """Agreement of one kind of vectors with people.

    `relations`: of the matrix of all pairs; `crossed`: each half's vectors against the other half's ratings.
    `pairs`: group of comparisons -> Spearman's rho of predicted with rated similarity, cross-fitted. `typicality`: the
    mean over relations of Spearman's rho between log P(B | A) and rated typicality, cross-fitted; `plain_typicality`:
    without any vector. `left_out`: measure -> relation -> the rho with that relation left out, by which models are
    pooled. `typicalities`: with a vector and without, relation -> the relation's own rho.
    """

    relations: HumanComparison
    crossed: Score
    pairs: Mapping[str, Mapping[str, Score]] = field(repr=False)
    typicality: Score
    plain_typicality: Score
    similarity: Similarity = field(repr=False)
    left_out: Mapping[str, Mapping[str, float]] = field(repr=False)
    typicalities: tuple[Mapping[str, float], Mapping[str, float]] = field(repr=False)


def compare(
    model: Model,
    vectors: Vectors,
    relations: Mapping[str, RatedRelation],
    ratings: PairRatings,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Every kind of vectors against the ratings.

    Raises:
        InputError: people rated a relation without a vector.
    """
    lens = lens_of(model)
    if missing := [code for code in ratings.relations if code not in relations]:
        raise InputError(f"People rated relation {missing[0]!r}, of which there is no vector.")
    human, half_of_pair = ratings.matrix(seed=seed), halves(relations, seed)
    parts = _half_matrices(ratings, half_of_pair, human)
    comparisons = {}
    for kind, made in progress_bar(vectors.items(), desc="against people", unit="kind of vectors"):
        similarities = {half: similarity_matrix(by_code) for half, by_code in made.items()}
        own, halved = (similarities["all"], human), [(similarities[f"half {h}"], parts[1 - h]) for h in (0, 1)]
        pairs, pairs_left_out = pair_level(lens, made, ratings, half_of_pair)
        rhos = typicalities(lens, made, relations, half_of_pair)
        comparisons[kind] = Comparison(
            compare_to_humans(*own, seed),
            crossed(halved),
            pairs,
            clustered_mean(np.array([*rhos[0].values()]), list(rhos[0])),
            clustered_mean(np.array([*rhos[1].values()]), list(rhos[1])),
            similarities["all"].select(human.names),
            {RELATIONS: _left_out([own]), CROSSED: _left_out(halved)} | pairs_left_out,
            rhos,
        )
    return comparisons


def _left_out(parts: Sequence[tuple[Similarity, HumanMatrix]]) -> dict[str, float]:
    """Relation -> the rho of the matrices without it, as `crossed` and `compare_to_humans` compute it."""
    names = parts[0][1].names
    both = [(similarity.select(names).values, human.values) for similarity, human in parts]
    return {name: float(np.tanh(np.mean(z))) for name, z in zip(names, z_without(both))}


def _half_matrices(ratings: PairRatings, halves: Halves, human: HumanMatrix) -> list[HumanMatrix]:
    """Human matrices of the comparisons whose pairs are both in one half, for either half."""
    frame = ratings.frame
    places = [
        np.array([half_of(halves, code, pair) for code, pair in zip(frame[f"relation{i}"], frame[f"pair{i}"])])
        for i in (1, 2)
    ]
    return [ratings.select((places[0] == h) & (places[1] == h)).matrix(list(human.names)) for h in (0, 1)]
