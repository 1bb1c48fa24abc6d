"""Vectors made up, and what people may say of how alike they are."""

import numpy as np
import torch

from fv_lens.datasets.ratings import HumanMatrix
from fv_lens.vectors.function_vector import FunctionVector

NAMES = tuple("abcdefgh")


def vectors(seed=0, n=8, shared=0.0):
    rng = torch.Generator().manual_seed(seed)
    return {name: FunctionVector(torch.randn(12, generator=rng) + shared, 3, model="m") for name in NAMES[:n]}


def symmetric(rng, n=8):
    x = rng.standard_normal((n, 3))
    return -np.linalg.norm(x[:, None] - x[None], axis=-1)


def people(values, names=NAMES, ceiling=None):
    return HumanMatrix(tuple(names), values, np.ones_like(values, dtype=int), ceiling)
