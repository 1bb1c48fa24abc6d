"""Side effects: what a vector does where it is not wanted, in neutral text and in prompts of other relations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..datasets.neutral import neutral_texts
from ..datasets.prompts import FewShot, with_demonstrations
from ..datasets.relation_files import RelationLike, load_relation
from ..datasets.relations import Relation
from ..engine.batches import batch, padded_texts
from ..engine.completion import completions
from ..engine.whatif import WhatIf, what_if
from ..ground import display, scores
from ..ground.errors import InputError, whole_number
from ..ground.progress import progress_bar
from ..ground.scores import Score, columns_of
from ..models.lens import Lens, Model, lens_of
from ..vectors.function_vector import FunctionVector, as_vectors, own_template
from .controls import edits_of

TOGETHER = 8  # texts whose whole distributions are held at once


@dataclass(frozen=True)
class SideEffect:
    """What one vector does elsewhere.

    `divergence`: Kullback-Leibler divergence of the next-token distribution with the vector from that without, in nats,
    over neutral texts. `others`: share of other relations' words completed right in few-shot prompts with the vector.
    `lost`: what it takes from that share (positive: fewer are right), intervals over relations. `wrong_way`: of its own
    relation's test words, the share whose answer it makes less probable in zero-shot prompts.
    """

    divergence: Score
    others: Score
    lost: Score
    wrong_way: Score


@dataclass(frozen=True)
class SideEffects:
    """Side effects of vectors, by the name of their row, the vector under test first."""

    rows: Mapping[str, SideEffect]
    relation: str
    others: tuple[str, ...]

    def __str__(self) -> str:
        heading = f"{'':<26}{'divergence, nats':<24}{'others right':<20}{'lost':<22}wrong way"
        lines = [f"{self.relation}: side effects, beside {', '.join(self.others)}; 95 % intervals", heading]
        for name, row in self.rows.items():
            shown = f"{row.divergence!s:<24}{row.others!s:<20}{row.lost.signed:<22}{row.wrong_way}"
            lines.append(f"{name:<26}{shown}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = {name: [row.divergence, row.others, row.lost, row.wrong_way] for name, row in self.rows.items()}
        return display.side_effects(self.relation, rows, ", ".join(self.others))

    def to_frame(self) -> pd.DataFrame:
        """One line per vector: each score with its low and high."""
        lines = {name: columns_of(row) for name, row in self.rows.items()}
        return pd.DataFrame.from_dict(lines, orient="index").rename_axis("row")


def side_effects(
    model: Model,
    relation: RelationLike,
    fv: FunctionVector | Sequence[FunctionVector],
    others: Sequence[RelationLike],
    n_shots: int = 10,
    n_words: int = 20,
    *,
    beside: Mapping[str, FunctionVector | Sequence[FunctionVector]] | None = None,
    texts: str | Sequence[str] | None = None,
) -> SideEffects:
    """What a vector does where it is not wanted, added at the last token of each prompt.

    Args:
        relation: the vector's own relation.
        fv: the FunctionVector, or a list to add together.
        others: other relations, whose words are asked for in prompts of `n_shots` demonstrations.
        n_words: the most test words of each of them.
        beside: other vectors to measure on the same prompts, by the name of their row: baselines.
        texts: a neutral text or several; by default 48 bundled beginnings of sentences.

    Raises:
        InputError: no other relations, no texts, a vector that does not fit the model or was made on these words; the
            vector's own relation among the others; a row of `beside` called "vector".

    Source: steering can degrade a model's other abilities (arXiv 2602.04903).

    Example:
        >>> print(side_effects(model, "antonym", tuned, ["present-past", "country-capital"], beside={"FV": fv}))
    """
    lens, own = lens_of(model), load_relation(relation)
    if isinstance(others, str):
        raise InputError(f"others is {others!r}; give a list of relations, [{others!r}].")
    relations = [load_relation(other) for other in others]
    texts = neutral_texts() if texts is None else [texts] if isinstance(texts, str) else list(texts)
    for given, what in ((relations, "others"), (texts, "texts")):
        if not given:
            raise InputError(f"{what} is empty; give at least one.")
    whole_number("n_shots", n_shots, least=0)
    whole_number("n_words", n_words, least=1)
    if own.name in {other.name for other in relations}:
        raise InputError(f"others holds {own.name!r}, the vector's own relation; give other ones.")
    if "vector" in (beside or {}):
        raise InputError("beside names a row 'vector', which is the one under test; give it another name.")
    named = {"vector": as_vectors(fv)} | {name: as_vectors(other) for name, other in (beside or {}).items()}
    for vector in [vector for vectors in named.values() for vector in vectors]:
        vector.check(lens)
        for asked in (own, *relations):
            vector.check_split(asked)
    whatifs = [edits_of(vectors) for vectors in named.values()]
    template = own_template([vector for vectors in named.values() for vector in vectors])

    divergence = _divergences(lens, texts, whatifs)
    test = own.split().test
    moved = completions(lens, batch(lens, with_demonstrations(test, test, 0), template), whatifs).log_prob
    worse = moved[:, 1:] < moved[:, :1]
    prompts: list[FewShot] = []
    owners: list[int] = []
    for place, other in enumerate(relations):
        parts = other.split()
        shown = with_demonstrations(_first(parts.test, n_words), parts.train, n_shots)
        prompts += shown
        owners += [place] * len(shown)
    with progress_bar(total=len(prompts), desc="prompts of other relations", unit="prompt") as bar:
        right = completions(lens, batch(lens, prompts, template), whatifs, bar.update).right.astype(float)
    rows = {}
    for i, name in enumerate(named):
        mean = scores.clustered_mean(right[:, 1 + i], owners, within=scores.SHARE)
        lost = scores.clustered_mean(right[:, 0] - right[:, 1 + i], owners, within=scores.GAIN)
        rows[name] = SideEffect(scores.mean(divergence[:, i]), mean, lost, scores.proportion(worse[:, i]))
    return SideEffects(rows, own.name, tuple(other.name for other in relations))


def _first(relation: Relation, n: int) -> Relation:
    return relation if len(relation) <= n else relation.with_pairs(relation.pairs[:n])


def _divergences(lens: Lens, texts: Sequence[str], whatifs: Sequence[WhatIf]) -> np.ndarray:
    """`[text, what-if]`: KL(with || without) of the next token, in nats."""
    tokens, mask = padded_texts(lens, texts)

    def read(logits: Tensor, prompt: Tensor) -> Tensor:
        return logits[:, 0].log_softmax(-1)

    found = []
    for some in torch.arange(len(tokens), device="cpu").split(TOGETHER):
        log_probs = what_if(lens, tokens[some], mask[some], whatifs, read).double()
        plain, edited = log_probs[:, :1], log_probs[:, 1:]
        found.append((edited.exp() * (edited - plain)).nan_to_num(0.0).sum(-1))
    return torch.cat(found).numpy()
