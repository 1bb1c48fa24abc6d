"""Vectors against people: rho, Mantel's p, intervals and what the ratings file says, against SciPy and simulations."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from fv_lens.datasets.ratings import COLUMNS, HumanMatrix, load_ratings
from fv_lens.evaluation.humans import compare_to_humans, crossed, difference
from fv_lens.evaluation.rank_correlation import clustered_rho, mantel_p, matrix_rho, rho_interval
from fv_lens.evaluation.similarity import Similarity, mds, similarity_matrix, stability
from fv_lens.ground import scores
from fv_lens.ground.errors import InputError
from fv_lens.vectors.function_vector import FunctionVector

NAMES = tuple("abcdefgh")


def vectors(seed=0, n=8, shared=0.0):
    rng = torch.Generator().manual_seed(seed)
    return {name: FunctionVector(torch.randn(12, generator=rng) + shared, 3, model="m") for name in NAMES[:n]}


def symmetric(rng, n=8):
    x = rng.standard_normal((n, 3))
    return -np.linalg.norm(x[:, None] - x[None], axis=-1)


def people(values, names=NAMES, ceiling=None):
    return HumanMatrix(tuple(names), values, np.ones_like(values, dtype=int), ceiling)


def test_the_cosine_is_that_of_centred_vectors():
    some = vectors(shared=5.0)
    matrix = torch.stack([fv.vector for fv in some.values()]).double()
    for center in (True, False):
        rows = matrix - matrix.mean(0) if center else matrix
        expected = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
        found = similarity_matrix(some, center=center)
        np.testing.assert_allclose(found.values, expected, atol=1e-12)
    assert found.values.min() > 0.5 > similarity_matrix(some).values[0, 1]
    assert list(found.to_frame().columns) == list(NAMES)


@pytest.mark.slow
def test_euclidean_is_the_negative_distance():
    found = similarity_matrix(vectors(), "euclidean", center=False).values
    a, b = (fv.vector.double() for fv in list(vectors().values())[:2])
    assert found[0, 1] == pytest.approx(-float((a - b).norm())) and found[0, 0] == 0


@pytest.mark.slow(but=1)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: {}, "at least two vectors"),
        (lambda v: {"a": v["a"]}, "at least two vectors"),
        (lambda v: v | {"b": FunctionVector(torch.ones(12), 4, model="m")}, "Vectors of layer 3 .* and 4"),
        (lambda v: v | {"b": FunctionVector(torch.ones(12), 3, model="n")}, "Vectors of model 'm' .* and 'n'"),
        (lambda v: v | {"b": FunctionVector(torch.ones(12), 3, model="m", bos=True)}, "of bos None .* and True"),
        (lambda v: v | {"b": FunctionVector(torch.ones(11), 3, model="m")}, "'a' has 12 numbers and 'b' 11"),
    ],
)
def test_vectors_that_do_not_compare(change, message):
    with pytest.raises(InputError, match=message):
        similarity_matrix(change(vectors()))


def test_an_unknown_metric():
    with pytest.raises(InputError, match="metric is 'dot'; choose from cosine, euclidean"):
        similarity_matrix(vectors(), "dot")


def test_rho_is_scipys_over_the_rated_cells_of_the_upper_triangle():
    rng = np.random.default_rng(0)
    mine, theirs = symmetric(rng), symmetric(rng)
    upper = np.triu_indices(8, 1)
    assert matrix_rho(mine, theirs) == pytest.approx(stats.spearmanr(mine[upper], theirs[upper]).statistic)
    theirs[0, 1] = theirs[1, 0] = np.nan
    known = np.isfinite(theirs[upper])
    expected = stats.spearmanr(mine[upper][known], theirs[upper][known]).statistic
    assert matrix_rho(mine, theirs) == pytest.approx(expected)
    assert compare_to_humans(Similarity(NAMES, mine, "cosine", True), people(theirs)).n_cells == 27


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


@pytest.mark.slow
def test_mantels_p_is_uniform_when_nothing_is_shared():
    rng = np.random.default_rng(1)
    found = [mantel_p(symmetric(rng, 10), symmetric(rng, 10), 199, seed=i) for i in range(400)]
    # p takes the values 1/200, 2/200, ...; a uniform share of 1/400 makes it continuous.
    spread = np.array(found) - rng.uniform(0, 1 / 200, len(found))
    assert stats.kstest(spread, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.08


def test_mantels_p_is_small_when_something_is_and_never_zero():
    mine = symmetric(np.random.default_rng(2), 10)
    assert mantel_p(mine, mine, 199) == 1 / 200


def test_mantels_p_is_that_of_all_orders_of_the_relations():
    """A relation keeps its row and its column: both matrices have some that are near to all others, which shows it."""
    rng, upper = np.random.default_rng(8), np.triu_indices(5, 1)
    for _ in range(4):
        mine, theirs = (symmetric(rng, 5) / 4 + near[:, None] + near for near in rng.standard_normal((2, 5)))
        orders = [list(order) for order in itertools.permutations(range(5))]
        rhos = [stats.spearmanr(mine[np.ix_(order, order)][upper], theirs[upper]).statistic for order in orders]
        assert mantel_p(mine, theirs) == pytest.approx(np.mean(np.array(rhos) >= rhos[0] - 1e-12), abs=0.02)


def truth(rng, n, noise):
    x = rng.standard_normal((n, 4))
    y = x + noise * rng.standard_normal((n, 4))
    apart = [-np.linalg.norm(z[:, None] - z[None], axis=-1) for z in (x, y)]
    return apart


@pytest.mark.slow
def test_the_interval_of_rho_holds_the_truth_at_ten_relations():
    rng = np.random.default_rng(3)
    rho = matrix_rho(*truth(rng, 500, 1.0))
    held = [low <= rho <= high for low, high in (rho_interval(*truth(rng, 10, 1.0)) for _ in range(300))]
    assert 0.91 < np.mean(held) < 0.99


@pytest.mark.slow
def test_the_interval_of_a_mean_difference_holds_the_truth():
    rng = np.random.default_rng(4)
    held = []
    for seed in range(2000):
        both = rng.standard_normal((2, 100)) * [[1.0], [2.0]] + rng.standard_normal(100) + [[0.3], [0.0]]
        found = scores.paired_difference(both[0], both[1], seed)
        held.append(found.low <= 0.3 <= found.high)
    assert 0.94 <= np.mean(held) <= 0.96


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


def compared(rng, n=20, n_pairs=6, n_comparisons=600):
    """Comparisons of random pairs: predicted, rated, relations of either side; errors are of relations and of pairs."""
    relation = np.repeat(np.arange(n), n_pairs)
    truth = rng.standard_normal((n, 3))[relation] + 0.8 * rng.standard_normal((n * n_pairs, 3))
    model = truth + rng.standard_normal((n, 3))[relation] + rng.standard_normal(truth.shape)
    i, j = rng.integers(0, n * n_pairs, (2, n_comparisons))
    i, j = i[i != j], j[i != j]
    predicted, rated = (-np.linalg.norm(x[i] - x[j], axis=1) for x in (model, truth))
    return predicted, rated + 0.5 * rng.standard_normal(len(i)), relation[i], relation[j]


def test_the_interval_of_comparisons_leaves_out_whole_relations():
    a, b, first, second = compared(np.random.default_rng(7))
    found, z = clustered_rho(a, b, first, second), []
    for one in range(20):
        kept = [i for i in range(len(a)) if one not in (first[i], second[i])]
        z.append(np.arctanh(stats.spearmanr(a[kept], b[kept]).statistic))
    rho = stats.spearmanr(a, b).statistic
    half = 1.959963984540054 * np.sqrt(19 / 20 * 20 * np.var(z))
    assert found.value == pytest.approx(rho) and found.n == len(a)
    assert (found.low, found.high) == pytest.approx(tuple(np.tanh([np.arctanh(rho) - half, np.arctanh(rho) + half])))
    assert found == clustered_rho(a, b, second, first)
    with pytest.raises(
        InputError, match="comparisons are of 2 relations; an interval over relations needs three or more"
    ):
        clustered_rho(a, b, first % 2, second % 2)


@pytest.mark.slow
def test_the_interval_of_comparisons_holds_the_truth():
    data = [compared(np.random.default_rng([8, i])) for i in range(200)]
    truth = stats.spearmanr(*(np.concatenate(x) for x in list(zip(*data))[:2])).statistic
    held = [found.low <= truth <= found.high for found in (clustered_rho(*one) for one in data)]
    assert 0.90 < np.mean(held) < 0.99


def test_points_keep_near_what_is_alike():
    x = np.array([[0.0, 0], [0, 1], [5, 5], [5, 6]])
    found = mds(Similarity(tuple("abcd"), -np.linalg.norm(x[:, None] - x[None], axis=-1), "euclidean", False))
    apart = np.linalg.norm(found.to_numpy()[:, None] - found.to_numpy()[None], axis=-1)
    np.testing.assert_allclose(apart, np.linalg.norm(x[:, None] - x[None], axis=-1), atol=0.1)


def test_stability_over_seeds():
    one = similarity_matrix(vectors())
    assert stability([one, one]).value == pytest.approx(1)
    found = stability([one, similarity_matrix(vectors(1)), similarity_matrix(vectors(2))])
    assert found.n == 3 and found.low <= found.value <= found.high < 0.9
    with pytest.raises(InputError, match="two seeds or more"):
        stability([one])


LINES = [
    ("1a", "1a", "dog", "poodle", "cat", "tabby", 6.0, 10), ("1a", "2a", "dog", "poodle", "wheel", "car", 2.0, 11),
    ("2a", "1a", "hand", "arm", "cat", "tabby", 3.0, 12), ("2a", "2a", "hand", "arm", "wheel", "car", 5.0, 13),
    ("1a", "3a", "dog", "poodle", "big", "huge", 1.0, 9), ("3a", "2a", "big", "huge", "wheel", "car", 2.5, 9),
]  # fmt: skip


def write(path, columns=COLUMNS, lines=LINES):
    pd.DataFrame(lines, columns=COLUMNS)[list(columns)].to_csv(path, index=False)
    return path


def test_the_matrix_is_the_mean_of_the_comparisons_of_two_relations(tmp_path):
    write(tmp_path / "relsim_mean_ratings.csv")
    found = load_ratings(tmp_path)
    assert len(found) == 6 and found.main == ["1a", "2a", "3a"] and ("1a", ("dog", "poodle")) in found.pairs
    human = found.matrix()
    assert human.to_frame().loc["1a", "2a"] == human.to_frame().loc["2a", "1a"] == 2.5
    assert human.counts.tolist() == [[1, 2, 1], [2, 1, 1], [1, 1, 0]] and np.isnan(human.values[2, 2])
    assert human.ceiling is None
    assert load_ratings(tmp_path / "relsim_mean_ratings.csv").matrix(["1a", "3a"]).values[0, 1] == 1.0


@pytest.mark.slow
def test_a_ceiling_is_near_one_where_people_agree_and_lower_where_they_do_not(tmp_path):
    rng, found = np.random.default_rng(8), []
    for noise in (0.01, 2.0):
        lines = [
            (a, b, "x", "y", "z", f"w{i}",
             np.clip(1 + abs(NAMES.index(a) - NAMES.index(b)) + noise * rng.standard_normal(), 1, 7), 10)
            for a in NAMES for b in NAMES if a < b for i in range(8)
        ]  # fmt: skip
        found.append(load_ratings(write(tmp_path / f"{noise}.csv", lines=lines)).matrix().ceiling)
    assert found[0] > 0.97 and found[1] < found[0]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(tmp_path, column):
    path = write(tmp_path / "r.csv", [name for name in COLUMNS if name != column])
    with pytest.raises(InputError, match=f"has no column '{column}'"):
        load_ratings(path)


def test_other_files_that_are_no_ratings(tmp_path):
    with pytest.raises(InputError, match="has no relsim_mean_ratings.csv"):
        load_ratings(tmp_path)
    lines = [(*LINES[0][:6], "high", 10)]
    with pytest.raises(InputError, match="line 2 has mean_rating 'high'; expected a number"):
        load_ratings(write(tmp_path / "r.csv", lines=lines))
    with pytest.raises(InputError, match="No comparison of relation '9z' was rated"):
        load_ratings(write(tmp_path / "s.csv")).matrix(["1a", "9z"])
