"""Neutral text: beginnings of everyday sentences that have nothing to do with any relation."""

from .bundled_files import bundled_file


def neutral_texts() -> tuple[str, ...]:
    """The bundled beginnings of sentences, each of which goes on with a word; written for fv_lens."""
    return tuple(bundled_file("neutral.txt").read_text(encoding="utf-8").splitlines())
