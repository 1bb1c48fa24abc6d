"""What the work on a model costs: operations by their kind, and residuals carried between devices.

A row is run in the blocks from its birth on; what is read is unembedded. The operations of a token in a block are those
that torch counted (`flops`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from ....engine.chunks import CPU_BYTES, MOST_ROWS, MOST_ROWS_GPU, bytes_held
from ....engine.completion import FEW
from ....engine.prefixes import WORTH
from ....engine.whatif import MAX_ROWS, PREFIX_TOKENS
from ....evaluation.baselines.training import TRIAL
from ....vectors.optimizer import EVERY
from ....vectors.tuning import DEPTHS
from .cost import Cost, Kind
from .flops import Flops, Number, Work
from .words import Words

FOUND = 0.5  # assumed: the share of rows whose most probable token begins an answer
CHECKED = 31  # full forwards in the engine's comparisons on the longest prompts, before a study's first stage
LENGTHS_TOGETHER = 3  # about, that prompts behind the same demonstrations have
FORMS = 4  # about as many for the faster forms of rows that are compared at a new site


@dataclass(frozen=True)
class Placed:
    """The device of each block, of the embeddings and of the unembedding; `weights`: bytes on each.

    Devices are numbered from 0; what finds no place is on one more, the last.
    """

    blocks: tuple[int, ...]
    embedding: int
    unembedding: int
    weights: tuple[Number, ...]

    @cached_property
    def crossed(self) -> list[int]:
        """For each block, and behind the last, how many changes of device are above its input."""
        path = [*self.blocks, self.unembedding]
        changes = [int(here != there) for here, there in zip(path, path[1:])]
        return [*accumulate(reversed(changes), initial=0)][::-1]

    @property
    def enters(self) -> int:
        """Changes of device before the first block."""
        return int(self.embedding != self.blocks[0])


@dataclass(frozen=True)
class Shape:
    """What the cost of a model depends on: weights in each block and in all; its dimensions; operations by token.

    `uncounted`: why operations are those of a product with every weight, and not counted; "" where they are. `gpu`:
    whether rows are run together as on a GPU, where more of them have room.
    """

    weights: tuple[int, ...]
    n_parameters: int
    d_model: int
    d_mlp: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_vocab: int
    matrix: tuple[int, int]  # a block's largest
    flops: Flops
    placed: Placed
    uncounted: str = ""
    gpu: bool = False

    @property
    def n_layers(self) -> int:
        return len(self.weights)

    def at(self, share: Number) -> int:
        """The layer at a share of the depth."""
        return min(self.n_layers - 1, int(share * self.n_layers + 0.5))

    @property
    def grid(self) -> list[int]:
        """The layers that are tuned at, as `layer_grid` has them."""
        return sorted({self.at(share) for share in DEPTHS})

    def cut(self, n_layers: int) -> "Shape":
        """The shape of the first blocks alone, on one device."""
        forward, backward = self.flops.forward[:n_layers], self.flops.backward[:n_layers]
        one = Placed((0,) * n_layers, 0, 0, self.placed.weights)
        return replace(
            self,
            weights=self.weights[:n_layers],
            flops=replace(self.flops, forward=forward, backward=backward),
            placed=one,
        )

    @cached_property
    def _from(self) -> list[Work]:
        """Work of a token in the blocks from each on, and behind the last."""
        return [*accumulate(reversed(self.flops.forward), initial=Work(0))][::-1]

    @cached_property
    def _backward_to(self) -> list[Work]:
        return [*accumulate(reversed(self.flops.backward), initial=Work(0))][::-1]

    def run(self, kind: Kind, n: Number, context: Number, start: int = 0, backward: bool = False) -> Cost:
        """`n` tokens in the blocks from `start` on, each meeting `context` keys, and with `backward` their gradient.

        Example:
            >>> shape.run(Kind.ROW, 1, 0).flop == sum(work.token for work in shape.flops.forward)
            True
        """
        flop = self._from[start].flop(n, context) + backward * self._backward_to[start].flop(n, context)
        return Cost(flops={kind: flop}, carried=(1 + backward) * n * self.placed.crossed[start])

    def read(self, n: Number, kind: Kind = Kind.READ, backward: bool = False) -> Cost:
        """The unembedding of `n` tokens, and with `backward` its gradient."""
        return Cost(flops={kind: n * (self.flops.read + backward * self.flops.read_backward)})

    def prompts(self, n: Number, length: Number) -> Cost:
        """`n` tokens of prompts of `length` tokens."""
        return Cost(tokens=n, carried=n * self.placed.enters) + self.run(Kind.PROMPT, n, length)

    def whole(self, n: Number, length: Number) -> Cost:
        """`n` prompts of `length` tokens in full forwards, their last token read."""
        calls = self.n_layers * max(min(1, n), n * length / PREFIX_TOKENS)
        return Cost(n, calls=calls) + self.prompts(n * length, length) + self.read(n)

    def what_ifs(
        self, n: Number, length: Number, births: Sequence[int], tail: Number = 1, shared: Number = 0, together: int = 1,
        kind: Kind = Kind.ROW,
    ) -> Cost:  # fmt: skip
        """`n` prompts: the prefix, then a clean row and one for each birth (the layer of its first edit).

        Of each prompt's tokens, `shared` are those of all `together`, and are run once for them.
        """
        n_rows = n * (1 + len(births)) * tail
        groups = n / together if shared else max(min(1, n), n * length / PREFIX_TOKENS, n_rows / MAX_ROWS)
        alone = min(together, LENGTHS_TOGETHER) * bool(shared)  # behind what they share, prompts of each length apart
        total = Cost(calls=self.n_layers * groups * (2 + alone))
        total += self.prompts(n * (length - 1 - shared) + n / together * shared, length - 1)
        for start, n_born in Counter([0, *births]).items():
            n_tokens = n * n_born * tail
            total += Cost(n * n_born, n_tokens) + self.run(kind, n_tokens, length - 1 + tail, start)
            total += self.read(n_tokens)
        return total

    def completed(
        self, n: Number, words: Words, births: Sequence[int] = (), n_shots: int = 0, together: int = 1
    ) -> Cost:
        """`n` prompts completed as they are and under what-ifs, `together` of them behind the same demonstrations."""
        length, shared = words.prompt + n_shots * words.shown, n_shots * words.shown
        shared, together = (shared, together) if shared >= WORTH else (0, 1)
        few, other = len(births) <= FEW, FOUND * words.several
        kind = Kind.SHOWN if n_shots else Kind.ROW
        first = self.what_ifs(n, length, births, 1 + words.answer * few, shared, together, kind)
        again = other if few else other + words.long + (1 - words.long) * FOUND
        more = self.what_ifs(again * n, length, births, 1 + words.answer, shared, together, kind)
        return first + replace(more, rows=0)

    def checked(self, length: Number, n: Number = CHECKED) -> Cost:
        """The engine's comparisons of itself with `n` full forwards of prompts of this length."""
        return replace(self.whole(n, length), rows=0)

    def trained(self, n: int, n_validation: int, words: Words, layer: int, steps: int) -> Cost:
        """Training what a forward meets from `layer` on: forwards of whole prompts, and back as far as there."""
        length = words.prompt + words.answer - 1
        n_looks, n_back = len({*range(0, steps + 1, EVERY), steps}), n * (steps + TRIAL + 1)
        forward = self.whole(n_back + n_validation * n_looks, length)
        way_back = self._backward_to[layer].flop(n_back * length, length)
        read = self.flops.read_backward * n * words.answer * steps
        carried = n_back * length * self.placed.crossed[layer]
        calls = self.n_layers * (steps + n_looks)
        return forward + Cost(flops={Kind.PROMPT: way_back, Kind.LOSS: read}, calls=calls, carried=carried)

    def tuned(self, n: int, n_validation: int, words: Words, layer: int, steps: int, n_starts: int = 1) -> Cost:
        """Tuning on `n` pairs: all tokens once; then the answers', in the blocks above the layer, forward and backward.

        `n_starts`: strengths of a start among which validation chooses.
        """
        context = words.prompt + words.answer - 1
        n_looks = n_starts + len({*range(0, steps + 1, EVERY), steps})
        once = replace(self.prompts((n + n_validation) * context, context), rows=0)
        once += Cost(calls=2 * self.n_layers)
        stepped = self.steps(steps, n * words.answer, context, layer, True, self.chunks(n, words, layer))
        looked = self.steps(n_looks, n_validation * words.answer, context, layer, False,
                            self.chunks(n_validation, words, layer))  # fmt: skip
        return once + stepped + looked + Cost(n * steps + n_validation * n_looks)

    def steps(
        self, n: Number, n_tokens: Number, context: Number, layer: int, backward: bool, n_chunks: int = 1
    ) -> Cost:
        """`n` runs of tokens of answers through the blocks above a layer, in so many chunks, and read."""
        cost, total = Cost(tokens=n * n_tokens), n * n_tokens
        cost += self.run(Kind.STEP, total, context, layer + 1, backward) + self.read(total, Kind.LOSS, backward)
        return replace(cost, calls=n * n_chunks * (self.n_layers - layer - 1) * (1 + backward))

    def chunks(self, n: int, words: Words, layer: int) -> int:
        """Into how many chunks the engine divides `n` rows that are tuned at a layer, longest answers first."""
        itemsize = sum(self.placed.weights) / self.n_parameters
        lengths = sorted((words.answers[i * len(words.answers) // n] for i in range(n)), reverse=True)
        found = start = 0
        while start < n:
            size = self.row_bytes(words.prompt, lengths[start], layer, itemsize)
            start += MOST_ROWS_GPU if self.gpu else max(1, int(min(MOST_ROWS, CPU_BYTES // size)))
            found += 1
        return found

    def row_bytes(self, length: Number, new: Number, layer: int, itemsize: Number) -> Number:
        """Bytes that a tuned row holds for the backward pass, as `engine.chunks` counts them."""
        sizes = dict(d_model=self.d_model, d_mlp=self.d_mlp, n_heads=self.n_heads)
        return itemsize * bytes_held(new, length + new, self.n_layers - layer, **sizes, itemsize=1)
