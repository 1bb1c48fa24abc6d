"""A tiny model, and a working directory for commands on it."""

from functools import partial

import pytest

from fv_lens.models import load
from fv_lens.studies.reproduce import files, setup
from fv_lens.studies.reproduce.setup import Settings

from .small import SMALL, studied


@pytest.fixture(scope="module")
def small_model():
    """A tiny model to which half of all tokens end an answer, so that some answers are right as a whole."""
    return studied()


@pytest.fixture
def without_page(monkeypatch):
    """The page takes longest; most runs here are not about it."""
    monkeypatch.setattr(files, "write_table_report", lambda path, *args, **more: path.write_text(""))


@pytest.fixture
def here(tmp_path, monkeypatch, small_model):
    """An empty working directory, a tiny model and a small study."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load, "load_model", lambda name, **options: small_model)
    monkeypatch.setattr(setup, "Settings", partial(Settings, **SMALL | dict(steps=2, curve=(1,))))
    return tmp_path


@pytest.fixture
def no_model(monkeypatch):
    def load_model(name, **options):
        pytest.fail("the model was loaded, though the input was known to be wrong")

    monkeypatch.setattr(load, "load_model", load_model)
