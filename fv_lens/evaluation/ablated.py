"""The table of an ablation: scores of prompts without some of their heads, and what that changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ..ground.display import scored
from ..ground.markup import card, table
from ..ground.scores import Score, columns_of

Heads = tuple[tuple[int, int], ...]
WRITERS, CANCELLERS, RANDOM = "without writers", "without cancellers", "without random heads"
KEPT = ", word kept"  # behind the name of a row whose heads are set word by word


@dataclass(frozen=True)
class Ablated:
    """Scores of intact few-shot prompts with or without some heads; log-probabilities in nats.

    `accuracy`: a right answer is completed as a whole. `first_token_accuracy`: the most probable token begins one.
    `log_prob`: of the whole first listed answer. `..._change`: the row minus the prompts as they are (negative: lost).
    `..._beyond_random`: the row minus that without random heads, set in the same way. Both are paired over words; None
    for the rows themselves.
    """

    accuracy: Score
    first_token_accuracy: Score
    log_prob: Score
    accuracy_change: Score | None = None
    log_prob_change: Score | None = None
    accuracy_beyond_random: Score | None = None
    log_prob_beyond_random: Score | None = None


@dataclass(frozen=True, eq=False)
class Ablation:
    """What the heads that write an answer, and those that cancel it, do in intact prompts.

    Args:
        relation: the relation's name.
        rows: "10-shot" (the prompts as they are), "without writers", "without cancellers" and "without random heads"
            (averaged over draws), with heads set to their mean; the same three with "word kept", set to what they put
            out in the corrupted prompt of the same word -> `Ablated`.
        writers, cancellers: the heads, `(layer, head)`, strongest first.
        random: the heads of each draw, none of them among the writers and cancellers.
        corrupted_z: `[layer, head, d_head]`, the mean outputs that heads are set to.
        words: a line for each row and word: the share of draws in which it was completed right, and the mean
            log-probability of its first listed answer, in nats.
    """

    relation: str
    rows: Mapping[str, Ablated]
    writers: Heads
    cancellers: Heads
    random: tuple[Heads, ...]
    corrupted_z: Float[Tensor, "layer head d_head"] = field(repr=False)
    words: pd.DataFrame = field(repr=False)

    def __repr__(self) -> str:
        lost = ", ".join(f"{name} {self.rows[name].accuracy_change:+}" for name in (WRITERS, CANCELLERS))
        return f"Ablation({self.relation!r}, {len(self.writers)} heads each, {lost})"

    def __str__(self) -> str:
        about = f"{self.relation}: {self._about}; 95 % intervals; change = the row minus the first, paired"
        titles = f"{'':<34}{'accuracy':<20}{'first token':<20}{'log-prob':<25}"
        lines = [about, f"{titles}{'change in accuracy':<23}{'in log-prob':<23}beyond random heads"]
        for name, row in self.rows.items():
            changes = [row.accuracy_change, row.log_prob_change, row.log_prob_beyond_random]
            shown = [change.signed if change else "" for change in changes]
            lines.append(
                f"{name:<34}{row.accuracy!s:<20}{row.first_token_accuracy!s:<20}{row.log_prob!s:<25}"
                f"{shown[0]:<23}{shown[1]:<23}{shown[2]}"
            )
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        columns = ["", "accuracy", "first token", "log-prob, nats", "change in accuracy", "in log-prob"]
        columns += ["accuracy beyond random heads", "log-prob beyond random heads"]
        lines = [
            (name, *(scored(getattr(row, part), place > 2) for place, part in enumerate(Ablated.__dataclass_fields__)))
            for name, row in self.rows.items()
        ]
        listed = [
            (kind, ", ".join(f"L{layer}H{head}" for layer, head in heads))
            for kind, heads in (("writers", self.writers), ("cancellers", self.cancellers))
        ]
        return card(
            "Ablation", self.relation, table(columns, lines, strong=[0]), table([], listed, words=True),
            note=f"{self._about}, 95 % intervals. Change: the row minus the first, paired over words; not shown: the "
            "interval holds 0. Heads are set to their mean output in prompts with shuffled answers; where the word is "
            "kept, to their output in the one that asks for the same word.",
        )  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One line per row: every score with its low and high."""
        lines = {name: columns_of(row) for name, row in self.rows.items()}
        return pd.DataFrame.from_dict(lines, orient="index").rename_axis("row")

    @property
    def _about(self) -> str:
        n_words = next(iter(self.rows.values())).accuracy.n
        return f"{n_words} test words; {len(self.writers)} heads in each row, {len(self.random)} random draws"
