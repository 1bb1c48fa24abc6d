"""Kinds of work, and how much of each something costs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .flops import Number


class Kind(StrEnum):
    """Kinds of work, each of which a machine does at a speed of its own."""

    PROMPT = "whole prompts"
    ROW = "what-ifs behind a prompt"
    SHOWN = "what-ifs behind demonstrations"
    STEP = "steps of tuning"
    READ = "logits of what-ifs"
    LOSS = "logits of tuning"


@dataclass(frozen=True)
class Cost:
    """Rows (what-ifs x prompts, or pairs x steps), the tokens that are run for them, and operations by kind.

    `calls`: of a block, forward or backward, each of which takes time however few tokens it has. `carried`: residuals
    `[d_model]` taken from a device to another.
    """

    rows: Number = 0
    tokens: Number = 0
    flops: Mapping[Kind, Number] = field(default_factory=dict)
    calls: Number = 0
    carried: Number = 0

    @property
    def flop(self) -> Number:
        return sum(self.flops.values())

    def __add__(self, other: "Cost") -> "Cost":
        both = Counter(self.flops)
        both.update(other.flops)
        calls, carried = self.calls + other.calls, self.carried + other.carried
        return Cost(self.rows + other.rows, self.tokens + other.tokens, both, calls, carried)
