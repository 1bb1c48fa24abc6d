"""Function vectors on TransformerLens: the heads that carry a relation, its vector, what it does once inserted.

Example:
    >>> model = fv_lens.load_model()
    >>> effects = fv_lens.indirect_effects(model, "antonym")
    >>> fv = fv_lens.choose(model, "antonym", effects)
    >>> tuned = fv_lens.finetune(model, "antonym", fv, n_pairs=20)
    >>> with fv_lens.patch(model, tuned):
    ...     print(model.generate("Q: big\\nA:", max_new_tokens=1))
"""

import dis
import importlib
from typing import TYPE_CHECKING, Any

# The public names, in the order of the pipeline. Each is imported when it is first used: torch, TransformerLens and
# plotly take seconds, and not every use needs them all. Type checkers read this block, and so does `_homes`.
# isort: off
if TYPE_CHECKING:
    # models and words
    from .models.load import load_model as load_model
    from .datasets.relations import Relation as Relation
    from .datasets.relation_files import load_relation as load_relation
    from .datasets.relation_files import relation_names as relation_names
    from .datasets.bats import load_bats as load_bats
    from .datasets.lre import load_lre as load_lre
    from .datasets.todd import load_todd as load_todd
    from .datasets.prompts import PromptTemplate as PromptTemplate

    # heads and vectors
    from .vectors.effects import HeadEffects as HeadEffects
    from .vectors.mediation import indirect_effects as indirect_effects
    from .vectors.effects import mean_effects as mean_effects
    from .vectors.mediation import mean_head_outputs as mean_head_outputs
    from .vectors.function_vector import FunctionVector as FunctionVector
    from .vectors.library import Library as Library
    from .vectors.summed import function_vector as function_vector
    from .vectors.summed import distributed_vectors as distributed_vectors

    # where to insert, and inserting
    from .vectors.sweeps import Sweep as Sweep
    from .vectors.sweeps import sweep as sweep
    from .vectors.choice import choose as choose
    from .vectors.patching import patch as patch
    from .vectors.patching import unpatch as unpatch

    # to other engines and from them
    from .vectors.formats.exchange import export_vectors as export_vectors
    from .vectors.formats.exchange import import_vectors as import_vectors
    from .vectors.formats.steering_vectors import as_steering_vector as as_steering_vector

    # fine-tuning
    from .vectors.optimizer import Tuning as Tuning
    from .vectors.tuning import finetune as finetune
    from .vectors.tuning import finetune_all as finetune_all
    from .vectors.lessons import training_frame as training_frame

    # what a vector does and says
    from .evaluation.controls import Controls as Controls
    from .evaluation.evaluate import Evaluation as Evaluation
    from .evaluation.evaluate import evaluate as evaluate
    from .evaluation.faithfulness import Faithfulness as Faithfulness
    from .evaluation.faithfulness import faithfulness as faithfulness
    from .evaluation.libraries import measure_library as measure_library
    from .evaluation.side_effects import SideEffects as SideEffects
    from .evaluation.side_effects import side_effects as side_effects
    from .evaluation.ablated import Ablation as Ablation
    from .evaluation.ablation import ablation as ablation
    from .evaluation.transfer import Transfer as Transfer
    from .evaluation.transfer import transfer as transfer
    from .evaluation.baselines.result import Baselines as Baselines
    from .evaluation.baselines.compare import baselines as baselines
    from .evaluation.decoding import Decoding as Decoding
    from .evaluation.decoding import decode as decode
    from .evaluation.readings import log_probs as log_probs
    from .evaluation.names import all_readings as all_readings
    from .evaluation.names import name_scores as name_scores
    from .evaluation.names import choose_reading as choose_reading
    from .evaluation.names import rank_test as rank_test

    # analogies
    from .datasets.questions import Question as Question
    from .datasets.question_files import load_questions as load_questions
    from .datasets.question_split import split_questions as split_questions
    from .analogies.composition import Composition as Composition
    from .analogies.compose import compose as compose
    from .analogies.fit import Fitting as Fitting
    from .analogies.fit import fit_composition as fit_composition
    from .analogies.affine_map import Affine as Affine
    from .analogies.fit_affine import fit_affine as fit_affine
    from .analogies.gate import Gate as Gate
    from .analogies.gate import GateCurve as GateCurve
    from .analogies.gate import fit_gate as fit_gate
    from .analogies.pool import Pools as Pools
    from .analogies.pool import pool_scores as pool_scores
    from .analogies.solve import AnalogyAnswer as AnalogyAnswer
    from .analogies.solve import solve_analogy as solve_analogy
    from .analogies.scores import AnalogyScores as AnalogyScores
    from .analogies.evaluate import evaluate_analogies as evaluate_analogies

    # people
    from .datasets.ratings import load_ratings as load_ratings
    from .datasets.semeval import load_semeval as load_semeval
    from .evaluation.similarity import Similarity as Similarity
    from .evaluation.similarity import similarity_matrix as similarity_matrix
    from .evaluation.humans import compare_to_humans as compare_to_humans

    # studies, figures, numbers, errors
    from .studies.reproduce.setup import Study as Study
    from .studies.reproduce.setup import Settings as Settings
    from . import plots as plots
    from .ground.scores import Score as Score
    from .ground.progress import no_progress as no_progress
    from .ground.errors import InputError as InputError
    from .ground.errors import ParityError as ParityError
# isort: on


def _homes() -> dict[str, str]:
    """The module of each public name, from the block above: it never runs, but it is compiled with the rest.

    Read from the byte code, which is there in every kind of installation; the source may be missing.
    """
    names: dict[str, str] = {}
    module = ""
    loader: Any = __spec__ and __spec__.loader
    for instruction in dis.get_instructions(loader.get_code(__name__)):
        if instruction.opname == "IMPORT_NAME":
            module = instruction.argval
        elif instruction.opname == "IMPORT_FROM" and module != "typing":
            names[instruction.argval] = module
    return names


_HOMES = _homes()
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fv_lens' has no attribute {name!r}; public are {', '.join(__all__)}")
    module = importlib.import_module(f".{_HOMES[name] or name}", __name__)
    value = globals()[name] = getattr(module, name) if _HOMES[name] else module
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
