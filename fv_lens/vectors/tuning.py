"""Fine-tuned function vectors: a vector learned on about twenty word pairs, for one relation or for many at once.

The model stays as it is. The vector is added at the last token of "Q: word\\nA:" after one block, and moves by Adam to
make the answers of the train pairs probable; the step at which the validation pairs' loss is lowest is kept.
"""

import warnings
from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np
import pandas as pd
import torch

from ..datasets.prompts import FewShot, PromptTemplate, corrupt
from ..datasets.relation_files import load_relation
from ..datasets.relations import Relation, Split, pairs_for
from ..ground import display
from ..ground.errors import InputError, finite_number, whole_number
from ..ground.streams import Stream, generator
from ..models.lens import Lens, check_layer, lens_of
from .function_vector import FunctionVector, own_template
from .optimizer import RATE, STEPS, STRENGTHS, Task, mean_loss, task, tune

MOST_RATE = 100  # root mean squares of the residual stream, in one step
LEAST_PAIRS = 10  # fewer are used only where fewer are asked for
DEPTHS = (0.4, 0.55, 0.7)  # of the layers that are tried where none is given


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


def finetune(model: object, relation: object, init: object = "zero", **settings) -> FunctionVector:
    """Tune one vector; arguments, defaults and errors are those of `finetune_all`, with `init` for `inits`.

    Example:
        >>> tuned = finetune(model, "antonym", fv, n_pairs=20)
        >>> tuned.training["chosen_step"], tuned.training["validation_loss"]
        (28, 2.87)
    """
    relation = load_relation(relation)
    if not isinstance(init, FunctionVector | Mapping) and not _is_named_start(init):
        given = repr(init) if isinstance(init, str) else type(init).__name__
        raise InputError(f"init is {given}; give 'zero', 'random' or a FunctionVector.")
    inits = {relation.name: init} if isinstance(init, FunctionVector) else init
    tuned = finetune_all(model, [relation], inits, **settings)
    return tuned[relation.name]


def finetune_all(
    model: object,
    relations: object,
    inits: object = "zero",
    *,
    layer: int | None = None,
    n_pairs: int = 20,
    n_validation: int = 10,
    seed: int = 0,
    steps: int = STEPS,
    learning_rate: Real = RATE,
    first_token: bool = False,
    layers: Sequence[int] | None = None,
    strengths: Sequence[Real] = STRENGTHS,
    shuffle: bool = False,
    template: PromptTemplate | None = None,
    split_seed: int = 0,
    progress: bool = True,
) -> Tuned:
    """Tune a vector for each relation, all in one batch: one vector per relation, one row per pair.

    Args:
        model: a HookedTransformer or TransformerBridge; its weights do not change.
        relations: Relations, bundled names or paths, or a mapping whose values are those.
        inits: where the vectors start: "zero"; "random", a direction as long as the residual stream is at the layer; or
            a mapping from relation name to FunctionVector.
        layer: vectors are added after this block. None: each of `layers` is tried, and the one whose mean validation
            loss over relations is lowest serves them all.
        n_pairs, n_validation: pairs of each relation's train part to tune on, and of its validation part to stop by.
            Where the parts have fewer, what is there is used, with a warning, if at least 10 train pairs are.
        seed: of the draws of pairs (those of a smaller `n_pairs` are among those of a larger) and random directions.
        steps: full-batch steps of Adam. Validation is looked at every second step, the start included.
        learning_rate: Adam's, in root mean squares of the residual stream at the layer over a relation's train prompts.
        first_token: tune on the first token of each answer alone, not on the whole first-listed answer.
        layers: the grid of `layer=None`; by default at .4, .55 and .7 of the depth.
        strengths: a start other than zero is multiplied with the one of these whose validation loss is lowest.
        shuffle: a control: the answers of the train pairs, and of the validation pairs, are exchanged so that none is
            right. What such a vector gains is the form of the answers, not the relation.
        template: the prompts' form; None for that of the initial vectors, or the default.
        split_seed: which split of the relations to use.
        progress: show progress bars.

    Returns:
        A mapping from relation name to its FunctionVector of method "tuned", whose `training` records pairs, losses of
        every step and the chosen one. A relation that cannot be tuned is left out with a warning: see `.errors`.

    Raises:
        InputError: bad settings; two relations of one name; a start that is missing or does not fit the model; or no
            relation can be tuned: too few pairs, or losses that become NaN, or vectors that grow too large.

    Source: Kang et al. 2026 (arXiv 2601.08169) start from the summed vector; stopping on validation pairs is ours.
    """
    lens, relations = lens_of(model), _named(relations)
    counts = {"n_pairs": n_pairs, "n_validation": n_validation, "steps": steps}
    n_pairs, n_validation, steps = (whole_number(name, count, least=1) for name, count in counts.items())
    rate = finite_number("learning_rate", learning_rate)
    if not 0 < rate <= MOST_RATE:
        raise InputError(f"learning_rate is {learning_rate!r}; give a number above 0 and at most {MOST_RATE}.")
    strengths = [finite_number("strength", strength) for strength in strengths] or [1.0]
    starts = _starts(lens, relations, inits)
    template = template or own_template(list(starts.values()))
    tasks, errors = [], {}
    for name, relation in relations.items():
        try:
            pairs = tuning_pairs(relation, n_pairs, n_validation, seed, split_seed)[:2]
            pairs = [shuffled(part, relation, seed) for part in pairs] if shuffle else pairs
            tasks.append(task(lens, name, *pairs, template, starts.get(name)))
        except InputError as error:
            errors[name] = error
    _report(errors, nothing_left=not tasks)
    if inits == "random":
        _start_at_random(lens, tasks, seed)
    grid = layer_grid(lens) if layers is None else [check_layer(lens, at) for at in layers]
    grid = grid if layer is None else [check_layer(lens, layer)]
    if not grid:
        raise InputError("layers is empty; give at least one layer, or None for the usual ones.")
    how = {"steps": steps, "rate": rate, "strengths": strengths, "first_token": first_token, "progress": progress}
    found = {at: tune(lens, tasks, at, description=_doing(inits, shuffle, at, grid), **how) for at in grid}
    best = min(grid, key=lambda at: mean_loss(found[at]))
    vectors, failed = {}, {}
    for one, result in zip(tasks, found[best]):
        if result.vector is None:
            failed[one.name] = InputError(
                f"The loss of {one.name!r} became NaN, or its vector too large, at step {result.step}; lower "
                f"learning_rate (now {rate:g}) or the strength of its start."
            )
            continue
        record = result.record(one, learning_rate=rate, first_token=first_token, shuffle=shuffle, seed=int(seed))
        if len(grid) > 1:
            record["layer_losses"] = {str(at): mean_loss(found[at]) for at in grid}
        relation = relations[one.name]
        vectors[one.name] = FunctionVector(
            result.vector, best, model=lens.name, processing=lens.processing, bos=lens.bos, relation=relation.name,
            data_hash=relation.hash, split_seed=split_seed, template=template.to_dict(), method="tuned",
            parents=[(result.strength, starts[one.name].record)] if one.name in starts else (), training=record,
        )  # fmt: skip
    _report(failed, nothing_left=not vectors)
    return Tuned(vectors, errors | failed)


def tuning_pairs(relation: Relation, n_pairs: int, n_validation: int, seed: int = 0, split_seed: int = 0) -> Split:
    """The split with `n_pairs` drawn from its train part and `n_validation` from its validation part.

    Where the parts have fewer, all of theirs are taken, with a warning.

    Raises:
        InputError: the train part has fewer pairs than asked for, and fewer than 10.
    """
    least, has = min(n_pairs, LEAST_PAIRS), f"relation {relation.name!r} has"
    if relation.parts is None and len(relation) < pairs_for(least):
        raise InputError(
            f"{has} {len(relation)} pairs, too few to tune on: give {pairs_for(least)} or more "
            f"(two fifths are for training, which takes at least {least})"
        )
    split = relation.split(split_seed)
    if len(split.train) < least:
        raise InputError(f"{has} {len(split.train)} train pairs and {least} are the fewest to tune on; give more pairs")
    if len(split.train) < n_pairs or len(split.validation) < n_validation:
        warnings.warn(
            f"{relation.name!r} is tuned with {min(n_pairs, len(split.train))} train and "
            f"{min(n_validation, len(split.validation))} validation pairs, not {n_pairs} and {n_validation}; "
            f"{max(pairs_for(n_pairs), 5 * n_validation)} pairs would be enough.",
            stacklevel=3,
        )
    return Split(_drawn(split.train, n_pairs, seed), _drawn(split.validation, n_validation, seed), split.test)


def shuffled(relation: Relation, answers: Relation, seed: int = 0) -> Relation:
    """The pairs with their first answers exchanged so that none is right; what is right is looked up in `answers`.

    Raises:
        InputError: no such exchange was found, because few answers serve all words.
    """
    rng = generator(seed, Stream.EXCHANGED_ANSWERS)
    shown = FewShot(relation.words[0], ("none",), tuple((word, listed[0]) for word, listed in relation.pairs))
    for _ in range(40):
        if (exchanged := corrupt(shown, answers.answers, rng)) is not None:
            return relation.with_pairs(list(exchanged.demonstrations))
    raise InputError(f"The answers of {relation.name!r} cannot be exchanged so that each is wrong; it has too few.")


def layer_grid(lens: Lens) -> list[int]:
    """The layers that are tried where none is given, at fixed shares of the depth."""
    return sorted({min(lens.n_layers - 1, int(depth * lens.n_layers + 0.5)) for depth in DEPTHS})


def training_frame(fv: FunctionVector) -> pd.DataFrame:
    """One line per step of a tuned vector's training: step, loss, validation_loss (NaN where not looked at), chosen."""
    if fv.training is None:
        raise InputError(f"{fv} was not tuned, so it has no training record.")
    seen = dict(fv.training["validation_losses"])
    losses = [*fv.training["losses"], np.nan]
    lines = [(i, loss, seen.get(i, np.nan), i == fv.training["chosen_step"]) for i, loss in enumerate(losses)]
    return pd.DataFrame(lines, columns=["step", "loss", "validation_loss", "chosen"])


def _drawn(part: Relation, n: int, seed: int) -> Relation:
    order = generator(seed, Stream.PROMPT_PAIRS).permutation(len(part))[:n]
    return part.with_pairs([part.pairs[i] for i in order])


def _named(relations: object) -> dict[str, Relation]:
    given = relations.values() if isinstance(relations, Mapping) else relations
    if isinstance(given, str | Relation):
        given = [given]
    loaded = [load_relation(relation) for relation in given]
    named = {relation.name: relation for relation in loaded}
    if not loaded or len(named) < len(loaded):
        names = [relation.name for relation in loaded]
        raise InputError(f"relations are {names}; give at least one, and each name once.")
    return named


def _starts(lens: Lens, relations: Mapping[str, Relation], inits: object) -> dict[str, FunctionVector]:
    if _is_named_start(inits):
        return {}
    if not isinstance(inits, Mapping):
        raise InputError(f"inits is {inits!r}; give 'zero', 'random', or a mapping from relation name to vector.")
    for name in relations:
        if not isinstance(inits.get(name), FunctionVector):
            raise InputError(f"inits has no FunctionVector for {name!r}; it has {sorted(map(str, inits))}.")
        inits[name].check(lens)
    return {name: inits[name] for name in relations}


def _is_named_start(init: object) -> bool:
    return isinstance(init, str) and init in ("zero", "random")


def _start_at_random(lens: Lens, tasks: Sequence[Task], seed: int) -> None:
    """Give each task a direction of its own, which does not depend on what is tuned beside it."""
    for one in tasks:
        rng = generator(seed, Stream.START, one.name.encode())
        direction = torch.from_numpy(rng.standard_normal(lens.d_model)).float()
        one.start, one.in_rms = direction / direction.square().mean().sqrt(), True


def _doing(inits: object, shuffle: bool, layer: int, grid: Sequence[int]) -> str:
    """What a progress bar says."""
    start = inits if isinstance(inits, str) else "a vector"
    tried = f" ({grid.index(layer) + 1} of {len(grid)})" if len(grid) > 1 else ""
    return f"tuning from {start}{', shuffled pairs' * shuffle}, layer {layer}{tried}"


def _report(errors: Mapping[str, InputError], nothing_left: bool) -> None:
    """Raise if no relation is left, else warn of those that are left out."""
    if nothing_left:
        raise InputError(" ".join(map(str, errors.values())))
    for error in errors.values():
        warnings.warn(f"Left out: {error}", stacklevel=3)
