"""Vectors are compared with people relation by relation, by name, and two kinds of them pair by pair."""

import numpy as np
import pytest

from fv_lens.evaluation.humans import compare_to_humans, crossed, difference
from fv_lens.evaluation.rank_correlation import matrix_rho, rho_interval
from fv_lens.evaluation.similarity import Similarity, similarity_matrix
from fv_lens.ground.errors import InputError

from .made import NAMES, people, symmetric, vectors


def test_people_are_matched_by_name_not_by_place():
    some = vectors()
    whole = similarity_matrix(some)
    turned = people(whole.values[::-1, ::-1], NAMES[::-1])
    found = compare_to_humans(some, turned, n_permutations=500)
    assert found.rho == pytest.approx(1) and found.p < 0.01 and found.low > 0.999
    assert "rho 1.00" in str(found)


def test_a_relation_without_a_vector_is_named():
    with pytest.raises(InputError, match="no vector of 'h'; there are a, b"):
        compare_to_humans(vectors(n=7), people(symmetric(np.random.default_rng(0))))


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("rated", [np.ones((8, 8)), np.full((8, 8), np.nan)])
def test_where_there_is_no_rho_there_is_no_p(rated):
    with pytest.raises(InputError, match="Spearman's rho is undefined"):
        compare_to_humans(vectors(), people(rated))


def test_vectors_that_are_all_alike_have_no_rho():
    same = dict.fromkeys(NAMES, vectors()["a"])
    with pytest.raises(InputError, match="Spearman's rho is undefined"):
        compare_to_humans(same, people(symmetric(np.random.default_rng(0))))


def test_a_difference_is_paired_and_turns_round():
    rng, names = np.random.default_rng(5), tuple(map(str, range(20)))
    theirs = symmetric(rng, 20)
    near, far = (Similarity(names, theirs + noise * symmetric(rng, 20), "cosine", True) for noise in (0.1, 3.0))
    there, back = difference(near, far, people(theirs, names)), difference(far, near, people(theirs, names))
    assert there.value > 0 and there.low > 0
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    assert there.value == pytest.approx(matrix_rho(near.values, theirs) - matrix_rho(far.values, theirs))


def test_crossed_parts_of_one_kind_are_that_kind():
    rng = np.random.default_rng(6)
    mine, theirs = Similarity(NAMES, symmetric(rng), "cosine", True), people(symmetric(rng))
    found = crossed([(mine, theirs), (mine, theirs)])
    assert found.value == pytest.approx(matrix_rho(mine.values, theirs.values))
    assert (found.low, found.high) == pytest.approx(rho_interval(mine.values, theirs.values))
