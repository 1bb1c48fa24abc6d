"""The units of a study, in the order of one process; see `jobs.unit`.

Head maps and few-shot prompts are units by relation, and so are baselines. Vectors are tuned on all relations together:
the shapes of the products, and with them the last digits, depend on what is tuned beside. Kinds, layers and deals of
tuned vectors are units of their own.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ...engine.whatif import WhatIf
from ...evaluation.rows import ROWS
from ...ground.streams import Stream
from ...vectors.lessons import best_layer
from ..jobs.unit import Kept, Unit, Whole
from ..stages import PARTS, Step
from . import baselines, steps
from .files import STARTS
from .outline import Outline, Shots
from .readings import readings
from .rows import VectorRows, directions, vector_rows
from .setup import Study
from .steps import unpacked, whole

# About how long each takes beside others, as the estimate counts for a model of 135 million parameters: `dry_run`.
HEADS, SUMS, TUNED, CURVE, SCORES, SHOT, BESIDE, BASELINES, DIFFERENCE, READINGS = (
    4.4, 2.1, 1.5, 1.4, 1.2, 0.07, 1.0, 3.0, 0.65, 0.1,
)  # fmt: skip


def units_of(study: Outline) -> list[Unit[Study] | Whole[Study]]:
    """Every unit of a study, each after those that it needs."""
    return [_heads(study), _sums(), *_tuned(study), _curve(study), *_completed(study), *_baselines(study),
            *_read(study)]  # fmt: skip


def layer_of(study: Outline, kept: Kept) -> tuple[int, dict[int, float]]:
    """The layer of lowest validation loss of vectors tuned from zero, and the losses of all layers."""
    return best_layer({at: unpacked(kept[f"tuned-from-zero-{at}"]) for at in study.grid})


def tuned_vectors(study: Outline, kept: Kept) -> dict[str, Step]:
    """Every kind of tuned vectors, by its key; "from-zero" are those at the best layer."""
    layer, _ = layer_of(study, kept)
    grid = {f"from-zero-{at}": kept[f"tuned-from-zero-{at}"] for at in study.grid}
    later = {key: kept[f"tuned-{key}"] for key in _later_kinds(study) if f"tuned-{key}" in kept}
    return grid | {"from-zero": grid[f"from-zero-{layer}"]} | later


def rows_with_vectors(study: Outline, kept: Kept) -> VectorRows:
    """The rows of the table that add a vector."""
    vectors = {key: tensors["vectors"] for key, (tensors, _) in tuned_vectors(study, kept).items()}
    few = kept["curve"][0]["vectors"]
    return vector_rows(study, kept["sums"], vectors, few, layer_of(study, kept)[0])


def shots_name(how: Shots) -> str:
    """The unit in which test words are asked behind these demonstrations."""
    return f"shots-{how['n_shots']}{'-shuffled' * how.get('shuffled', False)}"


def _later_kinds(study: Outline) -> list[str]:
    seeds = [f"{key}-seed-{seed}" for seed in range(1, study.settings.seeds) for key in ("from-zero", "from-fv")]
    return ["from-fv", "from-random", "shuffled", "pooled", *seeds]


def _grid_names(study: Outline) -> list[str]:
    return [f"tuned-from-zero-{at}" for at in study.grid]


def _tuned_names(study: Outline) -> list[str]:
    return [*_grid_names(study), *(f"tuned-{key}" for key in _later_kinds(study))]


def _has_sums(kept: Kept) -> bool:
    """Whether a sum of heads means anything on the model."""
    return "vectors" in kept["sums"][0]


def _heads(study: Outline) -> Whole[Study]:
    def compute(r: int, study: Study, kept: Kept) -> Step:
        return steps.heads(study, r)

    parts = [
        Unit(f"{PARTS}/heads-{r}", f"Head map: {name}", partial(compute, r), work=HEADS / len(study))
        for r, name in enumerate(study.names)
    ]
    return Whole("heads", "Head maps", parts, _all_heads)


def _all_heads(maps: Sequence[Step]) -> Step:
    """The head maps of all relations, from those of each."""
    tensors = {name: torch.cat([of[name] for of, _ in maps]) for name in maps[0][0]}
    return tensors, {"share_right": [share for _, record in maps for share in record["share_right"]]}


def _sums() -> Unit[Study]:
    what = "Summed vectors, chosen on validation"
    return Unit("sums", what, lambda study, kept: steps.sums(study, kept["heads"][0]), ["heads"], SUMS)


def _tuned(study: Outline) -> list[Unit[Study]]:
    def unit(key: str, what: str, at: int | None = None, *, seed: int = 0, shuffle: bool = False) -> Unit[Study]:
        of_sums = key.startswith("from-fv")

        def compute(study: Study, kept: Kept) -> Step:
            layer = layer_of(study, kept)[0] if at is None else at
            start: steps.Starts = "random" if key == "from-random" else "zero"
            if of_sums:
                start = whole(kept["sums"])
            return steps.tuned(study, layer, start, seed=seed, shuffle=shuffle, description=what)

        needs = ["sums"] * of_sums + (_grid_names(study) if at is None else [])
        applies = _has_sums if of_sums else _always
        return Unit(f"tuned-{key}", f"Tuning: {what}", compute, needs, TUNED, applies)

    units = [unit(f"from-zero-{at}", f"from zero, layer {at}", at) for at in study.grid]
    units += [unit("from-fv", "from the summed vectors"), unit("from-random", "from random directions")]
    units += [unit("shuffled", "on shuffled pairs", shuffle=True), _pooled(study)]
    for seed in range(1, study.settings.seeds):
        units.append(unit(f"from-zero-seed-{seed}", f"from zero, deal {seed}", seed=seed))
        units.append(unit(f"from-fv-seed-{seed}", f"from the summed vectors, deal {seed}", seed=seed))
    return units


def _pooled(study: Outline) -> Unit[Study]:
    what = "Tuning: one vector for all"

    def compute(study: Study, kept: Kept) -> Step:
        return steps.pooled(study, layer_of(study, kept)[0], what)

    return Unit("tuned-pooled", what, compute, _grid_names(study), TUNED)


def _curve(study: Outline) -> Unit[Study]:
    def compute(study: Study, kept: Kept) -> Step:
        return steps.curve(study, layer_of(study, kept)[0])

    return Unit("curve", "Tuning on fewer pairs", compute, _grid_names(study), CURVE)


def _completed(study: Outline) -> list[Unit[Study] | Whole[Study]]:
    """Test words with every vector, and behind demonstrations.

    Behind demonstrations with shuffled answers, the rows of the table that add a vector are asked as well.
    """

    def compute(study: Study, kept: Kept) -> Step:
        return steps.scores(study, rows_with_vectors(study, kept).whatifs(study))

    needs = ["sums", *_tuned_names(study), "curve"]
    return [
        Unit("scores", "Test words, zero-shot with each vector", compute, needs, SCORES),
        *(
            _shots(study, row, how, needs if how.get("shuffled") else [])
            for row, how in study.settings.prompting.items()
        ),
    ]


def _shots(study: Outline, row: str, how: Shots, needs: Sequence[str]) -> Whole[Study]:
    def compute(r: int, study: Study, kept: Kept) -> Step:
        beside: dict[str, list[WhatIf]] = {}
        if how.get("shuffled"):
            known = {row.name for row in ROWS}
            whatifs = rows_with_vectors(study, kept).whatifs(study)
            beside = {name: of_row for name, of_row in whatifs.items() if name in known}
        return steps.prompting(study, **how, whatifs=beside, only=r)

    shuffled = how.get("shuffled", False)
    name, what = shots_name(how), f"Test words, {row}{' with each vector' * shuffled}"
    work = (SHOT * how["n_shots"] + BESIDE * shuffled) / len(study)
    parts = [
        Unit(f"{PARTS}/{name}-{r}", f"{what}: {relation}", partial(compute, r), needs, work)
        for r, relation in enumerate(study.names)
    ]
    return Whole(name, what, parts, _all_words)


def _all_words(parts: Sequence[Step]) -> Step:
    """Completions of all relations' words, from those of each."""
    tensors = {name: torch.cat([of[name] for of, _ in parts]) for name in parts[0][0]}
    return tensors, parts[0][1]


def _baselines(study: Outline) -> list[Unit[Study]]:
    """The rows of other methods; none where the settings leave them out."""

    def compute(r: int, study: Study, kept: Kept) -> Step:
        return baselines.of_relation(study, r, unpacked(tuned_vectors(study, kept)["from-zero"]))

    needs, n = _grid_names(study), len(study)
    return [
        Unit(f"baselines-{r}", f"Baselines, relation {r + 1} of {n}: {name}", partial(compute, r), needs, BASELINES)
        for r, name in enumerate(study.names if study.settings.baselines else ())
    ]


def _read(study: Outline) -> list[Unit[Study]]:
    """What the vectors say, beside two controls: mean differences of residuals, and random directions."""

    def difference(study: Study, kept: Kept) -> Step:
        return {"vectors": steps.mean_difference(study, layer_of(study, kept)[0])}, {}

    def read(study: Study, kept: Kept) -> Step:
        return {}, readings(study, _kinds(study, kept))

    grid = _grid_names(study)
    return [
        Unit("difference", "Mean residual differences", difference, grid, DIFFERENCE),
        Unit("readings", "Reading the vectors", read, ["sums", *grid, "tuned-from-fv", "difference"], READINGS),
    ]


def _kinds(study: Study, kept: Kept) -> Mapping[str, tuple[Tensor, int]]:
    """The vectors that are read, and the layer at which each kind is added."""
    (layer, _), sums = layer_of(study, kept), kept["sums"]
    kinds = {"FV": (sums[0]["vectors"], sums[1]["layer"])} if _has_sums(kept) else {}
    tuning = {key: kept[f"tuned-{key}"] for key in ("from-fv", f"from-zero-{layer}") if f"tuned-{key}" in kept}
    tuning = {key.removesuffix(f"-{layer}"): step for key, step in tuning.items()}
    kinds |= {STARTS[key]: (tuning[key][0]["vectors"], layer) for key in STARTS if key in tuning}
    norms = tuning["from-zero"][0]["vectors"].norm(dim=1).nan_to_num(1.0)
    random = directions(study, norms, 1, Stream.READ)[0]
    return kinds | {"mean difference": (kept["difference"][0]["vectors"], layer), "random": (random, layer)}


def _always(kept: Kept) -> bool:
    return True
