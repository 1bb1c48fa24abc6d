"""Libraries of random vectors of a tiny model, and scores of them."""

from collections.abc import Iterable

import pandas as pd
import torch

from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.library import Library
from fv_lens.vectors.library_scores import COLUMNS


def vectors_of(model, names: Iterable[str] = "abc", layer: int = 1, **more) -> dict[str, FunctionVector]:
    """A random vector for each name, the same for the same name."""
    lens = lens_of(model)
    return {
        name: FunctionVector.on(
            lens,
            torch.randn(lens.d_model, generator=torch.Generator().manual_seed(sum(map(ord, name)))),
            layer,
            relation=None,
            method="tuned",
            **{"training": None} | more,
        )
        for name in names
    }


def library_of(model, names: Iterable[str] = "abc", **more) -> Library:
    return Library(vectors_of(model, names, **more))


def scores_of(names: Iterable[str], value: float = 0.75) -> pd.DataFrame:
    """Scores of each vector, and of the zero-shot prompt in its place, without an interval."""
    lines = []
    for name in names:
        lines.append((name, "vector", "accuracy", value, value - 0.25, value + 0.125, 20))
        lines.append((name, "zero-shot", "accuracy", 0.0, float("nan"), float("nan"), 20))
        lines.append((name, "vector", "divergence", 1.5, 1.25, 1.75, 48))
    return pd.DataFrame(lines, columns=list(COLUMNS))
