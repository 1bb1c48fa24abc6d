"""Instructions in words, "Give the opposite of the word.", one for each bundled relation."""

from functools import cache
from importlib import resources

from ..ground.text_files import parse_json, read_text


@cache
def instructions() -> dict[str, str]:
    """Name of a bundled relation -> what a person would be told to do with its words."""
    file = resources.files("fv_lens.datasets") / "bundled" / "instructions.json"
    return dict(parse_json(read_text(file), what="this file"))
