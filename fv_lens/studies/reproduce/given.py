"""What `fv-lens reproduce` was given, and its study in one process or several."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from ..console import notes, output_folder, tell
from ..folders import OutputFolder
from ..job import Job
from ..jobs.launch import Machines, check_submitit
from ..jobs.options import Sharing, n_cores
from ..jobs.shards import Shard
from .loading import Order

if TYPE_CHECKING:
    import pandas as pd

    from ...datasets.relations import Relation
    from .setup import Study
    from .workers import Part


@dataclass(frozen=True)
class Given:
    """What is studied, and where.

    Args:
        out: the folder of all.
        models: folder within -> model; "" where there is one alone.
        lines: folder -> the command line for that model alone, in one process.
        command: the command line of all, in one process.
    """

    out: Path
    models: Mapping[str, str]
    lines: Mapping[str, str]
    command: str

    @property
    def is_alone(self) -> bool:
        return list(self.models) == [""]

    def parts(self) -> "dict[str, Part]":
        """The study of each model, by its folder."""
        from .workers import Part

        return {name: Part(self.out / name, model, self.lines[name]) for name, model in self.models.items()}


def study(given: Given, order: Order, sharing: Sharing, saved: list[Path]) -> "pd.DataFrame | None":
    """Run a study; returns the table, or None for a shard, which leaves it to `merge`.

    Raises:
        InputError, ParityError: as `reproduce`.
        typer.Exit: units are left, which are named.
    """
    from .setup import sized

    if sharing.machines:
        check_submitit()
    if sharing.shard:
        kept, too_small = sized(order.relations, order.settings)
        note_left_out(too_small)
        _refuse_other_plan(given, order)
        _by_shard(given, order, sharing.shard, kept)
        return None
    with output_folder(given.out, "reproduce", saved) as folder:
        kept, too_small = sized(order.relations, order.settings)  # before the model is loaded
        note_left_out(too_small)
        _refuse_other_plan(given, order)
        if sharing.machines:
            return _by_workers(given, order, sharing.machines, folder, kept, too_small, saved)
        return _in_one_process(given, order, folder, kept, too_small, saved)


def _refuse_other_plan(given: Given, order: Order) -> None:
    """Refuse the folder of another study, as far as its plan is known before a model is loaded."""
    if given.is_alone:
        OutputFolder(given.out, "reproduce").refuse_other_plan(order.known)


def _in_one_process(
    given: Given, order: Order, folder: OutputFolder, kept: "list[Relation]", noted: Mapping[str, str],
    saved: list[Path],
) -> "pd.DataFrame":  # fmt: skip
    from ..jobs.presence import begin

    for name in dict.fromkeys(("", *given.models)):
        begin(given.out / name, "")

    def load(name: str) -> "tuple[Study, dict[str, Any]]":
        notes.print(Text("Loading the libraries and the model", style="bold"))
        loaded, facts = order.load(name)
        note_left_out({name: why for name, why in loaded.left_out.items() if name not in noted})
        return loaded, facts

    if given.is_alone:
        loaded, facts = load(given.models[""])
        from .study import reproduce

        return reproduce(loaded, Job(folder, given.command, tell), facts)
    from .several import study_models

    return study_models(folder, _plan(given, order, kept), load, given.lines, given.command, saved)


def _by_workers(
    given: Given, order: Order, machines: Machines, folder: OutputFolder, kept: "list[Relation]",
    noted: Mapping[str, str], saved: list[Path],
) -> "pd.DataFrame":  # fmt: skip
    import torch

    from .sharing import by_workers, models_by_workers
    from .workers import outline_of

    threads = order.threads or torch.get_num_threads()
    order, machines = replace(order, threads=threads), replace(machines, threads=threads)
    if machines.gpus is None:
        machines = replace(machines, gpus=order.devices * torch.cuda.is_available())
    wanted, cores = machines.jobs * machines.threads, n_cores()
    if machines.partition is None and not machines.gpus and wanted > max(cores, machines.threads):
        each = f"{threads} thread{'s' * (threads > 1)}"
        tell(f"{machines.jobs} jobs of {each} on {cores} cores: fewer may be faster")
    with _unfinished_told(given.out):
        if given.is_alone:
            frame = by_workers(folder, given.parts()[""], order, machines, tell)
            left_out = outline_of(given.parts()[""])[0].left_out
            note_left_out({name: why for name, why in left_out.items() if name not in noted})
            return frame
        plan = _plan(given, order, kept)
        return models_by_workers(folder, plan, given.lines, given.command, order, machines, tell, saved)


def _by_shard(given: Given, order: Order, shard: Shard, kept: "list[Relation]") -> None:
    from .sharing import by_shard

    with _unfinished_told(given.out):
        plan = None if given.is_alone else _plan(given, order, kept)
        by_shard(given.out, given.parts(), order, shard, tell, plan, given.command)
    notes.print(Text(f"Shard {shard} is done. When all are: fv-lens merge {given.out}"), soft_wrap=True)


@contextmanager
def _unfinished_told(out: Path) -> Iterator[None]:
    """Name units that are left, and exit with 1; nothing stays of a study that never began."""
    from ..jobs.unfinished import UnfinishedError
    from .sharing import forget_nothing

    try:
        yield
    except UnfinishedError as error:
        notes.print(Text(str(error)), soft_wrap=True)
        raise typer.Exit(1) from None
    finally:
        forget_nothing(out)


def _plan(given: Given, order: Order, kept: "list[Relation]") -> dict[str, Any]:
    from .several import plan_of_models

    plan = plan_of_models(given.models, kept, order.settings, order.dtype)
    return plan | ({"chat": True} if order.chat else {})


def note_left_out(left_out: Mapping[str, str]) -> None:
    """Say on standard error which relations are left out, and why."""
    for name, why in left_out.items():
        typer.echo(f"Note: {name} is left out: {why}", err=True)
