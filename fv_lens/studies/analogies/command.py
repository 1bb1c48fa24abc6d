"""The command `fv-lens analogies`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from ...ground.errors import InputError
from ...ground.measures import MEASURES
from ..console import (
    LIBRARY,
    MOST_EACH,
    MOST_SEED,
    ModelName,
    console,
    expanded,
    notes,
    output_folder,
    plain_errors,
    quiet,
    tell,
)
from ..job import Job
from ..sources import BatsFolder, LreFolder, PublishedSet, ToddFolder, published_set

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...analogies.scores import AnalogyScores
    from ...datasets.questions import Question
    from ...vectors.function_vector import FunctionVector


def analogies(
    file: Annotated[
        Path | None,
        typer.Argument(
            callback=expanded,
            help="Questions: JSON lines, JSON, CSV or SCAN's CSV; by default the bundled test questions.",
        ),
    ] = None,
    bats: BatsFolder = None,
    lre: LreFolder = None,
    todd: ToddFolder = None,
    validation: Annotated[
        list[Path] | None,
        typer.Option(callback=expanded, help="Questions to choose on how those of FILE are answered; may be repeated."),
    ] = None,
    choices: Annotated[bool, typer.Option("--choices", help="Also choose among the answers of each question.")] = False,
    vectors: Annotated[
        Path,
        typer.Option(
            callback=expanded, help="A folder of tuned vectors; if there is none, the bundled relations are tuned."
        ),
    ] = LIBRARY,
    each: Annotated[
        int, typer.Option(min=1, max=MOST_EACH, help="With --bats, --lre or --todd: test analogies per relation.")
    ] = 10,
    model: ModelName = "smollm2-135m",
    out: Annotated[Path, typer.Option(callback=expanded, help="Folder for the results.")] = Path("fv_lens_analogies"),
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Seed of the question split, the folds and the order of choices.")
    ] = 0,
) -> None:
    """Solve analogies A:B :: C:? with composites of tuned vectors, beside prompts and simpler vectors."""
    saved: list[Path] = []
    with plain_errors(saved, goes_on=True), quiet():
        source = published_set(bats, lre, todd)
        if file and source:
            raise InputError(f"FILE is {str(file)!r} and {source.option} {str(source.folder)!r}; give one of them.")
        train, chosen_on, test, choose_on = _questions(file, source, validation or (), each, seed)
        if (choices or choose_on) and not any(question.pairs for question in test):
            asked = source.folder if source else file
            raise InputError(f"{str(asked)!r} gives no choices; leave --choices out to complete the analogies.")
        command = ["fv-lens", "analogies", *([file] if file else []), *["--choices"] * choices]
        command += [*source, "--each", each] if source else []
        for path in validation or ():
            command += ["--validation", path]
        command += ["--vectors", vectors, "--model", model, "--out", out, "--seed", seed]
        choices = choices or bool(choose_on)
        with output_folder(out, "analogies", saved) as folder:
            if vectors != LIBRARY and not any(vectors.glob("*.safetensors")):
                raise InputError(
                    f"{str(vectors)!r} has no vectors (*.safetensors); give the `vectors` folder of a study."
                )
            notes.print(Text("Loading the libraries and the model", style="bold"))
            from ...models.load import load_model
            from .study import Asked, solve_all

            loaded, (library, summed) = load_model(model), _libraries(vectors)
            try:
                scores, chosen = solve_all(
                    loaded, library, Asked(train, chosen_on, test, choose_on),
                    Job(folder, shlex.join(map(str, command)), tell), summed=summed, seed=seed, choices=choices,
                )  # fmt: skip
            except BaseException:
                if folder.claimed and any((out / "vectors").glob("*.safetensors")):
                    saved[:] = [out / "vectors"]  # what was tuned, until there are stages
                raise
        for measure in ("accuracy", *(["choice"] if choices and scores.chance is not None else [])):
            console.print(_overview(scores, measure))
        for line in chosen:
            console.print(Text(line), soft_wrap=True)
        files = "\n".join(str(out / name) for name in ("report.html", "results.csv", "summary.json"))
        console.print(Text(files), soft_wrap=True)


def _questions(
    file: Path | None, source: PublishedSet | None, validation: "Sequence[Path]", each: int, seed: int
) -> "tuple[list[Question], list[Question], list[Question], list[Question]]":
    """Questions for fitting composites, for choosing them, for the report, and for choosing among methods of choice."""
    from ...datasets.question_files import load_questions
    from ...datasets.question_split import split_questions

    train, chosen_on, test = _of_set(source, seed, each) if source else split_questions(load_questions(), seed)
    read = {path: load_questions(path) for path in (*([file] if file else ()), *validation)}
    for path, questions in read.items():
        if not questions:
            raise InputError(f"{str(path)!r} has no questions: no two of its lines make an analogy; give another.")
    test = read[file] if file else test
    return train, chosen_on, test, [question for path in validation for question in read[path]]


def _libraries(folder: Path) -> "tuple[dict[str, FunctionVector] | None, dict[str, FunctionVector] | None]":
    """The tuned vectors of a folder and the summed ones in it, where there are any."""
    from .files import load_library

    if not any(folder.glob("*.safetensors")):
        return None, None
    return load_library(folder), load_library(folder / "summed") if (folder / "summed").is_dir() else None


def _of_set(source: PublishedSet, seed: int, each: int) -> "list[list[Question]]":
    """Analogies of each relation from each part that `reproduce` cuts it into: ten, and `each` of the test part."""
    from ...datasets.question_generator import generate
    from ..reproduce.setup import Settings, sized

    relations = sized(source.relations().values(), Settings())[0]
    train, validation = generate(relations, 10, seed, "train"), generate(relations, 10, seed, "validation")
    return [train, validation, generate(relations, each, seed, "test")]


def _overview(scores: "AnalogyScores", measure: str) -> Table:
    """One line per method and prompt, one column per library."""
    from ...analogies.scores import LIBRARIES, Row

    title = {
        "accuracy": f"{MEASURES['accuracy'].heading}, {len(scores.questions)} analogies",
        "choice": f"{MEASURES['choice'].heading}; chance {scores.chance or 0:.2f}",
    }[measure]
    table = Table("", "prompt", title=Text(f"{title}; 95 % intervals"), title_justify="left", box=None, pad_edge=False)
    table.columns[1].no_wrap = True
    for library in LIBRARIES:
        table.add_column(library, no_wrap=True)
    names = dict.fromkeys((row.method, row.prompt) for row, values in scores.values.items() if measure in values)
    for method, prompt in names:
        cells = []
        for library in LIBRARIES:
            row = next((r for r in (Row(method, library, prompt), Row(method, "", prompt)) if r in scores.values), None)
            cells.append(str(scores.score(row, measure)) if row and measure in scores.values[row] else "")
        table.add_row(Text(method), Text(prompt), *cells)
    return table
