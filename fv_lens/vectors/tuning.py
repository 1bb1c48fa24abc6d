"""Fine-tuned function vectors: a vector learned on about twenty word pairs, for one relation or for many at once.

The model stays as it is. The vector is added at the last token of "Q: word\\nA:" after one block, and moves by Adam to
make the answers of the train pairs probable; the step at which the validation pairs' loss is lowest is kept.

`finetune` tunes one vector, `finetune_all` one for each of many relations, `tune_lessons` whatever they and the studies
put together.
"""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard

import numpy as np
import pandas as pd
import torch

from ..datasets.prompts import PromptTemplate
from ..datasets.relation_files import RelationLike, load_relation
from ..datasets.relations import Relation
from ..ground import display
from ..ground.errors import InputError
from ..ground.streams import Stream, generator
from ..models.lens import Lens, Model, check_layer, lens_of
from .function_vector import FunctionVector, own_template
from .optimizer import Result, Task, Tuning, task, tune
from .sweeps import layer_grid
from .tuning_pairs import shuffled, tuning_pairs

DEPTHS = (0.4, 0.55, 0.7)  # of the layers that are tried where none is given
Inits = Literal["zero", "random"] | Mapping[str, FunctionVector]
Start = FunctionVector | Literal["zero", "random"]
Relations = RelationLike | Iterable[RelationLike] | Mapping[str, RelationLike]


class Tuned(dict[str, FunctionVector]):
    """Tuned vectors by the name of their relation; `errors`: why the others have none."""

    def __init__(self, vectors: Mapping[str, FunctionVector], errors: Mapping[str, InputError]):
        super().__init__(vectors)
        self.errors = dict(errors)

    def __repr__(self) -> str:
        some = ", ".join(map(repr, list(self)[:5])) + (", ..." if len(self) > 5 else "")
        return f"Tuned({len(self)} vectors: {some}{f'; {len(self.errors)} left out' if self.errors else ''})"

    def _repr_html_(self) -> str:
        return display.tuned(self.to_frame(), self.errors)

    def to_frame(self) -> pd.DataFrame:
        """One line per vector: relation, layer, norm, n_pairs, chosen_step, validation losses there and at step 0."""
        lines = []
        for name, fv in self.items():
            training = fv.training or {}
            first = dict(training.get("validation_losses", ())).get(0, np.nan)
            numbers = [training.get(part, np.nan) for part in ("n_pairs", "chosen_step", "validation_loss")]
            lines.append((name, fv.layer, float(fv.vector.norm()), *numbers, first))
        columns = ["relation", "layer", "norm", "n_pairs", "chosen_step", "validation_loss", "start_loss"]
        return pd.DataFrame(lines, columns=columns)


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
) -> Tuned:
    """Tune a vector for each relation, all in one batch: one vector per relation, one row per pair.

    Args:
        model: a HookedTransformer or TransformerBridge; its weights do not change.
        relations: Relations, bundled names or paths, or a mapping whose values are those.
        inits: where the vectors start: "zero"; "random", a direction as long as the residual stream is at the layer; or
            a mapping from relation name to FunctionVector.
        layer: vectors are added after this block. Several, or None for those at .4, .55 and .7 of the depth: each is
            tried, and the one whose mean validation loss over relations is lowest serves them all.
        n_pairs, n_validation: pairs of each relation's train part to tune on, and of its validation part to stop by;
            None for all. Where the parts have fewer, what is there is used, with a warning, if at least 10 train pairs
            are.
        seed: of the draws of pairs (those of a smaller `n_pairs` are among those of a larger) and random directions.
        how: steps, learning rate, loss, the form of the prompts; whether the answers are shuffled, as a control.

    Returns:
        A mapping from relation name to its FunctionVector of method "tuned", whose `training` records pairs, losses of
        every step and the chosen one. A relation that cannot be tuned is left out with a warning: see `.errors`.

    Raises:
        InputError: bad settings; two relations of one name; a start that is missing or does not fit the model; or no
            relation can be tuned: too few pairs, or losses that become NaN, or vectors that grow too large.

    Source: Kang et al. 2026 (arXiv 2601.08169) start from the summed vector; stopping on validation pairs is ours.
    """
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
    grid = layer_grid(lens, DEPTHS) if layer is None else list(layer) if isinstance(layer, Sequence) else [layer]
    if not grid:
        raise InputError("layer is an empty list; give at least one layer, or None for the usual ones.")
    found = tune_lessons(lens, list(lessons.values()), grid, how)
    best, losses = best_layer(found)
    vectors = {}
    for name, result in zip(lessons, found[best]):
        if isinstance(result, InputError):
            errors[name] = result
        else:
            vectors[name] = result if len(grid) == 1 else _with_layer_losses(result, losses)
    _report({name: error for name, error in errors.items() if name in lessons}, nothing_left=not vectors)
    return Tuned(vectors, errors)


@dataclass(frozen=True)
class Lesson:
    """What one vector is tuned on, and where it starts.

    Args:
        relation: what the vector is of, for its record; None for several relations.
        train, validation: pairs to learn, and pairs to stop by: one part, or one of each of several relations.
        start: "zero"; "random", a direction as long as the residual stream is at the layer; or a FunctionVector.
        seed: of the draw of the pairs, and of a random direction.
    """

    relation: Relation | None
    train: Sequence[Relation]
    validation: Sequence[Relation]
    start: Start = "zero"
    seed: int = 0

    @property
    def name(self) -> str:
        return self.relation.name if self.relation else "all"

    def shuffled(self) -> "Lesson":
        """The control: the same words with each other's answers, none of which is right."""
        assert self.relation is not None  # what answers are right of several relations together, no one says
        parts = [[shuffled(part, self.relation, self.seed) for part in some] for some in (self.train, self.validation)]
        return replace(self, train=parts[0], validation=parts[1])

    def task(self, lens: Lens, template: PromptTemplate) -> Task:
        """The lesson as prompts, and its start as numbers."""
        made = task(lens, self.train, self.validation, template)
        if isinstance(self.start, FunctionVector):
            made.start = self.start.vector
        elif self.start == "random":  # it does not depend on what is tuned beside it
            rng = generator(self.seed, Stream.START, self.name.encode())
            direction = torch.from_numpy(rng.standard_normal(lens.d_model)).float()
            made.start, made.in_rms = direction / direction.square().mean().sqrt(), True
        return made


def tune_lessons(
    lens: Lens,
    lessons: Sequence[Lesson],
    layers: Sequence[int],
    how: Tuning = Tuning(),
    description: str | None = None,
) -> dict[int, list[FunctionVector | InputError]]:
    """Layer -> the vector of each lesson, all tuned in one batch; an InputError for one that cannot be tuned.

    What a lesson gives does not depend on the lessons beside it.
    """
    layers, template = [check_layer(lens, layer) for layer in layers], how.template or PromptTemplate()
    tasks: dict[int, Task] = {}
    errors: dict[int, InputError] = {}
    for i, lesson in enumerate(lessons):
        try:
            tasks[i] = lesson.task(lens, template)
        except InputError as error:
            errors[i] = error
    made = {}
    for layer in layers:
        title = description or _title(lessons, how, layer, layers)
        results = tune(lens, list(tasks.values()), layer, how, title) if tasks else []
        vectors = {i: _vector(lens, lessons[i], tasks[i], result, layer, how) for i, result in zip(tasks, results)}
        made[layer] = [(errors | vectors)[i] for i in range(len(lessons))]
    return made


def _vector(
    lens: Lens, lesson: Lesson, of: Task, result: Result, layer: int, how: Tuning
) -> FunctionVector | InputError:
    if result.vector is None:
        return InputError(
            f"The loss of {lesson.name!r} became NaN, or its vector too large, at step {result.step}; lower "
            f"learning_rate (now {how.learning_rate:g}) or the strength of its start."
        )
    start = lesson.start
    return FunctionVector.on(
        lens, result.vector, layer, lesson.relation, how.template or PromptTemplate(), method="tuned",
        parents=[(result.strength, start.record)] if isinstance(start, FunctionVector) else (),
        training=result.record(of, how, lesson.seed),
    )  # fmt: skip


def best_layer(found: Mapping[int, Sequence[FunctionVector | InputError]]) -> tuple[int, dict[int, float]]:
    """The layer of lowest mean validation loss, and the losses of all; see `mean_validation_losses`."""
    losses = dict(zip(found, mean_validation_losses(list(found.values()))))
    return min(losses, key=lambda at: losses[at]), losses


def mean_validation_losses(kinds: Sequence[Sequence[FunctionVector | InputError]]) -> list[float]:
    """Mean validation loss of each kind of tuned vectors at their chosen steps, over relations whole in all of them.

    A kind in which hard relations broke thus gains nothing by it. One that shares no relation with those in which more
    are whole is not compared: its loss is infinite.
    """
    whole = [
        {r: _training(vector)["validation_loss"] for r, vector in enumerate(kind) if isinstance(vector, FunctionVector)}
        for kind in kinds
    ]
    shared = max((set(some) for some in whole), key=len)
    for some in sorted(whole, key=len, reverse=True):
        shared = shared & some.keys() or shared
    losses = [[some[r] for r in sorted(shared & some.keys())] for some in whole]
    return [round(float(np.mean(of)), 6) if of else np.inf for of in losses]


def _with_layer_losses(vector: FunctionVector, losses: Mapping[int, float]) -> FunctionVector:
    return replace(vector, training={**_training(vector), "layer_losses": {str(at): x for at, x in losses.items()}})


def training_frame(fv: FunctionVector) -> pd.DataFrame:
    """One line per step of a tuned vector's training: step, loss, validation_loss (NaN where not looked at), chosen."""
    training = _training(fv)
    seen = dict(training["validation_losses"])
    losses = [*training["losses"], np.nan]
    lines = [(i, loss, seen.get(i, np.nan), i == training["chosen_step"]) for i, loss in enumerate(losses)]
    return pd.DataFrame(lines, columns=["step", "loss", "validation_loss", "chosen"])


def _training(fv: FunctionVector) -> Mapping[str, Any]:
    if fv.training is None:
        raise InputError(f"{fv} was not tuned, so it has no training record.")
    return fv.training


def _named(relations: Relations) -> dict[str, Relation]:
    given = relations.values() if isinstance(relations, Mapping) else relations
    if isinstance(given, str | os.PathLike | Relation):
        given = [given]
    loaded = [load_relation(relation) for relation in given]
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


def _title(lessons: Sequence[Lesson], how: Tuning, layer: int, layers: Sequence[int]) -> str:
    """What a progress bar says."""
    start = lessons[0].start if isinstance(lessons[0].start, str) else "a vector"
    tried = f" ({list(layers).index(layer) + 1} of {len(layers)})" if len(layers) > 1 else ""
    return f"tuning from {start}{', shuffled pairs' * how.shuffle}, layer {layer}{tried}"


def _report(errors: Mapping[str, InputError], nothing_left: bool) -> None:
    """Raise if no relation is left, else warn of those that are left out."""
    if nothing_left:
        raise InputError(" ".join(map(str, errors.values())))
    for error in errors.values():
        warnings.warn(f"Left out: {error}", stacklevel=3)
