"""Neutral text: beginnings of everyday sentences that have nothing to do with any relation."""

from importlib import resources


def neutral_texts() -> tuple[str, ...]:
    """The bundled beginnings of sentences, each of which goes on with a word; written for fv_lens."""
    file = resources.files("fv_lens.datasets") / "bundled" / "neutral.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())
