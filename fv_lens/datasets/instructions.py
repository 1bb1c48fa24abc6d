"""What each bundled relation is asked by in words: an instruction, and the beginning of a sentence.

"Give the opposite of the word." and "The opposite of {word} is".
"""

from functools import cache

from .bundled_files import bundled_json


@cache
def instructions() -> dict[str, str]:
    """Name of a bundled relation -> what a person would be told to do with its words."""
    return dict(bundled_json("instructions.json"))


@cache
def sentences() -> dict[str, str]:
    """Name of a bundled relation -> the beginning of a sentence, with `{word}` in it, that goes on with the answer."""
    return dict(bundled_json("sentences.json"))
