"""Fits and tuning of a run of analogies, made quick and counted."""

from dataclasses import replace

import pytest

from fv_lens.studies.analogies import library, study

from ...analogies.made import vectors_of
from .made import BUNDLED, quick


@pytest.fixture(scope="module")
def model(small_model):
    return small_model


@pytest.fixture
def fits():
    """Every run is quick; the number of questions of each fit."""
    found: list = []
    with quick(found):
        yield found


@pytest.fixture
def tunes(monkeypatch, model):
    """Tuning gives the vectors of four relations; how often it was asked for."""
    asked_for = []

    def finetune_all(of, names):
        asked_for.append(names)
        return {name: replace(fv, relation=name) for name, fv in zip(names, vectors_of(model).values(), strict=True)}

    for place in (study, library):
        monkeypatch.setattr(place, "relation_names", lambda: BUNDLED)
    monkeypatch.setattr(library, "finetune_all", finetune_all)
    return asked_for
