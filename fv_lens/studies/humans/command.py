"""The command `fv-lens humans`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from ..console import LIBRARY, MOST_SEED, ModelName, console, expanded, notes, output_folder, plain_errors, quiet, tell
from ..job import Job

if TYPE_CHECKING:
    import pandas as pd


def humans(
    folder: Annotated[
        Path,
        typer.Argument(
            callback=expanded,
            help="A folder that has SemEval-2012 Task 2 and relsim_mean_ratings.csv somewhere in it.",
        ),
    ],
    vectors: Annotated[
        Path,
        typer.Option(
            callback=expanded, help="A folder of tuned vectors: sets the layer, and its subfolder `summed` the heads."
        ),
    ] = LIBRARY,
    model: ModelName = "smollm2-135m",
    out: Annotated[Path, typer.Option(callback=expanded, help="Folder for the results.")] = Path("fv_lens_humans"),
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the halves of each relation's pairs.")] = 0,
) -> None:
    """Compare vectors of SemEval's relations with what people say about them."""
    saved: list[Path] = []
    with plain_errors(saved, goes_on=True), quiet():
        from ...datasets.ratings import load_ratings
        from ...datasets.semeval import load_semeval

        relations, ratings = load_semeval(folder), load_ratings(folder)
        command = ["fv-lens", "humans", folder, "--vectors", vectors, "--model", model, "--out", out, "--seed", seed]
        with output_folder(out, "humans", saved) as results:
            notes.print(Text("Loading the libraries and the model", style="bold"))
            from ...models.load import load_model
            from .study import place, study

            loaded = load_model(model)
            layer, heads = place(loaded, vectors)
            line = shlex.join(map(str, command))
            frame = study(loaded, relations, ratings, layer, heads, Job(results, line, tell), seed)
        console.print(_overview(frame))
        files = "\n".join(str(out / name) for name in ("report.html", "results.csv", "summary.json"))
        console.print(Text(files), soft_wrap=True)


def _overview(frame: "pd.DataFrame") -> Table:
    """One line for each measure and kind of vectors."""
    from ...ground.scores import Score

    title = "Spearman's rho with people, 95 % intervals over relations; p by Mantel's test"
    table = Table("", "vectors", title=Text(title), title_justify="left", box=None, pad_edge=False)
    for heading in ("rho", "p"):
        table.add_column(heading, no_wrap=True)
    for measure, some in frame.groupby("measure", sort=False):
        for i, x in enumerate(some.itertuples()):
            rho, p = str(Score.of(x)), "" if x.p != x.p else f"{x.p:.4f}"
            table.add_row(Text(measure if i == 0 else ""), Text(x.vectors), Text(rho), p)
    return table
