"""How fast the work of a study is done here: the engine's own code, timed on a few blocks with random weights.

Products of matrices are not all that takes time, and how much else does depends on the kind of work: many small steps
for few rows, logits that pass through memory several times. Each `Kind` has a rate of its own.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import lsq_linear

from ....engine.batches import PromptBatch
from ....engine.chunks import MOST_ROWS
from ....engine.completion import completions
from ....engine.edits import Edit
from ....engine.gradients import Rows
from ....engine.parity import measure_ahead
from ....engine.whatif import MAX_ROWS, PREFIX_TOKENS, head_outputs, without_patches
from ....models.blank import blank_model
from ....models.lens import Lens, lens_of
from ....models.onednn import through_onednn
from .cost import Cost, Kind
from .flops import Number
from .network import cut
from .shape import Shape
from .words import Words

SECONDS = 0.15  # about, for each run that is timed, at the rate of bare products
REPEATS = 7  # of each run, in turns with the others; the middle one counts: a study has no luck
LEAST = 0.9  # times over that of bare products, which are timed with fewer rows than the engine has at best
MOST_WEIGHTS = 5e8  # of the blocks and embeddings that are timed on a CPU, which take seconds to be made
GPU_TFLOPS, GPU_USE = 300, 0.4
N_BLOCKS = (3, 12)  # fewest and most that are timed; what tuning keeps of fewer would fit into a cache
SHOTS = 5  # demonstrations before the longer prompts
N_WHATIFS, N_SHOWN = 30, 60  # of a prompt: behind it alone, and behind demonstrations, as a head map has many
TOGETHER = 5  # prompts behind the same demonstrations
PER_VECTOR = 20  # pairs
STEPS = 2  # times as much work in a step of tuning: with few rows what it holds stays in a processor's cache
CALL, PER_BYTE = 1e-3, 1e-10  # seconds of a call of a block, and for each byte of its weights
# Times over those of bare products, where nothing could be timed: measured on a model of half a billion parameters.
OVERHEADS = {Kind.PROMPT: 1.5, Kind.ROW: 1.7, Kind.SHOWN: 1.3, Kind.STEP: 1.6, Kind.READ: 2.0, Kind.LOSS: 2.1}


@dataclass(frozen=True)
class Rates:
    """Operations per second of each kind of work, seconds of a call of a block, and how they are known."""

    of: Mapping[Kind, float]
    source: str
    call: float = 0.0

    def seconds(self, cost: Cost) -> Number:
        """How long the work takes."""
        return self.call * cost.calls + sum(flop / self.of[kind] for kind, flop in cost.flops.items())


def assumed(matmul: float, why: str, block: Number = 0) -> Rates:
    """Rates from that of products of matrices alone; `block`: bytes of one."""
    of = {kind: matmul / over for kind, over in OVERHEADS.items()}
    return Rates(of, f"assumed, {why}", CALL + PER_BYTE * float(block))


def of_gpu() -> Rates:
    """Rates of a GPU that is not here."""
    rate = GPU_TFLOPS * 1e12 * GPU_USE
    return Rates(dict.fromkeys(Kind, rate), f"assumed, {GPU_TFLOPS} TFLOP/s at {GPU_USE:.0%} use")


def measured(config: Any, shape: Shape, words: Words, dtype: torch.dtype, device: torch.device) -> Rates:
    """The rates here, from half a minute of work on some blocks with random weights; assumed for larger models."""
    matmul = matmul_rate(shape.matrix, dtype, device)
    (fewest, most), block = N_BLOCKS, max(shape.weights) * (dtype.itemsize if device.type == "cpu" else 0)
    room = MOST_WEIGHTS if device.type == "cpu" else torch.cuda.mem_get_info(device)[0] / 3 / dtype.itemsize
    sizes = {n: shape.n_parameters - sum(shape.weights[n:]) for n in range(fewest, most + 1)}
    n_blocks = min(shape.n_layers, max((n for n, size in sizes.items() if size <= room), default=0))
    if not n_blocks:
        return assumed(matmul, "as the model is too large to time some of its blocks here", block)
    try:
        lens = lens_of(blank_model(cut(config, n_blocks), dtype, device))
        costs, runs = zip(*_runs(lens, shape.cut(n_blocks), words, matmul))
        timed = [*zip(costs, _typical(runs))]
    except Exception as error:  # whatever an architecture raises on random weights, or a machine for want of memory
        return assumed(matmul, f"as {n_blocks} blocks did not run here ({type(error).__name__})", block)
    return _solved(timed, matmul, f"measured on {n_blocks} of its blocks with random weights")


def _solved(timed: Sequence[tuple[Cost, float]], matmul: float, source: str) -> Rates:
    """The rates with which the costs take the times that they took; none is faster than products can be."""
    unit = 1e-3  # seconds, about which a call takes
    parts = np.array([
        [*(cost.flops.get(kind, 0) / matmul / seconds for kind in Kind), unit * cost.calls / seconds]
        for cost, seconds in timed
    ])  # fmt: skip
    *over, call = lsq_linear(parts, np.ones(len(parts)), bounds=([LEAST] * len(Kind) + [0.0], np.inf)).x
    return Rates({kind: matmul / x for kind, x in zip(Kind, over)}, source, unit * call)


def _runs(lens: Lens, shape: Shape, words: Words, matmul: float) -> Iterator[tuple[Cost, Callable[[], Any]]]:
    """What is timed: prompts alone, what-ifs born below and above, behind few and many tokens, and steps of tuning."""
    budget, last = SECONDS * matmul, shape.n_layers - 1
    short, long = round(words.prompt), round(words.prompt + SHOTS * words.shown)

    def as_many(cost: Cost, at_most: int) -> int:
        return int(max(1, min(at_most, budget / max(1, cost.flop))))

    _settle(lens, _prompts(lens, 2, short))
    n = as_many(shape.whole(1, long), PREFIX_TOKENS // long)
    shown = _prompts(lens, n, long)
    yield shape.whole(n, long), lambda: list(head_outputs(lens, shown.tokens, shown.mask))
    common = long - short + 1
    alike = _prompts(lens, TOGETHER, long)
    alike.tokens[:, :common] = alike.tokens[0, :common]
    cost = shape.what_ifs(TOGETHER, long, (), 2, common, TOGETHER, Kind.SHOWN)
    yield cost, lambda: completions(lens, alike, [])
    for length, at, kind in ((short, 0, Kind.ROW), (short, last, Kind.ROW), (long, 0, Kind.SHOWN)):
        births = [at] * (N_SHOWN if kind == Kind.SHOWN else N_WHATIFS)
        n = as_many(shape.what_ifs(1, length, [0] * len(births), kind=kind), MAX_ROWS // (1 + len(births)))
        asked, whatifs = _prompts(lens, n, length), [[Edit(at, vector)] for vector in _vectors(lens, len(births))]
        cost = shape.what_ifs(n, length, births, kind=kind)
        yield cost, lambda asked=asked, whatifs=whatifs: completions(lens, asked, whatifs)  # type: ignore[misc]
    for layer in (0, last):
        n = as_many(shape.steps(1, words.answer, short, layer, backward=True), MOST_ROWS)
        n = PER_VECTOR * max(1, (STEPS if layer < last else 1) * n // PER_VECTOR)
        taught, vectors = _prompts(lens, n, short, words.answers), _vectors(lens, n // PER_VECTOR)
        rows = Rows(lens, taught, [i // PER_VECTOR for i in range(n)], layer)
        n_tokens = sum(len(listed[0]) for listed in taught.answers)
        cost = shape.steps(1, n_tokens, short + words.answer - 1, layer, backward=True)
        yield cost, lambda rows=rows, vectors=vectors: rows.gradient(vectors)  # type: ignore[misc]


def _settle(lens: Lens, prompts: PromptBatch) -> None:
    """Have the engine compare itself with full forwards on short prompts, and not again on longer ones."""
    without_patches(measure_ahead)(lens, prompts)
    parity, ever = lens.parity, lens.n_ctx
    parity.length, parity.sharing = ever, (ever, True)
    parity.several_tokens = (ever, parity.several_tokens[1])


def _prompts(lens: Lens, n: int, length: int, answers: Sequence[int] = (1,)) -> PromptBatch:
    """Prompts of random tokens, with answers of these lengths in turn."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, lens.cfg.d_vocab, (n, length), generator=random, device="cpu")
    listed = tuple(((3,) * answers[i * len(answers) // n % len(answers)],) for i in range(n))
    return PromptBatch(tokens, torch.ones_like(tokens), torch.full((n,), 3), listed, ("",) * n, ("",) * n)


def _vectors(lens: Lens, n: int) -> torch.Tensor:
    return torch.randn(n, lens.d_model, generator=torch.Generator().manual_seed(0), device="cpu")


def _typical(runs: Sequence[Callable[[], Any]]) -> list[float]:
    """Seconds that each takes: all in turn, so that a machine that is busy for a moment is so for all of them."""
    took: list[list[float]] = []
    for _ in range(1 + REPEATS):
        took.append([])
        for run in runs:
            started = time.perf_counter()
            run()
            took[-1].append(time.perf_counter() - started)
    return [float(x) for x in np.median(took[1:], 0)]  # what is made on first use takes no time again


@through_onednn
def matmul_rate(matrix: Sequence[int], dtype: torch.dtype, device: torch.device, seconds: float = 0.5) -> float:
    """Operations per second of products of 256 rows with a matrix `[out, in]`: the fastest seen in `seconds`."""
    weights, rows = (torch.ones(size, dtype=dtype, device=device) for size in (tuple(matrix), (256, matrix[1])))

    def timed(n: int) -> float:
        started = time.perf_counter()
        for _ in range(n):
            out = torch.nn.functional.linear(rows, weights)
        out[0, 0].item()  # a GPU has worked by then
        return (time.perf_counter() - started) / n

    timed(1)
    best, n, ends = np.inf, max(1, int(seconds / 100 / timed(1))), time.perf_counter() + seconds
    while best == np.inf or time.perf_counter() < ends:
        best = min(best, timed(n))
    return 2 * 256 * weights.numel() / best
