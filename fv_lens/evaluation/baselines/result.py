"""The table of baselines: scores beside those of the tuned vector, and what each method costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ...ground.display import scored
from ...ground.markup import card, number, table
from ..evaluate import Result
from .costs import Cost
from .names import BASELINES

SCORES = ("accuracy", "first_token_accuracy", "top_k", "log_prob")
GAINS = ("accuracy_gain", "log_prob_gain")


@dataclass(frozen=True)
class Baseline:
    """A row of the table.

    Args:
        result: its scores, and what the tuned vector gains over it, paired over words (None for the vector itself).
        cost: the numbers it trains, its seconds and its memory.
        chosen: what was chosen on validation words, in words.
    """

    result: Result
    cost: Cost
    chosen: str = ""


@dataclass(frozen=True)
class Baselines:
    """How a tuned vector compares, on the same test words, with what other methods make of the same pairs.

    Args:
        name: the row of the tuned vector, the first of `rows`.
        relation: the relation's name.
        rows: name -> `Baseline`; gains are the tuned vector's minus the row's.
        gaps: name of a row that could not be measured -> why.
        n_pairs, n_validation: pairs that everything here was trained on or made of, and chosen or stopped by.
        words: a line per test word, a column per row: whether its answer was right.
    """

    name: str
    relation: str
    rows: Mapping[str, Baseline]
    gaps: Mapping[str, str]
    n_pairs: int
    n_validation: int
    words: pd.DataFrame = field(repr=False)

    def __repr__(self) -> str:
        own = self.rows[self.name].result.accuracy
        gaps = f", {len(self.gaps)} gaps" if self.gaps else ""
        return f"Baselines({self.relation!r}, {self.name} {own}, {len(self.rows) - 1} rows beside it{gaps})"

    @property
    def best(self) -> str:
        """The name of the baseline of highest accuracy on the test words, then of highest log-probability.

        It is the best in hindsight: the choice favours the baselines, as it is made on the words it is reported on.
        Prompts with demonstrations count as baselines only if no other was measured.
        """
        others = {name: self.rows[name].result for name in BASELINES if name in self.rows} or {
            name: row.result for name, row in self.rows.items() if name != self.name
        }
        return max(others, key=lambda name: (others[name].accuracy.value, others[name].log_prob.value))

    @property
    def verdict(self) -> str:
        """One sentence: whether the tuned vector or the best baseline completes more test words."""
        gain = self.rows[self.best].result.accuracy_gain
        assert gain is not None
        how = "wins against" if gain.value > 0 else "loses to" if gain.value < 0 else "equals"
        shown = "" if gain.differs() else ", and the interval holds 0"
        return f"The {self.name} {how} the best baseline on these words, {self.best}: {gain.signed}{shown}."

    def __str__(self) -> str:
        head = (
            f"{self.relation}: {self._n_words} test words; {self.n_pairs} + {self.n_validation} pairs; 95 % intervals"
        )
        lines = [f"{head}; gain = {self.name} minus the row, paired"]
        titles = f"{'':<28}{'accuracy':<20}{'log-prob':<25}{'gain in accuracy':<23}{'in log-prob':<23}"
        lines.append(f"{titles}{'trained':>9}{'seconds':>9}{'MB':>7}  chosen on validation")
        for name, row in self.rows.items():
            gains = [gain.signed if gain else "" for gain in (row.result.accuracy_gain, row.result.log_prob_gain)]
            scores = f"{row.result.accuracy!s:<20}{row.result.log_prob!s:<25}{gains[0]:<23}{gains[1]:<23}"
            lines.append(f"{name:<28}{scores}{_costs(row.cost)}  {row.chosen}")
        lines += [f"{name:<28}left out: {why}" for name, why in self.gaps.items()]
        return "\n".join(line.rstrip() for line in [*lines, self.verdict])

    def _repr_html_(self) -> str:
        columns = ["", "accuracy", "first token", "log-prob, nats", "gain in accuracy", "gain in log-prob"]
        columns += ["trained numbers", "seconds", "MB", "chosen on validation"]
        lines = []
        for name, row in self.rows.items():
            of, cost = row.result, row.cost
            scores = [scored(score) for score in (of.accuracy, of.first_token_accuracy, of.log_prob)]
            gains = [scored(gain, True) for gain in (of.accuracy_gain, of.log_prob_gain)]
            costs = [f"{cost.parameters:,}", number(cost.seconds, ".1f"), number(cost.memory / 1e6, ".1f")]
            lines.append((name, *scores, *gains, *costs, row.chosen))
        return card(
            "Baselines",
            self.relation,
            table(columns, lines, strong=[0]),
            table(["left out", "why"], self.gaps.items(), words=True),
            self.verdict,
            note=f"{self._n_words} test words, 95 % intervals; all made of the same {self.n_pairs} pairs, and chosen "
            f"or stopped by {self.n_validation} others. Gain: {self.name} minus the row, paired over words; not shown: "
            "the interval holds 0. MB: held while training or measuring, beyond the model's weights.",
        )

    def to_frame(self) -> pd.DataFrame:
        """One line per row: every score with its low and high, trained parameters, seconds, bytes, and the choice."""
        lines: dict[str, dict[str, Any]] = {}
        for name, row in self.rows.items():
            parts = {part: getattr(row.result, part) for part in (*SCORES, *GAINS)}
            for part, score in parts.items():
                lines.setdefault(name, {}).update({} if score is None else score.columns(part))
            cost = {"parameters": row.cost.parameters, "seconds": row.cost.seconds, "memory": row.cost.memory}
            lines[name] |= cost | {"chosen": row.chosen}
        return pd.DataFrame.from_dict(lines, orient="index").rename_axis("row")

    @property
    def _n_words(self) -> int:
        return self.rows[self.name].result.accuracy.n


def _costs(cost: Cost) -> str:
    seconds, megabytes = ("" if x != x else format(x, ".1f") for x in (cost.seconds, cost.memory / 1e6))
    return f"{cost.parameters:>9,}{seconds:>9}{megabytes:>7}"
