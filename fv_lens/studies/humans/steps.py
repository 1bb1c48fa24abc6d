"""Vectors of SemEval's relations against people: what `fv-lens humans` measures.

Every vector is made twice, once on each half of a relation's pairs, and compared only with ratings of the other half
(cross-fitting); vectors made on all pairs are compared as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.stats import spearmanr

from ...analogies.compose import weights_of
from ...analogies.composition import Composition
from ...analogies.library import Library, explained, pairs_batch
from ...datasets.prompts import PromptTemplate
from ...datasets.ratings import HumanMatrix, PairRatings
from ...datasets.relations import Relation
from ...datasets.semeval import RatedRelation, halves
from ...engine.completion import completions
from ...evaluation.humans import HumanComparison, compare_to_humans, crossed
from ...evaluation.rank_correlation import clustered_rho
from ...evaluation.similarity import Similarity, similarity_matrix
from ...ground.errors import InputError
from ...ground.progress import no_progress, progress_bar
from ...ground.scores import Score, clustered_mean
from ...models.arrival import can_be_summed
from ...models.lens import Lens, Model, lens_of
from ...vectors.effects import mean_effects
from ...vectors.function_vector import FunctionVector
from ...vectors.lessons import Lesson, tune_lessons
from ...vectors.mediation import indirect_effects, mean_outputs
from ...vectors.optimizer import STEPS, Tuning
from ...vectors.summed import Heads, function_vector, residual_difference

KINDS = ("FFV", "FV", "mean difference")
HALVES = ("all", "half 0", "half 1")
HEADS_FROM = ("antonym", "country-capital", "present-past", "singular-plural", "hypernym")
N_HEADS, N_SHOTS, N_PROMPTS = 10, 8, 8
PROFILE = Composition("posterior", temperature=2.0)  # of pairs; the temperature of an earlier look at the same ratings

Vectors = dict[str, dict[str, dict[str, FunctionVector]]]  # kind -> half -> code -> vector
Made = Mapping[str, Mapping[str, FunctionVector]]  # of one kind
Halves = Mapping[str, Mapping[tuple[str, str], int]]  # code -> pair -> 0 or 1


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
    without any vector.
    """

    relations: HumanComparison
    crossed: Score
    pairs: Mapping[str, Mapping[str, Score]] = field(repr=False)
    typicality: Score
    plain_typicality: Score
    similarity: Similarity = field(repr=False)


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
        comparisons[kind] = Comparison(
            compare_to_humans(similarities["all"], human, seed),
            crossed([(similarities[f"half {h}"], parts[1 - h]) for h in (0, 1)]),
            _pair_level(lens, made, ratings, half_of_pair),
            *typicality(lens, made, relations, half_of_pair),
            similarities["all"].select(human.names),
        )
    return comparisons


def _half_matrices(ratings: PairRatings, halves: Halves, human: HumanMatrix) -> list[HumanMatrix]:
    """Human matrices of the comparisons whose pairs are both in one half, for either half."""
    frame = ratings.frame
    places = [
        np.array([_half_of(halves, code, pair) for code, pair in zip(frame[f"relation{i}"], frame[f"pair{i}"])])
        for i in (1, 2)
    ]
    return [ratings.select((places[0] == h) & (places[1] == h)).matrix(list(human.names)) for h in (0, 1)]


def _half_of(halves: Halves, code: str, pair: tuple[str, str]) -> int:
    """The half of a pair; one that the relation's list does not hold was tuned on in neither, so either will do."""
    return halves[code].get(pair, 0)


def _pair_level(lens: Lens, made: Made, ratings: PairRatings, halves: Halves) -> dict[str, dict[str, Score]]:
    """Predicted similarity of two pairs: cosine of their weight profiles, and of their centred composites."""
    items = ratings.pairs
    place = {item: i for i, item in enumerate(items)}
    profiles: dict[int, np.ndarray] = {}
    composites: dict[int, np.ndarray] = {}
    for h in (0, 1):
        indices = [i for i, (code, pair) in enumerate(items) if _half_of(halves, code, pair) == h]
        if not indices:
            continue
        library = Library.of(lens, made[f"half {1 - h}"])
        sources = pairs_batch(lens, [items[i][1] for i in indices], library.template)
        weights = weights_of(explained(lens, library, sources), PROFILE)
        centred = library.matrix - library.matrix.mean(0)
        for i, weight in zip(indices, weights):
            profiles[i], composites[i] = weight.numpy(), (weight @ centred).numpy()
    frame = ratings.frame
    ends = [[place[item] for item in zip(frame[f"relation{i}"], frame[f"pair{i}"])] for i in (1, 2)]
    columns = [frame[name].to_numpy() for name in ("rating", "relation1", "relation2")]
    within = columns[1] == columns[2]
    scores = {}
    for name, parts in (("weight profiles", profiles), ("composites", composites)):
        rows = np.stack([parts[i] for i in range(len(items))])
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        predicted = (unit[ends[0]] * unit[ends[1]]).sum(1)
        scores[name] = {
            group: clustered_rho(predicted[keep], *(column[keep] for column in columns))
            for group, keep in (("all", within | True), ("within", within), ("between", ~within))
        }
    return scores


def typicality(
    lens: Lens,
    made: Made,
    relations: Mapping[str, RatedRelation],
    halves: Halves,
) -> tuple[Score, Score]:
    """Mean over relations of Spearman's rho between log P(B | A) and rated typicality, with a vector and without.

    Each pair is scored with the vector made on the other half.
    """
    items = [(code, pair) for code, relation in relations.items() for pair in relation.pairs]
    library = Library.of(lens, made["all"])
    own = torch.stack([made[f"half {1 - halves[code][pair]}"][code].vector for code, pair in items])
    sources = pairs_batch(lens, [pair for _, pair in items], library.template)
    log_probs = completions(lens, sources, [library.edit(own)]).log_prob
    rhos: list[list[float]] = [[], []]
    codes = np.array([code for code, _ in items])
    for code, relation in relations.items():
        for column, column_rhos in zip((1, 0), rhos):
            column_rhos.append(float(spearmanr(log_probs[codes == code, column], relation.ratings).statistic))
    with_vector, plain = (clustered_mean(np.array(column_rhos), list(relations)) for column_rhos in rhos)
    return with_vector, plain
