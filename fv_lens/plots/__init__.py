"""Figures of results with plotly: each function takes what a computing function returned and gives a `go.Figure`.

Text that comes from data is escaped, because plotly reads its text as HTML.
"""

from .comparison import comparison, learning_curve
from .completion import evaluation
from .decoding import decoding
from .heads import head_effects
from .layers import layer_sweep
from .relations import relations
from .training import training

__all__ = [
    "comparison", "decoding", "evaluation", "head_effects", "layer_sweep", "learning_curve", "relations", "training",
]  # fmt: skip
