"""The command `fv-lens analogies`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from .console import LIBRARY, ModelName, check_writable, console, notes, plain_errors, quiet, teller
from .errors import InputError


def analogies(
    file: Annotated[
        Path | None, typer.Argument(help="Questions: jsonl, CSV or SCAN's CSV; by default the bundled test questions.")
    ] = None,
    validation: Annotated[
        list[Path] | None,
        typer.Option(help="Questions to choose the method on that FILE reports; may be repeated."),
    ] = None,
    choices: Annotated[bool, typer.Option("--choices", help="Also choose among the answers of each question.")] = False,
    vectors: Annotated[
        Path, typer.Option(help="A folder of tuned vectors; if there is none, the bundled relations are tuned.")
    ] = LIBRARY,
    model: ModelName = "smollm2-135m",
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("fv_lens_analogies"),
    seed: Annotated[int, typer.Option(min=0, help="Of the parts of the questions, folds and orders of choices.")] = 0,
) -> None:
    """Solve analogies A:B :: C:? with composites of tuned vectors, beside prompts and simpler vectors."""
    saved: list[Path] = []
    with plain_errors(saved, goes_on=True), quiet():
        from .question_files import load_questions
        from .questions import split_questions

        bundled = split_questions(load_questions(), seed)
        test = bundled.test if file is None else load_questions(file)
        choose_on = [question for path in validation or () for question in load_questions(path)]
        if (choices or choose_on) and not any(question.pairs for question in test):
            raise InputError(f"The questions of {str(file)!r} have no choices; leave --choices out to complete them.")
        command = ["fv-lens", "analogies", *([file] if file else []), *["--choices"] * choices]
        for path in validation or ():
            command += ["--validation", path]
        command += ["--vectors", vectors, "--model", model, "--out", out, "--seed", seed]
        check_writable(out)
        notes.print(Text("Loading the libraries and the model", style="bold"))
        from .analogy_study import load_library, solve_all, tuned_library
        from .models import load_model

        loaded, summed, tell = load_model(model), None, teller(saved, out)
        if any(vectors.glob("*.safetensors")):
            library = load_library(vectors)
            summed = load_library(vectors / "summed") if (vectors / "summed").is_dir() else None
        elif vectors != LIBRARY:
            raise InputError(f"{str(vectors)!r} has no vectors (*.safetensors); give the `vectors` folder of a study.")
        else:
            library = tuned_library(loaded, out / "vectors", tell)
        parts = (bundled.train, bundled.validation, test)
        found, chosen = solve_all(
            loaded, library, parts, out, shlex.join(map(str, command)), tell, summed=summed, seed=seed,
            choices=choices or bool(choose_on), choose_on=choose_on,
        )  # fmt: skip
        for measure in ("accuracy", *(["choice"] if found.chance is not None and (choices or choose_on) else [])):
            console.print(_overview(found, measure))
        for line in chosen:
            console.print(Text(line), soft_wrap=True)
        files = "\n".join(str(out / name) for name in ("results.csv", "summary.json", "figures"))
        console.print(Text(files), soft_wrap=True)


def _overview(found, measure: str) -> Table:
    """One line a method, one column a library; the better of the two prompts, by name."""
    from .analogy_scores import LIBRARIES

    title = {
        "accuracy": f"Whole answers right, {len(found.questions)} analogies",
        "choice": f"Right choices; chance {found.chance or 0:.2f}",
    }[measure]
    table = Table("", "prompt", title=Text(f"{title}; 95 % intervals"), title_justify="left", box=None, pad_edge=False)
    table.columns[1].no_wrap = True
    for library in LIBRARIES:
        table.add_column(library, no_wrap=True)
    names = dict.fromkeys((row.method, row.prompt) for row, values in found.values.items() if measure in values)
    for method, prompt in names:
        cells = []
        for library in LIBRARIES:
            row = next((r for r in ((method, library, prompt), (method, "", prompt)) if r in found.values), None)
            cells.append(str(found.score(row, measure)) if row and measure in found.values[row] else "")
        table.add_row(Text(method), Text(prompt), *cells)
    return table
