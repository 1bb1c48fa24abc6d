"""Function vectors on TransformerLens: the heads that carry a relation, its vector, what it does once inserted."""

import importlib

# Public names by module, in the order of the pipeline. Each is imported when first used: torch, TransformerLens and
# plotly take seconds, and not every use needs them all.
_PUBLIC = {
    "models": ["load_model"],
    "relations": ["Relation"],
    "relation_files": ["load_relation", "relation_names"],
    "bats": ["load_bats"],
    "prompts": ["PromptTemplate"],
    "effects": ["HeadEffects", "indirect_effects", "mean_effects", "mean_head_outputs"],
    "vectors": ["FunctionVector"],
    "assembly": ["distributed_vectors", "function_vector"],
    "patching": ["patch", "unpatch"],
    "sweeps": ["Sweep", "choose", "sweep"],
    "tuning": ["finetune", "finetune_all", "training_frame"],
    "evaluation": ["Evaluation", "evaluate"],
    "decoding": ["Decoding", "decode", "log_probs"],
    "naming": ["all_readings", "choose_reading", "name_scores", "rank_test"],
    "questions": ["Question"],
    "question_parts": ["split_questions"],
    "question_files": ["load_questions"],
    "recipes": ["Composition"],
    "composition": ["compose"],
    "analogies": ["AnalogyAnswer", "solve_analogy"],
    "fitting": ["fit_composition"],
    "analogy_scores": ["AnalogyScores"],
    "analogy_evaluation": ["evaluate_analogies"],
    "similarity": ["Similarity", "compare_to_humans", "similarity_matrix"],
    "human": ["load_ratings"],
    "semeval": ["load_semeval"],
    "study": ["Settings", "Study"],
    "scores": ["Score"],
    "errors": ["InputError", "ParityError"],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [*_HOME, "plots"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'fv_lens' has no attribute {name!r}; public are {', '.join(__all__)}")
    module = importlib.import_module(f".{_HOME.get(name, name)}", __name__)
    value = globals()[name] = module if name not in _HOME else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
