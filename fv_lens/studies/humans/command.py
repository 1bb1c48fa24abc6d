"""The command `fv-lens humans`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..console import (
    LIBRARY,
    MOST_SEED,
    Dtype,
    ModelName,
    ModelNames,
    console,
    expanded,
    notes,
    output_folder,
    plain_errors,
    quiet,
    tell,
)
from ..job import Job
from ..names import MODEL, named_dtype, named_models

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        Path | None,
        typer.Option(
            callback=expanded,
            show_default=str(LIBRARY),
            help="A folder of tuned vectors: sets the layer, and its subfolder `summed` the heads. With --models: the "
            "--out of a `reproduce --models`.",
        ),
    ] = None,
    model: ModelName = MODEL,
    models: ModelNames = None,
    dtype: Dtype = "float32",
    out: Annotated[Path, typer.Option(callback=expanded, help="Folder for the results.")] = Path("fv_lens_humans"),
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the halves of each relation's pairs.")] = 0,
) -> None:
    """Compare vectors of SemEval's relations with what people say about them."""
    saved: list[Path] = []
    with plain_errors(saved, goes_on=True), quiet():
        from ...datasets.ratings import load_ratings
        from ...datasets.semeval import load_semeval

        weights = named_dtype(dtype)
        several = None if models is None else named_models(models, model)
        relations, ratings = load_semeval(folder), load_ratings(folder)

        def line(out: Path, vectors: Path | None, **model: str) -> str:
            command: list[Any] = ["fv-lens", "humans", folder, *([] if vectors is None else ["--vectors", vectors])]
            command += [part for name, value in model.items() for part in (f"--{name}", value)]
            return shlex.join(map(str, [*command, "--dtype", dtype, "--out", out, "--seed", seed]))

        with output_folder(out, "humans", saved) as results:
            notes.print(Text("Loading the libraries and the model", style="bold"))
            if several is not None:
                from ..several import vectors_folder
                from .several import plan_of_models, study_models

                plan = plan_of_models(several, weights, relations, ratings, seed)
                lines = {
                    name: line(out / name, vectors and vectors_folder(vectors, path, name), model=path)
                    for name, path in several.items()
                }
                command = line(out, vectors, models=",".join(several.values()))
                frame = study_models(results, plan, relations, ratings, vectors, lines, command, saved)
            else:
                from ...models.load import load_model
                from .study import place, study

                loaded, library = load_model(model, dtype=weights), vectors or LIBRARY
                layer, heads = place(loaded, library)
                job = Job(results, line(out, library, model=model), tell)
                frame = study(loaded, relations, ratings, layer, heads, job, seed)
        console.print(_overview(frame) if several is None else _overview_of_models(frame, list(several)))
        files = ("report.html", "results.csv", "summary.json", *(several or ()))
        console.print(Text("\n".join(str(out / name) for name in files)), soft_wrap=True)


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


def _overview_of_models(frame: "pd.DataFrame", models: "Sequence[str]") -> Table:
    """One line for each measure and kind of vectors, one column for each model, and pooled with its interval."""
    from ...evaluation.pooled import POOLED
    from .several_page import scores_by_model

    title = "Spearman's rho with people; of all models with a 95 % interval over relations"
    table = Table("", "vectors", title=Text(title), title_justify="left", box=None, pad_edge=False)
    for name in (*models, POOLED):
        table.add_column(Text(name), no_wrap=name == POOLED)
    for measure, some in frame.groupby("measure", sort=False):
        for i, (kind, scores) in enumerate(scores_by_model(some).items()):
            shown = [f"{scores[name].value:.2f}" if name in scores else "none" for name in models]
            table.add_row(Text(measure if i == 0 else ""), Text(kind), *shown, str(scores.get(POOLED, "")))
    return table
