"""The tiny model that the study is of."""

import pytest


@pytest.fixture(scope="module")
def model(small_model):
    return small_model
