"""Instructions in words, "Give the opposite of the word.", one for each bundled relation."""

from functools import cache

from .bundled_files import bundled_json


@cache
def instructions() -> dict[str, str]:
    """Name of a bundled relation -> what a person would be told to do with its words."""
    return dict(bundled_json("instructions.json"))
