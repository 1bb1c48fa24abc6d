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
    """The folds that are fitted, in order: (shots, fold)."""
    folds, maps = [], AffineFits.maps

    def counted(self, n_shots, fold, candidates):
        folds.append((n_shots, fold))
        return maps(self, n_shots, fold, candidates)

    monkeypatch.setattr(AffineFits, "maps", counted)
    monkeypatch.setattr(steps, "AFFINE", KINDS)
    monkeypatch.setattr(steps, "AffineFits", lambda *parts, how: AffineFits(*parts, replace(how, n_folds=2, steps=4)))
    return folds


def test_affine_weights_of_a_run_that_is_stopped_go_on_from_the_last_fold(llama, tmp_path, fitted_folds, monkeypatch):
    work = llama, vectors_of(llama), TRAIN, VALIDATION, SEED
    whole = fit_affine_all(*work, Stages(tmp_path / "whole", {"a": "plan"}))
    every = [(n_shots, fold) for n_shots in (0, 1) for fold in (None, 0, 1)]
    assert fitted_folds == every and list(whole) == affine_names()
    stopped, run = Stages(tmp_path / "stopped", {"a": "plan"}), Stages.run

    def stop_at_the_fifth(self, name, *args):
        if len(fitted_folds) == len(every) + 4:
            raise KeyboardInterrupt
        return run(self, name, *args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Stages, "run", stop_at_the_fifth)
        fit_affine_all(*work, stopped)
    parts = sorted((tmp_path / "stopped" / PARTS).iterdir())
    assert len(parts) == 4 and fitted_folds == every + every[:4]
    kept = parts[0].read_bytes()
    for _ in range(2):
        again = fit_affine_all(*work, stopped)
        assert fitted_folds == every + every, "nothing is fitted twice"
        for name, how in whole.items():
            assert all(equal(again[name].of(family), how.of(family)) for family in (None, *how.fold_of))
        names = {path.name for path in (tmp_path / "stopped").iterdir()}
        assert names == {"affine.safetensors", "timings.json"}, "no part is left"
        parts[0].parent.mkdir()  # as if the process had been killed before this part was taken away
        parts[0].write_bytes(kept)


def test_both_prompts_have_the_maps_that_are_fitted_in_one_go(llama, tmp_path, fitted_folds):
    found = fit_affine_all(llama, vectors_of(llama), TRAIN, VALIDATION, SEED, Stages(tmp_path, {}))
    fits = AffineFits(llama, vectors_of(llama), TRAIN, VALIDATION, Fitting(2, 4, SEED))
    for n_shots, prompt in enumerate(("zero-shot", "one-shot")):
        for name, how in fits.fitted(n_shots, KINDS).items():
            for family in (None, *how.fold_of):
                assert equal(found[f"{name}, {prompt}"].of(family), how.of(family))
            assert found[f"{name}, {prompt}"].record == how.record
