"""The command `fv-lens reproduce`."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ...datasets.relation_files import load_relation, relation_names
from ...datasets.relations import Relation
from ...ground.errors import InputError
from ...ground.measures import COMPLETED, MEASURES
from ..console import MOST_DEALS, STUDY, Dtype, ModelName, console, expanded, plain_errors, quiet
from ..jobs.options import Gpus, Minutes, NumberOfJobs, Partition, ShardText, Sharing, Threads
from ..names import MODEL, DtypeName, named_dtype, named_models, split_names
from ..sources import BatsFolder, LreFolder, PublishedSet, ToddFolder, published_set
from .given import Given, study
from .loading import Order

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from .setup import Settings


def reproduce(
    relations: Annotated[
        str | None, typer.Option(help="Comma-separated names or files (as for run); by default all bundled relations.")
    ] = None,
    bats: BatsFolder = None,
    lre: LreFolder = None,
    todd: ToddFolder = None,
    model: ModelName = MODEL,
    models: Annotated[
        list[str] | None,
        typer.Option(help="Several models instead, each as for --model, with commas between or --models again."),
    ] = None,
    dtype: Dtype = "float32",
    out: Annotated[
        Path, typer.Option(callback=expanded, help="Folder for the results; a run goes on where it stopped.")
    ] = STUDY,
    seeds: Annotated[
        int, typer.Option(min=1, max=MOST_DEALS, help="Number of random divisions into train and validation pairs.")
    ] = 2,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Also train soft prompts and LoRA on the same pairs, and more; takes longer."),
    ] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in the model's own chat form.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate work, time, memory and traffic.")] = False,
    devices: Annotated[
        int | None, typer.Option(min=1, help="GPUs that a process spreads the model over; with --dry-run, anywhere.")
    ] = None,
    memory: Annotated[
        float | None, typer.Option(help="With --dry-run: gigabytes of each GPU.", show_default="80")
    ] = None,
    threads: Threads = None,
    jobs: NumberOfJobs = None,
    slurm: Partition = None,
    minutes: Minutes = None,
    gpus: Gpus = None,
    shard: ShardText = None,
) -> None:
    """Tune vectors for many relations and measure them beside prompting and controls, in one table.

    A relation of 50 pairs gives 20 to tune on, 10 to choose on and 20 to be scored on; fewer make smaller parts.
    """
    saved: list[Path] = []
    with plain_errors(saved, goes_on=True), quiet():
        sharing = Sharing.of(jobs, slurm, minutes, gpus, shard)
        weights = named_dtype(dtype)
        source = published_set(bats, lre, todd)
        chosen = _chosen_relations(relations, source)
        several = None if models is None else named_models(models, model)

        def line(out: Path, **named: str) -> str:
            options: dict[str, Any] = {"--relations": relations, **dict([source] if source else []), **named}
            options |= {"--dtype": dtype, "--seeds": seeds, "--devices": devices, "--threads": threads, "--out": out}
            given = [str(part) for option in options.items() if option[1] is not None for part in option]
            given += ["--baselines"] * baselines + ["--chat"] * chat
            return shlex.join(["fv-lens", "reproduce", *given])

        from .setup import Settings

        settings = Settings(seeds=seeds, baselines=baselines)
        if baselines:
            from ...models.adapters import peft_module

            peft_module()  # which is refused before hours of work
        if dry_run:
            if threads is not None:
                import torch

                torch.set_num_threads(threads)  # with which the time is measured
            asked = {"jobs": jobs or 1, "devices": devices, "memory": memory, "apart": slurm is not None, "chat": chat}
            _print_estimates(list(several.values()) if several else [model], chosen, settings, weights, asked)
            return
        if memory is not None:
            raise InputError("--memory is of an estimate; give --dry-run beside it.")
        order = Order(chosen, settings, weights, chat, threads, devices or 1)
        if several is None:
            given = Given(out, {"": model}, {"": line(out, **{"--model": model})}, line(out, **{"--model": model}))
        else:
            lines = {name: line(out / name, **{"--model": path}) for name, path in several.items()}
            given = Given(out, several, lines, line(out, **{"--models": ",".join(several.values())}))
        frame = study(given, order, sharing, saved)
        if frame is None:
            return
        console.print(_overview(frame) if several is None else _overview_of_models(frame, list(several)))
        names = ("report.html", "results.csv", "summary.json", *(several or ["vectors"]))
        console.print(Text("\n".join(str(out / name) for name in names)), soft_wrap=True)


def _print_estimates(
    models: "Sequence[str]",
    chosen: "Sequence[Relation]",
    settings: "Settings",
    dtype: DtypeName,
    asked: Mapping[str, Any],
) -> None:
    from .dry_run.estimate import estimate

    for name in models:
        console.print(Text(str(estimate(name, chosen, settings, dtype, **asked))))


def _chosen_relations(relations: str | None, source: PublishedSet | None) -> list[Relation]:
    names_given = None if relations is None else split_names(relations)
    if names_given == []:
        raise InputError(f"--relations is {relations!r}; give comma-separated names or files, such as antonym,synonym.")
    if source is not None:
        loaded = source.relations()
        names = list(loaded) if names_given is None else names_given
        if unknown := [name for name in names if name not in loaded]:
            raise InputError(f"{str(source.folder)!r} has no relation {unknown[0]!r}; it has {', '.join(loaded)}.")
        return [loaded[name] for name in names]
    return [load_relation(name) for name in (relation_names() if names_given is None else names_given)]


def _overview(frame: "pd.DataFrame") -> Table:
    """The mean over relations of every row, with its interval."""
    from ...ground.scores import Score

    means = frame[(frame.part == "score") & (frame.group == "all")]
    n, families = int(means.n.max()), bool(means.low.notna().any())  # one family says nothing of the spread
    title = f"Mean over {n} relation{'s' * (n > 1)}" + ", 95 % intervals over families of relations" * families
    table = Table("", title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for measure in COMPLETED:
        table.add_column(MEASURES[measure].column, no_wrap=True)
    for row, of_row in means.groupby("row", sort=False):
        shown = of_row.set_index("measure")
        cells = [shown.loc[name] for name in COMPLETED if name in shown.index]
        table.add_row(Text(row), *(" ".join(Score.of(x).written()[: 1 + families]) for x in cells))
    return table


def _overview_of_models(frame: "pd.DataFrame", models: "Sequence[str]") -> Table:
    """The mean over relations of whole answers, for each model, and pooled with its interval."""
    from ...evaluation.pooled import POOLED, scores_by_model

    title = (
        f"{MEASURES['accuracy'].heading}, mean over relations; of all models with a 95 % interval over their families"
    )
    table = Table("", title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in (*models, POOLED):
        table.add_column(Text(name), no_wrap=name == POOLED)
    for row, scores in scores_by_model(frame, "score", "accuracy").items():
        shown = [f"{scores[name].value:.2f}" if name in scores else "none" for name in models]
        table.add_row(Text(row), *shown, str(scores[POOLED]) if POOLED in scores else "")
    return table
