"""A tiny model, and its vectors of the relations that people rated."""

import pytest

from fv_lens.studies.humans.steps import human_vectors

from ... import tiny
from .made import HEADS, RELATIONS


@pytest.fixture(scope="package")
def model():
    return tiny.build("llama")


@pytest.fixture(scope="package")
def vectors(model):
    return human_vectors(model, RELATIONS, 1, HEADS, steps=3)
