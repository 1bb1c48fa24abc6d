"""The results of a run so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ...evaluation.evaluate import Evaluation
from ...evaluation.faithfulness import Faithfulness
from ...vectors.effects import HeadEffects
from ...vectors.function_vector import FunctionVector
from ...vectors.sweeps import Sweep


@dataclass(frozen=True, eq=False)
class Findings:
    """The results of a run's stages; None where a stage has not been reached, or was left out.

    Args:
        head_words: (layer, head) -> what the head promotes, as the function of that name gives it.
        sweep, vector: the layers and strengths that were tried, and the summed vector that was chosen.
        tuned, tuned_evaluation: the vector fine-tuned from `vector`, and how well it does beside its controls.
        words: what both vectors are read as, as `plots.decoding` takes it.
        faithfulness: of the sum, in a model whose norms behind attention were held for it.
    """

    effects: HeadEffects | None = None
    head_words: Mapping[tuple[int, int], Sequence[str]] | None = None
    sweep: Sweep | None = None
    vector: FunctionVector | None = None
    evaluation: Evaluation | None = None
    tuned: FunctionVector | None = None
    tuned_evaluation: Evaluation | None = None
    words: pd.DataFrame | None = None
    faithfulness: Faithfulness | None = None
