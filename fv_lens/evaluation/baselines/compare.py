"""Baselines of a tuned vector: what soft prompts, LoRA, measured vectors and instructions make of the same pairs."""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from ...datasets.instructions import instructions
from ...datasets.relation_files import RelationLike, load_relation
from ...datasets.relations import Relation, Split
from ...ground.errors import InputError
from ...ground.progress import no_progress
from ...ground.words import check_text
from ...models.adapters import check_adaptable
from ...models.lens import Lens, Model, lens_of
from ...vectors.function_vector import FunctionVector, own_template
from ...vectors.optimizer import Tuning
from ...vectors.tuning import finetune
from ...vectors.tuning_pairs import tuning_pairs
from ..evaluate import result
from .costs import Cost, memory_held, timed
from .names import METHODS, TRAINED, TUNED
from .result import Baseline, Baselines
from .rows import Measured


def baselines(
    model: Model,
    relation: RelationLike,
    fv: FunctionVector | None = None,
    *,
    others: Mapping[str, FunctionVector] | None = None,
    instruction: str | None = None,
    methods: Collection[str] = METHODS,
    seed: int = 0,
    how: Tuning = Tuning(),
) -> Baselines:
    """Measure a tuned vector and, on the same test words, what other methods make of the same pairs.

    What is trained sees the vector's train pairs, as many steps and the same loss (but for its `l2`), and keeps the
    step of lowest loss on the vector's validation pairs; each of two learning rates is tried for six steps first. What
    is measured is placed on the validation pairs. All complete the test words in zero-shot prompts, a whole answer with
    its ending. The model is not touched: training works on a twin of it, which shares its weights.

    Args:
        model: a TransformerBridge; a HookedTransformer for the methods that train nothing in it.
        relation: a Relation, a bundled name or a path.
        fv: the tuned vector, whose record says which pairs it saw; None to tune one here from zero, on 20 pairs and 10,
            so that its seconds and memory are known as well.
        others: vectors of other relations by their names, for the row of the best on validation and that of the mean.
        instruction: "Give the opposite of the word."; None for that of the bundled relation of this name.
        methods: which to measure, of `METHODS`. Soft prompts and LoRA need PEFT, the extra "baselines".
        seed: seed of the draws: pairs where the vector does not name them, starts, demonstrations.
        how: steps and loss where the vector does not say them, and the template.

    Returns:
        A table with a row for each; what could not be measured is in `gaps`, with the reason.

    Raises:
        InputError: too few pairs; a vector of another model, or of words that are not the relation's; an unknown
            method; a HookedTransformer, hooks on the model or no PEFT where something is to be trained.

    Example:
        >>> table = fv_lens.baselines(model, "antonym", tuned)
        >>> table.best, table.rows[table.best].result.accuracy_gain
        >>> table.to_frame()[["accuracy", "parameters", "seconds"]]
    """
    lens, relation = lens_of(model), load_relation(relation)
    _check(lens, relation, fv, others, instruction, methods)
    cost = Cost(lens.d_model, np.nan, np.nan)
    if fv is None:
        fv, cost = _tuned_here(model, lens, relation, seed, how)
    template = how.template or own_template([fv])
    study = Measured(lens, _budgeted(relation, fv, seed), fv, template, _how_of(fv, how), seed)
    instruction = instruction or instructions().get(relation.name)
    rows, gaps = study.rows(methods, others or {}, instruction)
    rows |= study.shots()
    tested = rows[TUNED][0]
    table = {
        name: Baseline(result(values, None if name == TUNED else tested), cost if name == TUNED else own, chosen)
        for name, (values, own, chosen) in rows.items()
    }
    parts = study.relation.split()
    words = {name: values.right.mean(1) for name, (values, _, _) in rows.items()}
    return Baselines(
        TUNED, relation.name, table, gaps, len(parts.train), len(parts.validation),
        pd.DataFrame({"word": parts.test.words} | words),
    )  # fmt: skip


def _tuned_here(model: Model, lens: Lens, relation: Relation, seed: int, how: Tuning) -> tuple[FunctionVector, Cost]:
    """A vector tuned from zero at one of the usual layers, and what that cost."""
    with memory_held() as most, no_progress(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same come again
        finetune(model, relation, seed=seed, how=replace(how, steps=1))
    fv, seconds = timed(lambda: finetune(model, relation, seed=seed, how=how))
    return fv, Cost(lens.d_model, seconds, most())


def _how_of(fv: FunctionVector, how: Tuning) -> Tuning:
    """Steps and loss that the vector was tuned with, where its record says them."""
    if not (record := fv.training):
        return how
    return replace(
        how, steps=len(record["losses"]), first_token=record.get("first_token", False),
        perplexity=record.get("perplexity", False),
    )  # fmt: skip


def _budgeted(relation: Relation, fv: FunctionVector, seed: int) -> Relation:
    """The relation, its train and validation parts cut to the pairs that the vector was tuned on and stopped by."""
    split = relation.split()
    if fv.training:
        parts = []
        for part, words in (("train", fv.training["train_words"]), ("validation", fv.training["validation_words"])):
            own = getattr(split, part)
            if missing := [word for word in words if word not in own.answers]:
                raise InputError(
                    f"The vector was tuned with the {part} word {missing[0]!r}, which is not in the {part} part of "
                    f"{relation.name!r}; give the relation, with the split, that it was tuned on."
                )
            parts.append(own.with_pairs([(word, own.answers[word]) for word in words]))
        split = Split(parts[0], parts[1], split.test)
    else:
        split = tuning_pairs(relation, seed=seed)
    kept = relation.with_pairs([pair for part in split for pair in part.pairs])
    return replace(kept, parts=split, cut_from=relation.hash)


def _check(
    lens: Lens,
    relation: Relation,
    fv: FunctionVector | None,
    others: Mapping[str, FunctionVector] | None,
    instruction: str | None,
    methods: Collection[str],
) -> None:
    is_list = isinstance(methods, Collection) and not isinstance(methods, str)
    unknown = [method for method in methods if method not in METHODS] if is_list else [methods]
    if unknown:
        raise InputError(f"methods has {unknown[0]!r}; give a list of {', '.join(map(repr, METHODS))}.")
    if not isinstance(fv, FunctionVector | None):
        raise InputError(f"fv is {type(fv).__name__}; give a tuned FunctionVector, or None to tune one here.")
    if not isinstance(others, Mapping | None) or not all(
        isinstance(x, FunctionVector) for x in (others or {}).values()
    ):
        raise InputError("others is not a mapping from relation name to FunctionVector; give one, or None.")
    if instruction is not None:
        check_text(instruction, "instruction is")
    for vector in [*([fv] if fv else []), *(others or {}).values()]:
        vector.check(lens)
        vector.check_split(relation)
    if set(TRAINED) & set(methods):
        check_adaptable(lens)
