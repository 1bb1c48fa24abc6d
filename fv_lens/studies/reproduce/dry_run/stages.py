"""The work of a study, stage by stage, before anything is run."""

from collections.abc import Sequence

import numpy as np

from ....evaluation.readings import NEUTRAL_PROMPTS
from ....evaluation.rows import ROWS
from ....vectors.optimizer import STRENGTHS
from ....vectors.sweeps import DEPTHS as SWEPT
from ..outline import Settings
from ..steps import DIFFERENCE_PROMPTS
from .cost import Cost, Kind
from .shape import FORMS, Shape
from .words import Words

KINDS = 5  # kinds of vectors that are decoded
CONTRASTS = 5  # of prompts, from which steering vectors are measured


def stage_costs(shape: Shape, words: Words, settings: Settings, sizes: Sequence[Sequence[int]]) -> dict[str, Cost]:
    """What each stage of `reproduce` costs, by its name, in order; "checks" are those of the engine before them all.

    Assumes what a run would measure: tuning at the lowest layer of the grid, which costs most, and sums added at half
    the depth.

    Args:
        sizes: of each relation, how many train, validation and test pairs it has.
    """
    n_relations, (n_train, n_validation, n_test) = len(sizes), (sum(part) for part in zip(*sizes))
    layer, half, draws, tries = shape.grid[0], shape.at(0.5), settings.draws, len(STRENGTHS)
    shown = words.prompt + min(settings.n_shots, *(train - 1 for train, _, _ in sizes)) * words.shown

    heads = [at for at in range(shape.n_layers) for _ in range(shape.n_heads)]
    longest = words.prompt + max(how["n_shots"] for how in settings.prompting.values()) * words.shown
    stages = {"checks": shape.checked(longest), "heads": shape.whole(n_relations * settings.mean_prompts, shown)}
    stages["heads"] += shape.what_ifs(n_relations * settings.map_prompts, shown, heads, kind=Kind.SHOWN)

    places, n_counts = sorted({shape.at(share) for share in SWEPT}), len(settings.head_counts)
    summed, others, distributed = places * n_counts, [half] * (1 + draws), places[:1] * n_counts
    whatifs = [some * len(settings.strengths) for some in (summed, others, distributed)]
    stages["sums"] = sum((shape.completed(n_validation, words, births) for births in whatifs), Cost())
    # An edit in each layer that has one of the heads is compared with full forwards, of two prompts.
    compared = 2 * (1 + shape.n_layers * (1 - (1 - 1 / shape.n_layers) ** settings.head_counts[-1])) + FORMS
    stages["sums"] += shape.checked(words.prompt, compared)

    def tuned(at: int, n_starts: int = 1) -> Cost:
        return shape.tuned(n_train, n_validation, words, at, settings.steps, n_starts)

    stages |= {f"tuned-from-zero-{at}": tuned(at) for at in shape.grid}
    stages |= {"tuned-from-fv": tuned(layer, tries), "tuned-from-random": tuned(layer, tries)}
    stages |= {"tuned-shuffled": tuned(layer), "tuned-pooled": tuned(layer)}
    for seed in range(1, settings.seeds):
        stages |= {f"tuned-from-zero-seed-{seed}": tuned(layer), f"tuned-from-fv-seed-{seed}": tuned(layer, tries)}
    few = sum(min(n, train) for n in settings.curve for train, _, _ in sizes)
    fewer = sum(min(max(1, n // 2), validation) for n in settings.curve for _, validation, _ in sizes)
    stages["curve"] = shape.tuned(few, fewer, words, layer, settings.steps)

    added = {"summed": half, "heads": places[0], "tuned": layer}
    again = [added[row.place] for row in ROWS if row.place for _ in range(draws if row.drawn else 1)]
    births = again + [layer] * (len(settings.curve) + 2 * (settings.seeds - 1))  # and the other deals
    stages["scores"] = shape.completed(n_test, words, births) + shape.checked(longest, compared)
    for how in settings.prompting.values():
        n, shuffled = how["n_shots"], how.get("shuffled", False)
        beside = again if shuffled else []
        asked = shape.completed(n_test, words, beside, n, settings.n_together)
        stages[f"shots-{n}{'-shuffled' * shuffled}"] = asked
    for r, (train, validation, test) in enumerate(sizes if settings.baselines else ()):
        trained = (shape.trained(train, validation, words, at, settings.steps) for at in (0, 0, layer, 0))
        swept = shape.completed(validation, words, [at for at in places for _ in STRENGTHS] * CONTRASTS)
        scored = shape.completed(test, words, [layer] * 4)
        prompts = shape.whole(2 * train, shown) + shape.whole(4 * train + 4 * test, words.prompt)
        stages[f"baselines-{r}"] = sum(trained, swept + scored + prompts)
    n = n_relations * DIFFERENCE_PROMPTS
    stages["difference"] = shape.whole(n, shown) + shape.whole(n, words.prompt)
    length = float(np.mean([len(prompt.split()) for prompt in NEUTRAL_PROMPTS]))
    through = [
        shape.what_ifs(len(NEUTRAL_PROMPTS), length, [at] * n_relations) for at in [half] + [layer] * (KINDS - 1)
    ]
    stages["readings"] = sum(through, shape.whole(2 * KINDS * n_relations, 1))
    return stages
