"""Distinct names, and those of files for vectors."""

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import count

LONGEST = 160  # bytes of a name in that of a file: file systems take 255 with what is put behind it


def distinct(names: Iterable[str], taken: Collection[str] = ()) -> list[str]:
    """The names, each with a number behind it where it is taken or came before."""
    used = dict.fromkeys(taken)
    for name in names:
        numbered = (f"{name}-{i}" for i in count(2))
        used[name if name not in used else next(one for one in numbered if one not in used)] = None
    return list(used)[len(set(taken)) :]


def file_names(names: Sequence[str]) -> list[str]:
    """A file name for each relation's vector, numbered where two would have the same, upper and lower case alike."""
    taken: set[str] = set()
    files = []
    for name in names:
        plain = re.sub(r"[^\w.-]+", "-", name).lstrip(".").encode()[:LONGEST].decode(errors="ignore") or "vector"
        numbered = (plain if i == 1 else f"{plain}-{i}" for i in count(1))
        files.append(next(file for file in numbered if file.casefold() not in taken))
        taken.add(files[-1].casefold())
    return [f"{file}.safetensors" for file in files]
