"""`fv-lens humans`: its table, and what is missing."""

import pytest
from typer.testing import CliRunner

from fv_lens.ground.errors import InputError
from fv_lens.models import load
from fv_lens.studies import cli
from fv_lens.studies.humans import study
from fv_lens.studies.humans.steps import human_vectors

from .made import HEADS, RELATIONS, made_ratings


def test_the_command_says_what_is_missing(tmp_path):
    found = CliRunner().invoke(cli.app, ["humans", str(tmp_path / "nowhere")])
    assert found.exit_code == 2 and "is not a folder; give the path of the SemEval-2012" in found.output
    found = CliRunner().invoke(cli.app, ["humans", str(tmp_path)])
    assert found.exit_code == 2 and "has no subcategories-definitions.txt" in found.output


@pytest.mark.parametrize("models", [["--model", "some"], ["--models", "some,other"]], ids=str)
def test_the_models_are_loaded_in_the_dtype_that_is_asked_for(tmp_path, monkeypatch, models):
    monkeypatch.setattr("fv_lens.datasets.semeval.load_semeval", lambda folder: RELATIONS)
    monkeypatch.setattr("fv_lens.datasets.ratings.load_ratings", lambda folder: made_ratings())
    asked_for = []

    def load_model(name, *, dtype):
        asked_for.append((name, dtype))
        raise InputError("no such model")

    monkeypatch.setattr(load, "load_model", load_model)
    options = ["humans", str(tmp_path), *models, "--dtype", "bfloat16", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(cli.app, options).exit_code == 2
    assert asked_for == [(name, "bfloat16") for name in models[1].split(",")]


@pytest.mark.slow
def test_the_command_prints_the_table(model, tmp_path, monkeypatch):
    monkeypatch.setattr("fv_lens.datasets.semeval.load_semeval", lambda folder: RELATIONS)
    monkeypatch.setattr("fv_lens.datasets.ratings.load_ratings", lambda folder: made_ratings())
    monkeypatch.setattr(load, "load_model", lambda name, dtype: model)
    monkeypatch.setattr(study, "place", lambda model, folder: (1, HEADS))
    monkeypatch.setattr(study, "human_vectors", lambda *args, **how: human_vectors(*args, **how, steps=1))
    found = CliRunner().invoke(cli.app, ["humans", str(tmp_path), "--out", str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    assert "Spearman's rho with people" in found.output and "mean difference" in found.output
