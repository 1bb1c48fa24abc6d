"""Results made up, for figures and pages: effects, sweeps, evaluations, composites, matrices; and a hostile word."""

import numpy as np
import pandas as pd
import torch

from fv_lens.evaluation.evaluate import Evaluation, Result
from fv_lens.ground import scores
from fv_lens.vectors.effects import HeadEffects
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.sweeps import Sweep

HOSTILE = "<script>alert(1)</script>"


def made_effects(n=6, layers=3, heads=4, relation="antonym", scale=0.01) -> HeadEffects:
    values = scale * torch.randn(n, layers, heads, generator=torch.Generator().manual_seed(0))
    record = {"relation": relation, "model": "a model", "n_shots": 10, "data_hash": "0"}
    return HeadEffects(values, 7 * values, torch.full((n,), 0.5), torch.zeros(layers, heads, 2), 0.5, None, record)


def made_sweep(n=20, layers=(2, 0, 1), strengths=(1.0, 2.0), heads=(1, 2), relation="antonym") -> Sweep:
    rng = np.random.default_rng(0)
    chosen = [tuple((0, head) for head in range(k)) for k in heads]
    vectors = tuple(FunctionVector(torch.randn(8), 0, heads=of, model="a model") for of in chosen)
    shape = (n, len(heads), len(layers), len(strengths))
    right, names = rng.integers(0, 2, shape) == 1, tuple(f"{k} heads" for k in heads)
    plain = np.stack([np.arange(n) % 4 == 0, -np.ones(n)], 1)
    return Sweep(right, -rng.random(shape), plain, vectors, names, layers, strengths, relation)


def made_evaluation(right=(18, 2, 15), n=30, relation="antonym", controls=("zero-shot", "10-shot")) -> Evaluation:
    """The vector is right on the first `right[0]` words, the controls on the first `right[1:]`; all begin 2 more."""
    hits = [np.arange(n) < k for k in right]
    log_probs = [np.where(hit, -1.0, -5.0) - 0.01 * np.arange(n) for hit in hits]
    rows = [
        Result(
            scores.proportion(hit), scores.proportion(np.arange(n) < hit.sum() + 2),
            scores.proportion(np.arange(n) < hit.sum() + 5), scores.mean(log_prob),
            scores.paired_difference(hits[0], hit.astype(float)), scores.paired_difference(log_probs[0], log_prob),
        )
        for hit, log_prob in zip(hits, log_probs)
    ]  # fmt: skip
    words = {"word": [str(i) for i in range(n)], "right": hits[0], "log_prob": log_probs[0], "rank": 0}
    tested, named = rows[0], dict(zip(controls, rows[1:]))
    own = tested.accuracy, tested.first_token_accuracy, tested.top_k, tested.log_prob
    return Evaluation(*own, named, "zero-shot + vector", relation, pd.DataFrame(words))


def made_composite(n=49, source=("hot", "cold"), seed=0) -> FunctionVector:
    """A composite whose weights do not stand in order, as those of a mapping of one's own may not."""
    weights = np.random.default_rng(seed).dirichlet(np.full(n, 0.3)).tolist()
    named = {f"relation-{i}": weight for i, weight in enumerate(weights)}
    return FunctionVector(torch.ones(4), 1, method="composite", weights=named, source=source)


def made_matrix(names, seed=0) -> pd.DataFrame:
    points = np.random.default_rng(seed).normal(size=(len(names), 3))
    return pd.DataFrame(np.corrcoef(points), names, names)


def made_points(n=49, seed=0) -> pd.DataFrame:
    at = np.random.default_rng(seed).normal(size=(n, 2)) * [2.0, 1.0]
    return pd.DataFrame(at, [f"a relation of number {i}"[: 8 + i % 15] + str(i) for i in range(n)], ["x", "y"])
