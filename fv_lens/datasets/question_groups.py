"""Groups of analogy questions that are reported beside each other: near and far, or the levels of a test."""

from collections.abc import Sequence

import numpy as np

from ..ground.errors import InputError
from .questions import Question


def group_names(questions: Sequence[Question]) -> dict[str, str]:
    """The group of each label of the questions, in the order of the groups; empty unless there are two groups.

    Words are groups themselves, in the order in which they first appear. Numbers make two groups: up to their median
    over the questions, and above it (below it, and from it on, where none is above). A question without a label is in
    no group.

    Raises:
        InputError: some labels are numbers and others are words.

    Example:
        >>> group_names([Question(("a", "b"), target="c", answers=["d"], label=x) for x in ("0.2", "0.5", "0.9")])
        {'0.2': '0.5 or less', '0.5': '0.5 or less', '0.9': 'more than 0.5'}
    """
    labels = [question.label for question in questions if question.label]
    numbers = {label: number for label in labels if (number := _number(label)) is not None}
    words = [label for label in dict.fromkeys(labels) if label not in numbers]
    if numbers and words:
        raise InputError(
            f"The distance is a number in some questions ({next(iter(numbers))!r}) and a word in others "
            f"({words[0]!r}); give either numbers or words."
        )
    if not numbers:
        return {word: word for word in words} if len(words) > 1 else {}
    median = float(np.median([numbers[label] for label in labels]))
    if max(numbers.values()) > median:
        ends, is_low = (f"{median:g} or less", f"more than {median:g}"), lambda number: number <= median
    else:
        ends, is_low = (f"less than {median:g}", f"{median:g} or more"), lambda number: number < median
    names = {label: ends[not is_low(number)] for label, number in sorted(numbers.items(), key=lambda item: item[1])}
    return names if len(set(names.values())) == 2 else {}


def _number(label: str) -> float | None:
    try:
        number = float(label)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
