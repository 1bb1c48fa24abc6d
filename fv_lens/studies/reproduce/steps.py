"""The steps of a study, each from the results of earlier ones: head maps, summed vectors, tuned vectors, completions.

Every step computes all relations together and returns tensors by name and a record of plain JSON data. Choices (head
count, layer, strength, step) are made on train and validation pairs; test words are met in `scores` and `prompting`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...engine.completion import Completions, completions
from ...engine.edits import CPU_FLOAT32
from ...engine.whatif import WhatIf
from ...ground.errors import InputError
from ...ground.progress import progress_bar
from ...ground.streams import Stream, generator
from ...vectors.effects import indirect_effects
from ...vectors.optimizer import Result, Task, task, tune
from ...vectors.summed import distributed_vectors, function_vector, residual_difference
from ...vectors.tuning import shuffled
from .setup import TEST, VALIDATION, Study

Step = tuple[dict[str, Tensor], dict]
SHARES = (0.25, 0.35, 0.45, 0.55, 0.65, 0.75)  # of the depth: where summed vectors are tried
DIFFERENCE_PROMPTS = 8  # few-shot prompts of a relation in its mean difference, and as many zero-shot


def heads(study: Study, progress: bool = True) -> Step:
    """Each relation's head map from short runs: `effects` `[relation, layer, head]`, `mean_z` `[..., d_head]`."""
    settings, maps = study.settings, []
    for relation in progress_bar(study.relations, desc="head maps", unit="relation", disable=not progress):
        shots = min(settings.n_shots, len(relation.split().train) - 1)
        sizes = (settings.map_prompts, shots, settings.mean_prompts)
        maps.append(indirect_effects(study.model, relation, *sizes, progress=False))
    tensors = {"effects": torch.stack([m.mean for m in maps]), "mean_z": torch.stack([m.mean_z for m in maps])}
    return tensors, {"share_right": [m.share_right for m in maps]}


def sums(study: Study, maps: dict[str, Tensor], progress: bool = True) -> Step:
    """Summed vectors of one set of heads for all relations, and what they are compared with, chosen on validation.

    The heads are those of largest mean effect over the relations. Head count and layer are chosen for all relations
    together, a strength for each. `plain` and `strong` `[relation, d_model]` are the sum at strength 1 and at its own;
    `own` that of the relation's own heads, `random` `[draw, ...]` of random others, each at its own strength, at the
    same layer; `distributed` `[layer, ...]` the parts of the universal heads. A model on which a sum means nothing has
    no sums, and one with fewer than as many other heads no `random`.
    """
    lens, settings = study.lens, study.settings
    ranked = _ranked(maps["effects"].mean(0))
    counts = sorted({min(count, len(ranked)) for count in settings.head_counts})
    try:
        made = {n: _summed(study, [ranked[:n]] * len(study), maps["mean_z"]) for n in counts}
    except InputError as error:
        parts, record = _distributed(study, ranked, counts, maps["mean_z"], progress)
        return parts, record | {"no_sums": str(error)}
    layers = sorted({min(lens.n_layers - 1, int(share * lens.n_layers + 0.5)) for share in SHARES})
    grid = [(n, layer, s) for n in counts for layer in layers for s in settings.strengths]
    whatifs = [[study.edit(s * made[n], VALIDATION, layer)] for n, layer, s in grid]
    shape = (len(counts), len(layers), len(settings.strengths))
    quality = _quality(study, whatifs, "summed vectors", progress).reshape(len(study), *shape)
    best = quality.max(-1)
    count, at = np.unravel_index(_over_relations(best).argmax(), best.shape[1:])
    layer, strength = layers[at], quality[:, count, at].argmax(-1)
    chosen = torch.tensor(settings.strengths, **CPU_FLOAT32)[strength]
    plain, n = made[counts[count]], counts[count]
    rng = generator(settings.split_seed, Stream.RANDOM_HEADS)
    free, draws = ranked[n:], settings.draws if len(ranked) >= 2 * n else 0
    drawn = [[free[i] for i in rng.permutation(len(free))[:n]] for _ in range(draws)]
    others = [_summed(study, [_ranked(m)[:n] for m in maps["effects"]], maps["mean_z"])]
    others += [_summed(study, [some] * len(study), maps["mean_z"]) for some in drawn]
    whatifs = [[study.edit(s * v, VALIDATION, layer)] for v in others for s in settings.strengths]
    quality_of = _quality(study, whatifs, "own and random heads", progress).reshape(len(study), len(others), -1)
    picked = torch.tensor(settings.strengths, **CPU_FLOAT32)[quality_of.argmax(-1)]  # [relation, vector]
    scaled = torch.stack([picked[:, i, None] * v for i, v in enumerate(others)])
    tensors = {"plain": plain, "strong": chosen[:, None] * plain, "own": scaled[0]}
    tensors |= {"random": scaled[1:]} if drawn else {}
    record = {"heads": ranked[:n], "layer": layer, "strengths": chosen.tolist(), "layers": layers, "counts": counts}
    record |= {"grid": quality.real.mean(0).round(6).tolist()}
    parts, more = _distributed(study, ranked, counts, maps["mean_z"], progress)
    return tensors | parts, record | more


def _distributed(study: Study, ranked: list, counts: Sequence[int], mean_z: Tensor, progress: bool) -> Step:
    """The distributed form of the universal heads, count for all and strength for each chosen on validation."""
    made, places = {}, {}
    try:
        for n in counts:
            parts = [distributed_vectors(study.model, r, ranked[:n], z) for r, z in zip(study.relations, mean_z)]
            made[n] = torch.stack([torch.stack([part.vector for part in some]) for some in parts], 1)
            places[n] = [(part.layer, part.site) for part in parts[0]]
    except InputError as error:
        return {}, {"no_distributed": str(error)}
    strengths = study.settings.strengths

    def added(n: int, strength: object) -> WhatIf:
        scale = torch.as_tensor(strength, **CPU_FLOAT32).expand(len(study))[:, None]
        return [study.edit(scale * v, VALIDATION, at, site=site) for v, (at, site) in zip(made[n], places[n])]

    whatifs = [added(n, s) for n in counts for s in strengths]
    quality = _quality(study, whatifs, "distributed vectors", progress).reshape(len(study), len(counts), -1)
    n = counts[int(_over_relations(quality.max(-1)).argmax())]
    strength = torch.tensor(strengths, **CPU_FLOAT32)[quality[:, counts.index(n)].argmax(-1)]
    record = {"distributed_places": places[n], "distributed_strengths": strength.tolist()}
    return {"distributed": strength[:, None] * made[n]}, record | {"distributed_heads": ranked[:n]}


def tuned(
    study: Study,
    layer: int,
    starts: Float[Tensor, "relation d_model"] | None = None,
    *,
    seed: int = 0,
    shuffle: bool = False,
    pooled: bool = False,
    progress: bool = True,
    description: str = "tuning",
) -> Step:
    """One vector per relation, tuned at a layer: `vectors` `[relation, d_model]` and their losses in nats.

    `losses` are `[relation, step]`, `validation_losses` `[relation, step + 1]` with NaN where they were not looked at.
    With `shuffle`, train and validation answers are exchanged so that none is right; with `pooled`, one vector is tuned
    on all relations' pairs. A vector that broke, or whose pairs could not be shuffled, is NaN; the record says why.
    """
    tasks: list[Task | None] = []
    skipped = {}
    for r, relation in enumerate(study.relations):
        train, validation = study.pairs(relation, seed)
        try:
            if shuffle:
                train, validation = shuffled(train, relation), shuffled(validation, relation)
            start = None if starts is None else study.vector(relation, starts[r], layer, "start")
            tasks.append(task(study.lens, relation.name, train, validation, study.template, start))
        except InputError as error:
            skipped[relation.name] = str(error)
            tasks.append(None)
    asked = [one for one in tasks if one is not None]
    if pooled:
        asked = tasks = [Task.pooled(asked, study.lens.pad_id) if asked else None]
    found = iter(_tune(study, asked, layer, progress, description) if any(asked) else ())
    results = [one and next(found) for one in tasks]
    return _kept(study, results, ["all"] if pooled else study.names, layer, skipped)


def curve(study: Study, layer: int, progress: bool = True) -> Step:
    """Vectors tuned from zero on fewer pairs, `vectors` `[size, relation, d_model]`.

    Half as many validation pairs stop them. The pairs of a smaller size are among those of the larger ones.
    """
    tasks = []
    for n in study.settings.curve:
        for relation in study.relations:
            train, validation, _ = relation.split()
            few, fewer = relation.with_pairs(train.pairs[:n]), relation.with_pairs(validation.pairs[: max(1, n // 2)])
            tasks.append(task(study.lens, relation.name, few, fewer, study.template))
    results = _tune(study, tasks, layer, progress, "learning curve")
    names = [f"{name}, {n} pairs" for n in study.settings.curve for name in study.names]
    tensors, record = _kept(study, results, names, layer, {})
    return {"vectors": tensors["vectors"].unflatten(0, (-1, len(study)))}, {"broken": record["broken"]}


def scores(study: Study, whatifs: dict[str, Sequence[WhatIf]], progress: bool = True) -> Step:
    """Zero-shot completion of all test words, plain and under each what-if; a row with several is drawn so often.

    Tensors are those of `Completions`, `[word, 1 + what-if]`, and `owners` `[word]`, the relation of each word. The
    record's `rows` are the places of each row's draws among the what-ifs: "zero-shot" is the plain prompt, at 0.
    """
    prompts, owners = study.zero_shot(TEST)
    flat = [whatif for several in whatifs.values() for whatif in several]
    with progress_bar(total=len(prompts), desc="test words, zero-shot", unit="word", disable=not progress) as bar:
        found = completions(study.lens, prompts, flat, bar.update)
    places = {"zero-shot": [0]}
    for name, several in whatifs.items():
        first = 1 + sum(len(x) for x in list(whatifs.values())[: list(whatifs).index(name)])
        places[name] = list(range(first, first + len(several)))
    return _measured(found, owners), {"rows": places}


def prompting(study: Study, n_shots: int, progress: bool = True, **how: bool) -> Step:
    """Completion of all test words behind demonstrations, without any vector; tensors as in `scores`, `[word, 1]`.

    `how`: `shuffled` or `validation`, as `Study.few_shot` takes them.
    """
    asked = list(study.few_shot(n_shots, **how))
    found: list[Completions | None] = [None] * len(asked)
    # The longest first: the engine checks itself anew on prompts that are longer than all before.
    order = sorted(range(len(asked)), key=lambda i: -asked[i][0].tokens.shape[1])
    total = sum(len(prompts) for prompts, _ in asked)
    with progress_bar(total=total, desc=f"test words, {n_shots}-shot", unit="word", disable=not progress) as bar:
        for i in order:
            found[i] = completions(study.lens, asked[i][0], [], bar.update)
    return _measured(Completions.joined(found), torch.cat([owners for _, owners in asked])), {}


def mean_difference(study: Study, layer: int) -> Float[Tensor, "relation d_model"]:
    """Mean residual at the last token after a layer, of few-shot minus zero-shot prompts of the same train words.

    Raises:
        InputError: a patch is active.
    """
    trains = [relation.split().train for relation in study.relations]
    shots = [min(study.settings.n_shots, len(train) - 1) for train in trains]
    return torch.stack([
        residual_difference(study.lens, train, DIFFERENCE_PROMPTS, n, layer, study.template)
        for train, n in zip(trains, shots)
    ])  # fmt: skip


def _tune(study: Study, tasks: Sequence[Task], layer: int, progress: bool, description: str) -> list[Result]:
    how = {"steps": study.settings.steps, "rate": study.settings.rate, "progress": progress}
    return tune(study.lens, tasks, layer, description=description, **how)


def _kept(
    study: Study, results: Sequence[Result | None], names: Sequence[str], layer: int, skipped: dict[str, str]
) -> Step:
    nothing = torch.full((study.lens.d_model,), torch.nan, **CPU_FLOAT32)
    vectors = [nothing if one is None or one.vector is None else one.vector for one in results]
    steps = study.settings.steps
    blank = [np.full(steps, np.nan), np.full(steps + 1, np.nan)]
    losses = [(one.losses, one.validation_losses) if one else blank for one in results]
    broken = {name: f"NaN at step {one.step}" for name, one in zip(names, results) if one and one.vector is None}
    tensors = {"vectors": torch.stack(vectors)} | {
        name: torch.tensor(np.stack(x), **CPU_FLOAT32) for name, x in zip(("losses", "validation_losses"), zip(*losses))
    }
    record = {"layer": layer, "broken": broken | skipped, "steps": [one.step if one else None for one in results]}
    return tensors, record | {"strengths": [one.strength if one else None for one in results]}


def _measured(found: Completions, owners: Tensor) -> dict[str, Tensor]:
    parts = {name: torch.from_numpy(getattr(found, name)) for name in found.__dataclass_fields__}
    return {name: x.to(torch.uint8) if name == "right" else x.float() for name, x in parts.items()} | {"owners": owners}


def _quality(study: Study, whatifs: Sequence[WhatIf], what: str, progress: bool) -> np.ndarray:
    """How well each what-if completes the validation words, `[relation, what-if]`; log-probability breaks ties."""
    prompts, owners = study.zero_shot(VALIDATION)
    with progress_bar(total=len(prompts), desc=f"{what}, on validation", unit="word", disable=not progress) as bar:
        found = completions(study.lens, prompts, whatifs, bar.update).rows(slice(1, None))
    of = [owners.numpy() == r for r in range(len(study))]
    # A complex number is compared by its real part first.
    return np.stack([found.right[mine].mean(0) + 1j * found.log_prob[mine].mean(0) for mine in of])


def _over_relations(quality: np.ndarray) -> np.ndarray:
    """The mean over relations; equal shares stay equal, so that rounding does not choose between them."""
    return quality.mean(0).round(9)


def _ranked(effects: Float[Tensor, "layer head"]) -> list[tuple[int, int]]:
    order = effects.flatten().nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)
    order = order[: int((~effects.isnan()).sum())]  # layers without heads have no effects
    return [divmod(index, effects.shape[1]) for index in order.tolist()]


def _summed(study: Study, chosen: Sequence[list], mean_z: Tensor) -> Float[Tensor, "relation d_model"]:
    made = [function_vector(study.model, r, own, 0, z) for r, own, z in zip(study.relations, chosen, mean_z)]
    return torch.stack([vector.vector for vector in made])
