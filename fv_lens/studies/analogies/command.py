"""The command `fv-lens analogies`."""

import shlex
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ...ground.errors import InputError
from ..console import (
    LIBRARY,
    MOST_EACH,
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
from ..sources import BatsFolder, LreFolder, PublishedSet, ToddFolder, published_set

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...analogies.scores import AnalogyScores
    from ...datasets.published import Published
    from ...datasets.questions import Question
    from ...models.lens import Model
    from .study import Asked


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
        list[Path] | None,
        typer.Option(
            callback=expanded,
            show_default=str(LIBRARY),
            help="A folder of tuned vectors, such as the `vectors` of `reproduce`; given again, one library of all, "
            "of one layer and with one vector of a relation. With --models: the --out of a `reproduce --models`. If "
            "there are none, the bundled relations are tuned.",
        ),
    ] = None,
    library: Annotated[
        list[Path] | None,
        typer.Option(
            callback=expanded,
            help="A folder of BATS, LRE, SemEval-2012 Task 2 or Todd et al., or a file of questions: the library is "
            "tuned, and has their relations beside the bundled ones; may be repeated.",
        ),
    ] = None,
    composites: Annotated[
        Path | None,
        typer.Option(
            callback=expanded,
            help="The --out of an earlier run with these --vectors: its composites are taken, and not fitted again.",
        ),
    ] = None,
    each: Annotated[
        int, typer.Option(min=1, max=MOST_EACH, help="With --bats, --lre or --todd: test analogies per relation.")
    ] = 10,
    taught: Annotated[
        int, typer.Option(min=1, max=MOST_EACH, help="Likewise: train analogies per relation, and validation ones.")
    ] = 10,
    model: ModelName = MODEL,
    models: ModelNames = None,
    dtype: Dtype = "float32",
    out: Annotated[Path, typer.Option(callback=expanded, help="Folder for the results.")] = Path("fv_lens_analogies"),
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Seed of the question split, the folds and the order of choices.")
    ] = 0,
) -> None:
    """Solve analogies A:B :: C:? with composites of tuned vectors, beside prompts and simpler vectors."""
    saved: list[Path] = []
    with plain_errors(saved, goes_on=True), quiet():
        weights, source = named_dtype(dtype), published_set(bats, lre, todd)
        if file and source:
            raise InputError(f"FILE is {str(file)!r} and {source.option} {str(source.folder)!r}; give one of them.")
        train, chosen_on, test, choose_on = _questions(file, source, validation or (), (taught, each), seed)
        if (choices or choose_on) and not any(question.pairs for question in test):
            asked = source.folder if source else file
            raise InputError(f"{str(asked)!r} gives no choices; leave --choices out to complete the analogies.")
        several = None if models is None else named_models(models, model)
        if library and vectors:
            raise InputError(f"--library is {str(library[0])!r}, to be tuned, beside --vectors; give one of them")
        usual = [LIBRARY] if several is None and not library and any(LIBRARY.glob("*.safetensors")) else []
        folders = vectors or usual
        if composites and not folders:
            raise InputError(
                f"--composites is {str(composites)!r} without the vectors that it mixes; give them by --vectors."
            )
        sets = _sets(library or ())

        given = [*([file] if file else []), *["--choices"] * choices]
        given += [*source, "--each", each, "--taught", taught] if source else []
        line = partial(_line, given, {"--validation": validation or (), "--library": library or ()}, seed, dtype=dtype)
        with output_folder(out, "analogies", saved) as folder:
            if several is None:
                _check_vectors(folders)
            notes.print(Text("Loading the libraries and the model", style="bold"))
            from ...datasets.question_groups import group_names
            from .fitted import check_fitted
            from .overview import overviews, overviews_of_models
            from .study import Asked

            questions, choosing = Asked(train, chosen_on, test, choose_on), choices or bool(choose_on)
            group_names(test)  # refused before a model is loaded
            if several is not None:
                from ..several import model_folder, vectors_folder
                from .several import plan_of_models, solve_all_by_models

                own = {name: [vectors_folder(study, path, name) for study in folders] for name, path in several.items()}
                earlier = {name: composites and model_folder(composites, path, name) for name, path in several.items()}
                for fitted in filter(None, earlier.values()):
                    check_fitted(fitted)
                lines = {name: line(out / name, own[name], earlier[name], model=path) for name, path in several.items()}
                command = line(out, folders, composites, models=",".join(several.values()))
                plan = plan_of_models(several, weights, questions, choosing, seed, sets)
                frame = solve_all_by_models(folder, plan, questions, folders, lines, command, saved, sets, composites)
                shown = overviews_of_models(frame, list(several))
            else:
                from ...models.load import load_model

                if composites:
                    check_fitted(composites)
                job = Job(folder, line(out, folders, composites, model=model), tell)
                loaded = load_model(model, dtype=weights)
                solved = _solved(loaded, folders, sets, questions, job, choosing, seed, saved, composites)
                shown = overviews(*solved, test, choosing)
        for part in shown:
            console.print(part, soft_wrap=isinstance(part, Text))
        names = ("report.html", "results.csv", "summary.json", *(several or ()))
        console.print(Text("\n".join(str(out / name) for name in names)), soft_wrap=True)


def _line(
    given: "Sequence[Any]", paths: "Mapping[str, Sequence[Path]]", seed: int, out: Path, folders: "Sequence[Path]",
    composites: Path | None, *, dtype: str, **model: str,
) -> str:  # fmt: skip
    """A command line of `analogies`: options as given, paths by their option, vectors, the model and its dtype."""
    every = {**paths, "--vectors": folders, "--composites": [composites] if composites else []}
    options: list[tuple[str, Any]] = [(option, path) for option, of in every.items() for path in of]
    options += [(f"--{name}", value) for name, value in model.items()]
    options += [("--dtype", dtype), ("--out", out), ("--seed", seed)]
    return shlex.join(map(str, ["fv-lens", "analogies", *given, *chain(*options)]))


def _check_vectors(folders: "Sequence[Path]") -> None:
    for path in folders:
        if not any(path.glob("*.safetensors")):
            raise InputError(f"{str(path)!r} has no vectors (*.safetensors); give the `vectors` folder of a study.")


def _sets(paths: "Sequence[Path]") -> "list[Published]":
    """The sets of relations at these places; files of one name go by their folders' names as well."""
    from ...datasets.published import load_published

    sets = [load_published(path) for path in paths]
    names = [of.name for of in sets]
    return [
        of._replace(name=f"{path.absolute().parent.name}-{of.name}") if names.count(of.name) > 1 else of
        for path, of in zip(paths, sets)
    ]


def _solved(
    model: "Model", folders: "Sequence[Path]", sets: "Sequence[Published]", asked: "Asked", job: Job, choices: bool,
    seed: int, saved: list[Path], composites: Path | None,
) -> "tuple[AnalogyScores, list[str]]":  # fmt: skip
    """The questions answered by one model; `saved` gets what was tuned if that is cut short."""
    from .library import load_libraries
    from .study import solve_all

    library, summed = load_libraries(folders, model) if folders else (None, None)
    try:
        return solve_all(model, library, asked, job, summed, choices, seed, sets, composites)
    except BaseException:
        made = job.folder.path / "vectors"
        if job.folder.claimed and any(made.glob("*.safetensors")):
            saved[:] = [made]  # what was tuned, until there are stages
        raise


def _questions(
    file: Path | None, source: PublishedSet | None, validation: "Sequence[Path]", numbers: tuple[int, int], seed: int
) -> "tuple[list[Question], list[Question], list[Question], list[Question]]":
    """Questions for fitting composites, for choosing them, for the report, and for choosing among methods of choice."""
    from ...datasets.question_files import load_questions
    from ...datasets.question_split import split_questions

    train, chosen_on, test = _of_set(source, seed, *numbers) if source else split_questions(load_questions(), seed)
    read = {path: load_questions(path) for path in (*([file] if file else ()), *validation)}
    for path, questions in read.items():
        if not questions:
            raise InputError(f"{str(path)!r} has no questions: no two of its lines make an analogy; give another.")
    test = read[file] if file else test
    return train, chosen_on, test, [question for path in validation for question in read[path]]


def _of_set(source: PublishedSet, seed: int, taught: int, each: int) -> "list[list[Question]]":
    """Analogies of each relation from each of its parts: `taught` to fit and to choose on, `each` of the test part."""
    from ...datasets.question_generator import generate
    from ..reproduce.setup import Settings, sized

    relations = sized(source.relations().values(), Settings())[0]
    train, validation = generate(relations, taught, seed, "train"), generate(relations, taught, seed, "validation")
    return [train, validation, generate(relations, each, seed, "test")]
