"""The package's own data files."""

from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from ..ground.text_files import parse_json, read_text


def bundled_file(*place: str) -> Traversable:
    """A bundled file or folder, by the names that lead to it."""
    return resources.files("fv_lens.datasets").joinpath("bundled", *place)


def bundled_json(name: str) -> Any:
    """What a bundled JSON file holds."""
    return parse_json(read_text(bundled_file(name)), name)
