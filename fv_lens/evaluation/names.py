"""Name scores: how often a relation's names are stronger in its own vector's reading than in those of others.

This is a fair form of "the names rank high": a frequent word ranks high in every reading, so a name is compared with
itself in the readings of other relations. Chance is one half.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from ..datasets.relation_files import RelationLike, load_relation
from ..datasets.relations import Relation
from ..ground import scores
from ..ground.errors import InputError
from ..ground.scores import SHARE, Score
from ..models.lens import Model, lens_of
from ..vectors.function_vector import FunctionVector, as_vectors
from .readings import NEUTRAL_PROMPTS, log_probs, name_tokens, rank

CHANCE = 0.5  # of the score


@dataclass(frozen=True, eq=False)
class NameScores:
    """What `name_scores` measured.

    `score`: mean over relations, its interval over families. `per_relation`: a line for each relation with names:
    `relation`, `family`, `score` (share of rivals that it beats), `rank` (of its best name in its own reading, 0 = the
    strongest token), `log_prob` (mean over names of the best spelling's value in its own reading).
    """

    score: Score
    per_relation: pd.DataFrame

    def __repr__(self) -> str:
        median = self.per_relation["rank"].median()
        return f"NameScores({self.score}, chance {CHANCE}, n = {self.score.n} relations, median best rank {median:.0f})"


class RankTest(NamedTuple):
    """Counts of relations whose best name now ranks higher (`improved`), lower (`worse`) or the same; sign test `p`."""

    improved: int
    worse: int
    same: int
    p: float


class ReadingChoice(NamedTuple):
    """The reading of the best score on half of the families, that score, and its score on the other half."""

    reading: str
    chosen: Score
    confirmed: Score


def name_scores(
    model: Model, readings: Float[Tensor, "relation vocab"], relations: Sequence[RelationLike], *, seed: int = 0
) -> NameScores:
    """Score readings of many relations' vectors by the relations' names.

    The strength of a relation's names in a reading is the mean over names of the best spelling's value. The relation's
    score is the share of rivals in whose readings its names are weaker than in its own (a tie counts one half). Rivals
    are all relations of other families, with names or without; siblings, which share names (three forms of the past
    tense), are not rivals. A relation without a family is a family of its own.

    Args:
        model: whose tokenizer the names are spelled with.
        readings: `[relation, vocab]`, the reading of each relation's vector, such as `log_probs` gives.
        relations: the relations, bundled names or paths, in the order of `readings`. A name with no token in the
            vocabulary is left out, and so is a relation without names, or without rivals.
        seed: of the interval, which draws whole families.

    Raises:
        InputError: readings that are not one row of the vocabulary for each relation; NaN; no relation to score.
    """
    lens, loaded = lens_of(model), [load_relation(relation) for relation in relations]
    readings = _checked(readings, loaded)
    families = [_family(relation) for relation in loaded]
    lines = []
    for r, relation in enumerate(loaded):
        names = list(name_tokens(lens, relation.names, strict=False).values())
        rivals = [q for q, family in enumerate(families) if family != families[r]]
        if not names or not rivals:
            continue
        strength = torch.stack([readings[:, ids].amax(1) for ids in names]).double().mean(0)
        own, others = strength[r], strength[rivals]
        share = float(((own > others).double() + 0.5 * (own == others).double()).mean())
        best = min(rank(readings[r], ids) for ids in names)
        line = {"relation": relation.name, "family": families[r], "score": share}
        lines.append(line | {"rank": best, "log_prob": float(own)})
    if not lines:
        raise InputError(
            "None of the relations can be scored: a relation needs names that are in the vocabulary, and another "
            "relation of another family beside it. Give relations of at least two families, with names."
        )
    frame = pd.DataFrame(lines)
    return NameScores(scores.clustered_mean(frame["score"].to_numpy(), frame["family"].tolist(), seed, SHARE), frame)


def rank_test(before: NameScores, after: NameScores) -> RankTest:
    """Does a name rank higher after (tuning, say) than before? A sign test over the relations that both scored.

    Relations are counted as independent, which siblings are not quite.

    Raises:
        InputError: no relation is in both.
    """
    ranks = [scored.per_relation.set_index("relation")["rank"] for scored in (before, after)]
    ranks = pd.concat(ranks, axis=1, keys=["before", "after"], join="inner")
    if ranks.empty:
        raise InputError("No relation was scored both before and after; give name_scores of the same relations.")
    improved, worse = int((ranks["after"] < ranks["before"]).sum()), int((ranks["after"] > ranks["before"]).sum())
    p = float(stats.binomtest(improved, improved + worse).pvalue) if improved + worse else 1.0
    return RankTest(improved, worse, len(ranks) - improved - worse, p)


def all_readings(
    model: Model, vectors: Sequence[FunctionVector], *, prompts: str | Sequence[str] = NEUTRAL_PROMPTS
) -> dict[str, Tensor]:
    """Four readings `[vector, vocab]` of the vectors of many relations, for `choose_reading`.

    "unembed" and "model" are as in `decode`. Centred, "unembed" subtracts the mean vector before unembedding, and
    "model" subtracts the mean of all vectors' log-probabilities.

    Raises:
        InputError: as `log_probs`.
    """
    vectors = as_vectors(vectors)
    through_model = log_probs(model, vectors, "model", prompts=prompts)
    mean = torch.stack([vector.vector for vector in vectors]).mean(0)
    centred = [replace(vector, vector=vector.vector - mean) for vector in vectors]
    return {
        "unembed": log_probs(model, vectors, "unembed"),
        "unembed, centred": log_probs(model, centred, "unembed"),
        "model": through_model,
        "model, centred": through_model - through_model.mean(0),
    }


def choose_reading(
    model: Model, readings: Mapping[str, Tensor], relations: Sequence[RelationLike], *, seed: int = 0
) -> ReadingChoice:
    """Choose the reading of the best score on half of the families, and confirm it on the other half.

    Families stay whole: in the order of the SHA-256 of their names, every other one chooses. Each half is scored by
    itself, its rivals from within it. Of readings with the same score, the first is chosen.

    Args:
        readings: name -> `[relation, vocab]`, such as `all_readings` gives.

    Raises:
        InputError: no readings; as `name_scores`, for either half.
    """
    if not readings:
        raise InputError("readings is empty; give at least one, such as all_readings(model, vectors)")
    loaded = [load_relation(relation) for relation in relations]
    checked = {name: _checked(reading, loaded) for name, reading in readings.items()}
    choosing, confirming = halves(loaded)

    def scored(reading: str, half: list[int]) -> Score:
        return name_scores(model, checked[reading][half], [loaded[i] for i in half], seed=seed).score

    chosen = {reading: scored(reading, choosing) for reading in checked}
    best = max(chosen, key=lambda reading: chosen[reading].value)
    return ReadingChoice(best, chosen[best], scored(best, confirming))


def halves(relations: Sequence[Relation]) -> tuple[list[int], list[int]]:
    """Indices of the relations that choose, and of those that confirm: every other family, ordered by SHA-256."""
    families = {_family(relation) for relation in relations}
    order = sorted(families, key=lambda name: hashlib.sha256(name.encode()).digest())
    choosing = set(order[::2])
    first, second = ([i for i, r in enumerate(relations) if (_family(r) in choosing) == half] for half in (True, False))
    return first, second


def _family(relation: Relation) -> str:
    return relation.family or relation.name


def _checked(readings: Tensor, relations: Sequence[Relation]) -> Float[Tensor, "relation vocab"]:
    readings = torch.as_tensor(readings)
    if readings.dim() != 2 or len(readings) != len(relations):
        raise InputError(
            f"readings is {list(readings.shape)}; give [relation, vocab], a row for each of {len(relations)} relations."
        )
    if readings.isnan().any():
        raise InputError("readings hold NaN; read the vectors again, with log_probs.")
    return readings
