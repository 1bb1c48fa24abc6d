"""One study by several processes, from the command line: `--jobs`, `--slurm` and `--shard`."""

import gc
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ...ground import storage
from ..console import output_folder
from ..folders import JOBS, OutputFolder, plan_in
from ..jobs.launch import Machines
from ..jobs.presence import at_work, leave_mark, present
from ..jobs.shards import Shard
from ..jobs.signals import terminated_as_interrupted
from ..jobs.unfinished import Reason, UnfinishedError
from ..jobs.worker import work
from ..results import is_finished
from ..several import BROKEN
from .crew import THE_MODEL, run_workers
from .loading import Order
from .several import write_together
from .workers import WAIT, Part, check_left_out, finish_part, loaded

COMMAND = "command.json"  # of all models, where shards study several
Plan = Mapping[str, Any]


def by_workers(
    folder: OutputFolder, part: Part, order: Order, machines: Machines, tell: Callable[[str], None]
) -> pd.DataFrame:
    """The study of one model by workers; returns the table.

    Raises:
        InputError, ParityError: the model cannot be studied; see also `run_workers`.
        UnfinishedError: units are left.
    """
    if is_finished(folder.path):  # as far as is known before the model is loaded: one worker sees whether it is
        machines = replace(machines, jobs=1)
    left, ends = run_workers(folder.path, {"": part}, order, machines, tell)
    if left:
        if THE_MODEL in left[""]:  # which nobody could load
            check_left_out(part)
        raise UnfinishedError(left, ends, folder.path / JOBS)
    return finish_part(folder, part)


def models_by_workers(
    folder: OutputFolder, plan: Plan, lines: Mapping[str, str], command: str, order: Order, machines: Machines,
    tell: Callable[[str], None], saved: list[Path],
) -> pd.DataFrame:  # fmt: skip
    """The studies of several models by the same workers, beside one another; returns the table of all.

    Args:
        plan: `plan_of_models`.
        lines: folder -> the command line for that model alone.
        command: that of all.
        saved: gets what is there if the command is stopped.

    Raises:
        InputError: no model has results; see also `run_workers`.
        UnfinishedError: units of a model are left; the table of the others is written.
    """
    folder.claim(plan)
    _save_command(folder.path, command)
    parts = {name: Part(folder.path / name, plan["models"][name], lines[name]) for name in plan["models"]}
    try:
        todo = {
            name: part
            for name, part in parts.items()
            if not is_finished(part.out) or plan_in(part.out).get("threads") != order.threads  # which is then refused
        }
        left, ends = run_workers(folder.path, todo, order, machines, tell) if todo else ({}, {})
        return finish_models(folder.path, plan, parts, command, left, ends)
    except BaseException:
        saved[:] = [part.out / "stages" for part in parts.values() if (part.out / "stages").is_dir()]
        raise


def finish_models(
    out: Path, plan: Plan, parts: Mapping[str, Part], command: str,
    left: Mapping[str, Mapping[str, Reason]], ends: Mapping[str, str],
) -> pd.DataFrame:  # fmt: skip
    """Write the results of each model of which no unit is left, and those of all; returns the table of all."""
    without: dict[str, str] = {}
    unfinished: dict[str, Mapping[str, Reason]] = {}
    for name, part in parts.items():
        try:
            if name in left:
                if THE_MODEL in left[name]:
                    check_left_out(part)
                unfinished[name] = left[name]
                without[name] = f"{len(left[name])} units are left"
            elif not is_finished(part.out):
                with output_folder(part.out, "reproduce", []) as of_model:
                    finish_part(of_model, part)
        except BROKEN as error:
            without[name] = str(error)
    frame = write_together(out, plan, without, command) if len(without) < len(parts) or not unfinished else None
    if unfinished or frame is None:
        raise UnfinishedError(unfinished, ends, out / JOBS)
    return frame


def by_shard(
    out: Path, parts: Mapping[str, Part], order: Order, shard: Shard, tell: Callable[[str], None], plan: Plan | None,
    command: str,
) -> None:  # fmt: skip
    """Compute a shard's units of each study.

    Args:
        plan: `plan_of_models`, where there are several.
        command: the command line of one process for all of them.

    Raises:
        InputError: the same shard is at work, or another command in the folder; a model that cannot be studied, where
            it is the only one.
        UnfinishedError: units of the shard's are left.
    """
    with OutputFolder(out, "reproduce", wait=WAIT, keep=plan is not None) as folder:
        if plan is not None:
            folder.claim(plan, alone=False)
            _save_command(out, command)
    left: dict[str, dict[str, Reason]] = {}
    with terminated_as_interrupted(), present(out, shard.name):
        with OutputFolder(out, "reproduce", wait=WAIT) as folder:  # nobody has it alone; later ones see the shard
            if at_work(out) == [shard.name]:
                leave_mark(out, "")  # jobs of an earlier start that wait for their turn find nothing to do
                if not folder.has_results:
                    for part in parts.values():
                        part.begin_again()
        first = shard.index % len(parts)
        for name in [*list(parts)[first:], *list(parts)[:first]]:
            ledger = parts[name].ledger(shard.name)
            ledger.forget(None if at_work(out) == [shard.name] else shard.name)
            tell(f"Loading {parts[name].model}")
            try:
                with loaded(parts[name], order, shard.name, None if plan is None else WAIT) as (graph, study):
                    if reasons := work(graph, study, ledger, tell, shard.own(list(graph.units))):
                        left[name] = reasons
            except BROKEN as error:
                if plan is None:
                    raise
                tell(f"{parts[name].model} is left out: {error}")
                parts[name].leave_out(error)
            gc.collect()  # hooks hold a model in circles, and two may not fit
    if left:
        raise UnfinishedError(left, {}, out / JOBS)


def _save_command(out: Path, command: str) -> None:
    (out / JOBS).mkdir(exist_ok=True)
    storage.save_json(out / JOBS / COMMAND, {"command": command})


def forget_nothing(out: Path) -> None:
    """Remove the records of processes from a folder in which no study was begun."""
    if plan_in(out) is None and not at_work(out):
        shutil.rmtree(out / JOBS, ignore_errors=True)
        with suppress(OSError):
            out.rmdir()
