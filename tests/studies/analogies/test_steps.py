"""Affine weights of a study: its folds are kept one by one, so that a run that is stopped loses one at most."""

from dataclasses import replace

import pytest

from fv_lens.analogies.affine_map import Affine
from fv_lens.analogies.fit import Fitting
from fv_lens.analogies.fit_affine import AffineFits
from fv_lens.studies.analogies import steps
from fv_lens.studies.analogies.steps import affine_names, fit_affine_all
from fv_lens.studies.stages import PARTS, Stages

from ...analogies.made import TRAIN, VALIDATION, equal, vectors_of

SEED = 3
KINDS = {"affine, diagonal": [Affine(), Affine(ridge=1.0)], "affine, full": [Affine(full=True)]}


@pytest.fixture
def fitted_folds(monkeypatch):
    """The folds that are fitted, in order: (shots, fold); with an `until`, the one there is stopped."""
    folds, maps = [], AffineFits.maps

    def counted(self, n_shots, fold, candidates):
        if len(folds) == counted.until:
            raise KeyboardInterrupt
        folds.append((n_shots, fold))
        return maps(self, n_shots, fold, candidates)

    counted.until = None
    monkeypatch.setattr(AffineFits, "maps", counted)
    monkeypatch.setattr(steps, "AFFINE", KINDS)
    monkeypatch.setattr(steps, "AffineFits", lambda *parts, how: AffineFits(*parts, replace(how, n_folds=2, steps=4)))
    return folds, counted


def test_affine_weights_of_a_run_that_is_stopped_go_on_from_the_last_fold(llama, tmp_path, fitted_folds):
    folds, counted = fitted_folds
    work = llama, vectors_of(llama), TRAIN, VALIDATION, SEED
    whole = fit_affine_all(*work, Stages(tmp_path / "whole", {"a": "plan"}))
    every = [(n_shots, fold) for n_shots in (0, 1) for fold in (None, 0, 1)]
    assert folds == every and list(whole) == affine_names()
    counted.until = 10
    with pytest.raises(KeyboardInterrupt):
        fit_affine_all(*work, Stages(tmp_path / "stopped", {"a": "plan"}))
    assert len(list((tmp_path / "stopped" / PARTS).iterdir())) == 4 and folds == every + every[:4]
    counted.until = None
    again = fit_affine_all(*work, Stages(tmp_path / "stopped", {"a": "plan"}))
    assert folds == every + every and all(equal(again[name].of("f"), whole[name].of("f")) for name in whole)
    names = {path.name for path in (tmp_path / "stopped").iterdir()}
    assert names == {"affine.safetensors", "timings.json"}, "no part is left"


def test_both_prompts_have_the_maps_that_are_fitted_in_one_go(llama, tmp_path, fitted_folds):
    found = fit_affine_all(llama, vectors_of(llama), TRAIN, VALIDATION, SEED, Stages(tmp_path, {}))
    fits = AffineFits(llama, vectors_of(llama), TRAIN, VALIDATION, Fitting(2, 4, SEED))
    for n_shots, prompt in enumerate(("zero-shot", "one-shot")):
        for name, how in fits.fitted(n_shots, KINDS).items():
            for family in (None, *how.fold_of):
                assert equal(found[f"{name}, {prompt}"].of(family), how.of(family))
            assert found[f"{name}, {prompt}"].record == how.record
