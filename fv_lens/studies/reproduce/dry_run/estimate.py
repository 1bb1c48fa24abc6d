"""Estimate of what `reproduce` takes on a model, before anything is run: work by stage, time, memory, traffic.

Of the model only configuration and tokenizer are read. Its operations are counted on a network without weights, and the
time here is that of some of its blocks with random weights, which are run for half a minute.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import SupportsFloat

import torch

from ....datasets.relation_files import RelationLike
from ....ground.errors import InputError, finite_number, whole_number
from ....ground.text_files import FilePath
from ....models.load import Dtype, checked_device, checked_dtype
from ....models.source import source_of
from ...jobs.options import n_cores
from ..outline import Outline, Settings
from ..setup import sized
from ..units import units_of
from .cost import Cost
from .devices import Holding, available, holdings
from .flops import Number
from .network import configuration, shape_of
from .rates import GPU_TFLOPS, GPU_USE, Rates, measured, of_gpu
from .schedule import critical, makespan, needs_of, parts_of
from .shape import Shape
from .stages import stage_costs
from .text import device_table, duration, in_gigabytes, stage_table
from .words import Words, words_of

GIGABYTES = 80  # of a device, where nothing is said


@dataclass(frozen=True)
class Estimate:
    """What a study will take; `str` shows it.

    `outline`: of the study. `stages`: name, as in the summary's timings, -> `Cost`; "checks" come before them all.
    `rates`: operations per second of each kind of work. `holdings`: what each device of a job holds. `memory`: bytes of
    each device, None where not known. `here`: whether the devices are this machine's. `jobs` share the work. `apart`:
    whether each has a machine of its own, like this one. `cores`: of this machine that a job has work for, and all.
    """

    model: str
    dtype: str
    itemsize: int
    device: str
    shape: Shape
    words: Words
    outline: Outline
    stages: dict[str, Cost]
    rates: Rates
    holdings: list[Holding]
    memory: Number | None
    here: bool = True
    devices: int = 1
    jobs: int = 1
    apart: bool = False
    cores: tuple[int, int] = (1, 1)

    @property
    def total(self) -> Cost:
        """All stages together."""
        return sum(self.stages.values(), Cost())

    @property
    def n_relations(self) -> int:
        return len(self.outline)

    @cached_property
    def stage_seconds(self) -> dict[str, Number]:
        """How long each stage takes one job."""
        return {name: self.rates.seconds(cost) for name, cost in self.stages.items()}

    @property
    def seconds(self) -> Number:
        """Wall-clock time, if the machine stays as busy as when its rates were measured."""
        return max(self._with_jobs(self.stage_seconds), self._shared)

    @property
    def longest_path(self) -> Number:
        """Wall-clock time with as many jobs as can be of use."""
        took, units = self.stage_seconds, units_of(self.outline)
        parts = parts_of(units)
        checks = took["checks"]
        rest = {name: seconds / parts[name] for name, seconds in took.items() if name != "checks"}
        return max(checks + max(critical(rest, needs_of(units)).values()), self._shared)

    @property
    def traffic(self) -> Number:
        """Bytes of residuals that pass between the devices of a job."""
        return self.total.carried * self.shape.d_model * self.itemsize

    @property
    def peak(self) -> Number:
        """Bytes, all that the fullest device holds at once."""
        return max(holding.total for holding in self.holdings[: self.devices])

    @property
    def fits(self) -> bool | None:
        """Whether every part finds its place; None where the memory is not known."""
        if self.memory is None:
            return None
        return len(self.holdings) == self.devices and self.peak * self._n_here < self.memory

    @property
    def _n_here(self) -> int:
        """How many jobs share a device: all those that run on this machine's processors."""
        return self.jobs if self.here and self.device == "cpu" and not self.apart else 1

    @property
    def _shared(self) -> Number:
        """The least time in which the cores that all jobs share do all of the work, the checks of each among it."""
        if self._n_here == 1:
            return 0
        each, every = self.cores
        work = sum(self.stage_seconds.values()) + (self.jobs - 1) * self.stage_seconds["checks"]
        return work * each / every

    def _with_jobs(self, seconds: dict[str, Number]) -> Number:
        """Each job makes its own checks; then they share the stages."""
        rest = {name: took for name, took in seconds.items() if name != "checks"}
        units = units_of(self.outline)
        return seconds["checks"] + makespan(rest, needs_of(units), parts_of(units), self.jobs)

    def __str__(self) -> str:
        n, words, billions = self.n_relations, self.words, self.shape.n_parameters / 1e9
        where = f"on {self.device}" if self.here else f"on {self.devices} device{'s' * (self.devices > 1)} a job"
        lines = [
            f"{n} relation{'s' * (n > 1)} on {self.model} ({billions:.3g} billion parameters, {self.dtype}, {where}). "
            "Nothing of the study was run.",
            *(f"Left out: {why}" for why in self.outline.left_out.values()),
            f"Tokens {words.source}: {words.prompt:.1f} in a zero-shot prompt, {words.shown:.1f} in a demonstration, "
            f"{words.answer:.1f} in an answer.",
            "",
            *stage_table(self.stages, self.total, self.stage_seconds),
            "",
            *self._on_time(),
            *self._on_memory(),
            "Assumed: tuning at the lowest layer of the grid, sums added at half the depth. Not counted: loading the "
            "model, the report.",
        ]
        if self.shape.uncounted:
            lines.append(f"Operations are two for each weight, without attention: {self.shape.uncounted}")
        return "\n".join(lines)

    def _on_time(self) -> list[str]:
        alone = sum(self.stage_seconds.values())
        unsure = ", give or take a factor of 2" * self.rates.source.startswith("assumed")
        busy = ", if the machine stays as busy as it is now" * self.here
        lines = [f"Time: about {duration(self.seconds)}{unsure}{busy}. Rates of work: {self.rates.source}."]
        if self.jobs > 1:
            each, every = self.cores
            short = self._n_here > 1 and self.jobs * each > every
            beside = f"which want {self.jobs * each} cores and share {every}" if short else ""
            lines.append(
                f"That is with {self.jobs} jobs, {beside or 'each as fast as one is alone'}; one takes "
                f"{duration(alone)}, and however many, no less than {duration(self.longest_path)}: what waits for what."
            )
        if self.here and self.device == "cpu" and self.shape.n_parameters >= 1e9:  # a smaller one leaves a GPU waiting
            gpu = of_gpu().seconds(self.total)
            lines.append(f"On a GPU of {GPU_TFLOPS} TFLOP/s at {GPU_USE:.0%} use: {duration(gpu)}.")
        return lines

    def _on_memory(self) -> list[str]:
        fullest = max(self.holdings[: self.devices], key=lambda holding: holding.total)
        beside = f", times {self.jobs} jobs" if self._n_here > 1 else ""
        each = "here" if self.here else "of each device" if self.devices > 1 else "of the device"
        of = "" if self.memory is None else f" of {self.memory / 1e9:.1f} GB {each}"
        fits = {None: "", True: ": it fits", False: ": it does not fit"}[self.fits]
        lines = [f"Memory: {self.peak / 1e9:.1f} GB{beside}{of}{fits}. In GB: {in_gigabytes(fullest.memory)}."]
        if self.devices > 1:
            lines += ["", *device_table(self.holdings, self.devices), ""]
            lines.append(
                f"Traffic between the devices of a job: {self.traffic / 1e9:,.1f} GB. Blocks run one after another, so "
                "more devices hold more and are no faster; more jobs are."
            )
        return lines


def estimate(
    model_name: FilePath,
    relations: Iterable[RelationLike],
    settings: Settings,
    dtype: Dtype | None = "float32",
    *,
    jobs: int = 1,
    devices: int | None = None,
    memory: SupportsFloat | None = None,
    apart: bool = False,
    chat: bool = False,
) -> Estimate:
    """What a study of the relations will take on a model; some of its blocks alone are run, for half a minute.

    A model that is not there yet is fetched or converted first, as `load_model` does.

    Args:
        model_name, dtype: as for `load_model`; a folder may hold no more than a config.json.
        relations: Relations, bundled names or paths.
        jobs: how many processes share the work.
        devices: GPUs of a job; without it and `memory`, what is here.
        memory: gigabytes of each, 80 if `devices` alone is given.
        apart: each job has a machine of its own, like this one.
        chat: the model is asked in its own chat form.

    Raises:
        InputError: as `load_model` and `Study`; no chat form; the hub cannot be reached; numbers below 1, or a memory
            of nothing.

    Example:
        >>> estimate("smollm2-135m", ["antonym"], Settings()).shape.n_parameters
        134515008
    """
    kind, device = checked_dtype(dtype), checked_device(None)
    jobs = whole_number("jobs", jobs, least=1)
    n_devices = whole_number("devices", 1 if devices is None else devices, least=1)
    elsewhere = devices is not None or memory is not None
    gigabytes = finite_number("memory", GIGABYTES if memory is None else memory)
    if gigabytes <= 0:
        raise InputError(f"memory is {memory!r}; give the gigabytes of a device, above 0, such as 80.")
    bytes_each = 1e9 * gigabytes if elsewhere else available(device)
    kept, left_out = sized(relations, settings)
    source = source_of(model_name)
    config = configuration(model_name, source.folder or source.name)
    gpu, here = elsewhere or device.type == "cuda", device.type == "cuda" or not elsewhere
    shape = replace(shape_of(model_name, config, kind, n_devices, bytes_each), gpu=gpu)
    words = words_of(source, kept, chat)
    sizes = [[len(part) for part in relation.split()] for relation in kept]
    names, categories, families = zip(*((r.name, r.category or "other", r.family or r.name) for r in kept))
    outline = Outline([*names], [*categories], [*families], left_out, settings, shape.d_model, shape.grid)
    return Estimate(
        model=str(model_name), dtype=str(kind).removeprefix("torch."), itemsize=kind.itemsize, device=device.type,
        shape=shape, words=words, outline=outline,
        stages=stage_costs(shape, words, settings, sizes),
        rates=measured(config, shape, words, kind, device) if here else of_gpu(),
        holdings=holdings(shape, words, sizes, settings.n_shots, kind.itemsize, bytes_each), memory=bytes_each,
        here=not elsewhere, devices=n_devices, jobs=jobs, apart=apart,
        cores=(torch.get_num_threads(), n_cores()),
    )  # fmt: skip
