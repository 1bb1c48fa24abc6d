"""Function vectors on TransformerLens: find the heads that carry a relation, build its vector, insert it, measure it."""

from . import plots
from .effects import HeadEffects, indirect_effects, mean_effects, mean_head_outputs
from .errors import InputError, ParityError
from .evaluation import Evaluation, evaluate
from .models import load_model
from .patching import patch
from .prompts import PromptTemplate
from .relations import Relation, load_relation, relation_names
from .scores import Score
from .sweeps import Sweep, choose, sweep
from .vectors import FunctionVector, function_vector

__all__ = [
    "load_model",
    "load_relation",
    "relation_names",
    "Relation",
    "PromptTemplate",
    "indirect_effects",
    "mean_effects",
    "mean_head_outputs",
    "HeadEffects",
    "function_vector",
    "FunctionVector",
    "patch",
    "sweep",
    "Sweep",
    "choose",
    "evaluate",
    "Evaluation",
    "Score",
    "plots",
    "InputError",
    "ParityError",
]
