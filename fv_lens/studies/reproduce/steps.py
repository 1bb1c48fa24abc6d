"""The steps of a study, each from the results of earlier ones: head maps, summed vectors, tuned vectors, completions.

Every step computes all relations together, by what serves one relation in a notebook as well, and returns tensors by
name and a record of plain JSON data. Choices (head count, layer, strength, step) are made on train and validation
pairs; test words are used only in `scores` and `prompting`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...engine.completion import Completions, completions, rows_of
from ...engine.edits import CPU_FLOAT32, RESIDUAL
from ...engine.parity import measure_ahead
from ...engine.whatif import WhatIf, without_patches
from ...ground.errors import InputError
from ...ground.progress import no_progress, progress_bar
from ...ground.streams import Stream, generator
from ...vectors.choice import choose_of
from ...vectors.effects import ranked
from ...vectors.function_vector import FunctionVector
from ...vectors.lessons import Lesson, tune_lessons
from ...vectors.mediation import indirect_effects
from ...vectors.summed import Heads, distributed_vectors, function_vector, residual_difference
from ...vectors.sweeps import mean_quality, on_validation, quality_of, sweep_all
from ..stages import Step
from .setup import TEST, Study

Starts = Sequence[FunctionVector] | Literal["zero", "random"]  # a vector for each relation, or what all start from
DIFFERENCE_PROMPTS = 8  # few-shot prompts of a relation in its mean difference, and as many zero-shot


def packed(names: Sequence[str], vectors: Sequence[FunctionVector | InputError], d_model: int) -> Step:
    """Vectors as a step's results, `vectors` `[name, d_model]` and their records; NaN where there is none, and why."""
    nothing = torch.full((d_model,), torch.nan, **CPU_FLOAT32)
    whole = [vector if isinstance(vector, FunctionVector) else None for vector in vectors]
    broken = {name: str(item) for name, item in zip(names, vectors) if isinstance(item, InputError)}
    tensors = {"vectors": torch.stack([item.vector if item else nothing for item in whole])}
    return tensors, {"records": [item.record if item else None for item in whole], "broken": broken}


def unpacked(step: Step) -> list[FunctionVector | InputError]:
    """The vectors that `packed` made results of."""
    (tensors, record), why = step, iter(step[1]["broken"].values())
    return [
        InputError(next(why)) if saved is None else FunctionVector.of_parts(vector, saved)
        for vector, saved in zip(tensors["vectors"], record["records"])
    ]


def whole(step: Step) -> list[FunctionVector]:
    """As `unpacked`; raises the error of the first relation that has no vector."""
    vectors = []
    for vector in unpacked(step):
        if isinstance(vector, InputError):
            raise vector
        vectors.append(vector)
    return vectors


def heads(study: Study, only: int | None = None) -> Step:
    """Each relation's head map from short runs: `effects` `[relation, layer, head]`, `mean_z` `[..., d_head]`.

    In models with norms behind attention, `attention_rms` `[relation, layer]` as well. `only`: the index of a
    relation, for its map alone.
    """
    settings, maps = study.settings, []
    relations = study.relations if only is None else [study.relations[only]]
    for relation in relations:
        shots = min(settings.n_shots, len(relation.split().train) - 1)
        sizes = (settings.map_prompts, shots, settings.mean_prompts)
        with no_progress():
            maps.append(indirect_effects(study.model, relation, *sizes, template=study.template))
    tensors = {"effects": torch.stack([m.mean for m in maps]), "mean_z": torch.stack([m.mean_z for m in maps])}
    sizes_held = [m.attention_rms for m in maps if m.attention_rms is not None]
    tensors |= {"attention_rms": torch.stack(sizes_held)} if sizes_held else {}
    return tensors, {"share_right": [m.share_right for m in maps]}


def sums(study: Study, maps: dict[str, Tensor]) -> Step:
    """Summed vectors of one set of heads for all relations, and what they are compared with, chosen on validation.

    The heads are those of largest mean effect over the relations. Head count and layer are chosen for all relations
    together, a strength for each. `plain` and `vectors` `[relation, d_model]` are the sum at strength 1 and at its own;
    `own` that of the relation's own heads, `random` `[draw, ...]` of random others, each at its own strength, at the
    same layer; `distributed` `[place, ...]` the parts of the universal heads. There are no sums for a model on which a
    sum means nothing, and no `random` if fewer other heads are left than are summed.
    """
    settings, relations = study.settings, study.relations
    heads = ranked(maps["effects"].mean(0))
    counts = sorted({min(count, len(heads)) for count in settings.head_counts})
    try:
        candidates = [_summed(study, [heads[:n]] * len(study), maps) for n in counts]
    except InputError as error:
        parts, record = _distributed(study, heads, counts, maps["mean_z"])
        return parts, record | {"no_sums": str(error)}
    choice = choose_of(study.model, relations, candidates, strengths=settings.strengths)
    n, layers = counts[choice.vector], choice.sweeps[0].layers
    rng = generator(settings.split_seed, Stream.RANDOM_HEADS)
    free, draws = heads[n:], settings.draws if len(heads) >= 2 * n else 0
    drawn = [[free[i] for i in rng.permutation(len(free))[:n]] for _ in range(draws)]
    others = [_summed(study, [ranked(effects)[:n] for effects in maps["effects"]], maps)]
    others += [_summed(study, [random_heads] * len(study), maps) for random_heads in drawn]
    layer = layers[choice.layer]
    beside = sweep_all(study.model, relations, others, [layer], settings.strengths)
    scaled = torch.stack([
        torch.stack([sweep.at(i, 0, int(sweep.quality[i, 0].argmax())).vector for sweep in beside])
        for i in range(len(others))
    ])  # fmt: skip
    tensors, record = packed(study.names, choice.vectors, study.lens.d_model)
    tensors |= {"plain": torch.stack([vector.vector for vector in choice.plain]), "own": scaled[0]}
    tensors |= {"random": scaled[1:]} if drawn else {}
    record |= {"heads": heads[:n], "layer": layer, "layers": list(layers), "counts": counts}
    record["strengths"] = [vector.strength for vector in choice.vectors]
    record["grid"] = np.mean([sweep.accuracy for sweep in choice.sweeps], axis=0).round(6).tolist()
    parts, more = _distributed(study, heads, counts, maps["mean_z"])
    return tensors | parts, record | more


def _distributed(study: Study, heads: Heads, counts: Sequence[int], mean_z: Tensor) -> Step:
    """The distributed form of the universal heads, count for all and strength for each chosen on validation."""
    by_count: dict[int, list[list[FunctionVector]]] = {}
    try:
        for n in counts:
            by_count[n] = [
                distributed_vectors(study.model, r, heads[:n], z, template=study.template)
                for r, z in zip(study.relations, mean_z)
            ]
    except InputError as error:
        return {}, {"no_distributed": str(error)}
    strengths = study.settings.strengths
    added = [
        [[replace(part, vector=strength * part.vector) for part in parts] for parts in by_count[n]]
        for n in counts for strength in strengths
    ]  # fmt: skip
    measured = on_validation(study.lens, study.relations, added, study.template, "distributed vectors")
    quality = np.stack(
        [
            quality_of(relation_completions.rows(slice(1, None))).reshape(len(counts), -1)
            for relation_completions in measured
        ]
    )
    best = int(mean_quality(quality.max(-1)).argmax())
    parts, chosen = by_count[counts[best]], [strengths[i] for i in quality[:, best].argmax(-1)]
    scaled = [torch.stack([s * own[i].vector for s, own in zip(chosen, parts)]) for i in range(len(parts[0]))]
    record = {"distributed_places": [(part.layer, part.site) for part in parts[0]], "distributed_strengths": chosen}
    return {"distributed": torch.stack(scaled)}, record | {"distributed_heads": heads[: counts[best]]}


def tuned(
    study: Study,
    layer: int,
    starts: Starts = "zero",
    *,
    seed: int = 0,
    shuffle: bool = False,
    description: str = "tuning",
) -> Step:
    """One vector per relation, tuned at a layer; `packed`.

    With `shuffle`, train and validation answers are exchanged so that none is right.
    """
    each = [starts] * len(study) if isinstance(starts, str) else starts
    lessons: list[Lesson | InputError] = []
    for relation, start in zip(study.relations, each):
        train, validation = study.pairs(relation, seed)
        lesson = Lesson(relation, [train], [validation], start, seed)
        try:
            lessons.append(lesson.shuffled() if shuffle else lesson)
        except InputError as error:
            lessons.append(error)
    tunable = [lesson for lesson in lessons if isinstance(lesson, Lesson)]
    tuned_vectors = iter(tune_lessons(study.lens, tunable, [layer], study.tuning, description)[layer])
    vectors = [next(tuned_vectors) if isinstance(lesson, Lesson) else lesson for lesson in lessons]
    return packed(study.names, vectors, study.lens.d_model)


def pooled(study: Study, layer: int, description: str = "tuning") -> Step:
    """One vector tuned on the pairs of all relations, `[1, d_model]`; `packed`."""
    parts = [study.pairs(relation) for relation in study.relations]
    lesson = Lesson(None, [train for train, _ in parts], [validation for _, validation in parts])
    vectors = tune_lessons(study.lens, [lesson], [layer], study.tuning, description)[layer]
    return packed(["all"], vectors, study.lens.d_model)


def curve(study: Study, layer: int) -> Step:
    """Vectors tuned from zero on fewer pairs, `vectors` `[size, relation, d_model]`.

    Half as many validation pairs stop them. The pairs of a smaller size are among those of the larger ones.
    """
    lessons = []
    for n in study.settings.curve:
        for relation in study.relations:
            train, validation, _ = relation.split()
            few, fewer = relation.with_pairs(train.pairs[:n]), relation.with_pairs(validation.pairs[: max(1, n // 2)])
            lessons.append(Lesson(relation, [few], [fewer]))
    vectors = tune_lessons(study.lens, lessons, [layer], study.tuning, "learning curve")[layer]
    names = [f"{name}, {n} pairs" for n in study.settings.curve for name in study.names]
    tensors, record = packed(names, vectors, study.lens.d_model)
    return {"vectors": tensors["vectors"].unflatten(0, (-1, len(study)))}, {"broken": record["broken"]}


def scores(study: Study, whatifs: Mapping[str, Sequence[WhatIf]]) -> Step:
    """Zero-shot completion of all test words, plain and under each what-if; a row with several is drawn so often.

    Tensors are those of `Completions`, `[word, 1 + what-if]`, and `owners` `[word]`, the relation of each word. The
    record's `rows` are the places of each row's draws among the what-ifs: "zero-shot" is the plain prompt, at 0.
    """
    prompts, owners = study.zero_shot(TEST)
    flat = [whatif for several in whatifs.values() for whatif in several]
    _measure_sites(study, whatifs)
    with progress_bar(total=len(prompts), desc="test words, zero-shot", unit="word") as bar:
        found = completions(study.lens, prompts, flat, bar.update)
    return as_tensors(found, owners), {"rows": {"zero-shot": [0]} | rows_of(whatifs)}


def prompting(
    study: Study,
    n_shots: int,
    shuffled: bool = False,
    validation: bool = False,
    whatifs: Mapping[str, Sequence[WhatIf]] | None = None,
    only: int | None = None,
) -> Step:
    """Completion of all test words behind demonstrations, plain and under each what-if; results as those of `scores`.

    `shuffled`, `validation` and `only` are as in `Study.few_shot`. The plain prompt, at 0, has no name among the
    `rows`.
    """
    batches, whatifs = list(study.few_shot(n_shots, shuffled, validation, only)), whatifs or {}
    flat = [whatif for several in whatifs.values() for whatif in several]
    _measure_sites(study, whatifs)
    before = sum(len(relation.split().test) for relation in study.relations[: only or 0])
    sizes = [len(prompts) for prompts, _ in batches]
    members = torch.arange(before, before + sum(sizes), device="cpu").split(sizes)
    by_batch: dict[int, Completions] = {}
    # The longest first: the engine checks itself again on prompts that are longer than all before.
    order = sorted(range(len(batches)), key=lambda i: -batches[i][0].tokens.shape[1])
    with progress_bar(total=sum(sizes), desc=f"test words, {n_shots}-shot", unit="word") as bar:
        for i in order:
            of_batch = [[edit.for_prompts(members[i]) for edit in whatif] for whatif in flat]
            by_batch[i] = completions(study.lens, batches[i][0], of_batch, bar.update)
    return as_tensors(
        Completions.joined([by_batch[i] for i in range(len(batches))]), torch.cat([owners for _, owners in batches])
    ), {"rows": rows_of(whatifs)}


def _measure_sites(study: Study, whatifs: Mapping[str, Sequence[WhatIf]]) -> None:
    """Choose the forms of edits at other sites by the longest prompts, whichever step meets such edits first."""
    edits = [edit for several in whatifs.values() for whatif in several[:1] for edit in whatif]
    if any(edit.site != RESIDUAL for edit in edits):
        without_patches(measure_ahead)(study.lens, study.longest_prompts(), [edits])


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


def as_tensors(found: Completions, owners: Tensor) -> dict[str, Tensor]:
    """Completions as a step's tensors, with the relation of each word."""
    parts = {name: torch.from_numpy(getattr(found, name)) for name in found.__dataclass_fields__}
    return {name: x.to(torch.uint8) if name == "right" else x.float() for name, x in parts.items()} | {"owners": owners}


def _summed(study: Study, chosen: Sequence[Heads], maps: Mapping[str, Tensor]) -> list[FunctionVector]:
    """Each relation's sum of its chosen heads."""
    held = maps.get("attention_rms", [None] * len(study))
    parts = zip(study.relations, chosen, maps["mean_z"], held)
    return [function_vector(study.model, r, own, 0, z, rms, template=study.template) for r, own, z, rms in parts]
