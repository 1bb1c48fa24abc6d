"""Vectors against people on a tiny model: cross-fitting, and typicality by hand."""

import numpy as np
import pytest
import torch
from scipy import stats

from fv_lens.datasets.semeval import halves as dealt
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.studies.humans.pairs import pair_level, typicalities
from fv_lens.studies.humans.steps import HALVES, KINDS, compare

from ... import oracles
from .made import CODES, RELATIONS, made_ratings


@pytest.mark.slow
def test_there_is_a_vector_of_each_kind_and_half(vectors):
    assert set(vectors) == set(KINDS)
    for halves in vectors.values():
        assert set(halves) == set(HALVES) and all(set(some) == set(CODES) for some in halves.values())
    assert not torch.equal(vectors["FV"]["half 0"]["1a"].vector, vectors["FV"]["half 1"]["1a"].vector)


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_a_half_is_tuned_on_none_of_the_other_halfs_words(vectors, code):
    halves = dealt(RELATIONS)[code]
    for half in (0, 1):
        training = vectors["FFV"][f"half {half}"][code].training
        words = {*training["train_words"], *training["validation_words"]}
        assert words == {a for a, b in RELATIONS[code].pairs if halves[a, b] == half}


@pytest.mark.slow
def test_typicality_is_that_of_the_vector_which_has_not_seen_the_pair(model, vectors):
    halves = dealt(RELATIONS)
    found, plain = typicalities(lens_of(model), vectors["FFV"], RELATIONS, halves)
    rhos, without = [], []
    for code, one in RELATIONS.items():
        scored = []
        for pair in one.pairs:
            prompt, (answer,) = oracles.in_words(model, f"Q: {pair[0]}\nA:", (pair[1],))
            fv = vectors["FFV"][f"half {1 - halves[code][pair]}"][code]
            edits = [oracles.Change(fv.layer, fv.vector)]
            scored.append([float(oracles.continuation_log_probs(model, prompt, answer, e).sum()) for e in (edits, [])])
        rhos.append(stats.spearmanr(np.array(scored)[:, 0], one.ratings).statistic)
        without.append(stats.spearmanr(np.array(scored)[:, 1], one.ratings).statistic)
    assert [*found.values()] == pytest.approx(rhos, abs=1e-6) and list(found) == list(RELATIONS)
    assert [*plain.values()] == pytest.approx(without, abs=1e-6)
    compared = compare(model, {"FFV": vectors["FFV"]}, RELATIONS, made_ratings())["FFV"]
    assert compared.typicality.value == pytest.approx(np.mean(rhos), abs=1e-6)
    assert compared.plain_typicality.value == pytest.approx(np.mean(without), abs=1e-6)


@pytest.mark.slow
def test_every_kind_is_compared(model, vectors):
    found = compare(model, vectors, RELATIONS, made_ratings())
    assert set(found) == set(KINDS)
    for one in found.values():
        assert -1 <= one.relations.rho <= 1 and 0 < one.relations.p <= 1 and one.relations.n_relations == 5
        assert {*one.pairs} == {"weight profiles", "composites"}
        assert (
            one.pairs["composites"]["all"].n
            == one.pairs["composites"]["within"].n + one.pairs["composites"]["between"].n
        )


@pytest.mark.slow
def test_what_a_half_says_of_its_own_pairs_does_not_count(model, vectors):
    """Other vectors on half 0 change nothing for comparisons whose pairs are both in half 0."""
    halves = dealt(RELATIONS)
    whole = made_ratings()
    inside = [
        halves[a][p] == 0 and halves[b][q] == 0
        for a, b, p, q in zip(*(whole.frame[name] for name in ("relation1", "relation2", "pair1", "pair2")))
    ]
    ratings = whole.select(np.array(inside))
    other = {"half 0": vectors["FV"]["half 0"], "half 1": vectors["FFV"]["half 1"]}
    levels = [
        pair_level(lens_of(model), some, ratings, halves)[0]["composites"]["all"].value
        for some in (vectors["FFV"], other, other | {"half 1": vectors["FV"]["half 1"]})
    ]
    assert levels[0] == levels[1] != levels[2]


def test_a_relation_without_vectors_is_named(model, vectors):
    few = {code: RELATIONS[code] for code in CODES[:4]}
    with pytest.raises(InputError, match="People rated relation '5a', of which there is no vector"):
        compare(model, vectors, few, made_ratings())
