"""Tiny models that complete some words right."""

import pytest

from fv_lens.models.lens import lens_of

from .. import oracles


@pytest.fixture
def some_end(llama, monkeypatch):
    """Half of the tokens end an answer: the tiny model completes none before one of its two special tokens."""
    monkeypatch.setattr(lens_of(llama).state, "endings", oracles.some_endings())
