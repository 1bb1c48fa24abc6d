"""Distinct names, and those of files for vectors."""

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import count


def distinct(names: Iterable[str], taken: Collection[str] = ()) -> list[str]:
    """The names, each with a number behind it where it is taken or came before."""
    used = dict.fromkeys(taken)
    for name in names:
        numbered = (f"{name}-{i}" for i in count(2))
        used[name if name not in used else next(one for one in numbered if one not in used)] = None
    return list(used)[len(set(taken)) :]


def file_names(names: Sequence[str]) -> list[str]:
    """A file name for each relation's vector, numbered where two would have the same."""
    return [f"{name}.safetensors" for name in distinct(re.sub(r"[^\w.-]+", "-", name) for name in names)]
