"""Shards: a share of a study's units for each of several starts, under any scheduler or none."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...ground.errors import InputError


@dataclass(frozen=True)
class Shard:
    """Share `index` of `count`: every `count`-th unit of the graph, beginning with that of its index."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that is written as "0/3", "1/3" or "2/3".

        Raises:
            InputError: the text is not such a share.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if match is None or not int(match[1]) < int(match[2]):
            raise InputError(
                f"--shard is {text!r}; give its number, from 0, and how many there are, such as 0/3, 1/3 and 2/3"
            )
        return cls(int(match[1]), int(match[2]))

    @property
    def name(self) -> str:
        return f"shard-{self.index}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def own(self, names: Sequence[str]) -> list[str]:
        """The names that are this shard's."""
        return list(names)[self.index :: self.count]


def owner(name: str, names: Sequence[str], count: int) -> Shard:
    """The shard of `count` to which a unit belongs."""
    return Shard(list(names).index(name) % count, count)
