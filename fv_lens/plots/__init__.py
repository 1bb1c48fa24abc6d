"""Figures of results with plotly: each function takes what a computing function returned and gives a `go.Figure`.

Text that comes from data is escaped (`style.escaped`), because plotly reads its text as HTML.
"""

from .analogies import analogies
from .comparison import comparison, learning_curve
from .completion import evaluation
from .composition import composition
from .decoding import decoding
from .gate import gate
from .heads import head_effects
from .layers import layer_sweep
from .models import models
from .relation_map import relation_map
from .relations import relations
from .similarity import similarity
from .slopes import slopes
from .training import training

__all__ = [
    "analogies", "comparison", "composition", "decoding", "evaluation", "gate", "head_effects", "layer_sweep",
    "learning_curve", "models", "relation_map", "relations", "similarity", "slopes", "training",
]  # fmt: skip
