"""What a command hands to the study behind it."""

from collections.abc import Callable
from dataclasses import dataclass

from .folders import OutputFolder


@dataclass(frozen=True)
class Job:
    """The output folder, command line and messages of a study.

    Args:
        folder: for the results.
        command: the command line, for the record.
        tell: called with a line before each step.
    """

    folder: OutputFolder
    command: str
    tell: Callable[[str], None]
