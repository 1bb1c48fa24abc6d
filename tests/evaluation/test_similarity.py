"""How alike vectors are, at what points they lie, and how stable that is over seeds."""

import numpy as np
import pytest
import torch

from fv_lens.evaluation.similarity import Similarity, mds, similarity_matrix, stability
from fv_lens.ground.errors import InputError
from fv_lens.vectors.function_vector import FunctionVector

from .made import NAMES, vectors


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
