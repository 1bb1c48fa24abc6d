"""Estimate of what `reproduce` takes on a model, before anything is run: work by stage, time and memory here.

Of the model only configuration and tokenizer are read; its weights are counted on an empty one.
"""

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers

from ...datasets.prompts import PromptTemplate
from ...datasets.relation_files import RelationLike
from ...datasets.relations import Relation
from ...engine.chunks import CPU_BYTES, MOST_ROWS, MOST_ROWS_GPU, bytes_held
from ...engine.whatif import MAX_ROWS, ON_GPU, TILE
from ...evaluation.readings import NEUTRAL_PROMPTS
from ...ground.errors import InputError
from ...ground.text_files import FilePath
from ...models.gguf_model import adds_bos
from ...models.libraries import first_line, quiet, quoting
from ...models.load import REMEDY, Dtype, checked_device, checked_dtype
from ...models.onednn import through_onednn
from ...models.source import Source, source_of
from .costs import Cost, Number, Shape, Words, stage_costs
from .setup import Settings, sized

OVERHEAD = 2.5  # time over that of bare matmuls; measured on one CPU thread: 1.2 (long prompts) to 2.4 (tuning)
PER_WORD = 1.4  # tokens, where there is no tokenizer
GPU_TFLOPS, GPU_USE = 300, 0.4
LIBRARIES = 5e8  # bytes that the process holds before it has a model


@dataclass(frozen=True)
class Estimate:
    """What a study will take; `str` shows it.

    `stages`: name, as in the summary's timings, -> `Cost`. `rate`: operations per second that matmuls of the model's
    largest shape reach here. `memory`: bytes, by what holds them. `available`: bytes here, None where not known.
    """

    model: str
    dtype: str
    device: str
    shape: Shape
    words: Words
    n_relations: int
    left_out: dict[str, str]
    stages: dict[str, Cost]
    rate: float
    memory: dict[str, Number]
    available: Number | None

    @property
    def total(self) -> Cost:
        return sum(self.stages.values(), Cost())

    @property
    def seconds(self) -> Number:
        """Wall-clock time here, give or take a factor of 2, if the machine stays as busy as when it was measured."""
        return OVERHEAD * self.total.flop / self.rate

    @property
    def peak(self) -> Number:
        """Bytes, all that is held at once."""
        return sum(self.memory.values())

    def __str__(self) -> str:
        words, width, total = self.words, max(map(len, self.stages)), self.total
        lines = [
            f"{self.n_relations} relations on {self.model} ({self.shape.n_parameters / 1e9:.3g} billion parameters, "
            f"{self.dtype}, on {self.device}). Nothing was run.",
            *(f"Left out: {why}" for why in self.left_out.values()),
            f"Tokens {words.source}: {words.prompt:.1f} in a zero-shot prompt, {words.shown:.1f} in a demonstration, "
            f"{words.answer:.1f} in an answer.",
            "",
            f"{'stage':<{width}} {'rows':>11} {'tokens':>12} {'TFLOP':>9} {'time':>9}",
        ]
        for name, cost in {**self.stages, "total": total}.items():
            took = _duration(OVERHEAD * cost.flop / self.rate)
            line = f"{name:<{width}} {cost.rows:>11,.0f} {cost.tokens:>12,.0f} {cost.flop / 1e12:>9.3g} {took:>9}"
            lines.append(line)
        held = ", ".join(f"{what} {size / 1e9:.2g}" for what, size in self.memory.items())
        fits = "it fits" if self.available is None or self.peak < self.available else "it does not fit"
        here = "" if self.available is None else f" of {self.available / 1e9:.1f} GB here: {fits}"
        gpu = _duration(total.flop / (GPU_TFLOPS * 1e12 * GPU_USE))
        lines += [
            "",
            f"Time here: about {_duration(self.seconds)}, give or take a factor of 2, if the machine stays as busy as "
            f"it is now (matmuls of the largest shape just ran at {self.rate / 1e12:.3g} TFLOP/s; times {OVERHEAD:g} "
            "for the rest).",
            f"On a GPU of {GPU_TFLOPS} TFLOP/s at {GPU_USE:.0%} use: {gpu}, if the model has billions of "
            "parameters; a smaller one leaves a GPU waiting, and takes longer than this says.",
            f"Memory: {self.peak / 1e9:.1f} GB{here}. In GB: {held}.",
            "Assumed: tuning at the lowest layer of the grid, sums added at half the depth; a mixture's experts all "
            "count. Not counted: loading the model, the report.",
        ]
        return "\n".join(lines)


def estimate(
    model_name: FilePath, relations: Iterable[RelationLike], settings: Settings, dtype: Dtype | None = "float32"
) -> Estimate:
    """What a study of the relations will take on a model; half a second of matmuls is all that is run.

    A model that is not there yet is fetched or converted first, as `load_model` does.

    Args:
        model_name, dtype: as for `load_model`.
        relations: Relations, bundled names or paths.

    Raises:
        InputError: as `load_model` and `Study`; the hub cannot be reached.

    Example:
        >>> estimate("smollm2-135m", ["antonym"], Settings()).shape.n_parameters
        134515008
    """
    kind, device = checked_dtype(dtype), checked_device(None)
    kept, left_out = sized(relations, settings)
    source = source_of(model_name)
    shape = _shape(model_name, source.folder or source.name)
    words = _words(source, kept)
    sizes = [[len(part) for part in relation.split()] for relation in kept]
    available = _available(device)
    return Estimate(
        model=str(model_name), dtype=str(kind).removeprefix("torch."), device=device.type, shape=shape, words=words,
        n_relations=len(kept), left_out=left_out, stages=stage_costs(shape, words, settings, sizes),
        rate=matmul_rate(shape.matrix, kind, device), available=available,
        memory=_memory(shape, words, sizes, kind.itemsize, available if device.type == "cuda" else None),
    )  # fmt: skip


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

    best, threads = np.inf, torch.get_num_threads()
    try:
        # One thread as well: where the machine is busy at the moment, several wait for each other.
        for n_threads in {1, threads} if device.type == "cpu" else {threads}:
            torch.set_num_threads(n_threads)
            timed(1)
            n, ends = max(1, int(seconds / 100 / timed(1))), time.perf_counter() + seconds / 2
            while best == np.inf or time.perf_counter() < ends:
                best = min(best, timed(n))
    finally:
        torch.set_num_threads(threads)
    return 2 * 256 * weights.numel() / best


def _shape(name: FilePath, source: FilePath) -> Shape:
    local = isinstance(source, Path)
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(source, local_files_only=local)
    except Exception as error:  # OSError, ValueError, KeyError: each damage has its own
        where = "be read" if local else "be had from the Hugging Face hub"
        remedy = "Check its config.json." if local else "Check the name and the network, or give a model folder's path."
        line = first_line(error)
        raise InputError(f"The configuration of {str(name)!r} cannot {where}: {line} {remedy}") from None
    with quoting(str(name), REMEDY), quiet(), torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(config)
    c = config.get_text_config()
    n_layers, n_heads, d_model = c.num_hidden_layers, c.num_attention_heads, c.hidden_size
    d_mlp = getattr(c, "intermediate_size", None)
    lists = [x for x in network.modules() if isinstance(x, torch.nn.ModuleList) and len(x) == n_layers]
    if not lists:
        raise InputError(f"{name!r} has no list of {n_layers} blocks, so its cost cannot be counted.")
    blocks = max(lists, key=_n_weights)
    matrices = [(weight.shape[0], weight.shape[1]) for weight in blocks[0].parameters() if weight.dim() == 2]
    return Shape(
        blocks=tuple(map(_n_weights, blocks)), unembedding=network.get_output_embeddings().weight.numel(),
        n_parameters=_n_weights(network), d_model=d_model, d_mlp=d_mlp if isinstance(d_mlp, int) else 4 * d_model,
        n_heads=n_heads, n_kv_heads=getattr(c, "num_key_value_heads", None) or n_heads,
        d_head=getattr(c, "head_dim", None) or d_model // n_heads, d_vocab=c.vocab_size,
        matrix=max(matrices, key=np.prod),
    )  # fmt: skip


def _n_weights(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _words(source: Source, relations: Sequence[Relation]) -> Words:
    folder = source.folder
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder or source.name, local_files_only=folder is not None
            )
    except Exception:  # whatever it raises where there is none
        tokenizer = None
    has_bos = tokenizer is not None and tokenizer.bos_token is not None
    more = int(has_bos and (adds_bos(tokenizer) if source.own_bos else True))
    template = PromptTemplate()
    pairs = [(word, answers[0]) for relation in relations for word, answers in relation.pairs]
    several = [len(answers) > 1 for relation in relations for _, answers in relation.pairs]

    def counts(texts: list[str]) -> np.ndarray:
        if tokenizer is None:  # a word as PER_WORD, a mark or line break as one
            return np.array(
                [sum(PER_WORD if x[1:].strip() else 1 for x in re.findall(r"\w+|\n+|\S", t)) for t in texts]
            )
        return np.array([len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]])

    bare, answers = [template.prompt(word) for word, _ in pairs], [template.answer.format(answer=a) for _, a in pairs]
    shown = counts([prompt + answer + template.separator for prompt, answer in zip(bare, answers)]).mean()
    answer = np.maximum(counts(answers), 1)
    origin = f"estimated, {PER_WORD} a word," if tokenizer is None else "counted"
    return Words(
        prompt=float(counts(bare).mean()) + more, shown=float(shown), answer=float(answer.mean()),
        long=float((answer >= 2).mean()), several=float(np.mean(several)), source=origin,
    )  # fmt: skip


def row_bytes(shape: Shape, length: Number, new: Number, layer: int, itemsize: int) -> Number:
    """Bytes that a tuned row holds for the backward pass, as `engine.chunks` counts them."""
    sizes = dict(d_model=shape.d_model, d_mlp=shape.d_mlp, n_heads=shape.n_heads, itemsize=itemsize)
    return bytes_held(new, length + new, len(shape.blocks) - layer, **sizes)


def _memory(
    shape: Shape, words: Words, sizes: Sequence[Sequence[int]], itemsize: int, free: float | None
) -> dict[str, Number]:
    """Bytes by what holds them; `free`: of the GPU that is used."""
    layer, n_train, n = shape.grid[0], sum(size[0] for size in sizes), sum(size[0] + size[1] for size in sizes)
    weights = shape.n_parameters * itemsize
    keys = 2 * shape.n_kv_heads * shape.d_head * (len(shape.blocks) - layer - 1) * words.prompt
    row = row_bytes(shape, words.prompt, words.answer, layer, itemsize)
    budget, most = (CPU_BYTES, MOST_ROWS) if free is None else (max(0, free - weights) / 2, MOST_ROWS_GPU)
    context = words.prompt + 10 * words.shown
    row_floats = 3 * shape.n_heads * (context + shape.d_head) + 6 * shape.d_model + 3 * shape.d_mlp
    memory = {
        "weights": weights,
        "prefixes of tuned rows": n * itemsize * (keys + words.answer * shape.d_model),
        "their way back": max(row, min(row * n_train, row * most, budget)),
        "what-ifs": MAX_ROWS * (1 if free is None else ON_GPU) * row_floats * itemsize,
        "a tile of logits": 4 * TILE * shape.d_vocab * 4,
        "readings": 4 * len(NEUTRAL_PROMPTS) * (1 + len(sizes)) * shape.d_vocab,
    }
    return memory if free is not None else memory | {"libraries": LIBRARIES}


def _available(device: torch.device) -> float | None:
    """Bytes free on a GPU, or all of the host's memory where the system tells."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows has none of it
        return None


def _duration(seconds: Number) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
