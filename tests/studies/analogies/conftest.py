"""Fits and tuning of a run of analogies, made quick and counted."""

from dataclasses import replace

import pytest

from fv_lens.studies.analogies import library
from fv_lens.vectors.library import Library

from ...analogies.made import vectors_of
from .made import BUNDLED, quick


@pytest.fixture(scope="module")
def model(small_model):
    return small_model


@pytest.fixture(scope="module")
def known():
    """What was fitted in the tests of a module."""
    return {}


@pytest.fixture
def fits(known):
    """Every run is quick, and the same is fitted once; the number of questions of each fit that was asked for."""
    found: list = []
    with quick(found, known=known):
        yield found


@pytest.fixture
def tunes(monkeypatch, model):
    """Tuning gives the vectors of four relations; how often it was asked for."""
    asked_for = []

    def finetune_all(of, relations):
        asked_for.append(tuple(relations))
        vectors = [fv for few in ("abcd", "efgh") for fv in vectors_of(model, few).values()]
        return Library({name: replace(fv, relation=name) for name, fv in zip(relations, vectors)})

    monkeypatch.setattr(library, "relation_names", lambda: BUNDLED)
    monkeypatch.setattr(library, "finetune_all", finetune_all)
    return asked_for
