"""A tiny model on disk, small relations and a small study, for commands whose workers are other processes."""

import os
from functools import partial
from pathlib import Path

import pytest

from fv_lens.studies.reproduce import setup
from fv_lens.studies.reproduce.setup import Settings

from ... import tiny
from ..commands import write
from ..small import SMALL, relations

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """A folder of tiny models by name; "mistral" sees a window shorter than its prompts."""
    folder = tmp_path_factory.mktemp("networks")
    for name in ("llama", "mistral"):
        net = tiny.network(name)
        net.config.architectures = [type(net).__name__]
        net.save_pretrained(folder / name)
        tiny.tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture
def there(tmp_path, monkeypatch):
    """An empty working directory and a small study, of which workers find the code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])))
    monkeypatch.setattr(setup, "Settings", partial(Settings, **SMALL | dict(steps=2, curve=(1,))))
    return tmp_path


@pytest.fixture
def given(there, networks):
    """Arguments of `reproduce` for the tiny llama and two relations, on one thread."""
    names = ",".join(write(relation) for relation in relations()[:2])
    return ["--relations", names, "--model", str(networks / "llama"), "--seeds", "2", "--threads", "1"]
