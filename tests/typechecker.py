"""The run-time type checker of the suite: beartype, but what a function refuses in its own words is not its business.

fv_lens has true types, and says in an InputError what is wrong with an argument of another type. A checker that looked
at arguments first would hide those messages. So it looks when a function returns: at what it was given, and at what it
gives. Arguments of a wrong type then either raise (and a test says what), or are found.
"""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def checked(function: Callable) -> Callable:
    """Called by jaxtyping for every function: before it with its arguments alone, and after it with its result, too.

    The first time, what it hands over returns Any; so functions that are annotated to return Any are not checked.
    """
    return function if function.__annotations__.get("return") is Any else beartype(function)
