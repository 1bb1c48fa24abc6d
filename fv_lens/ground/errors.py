"""The errors fv_lens raises on purpose, and the checks of numbers behind the most frequent one."""

import math
import numbers
import operator
from contextlib import suppress
from typing import SupportsFloat, SupportsIndex


class InputError(ValueError):
    """Something the caller gave is wrong; the message quotes it, says what was expected and what to do."""


class ParityError(RuntimeError):
    """The engine and a full forward disagree, or an edit changed nothing: the numbers cannot be trusted."""


def whole_number(name: str, value: SupportsIndex, least: int) -> int:
    """`value` as an int; an InputError that calls it `name` unless it is a whole number of at least `least`.

    Example:
        >>> whole_number("n_shots", 10, least=0)
        10
    """
    with suppress(TypeError):
        number = operator.index(value)
        if number >= least and not isinstance(value, bool):
            return number
    raise InputError(f"{name} is {value!r}; give a whole number of at least {least}")


def finite_number(name: str, value: SupportsFloat) -> float:
    """`value` as a float; an InputError that calls it `name` unless it is a finite real number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise InputError(f"{name} is {value!r}; give a finite number")
    return float(value)
