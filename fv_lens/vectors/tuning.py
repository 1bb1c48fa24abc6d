"""Fine-tuned function vectors: a vector learned on about twenty word pairs, for one relation or for many at once.

The model stays frozen. The vector is added at the last token of "Q: word\\nA:" after one block, and moved by Adam to
make the answers of the train pairs probable; the step of lowest loss on the validation pairs is kept.

`finetune` tunes one vector, `finetune_all` one for each of many relations; both put together `lessons`.
"""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeGuard

import numpy as np

from ..datasets.relation_files import RelationLike, load_relation
from ..datasets.relations import Relation
from ..ground.errors import InputError
from ..models.lens import Lens, Model, lens_of
from .function_vector import FunctionVector, own_template
from .lessons import Lesson, Start, best_layer, training_of, tune_lessons
from .library import Library
from .optimizer import Tuning
from .sweeps import layer_grid
from .tuning_pairs import tuning_pairs

DEPTHS = (0.4, 0.55, 0.7)  # of the layers that are tried where none is given
Inits = Literal["zero", "random"] | Mapping[str, FunctionVector]
Relations = RelationLike | Iterable[RelationLike] | Mapping[str, RelationLike]


def finetune(
    model: Model,
    relation: RelationLike,
    init: Start | Mapping[str, FunctionVector] = "zero",
    *,
    layer: int | Sequence[int] | None = None,
    n_pairs: int | None = 20,
    n_validation: int | None = 10,
    seed: int = 0,
    how: Tuning = Tuning(),
) -> FunctionVector:
    """Tune one vector; arguments and errors are those of `finetune_all`, with `init` for `inits`.

    Example:
        >>> tuned = finetune(model, "antonym", fv, n_pairs=20)
        >>> tuned.training["chosen_step"], tuned.training["validation_loss"]
        (28, 2.87)
    """
    relation = load_relation(relation)
    if not isinstance(init, FunctionVector | Mapping) and not _is_named_start(init):
        value = repr(init) if isinstance(init, str) else type(init).__name__
        raise InputError(f"init is {value}; give 'zero', 'random' or a FunctionVector.")
    inits = {relation.name: init} if isinstance(init, FunctionVector) else init
    tuned = finetune_all(
        model, [relation], inits, layer=layer, n_pairs=n_pairs, n_validation=n_validation, seed=seed, how=how
    )
    return tuned[relation.name]


def finetune_all(
    model: Model,
    relations: Relations,
    inits: Inits = "zero",
    *,
    layer: int | Sequence[int] | None = None,
    n_pairs: int | None = 20,
    n_validation: int | None = 10,
    seed: int = 0,
    how: Tuning = Tuning(),
) -> Library:
    """Tune a vector for each relation, all in one batch: one vector per relation, one row per pair.

    Args:
        model: a HookedTransformer or TransformerBridge; its weights do not change.
        relations: Relations, bundled names or paths, or a mapping whose values are those.
        inits: where the vectors start: "zero"; "random", a direction as long as the residual stream is at the layer; or
            a mapping from relation name to FunctionVector.
        layer: the block after which vectors are added, or several to try (None: those at .4, .55 and .7 of the depth),
            of which the one with the lowest mean validation loss over relations is used for all of them.
        n_pairs, n_validation: pairs of each relation's train part to tune on, and of its validation part for early
            stopping; None for all. If the parts have fewer, all of theirs are used, with a warning; below 10 train
            pairs a relation is refused.
        seed: seed of the draws of pairs (a smaller `n_pairs` draws a subset of a larger one) and random directions.
        how: steps, learning rate, loss, the form of the prompts; whether the answers are shuffled, as a control.

    Returns:
        The library of a FunctionVector of method "tuned" for each relation, whose `training` records pairs, losses of
        every step and the chosen one. A relation that cannot be tuned is left out with a warning: see `.errors`.

    Raises:
        InputError: bad settings; two relations of one name; a start that is missing or does not fit the model; or no
            relation can be tuned: too few pairs, or losses that become NaN, or vectors that grow too large.

    Source: Kang et al. 2026 (arXiv 2601.08169) start from the summed vector; stopping on validation pairs is ours.
    """
    if not isinstance(how, Tuning):
        raise InputError(f"how is {type(how).__name__}; give Tuning(steps=..., learning_rate=...).")
    lens, named = lens_of(model), _named(relations)
    starts = _starts(lens, named, inits)
    lessons, errors = {}, {}
    for name, relation in named.items():
        try:
            train, validation, _ = tuning_pairs(relation, n_pairs, n_validation, seed)
            lesson = Lesson(relation, [train], [validation], starts[name], seed)
            lessons[name] = lesson.shuffled() if how.shuffle else lesson
        except InputError as error:
            errors[name] = error
    _report(errors, nothing_left=not lessons)
    how = replace(how, template=how.template or own_template([v for v in starts.values() if not isinstance(v, str)]))
    grid = _layers(lens, layer)
    by_layer = tune_lessons(lens, list(lessons.values()), grid, how)
    best, losses = best_layer(by_layer)
    vectors = {}
    for name, result in zip(lessons, by_layer[best]):
        if isinstance(result, InputError):
            errors[name] = result
        else:
            vectors[name] = result if len(grid) == 1 else _with_layer_losses(result, losses)
    _report({name: error for name, error in errors.items() if name in lessons}, nothing_left=not vectors)
    return Library(vectors, errors=errors)


def _layers(lens: Lens, layer: int | Sequence[int] | None) -> list[int]:
    """The layers to try."""
    if layer is None:
        return layer_grid(lens, DEPTHS)
    if not isinstance(layer, Sequence | np.ndarray):
        return [layer]
    if not len(layer):
        raise InputError("layer is an empty list; give at least one layer, or None for the usual ones.")
    return list(layer)


def _with_layer_losses(vector: FunctionVector, losses: Mapping[int, float]) -> FunctionVector:
    return replace(vector, training={**training_of(vector), "layer_losses": {str(at): x for at, x in losses.items()}})


def _named(relations: Relations) -> dict[str, Relation]:
    items = relations.values() if isinstance(relations, Mapping) else relations
    if isinstance(items, str | os.PathLike | Relation):
        items = [items]
    loaded = [load_relation(relation) for relation in items]
    named = {relation.name: relation for relation in loaded}
    if not loaded or len(named) < len(loaded):
        names = [relation.name for relation in loaded]
        raise InputError(f"relations are {names}; give at least one, and each name once.")
    return named


def _starts(
    lens: Lens, relations: Mapping[str, Relation], inits: Literal["zero", "random"] | Mapping[str, FunctionVector]
) -> dict[str, Start]:
    if _is_named_start(inits):
        return dict.fromkeys(relations, inits)
    if not isinstance(inits, Mapping):
        raise InputError(f"inits is {inits!r}; give 'zero', 'random', or a mapping from relation name to vector.")
    for name in relations:
        if not isinstance(inits.get(name), FunctionVector):
            raise InputError(f"inits has no FunctionVector for {name!r}; it has {sorted(map(str, inits))}.")
        inits[name].check(lens)
    return {name: inits[name] for name in relations}


def _is_named_start(init: Any) -> TypeGuard[Literal["zero", "random"]]:
    return isinstance(init, str) and init in ("zero", "random")


def _report(errors: Mapping[str, InputError], nothing_left: bool) -> None:
    """Raise if no relation is left, else warn of those that are left out."""
    if nothing_left:
        raise InputError(" ".join(map(str, errors.values())))
    for error in errors.values():
        warnings.warn(f"Left out: {error}", stacklevel=3)
