"""Words that a vector is to complete, by full forwards of single prompts."""

import numpy as np
import torch

from fv_lens.datasets.prompts import PromptTemplate, with_demonstrations
from fv_lens.vectors.function_vector import FunctionVector

from .. import oracles

HEADS = [(0, 1), (1, 2)]
PROMPT_CONTROLS = {"10-shot", "10-shot, shuffled"}
ENDINGS = oracles.some_endings()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vector(values: torch.Tensor, layer: int = 1, **record) -> FunctionVector:
    return FunctionVector(values, layer, **dict(model="tiny/llama", bos=True) | record)


def by_hand(model, relation, edits=(), n_shots=0, template=None, seed=0, ends=ENDINGS, shuffled=False):
    """(right, log-probability, rank, ...) for each test word, `[word, 4]`."""
    split, measured, ends = relation.split(0), [], ends.nonzero()[:, 0].tolist()
    for shots in with_demonstrations(split.test, split.train, n_shots, seed, shuffled):
        text = (template or PromptTemplate()).prompt(shots.word, shots.demonstrations)
        prompt, answers = oracles.in_words(model, text, shots.answers)
        measured.append(oracles.completion(model, prompt, answers, ends, edits))
    return np.array(measured, dtype=float)
