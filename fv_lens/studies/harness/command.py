"""The command `fv-lens harness`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ...ground.errors import InputError
from ..console import MOST_SEED, console, expanded, notes, output_folder, plain_errors, quiet, tell
from ..job import Job
from ..names import split_names
from ..own_model import model_of

if TYPE_CHECKING:
    import pandas as pd


def harness(
    vectors: Annotated[
        list[Path], typer.Argument(callback=expanded, help="A saved vector, or several to add together.")
    ],
    tasks: Annotated[
        str,
        typer.Option(help="With commas between: relation, analogies, neutral, and any task that the harness knows."),
    ] = "relation,analogies,neutral",
    model: Annotated[str | None, typer.Option(help="As for run; by default the vector's own model.")] = None,
    relation: Annotated[
        str | None, typer.Option(help="Whose test words the task `relation` asks for; by default the vector's own.")
    ] = None,
    strength: Annotated[float, typer.Option(help="Multiplies the vectors.")] = 1.0,
    rolling: Annotated[
        str, typer.Option(help="Where vectors stand in texts without a prompt: first (token of a window), every, none.")
    ] = "first",
    batch_size: Annotated[int, typer.Option(min=1, help="Requests that run together.")] = 8,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="The most tokens of a forward; by default the model's context length.")
    ] = None,
    limit: Annotated[
        float | None, typer.Option(min=0, help="The first documents of each task: a number, or below 1 a share.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Demonstrations in tasks other than the three bundled ones.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in the model's chat form.")] = False,
    include_path: Annotated[
        list[Path] | None, typer.Option(callback=expanded, help="A folder of task files of your own; or several.")
    ] = None,
    out: Annotated[Path, typer.Option(callback=expanded, help="Folder for the results.")] = Path("fv_lens_harness"),
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the random vector.")] = 0,
) -> None:
    """Run tasks of lm-evaluation-harness without a vector, with it, and with one random draw of its norm."""
    saved: list[Path] = []
    with plain_errors(saved), quiet():
        if not (names := tuple(dict.fromkeys(split_names(tasks)))):
            raise InputError("--tasks names no task; give relation, analogies, neutral, or one that the harness knows.")
        if limit == 0:
            raise InputError("--limit is 0; give a number of documents, or below 1 a share of them.")
        from ...evaluation.harness.model import as_rolling
        from ...vectors.function_vector import FunctionVector
        from ..results import RESULTS
        from .study import BY_HARNESS, Settings, study

        include = tuple(map(str, include_path or ()))
        settings = Settings(
            tasks=names, relation=relation, strength=strength, rolling=as_rolling(rolling), batch_size=batch_size,
            max_length=max_length, limit=limit, shots=shots, chat=chat, include=include, seed=seed,
        )  # fmt: skip
        loaded = [FunctionVector.load(path) for path in vectors]
        options: dict[str, Any] = {
            "--tasks": tasks, "--model": model, "--relation": relation, "--strength": strength, "--rolling": rolling,
            "--batch-size": batch_size, "--max-length": max_length, "--limit": limit, "--shots": shots,
            "--out": out, "--seed": seed,
        }  # fmt: skip
        parts = [part for name, value in options.items() if value is not None for part in (name, value)]
        parts += ["--chat"] * chat + [part for folder in include for part in ("--include-path", folder)]
        command = shlex.join(map(str, ["fv-lens", "harness", *vectors, *parts]))
        with output_folder(out, "harness", saved) as folder:
            notes.print(Text("Loading the libraries and the model", style="bold"))
            frame = study(model_of(loaded[0], vectors[0], model), loaded, settings, Job(folder, command, tell))
        console.print(_overview(frame))
        console.print(Text("\n".join(str(out / name) for name in (RESULTS, BY_HARNESS))), soft_wrap=True)


def _overview(frame: "pd.DataFrame") -> Table:
    """The rows of the study under each metric of each task, and what they gain over the row without a vector."""
    from ...ground.scores import Score
    from .study import WITHOUT

    title = Text("Tasks of the harness, 95 % intervals over documents; the random vector is one draw")
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("", "", "score", f"over {WITHOUT}"):
        table.add_column(heading, no_wrap=True)
    for task, of_task in frame.groupby("task", sort=False):
        table.add_row(Text(str(task).removeprefix("fv_lens_"), style="bold"))
        for (metric, name), some in of_task.groupby(["metric", "filter"], sort=False):
            cells = {(x.part, x.row): Score.of(x) for x in some.itertuples()}
            label = str(metric) if name in ("none", "line") else f"{metric}, {name}"
            for row in dict.fromkeys(some.row):
                gain = cells.get(("gain", row))
                score = cells["score", row]
                shown = f"{score:.0f}" if score.value >= 100 else str(score)  # perplexities
                table.add_row(Text(f"  {label}" * bool(label)), Text(str(row)), shown, gain.signed if gain else "")
                label = ""
    return table
