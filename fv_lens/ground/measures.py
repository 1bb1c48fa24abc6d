"""Measures of completed words and of choices: the title, column heading and unit of each."""

from typing import NamedTuple


class Measure(NamedTuple):
    """A measured quantity: its heading, its name in a table's column, and whether it is a share (of words) or nats.

    Example:
        >>> MEASURES["accuracy"].unit(), MEASURES["log_prob"].column
        ('share of words', 'log-prob, nats')
    """

    heading: str
    short: str
    share: bool = True

    def unit(self, of: str = "words") -> str:
        """The unit of an axis; a share is one of the things counted, such as words."""
        return f"share of {of}" if self.share else "nats"

    @property
    def column(self) -> str:
        """The heading of a table's column, with the unit where it is not a share."""
        return self.short if self.share else f"{self.short}, {self.unit()}"


MEASURES = {
    "accuracy": Measure("Whole answers right", "whole answer"),
    "first_token_accuracy": Measure("First tokens of answers right", "first token"),
    "log_prob": Measure("Log-probability of the answer", "log-prob", share=False),
    "choice": Measure("Right choices", "right choice"),
    "choice_minus_plain": Measure("Right choices by what the vector adds", "right choice by what the vector adds"),
    "choice_both_ways": Measure("Right choices, both directions summed", "right choice, both directions"),
    "divergence": Measure("Divergence of the next token in neutral text", "divergence", share=False),
    "others": Measure("Words of other relations right", "others right"),
    "lost": Measure("Words of other relations lost", "lost"),
    "wrong_way": Measure("Own answers made less probable", "wrong way"),
}
COMPLETED = ("accuracy", "first_token_accuracy", "log_prob")  # of a word that the model completes
CHOSEN = ("choice", "choice_minus_plain", "choice_both_ways")  # of a question with choices
ELSEWHERE = ("divergence", "others", "lost", "wrong_way")  # side effects of a vector; `lost` is a difference
