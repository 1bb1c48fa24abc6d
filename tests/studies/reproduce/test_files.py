"""The library is of the better start, whatever breaks, and every vector has a file of its own."""

import numpy as np
import pytest

from fv_lens.ground.names import file_names
from fv_lens.studies.reproduce.files import Found
from fv_lens.studies.reproduce.steps import packed

from ...vectors.tuned import tuned


def step(losses: list[float | None]):
    return packed([f"r{i}" for i in range(len(losses))], tuned(losses), 4)


@pytest.mark.parametrize(
    ("zero", "fv", "library"),
    [
        ([1.0, 2.0, 9.0], [0.5, 1.5, 8.0], "from-fv"),
        ([1.0, 2.0, 9.0], [1.5, 2.5, None], "from-zero"),
        ([1.0, 2.0, None], [0.5, 1.5, 90.0], "from-fv"),
        ([1.0, 2.0], [1.0, 2.0], "from-zero"),
        ([None, None], [None, None], "from-zero"),
    ],
    ids=str,
)
def test_the_library_is_of_the_start_that_is_better_where_both_are_whole(zero, fv, library):
    tuning = {"from-zero": step(zero), "from-fv": step(fv)}
    found = Found(1, {1: 0.0}, [], ({}, {}), tuning, {}, {}, np.zeros(0), {})
    assert found.library == library
    alone = {"from-zero": tuning["from-zero"]}
    assert Found(1, {1: 0.0}, [], ({}, {}), alone, {}, {}, np.zeros(0), {}).library == "from-zero"


def test_no_two_relations_have_vectors_of_one_file_name():
    for names in (["a b", "a-b", "a-b-2"], ["a-b-2", "a b", "a-b"], ["a"] * 3):
        assert len(set(file_names(names))) == 3
