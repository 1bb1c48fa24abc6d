"""The work of a study, counted by stage before anything is run.

Counted per stage: 2 operations per weight and token in the blocks that a row runs through, the products in attention,
and the unembedding of what is read. The backward pass through frozen weights costs as much again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...engine.completion import FEW
from ...engine.prefixes import WORTH
from ...evaluation.baselines.training import TRIAL
from ...evaluation.readings import NEUTRAL_PROMPTS
from ...evaluation.rows import ROWS
from ...vectors.optimizer import EVERY, STRENGTHS
from ...vectors.sweeps import DEPTHS as SWEPT
from ...vectors.tuning import DEPTHS
from .outline import Settings
from .steps import DIFFERENCE_PROMPTS

FOUND = 0.5  # assumed: the share of rows whose most probable token begins an answer
CHECKED = 14  # full forwards, about, in the engine's parity check of prompts longer than any before
KINDS = 5  # kinds of vectors that are decoded
CONTRASTS = 5  # of prompts, from which steering vectors are measured

Number = float | int


@dataclass(frozen=True)
class Cost:
    """Rows (what-ifs x prompts, or pairs x steps), the tokens that are run for them, and operations."""

    rows: Number = 0
    tokens: Number = 0
    flop: Number = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.rows + other.rows, self.tokens + other.tokens, self.flop + other.flop)


@dataclass(frozen=True)
class Words:
    """Mean tokens of a zero-shot prompt, of a demonstration before it, of an answer (the first listed one).

    `long`: the share of answers with several tokens. `several`: of words with several answers. `source`: how tokens
    were counted.
    """

    prompt: Number
    shown: Number
    answer: Number
    long: Number
    several: Number
    source: str


@dataclass(frozen=True)
class Shape:
    """What the cost of a model depends on: weights in each block, in the unembedding, in all; its dimensions."""

    blocks: tuple[int, ...]
    unembedding: int
    n_parameters: int
    d_model: int
    d_mlp: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_vocab: int
    matrix: tuple[int, int]  # a block's largest

    def at(self, share: Number) -> int:
        """The layer at a share of the depth."""
        return min(len(self.blocks) - 1, int(share * len(self.blocks) + 0.5))

    @property
    def grid(self) -> list[int]:
        """The layers that are tuned at, as `layer_grid` has them."""
        return sorted({self.at(share) for share in DEPTHS})

    def flop(self, n: Number, context: Number, start: int = 0, read: Number = 0) -> Number:
        """Operations of `n` tokens in the blocks from `start` on, each meeting `context` keys; `read` are unembedded.

        Example:
            >>> shape.flop(1, 0, read=1) == 2 * (sum(shape.blocks) + shape.unembedding)
            True
        """
        blocks = self.blocks[start:]
        attention = 2 * len(blocks) * self.n_heads * self.d_head * context  # scores, then values
        return 2 * (n * (sum(blocks) + attention) + read * self.unembedding)

    def whole(self, n: Number, length: Number) -> Cost:
        """`n` prompts of `length` tokens in full forwards, their last token read."""
        return Cost(n, n * length, self.flop(n * length, length, read=n))

    def what_ifs(
        self, n: Number, length: Number, births: Sequence[int], tail: Number = 1, shared: Number = 0, together: int = 1
    ) -> Cost:
        """`n` prompts: the prefix, then a clean row and one for each birth (the layer of its first edit).

        Of each prompt's tokens, `shared` are those of all `together`, and are run once for them.
        """
        prefix, n_rows = n * (length - 1 - shared) + n / together * shared, n * (1 + len(births))
        flop = sum(self.flop(n * tail, length - 1 + tail, start, n * tail) for start in (0, *births))
        return Cost(n_rows, prefix + n_rows * tail, flop + self.flop(prefix, length - 1))

    def completed(
        self, n: Number, words: Words, births: Sequence[int] = (), n_shots: int = 0, together: int = 1
    ) -> Cost:
        """`n` prompts completed as they are and under what-ifs, `together` of them behind the same demonstrations."""
        length, shared = words.prompt + n_shots * words.shown, n_shots * words.shown
        shared, together = (shared, together) if shared >= WORTH else (0, 1)
        few, other = len(births) <= FEW, FOUND * words.several
        first = self.what_ifs(n, length, births, 1 + words.answer * few, shared, together)
        again = other if few else other + words.long + (1 - words.long) * FOUND
        more = self.what_ifs(again * n, length, births, 1 + words.answer, shared, together)
        return first + Cost(0, more.tokens, more.flop)

    def checked(self, length: Number) -> Cost:
        """Cost of the engine's parity check on prompts of this length."""
        full = self.whole(CHECKED, length)
        return Cost(0, full.tokens, full.flop)

    def trained(self, n: int, n_validation: int, words: Words, layer: int, steps: int) -> Cost:
        """Training what a forward meets from `layer` on: forwards of whole prompts, and back as far as there."""
        length = words.prompt + words.answer - 1
        n_looks = len({*range(0, steps + 1, EVERY), steps})
        forward = self.whole(n * (steps + TRIAL + 1) + n_validation * n_looks, length)
        back = self.flop(n * length * (steps + TRIAL + 1), length, layer, n * words.answer * steps)
        return forward + Cost(0, 0, back)

    def tuned(self, n: int, n_validation: int, words: Words, layer: int, steps: int, n_starts: int = 1) -> Cost:
        """Tuning on `n` pairs: all tokens once; then the answers' own, in the blocks above the layer, there and back.

        `n_starts`: strengths of a start among which validation chooses.
        """
        context = words.prompt + words.answer - 1
        once = self.whole(n + n_validation, context)
        step, look = (self.flop(m * words.answer, context, layer + 1, m * words.answer) for m in (n, n_validation))
        n_looks = n_starts + len({*range(0, steps + 1, EVERY), steps})
        rows = n * steps + n_validation * n_looks
        return Cost(rows, once.tokens + rows * words.answer, once.flop + 2 * steps * step + n_looks * look)


def stage_costs(shape: Shape, words: Words, settings: Settings, sizes: Sequence[Sequence[int]]) -> dict[str, Cost]:
    """What each stage of `reproduce` costs, by its name, in order.

    Assumes what a run would measure: tuning at the lowest layer of the grid, which costs most, and sums added at half
    the depth.

    Args:
        sizes: of each relation, how many train, validation and test pairs it has.
    """
    n_relations, (n_train, n_validation, n_test) = len(sizes), (sum(part) for part in zip(*sizes))
    layer, half, draws, tries = shape.grid[0], shape.at(0.5), settings.draws, len(STRENGTHS)
    shown = words.prompt + min(settings.n_shots, *(train - 1 for train, _, _ in sizes)) * words.shown

    heads = [at for at in range(len(shape.blocks)) for _ in range(shape.n_heads)]
    stages = {"heads": shape.whole(n_relations * settings.mean_prompts, shown)}
    stages["heads"] += shape.what_ifs(n_relations * settings.map_prompts, shown, heads) + shape.checked(shown)

    places, n_counts = sorted({shape.at(share) for share in SWEPT}), len(settings.head_counts)
    summed, others, distributed = places * n_counts, [half] * (1 + draws), places[:1] * n_counts
    whatifs = [some * len(settings.strengths) for some in (summed, others, distributed)]
    stages["sums"] = sum((shape.completed(n_validation, words, births) for births in whatifs), Cost())

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
    stages["scores"] = shape.completed(n_test, words, births)
    for how in settings.prompting.values():
        n, shuffled = how["n_shots"], how.get("shuffled", False)
        longer = shape.checked(words.prompt + n * words.shown) if n > settings.n_shots else Cost()
        beside = again if shuffled else []
        stages[f"shots-{n}{'-shuffled' * shuffled}"] = (
            shape.completed(n_test, words, beside, n, settings.n_together) + longer
        )
    for r, (train, validation, test) in enumerate(sizes if settings.baselines else ()):
        trained = (shape.trained(train, validation, words, at, settings.steps) for at in (0, 0, layer, 0))
        swept = shape.completed(validation, words, [at for at in places for _ in STRENGTHS] * CONTRASTS)
        asked = shape.completed(test, words, [layer] * 4)
        prompts = shape.whole(2 * train, shown) + shape.whole(4 * train + 4 * test, words.prompt)
        stages[f"baselines-{r}"] = sum(trained, swept + asked + prompts)
    n = n_relations * DIFFERENCE_PROMPTS
    stages["difference"] = shape.whole(n, shown) + shape.whole(n, words.prompt)
    length = float(np.mean([len(prompt.split()) for prompt in NEUTRAL_PROMPTS]))
    through = [
        shape.what_ifs(len(NEUTRAL_PROMPTS), length, [at] * n_relations) for at in [half] + [layer] * (KINDS - 1)
    ]
    stages["readings"] = sum(through, shape.whole(2 * KINDS * n_relations, 1))
    return stages
