"""The rows of a study's table: the heading of each in figures, where its vectors are added, and its comparisons.

Every row is listed once, here; table, figures, pages and the cost estimate read this list.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from .baselines import names

Kind = Literal["prompting", "function vector", "fine-tuned", "baseline", "control"]
Place = Literal["summed", "heads", "tuned"]


class StudyRow(NamedTuple):
    """A row of the table.

    Args:
        name: the name, or a regular expression if it holds a number of shots, which the study's settings decide.
        kind: the heading under which figures draw it.
        place: where its vectors are added: at the layer of the summed vectors, at their heads' own layers, or at that
            of the tuned ones; None for prompts without a vector, and for baselines, which are asked by themselves.
        drawn: whether several draws of the vectors are averaged.
    """

    name: str
    kind: Kind
    place: Place | None = None
    drawn: bool = False


class Comparison(NamedTuple):
    """A difference of two rows, paired over relations: `row` minus `other`, whose names may hold a number of shots.

    `short`: whether short tables show it.
    """

    row: str
    other: str
    short: bool = False

    def names(self, shots: int, pairs: int, all_pairs: int) -> tuple[str, str]:
        """Both rows in a study with `shots` demonstrations, and with as many as tuning sees, train and all."""
        row, other = (name.format(shots=shots, pairs=pairs, all=all_pairs) for name in (self.row, self.other))
        return row, other


FEW_SHOT = r"\d+-shot"
BEST_BASELINE = "best baseline"  # of `BASELINES`, that of the highest mean over relations, in hindsight
ROWS = (
    StudyRow("zero-shot", "prompting"),
    StudyRow(FEW_SHOT, "prompting"),
    StudyRow(f"{FEW_SHOT}, shuffled", "prompting"),
    StudyRow("FV, strength 1", "function vector", "summed"),
    StudyRow("FV", "function vector", "summed"),
    StudyRow("distributed FV", "function vector", "heads"),
    StudyRow("FV of own heads", "function vector", "summed"),
    StudyRow("FFV from FV", "fine-tuned", "tuned"),
    StudyRow("FFV from zero", "fine-tuned", "tuned"),
    StudyRow("FFV from random", "fine-tuned", "tuned"),
    *(StudyRow(name, "baseline") for name in (*names.BASELINES, BEST_BASELINE)),
    StudyRow("mean of FFVs", "control", "tuned"),
    StudyRow("pooled FFV", "control", "tuned"),
    StudyRow("FFV of shuffled pairs", "control", "tuned"),
    StudyRow("another relation's FFV", "control", "tuned", drawn=True),
    StudyRow("FV of random heads", "control", "summed", drawn=True),
    StudyRow("random vector", "control", "tuned", drawn=True),
)
# Shown beside the vectors of a library.
LIBRARY_CONTROLS = ("zero-shot", FEW_SHOT, "another relation's FFV", "random vector")
TUNED = {  # a study's stage -> the row of its vectors
    "from-zero": "FFV from zero", "from-fv": "FFV from FV", "from-random": "FFV from random",
    "shuffled": "FFV of shuffled pairs",
}  # fmt: skip
COMPARISONS = (
    Comparison("FFV from FV", "FV", short=True),
    Comparison("FFV from FV", "FV, strength 1", short=True),
    Comparison("FFV from FV", "{shots}-shot", short=True),
    Comparison("FFV from FV", "{pairs}-shot", short=True),
    Comparison("FFV from FV", "{all}-shot", short=True),
    Comparison("FFV from FV", BEST_BASELINE, short=True),
    Comparison("FFV from FV", "pooled FFV", short=True),
    Comparison("FFV from FV", "FFV of shuffled pairs", short=True),
    Comparison("FFV from FV", "mean of FFVs"),
    Comparison("FFV from FV", "FFV from zero", short=True),
    Comparison("FFV from zero", "FV", short=True),
    Comparison("FFV from zero", "FV, strength 1"),
    Comparison("FFV from zero", "{shots}-shot"),
    Comparison("FFV from zero", "{pairs}-shot"),
    Comparison("FFV from zero", "{all}-shot"),
    Comparison("FFV from zero", BEST_BASELINE, short=True),
    *(Comparison("FFV from zero", name) for name in names.BASELINES),
    Comparison("FFV from zero", "pooled FFV", short=True),
    Comparison("FFV from zero", "FFV of shuffled pairs", short=True),
    Comparison("FFV from zero", "mean of FFVs"),
    Comparison("FFV from zero", "another relation's FFV"),
    Comparison("FFV from zero", "FFV from random"),
    Comparison("FV", "FV of random heads"),
    Comparison("FV", "FV of own heads"),
    Comparison("distributed FV", "FV"),
    Comparison("{shots}-shot", "{shots}-shot, shuffled"),
)


def of_kind(kind: Kind, names: Iterable[str]) -> list[str]:
    """The names of rows of a kind, in the order of `ROWS`."""
    names = list(names)
    return [name for row in ROWS if row.kind == kind for name in matching(row.name, names)]


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that match a regular expression as a whole, in their order."""
    return [name for name in names if re.fullmatch(pattern, name)]


def deal(row: str, seed: int) -> str:
    """The name of a row whose pairs were divided again, with another seed."""
    return f"{row}, deal {seed}"
