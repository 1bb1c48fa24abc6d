"""The commands `fv-lens reproduce` and `fv-lens table`."""

import json
import shlex
import warnings
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
from ..console import MOST_DEALS, STUDY, ModelName, console, expanded, notes, output_folder, plain_errors, quiet, tell
from ..folders import owner_of
from ..job import Job
from ..names import MODEL, named_models, split_names
from ..sources import BatsFolder, LreFolder, PublishedSet, ToddFolder, published_set

DTYPES = ("float32", "bfloat16", "float16")  # as in `models`, which is slow to import

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from .setup import Settings, Study


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
    dtype: Annotated[str, typer.Option(help=f"Of the weights: {', '.join(DTYPES)}.")] = "float32",
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
    jobs: Annotated[int | None, typer.Option(min=1, help="With --dry-run: how many processes share the work.")] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="With --dry-run: estimate for this many GPUs a job.")
    ] = None,
    memory: Annotated[
        float | None, typer.Option(help="With --dry-run: gigabytes of each GPU.", show_default="80")
    ] = None,
) -> None:
    """Tune vectors for many relations and measure them beside prompting and controls, in one table.

    A relation of 50 pairs gives 20 to tune on, 10 to choose on and 20 to be scored on; fewer make smaller parts.
    """
    saved: list[Path] = []
    with plain_errors(saved, goes_on=True), quiet():
        if dtype not in DTYPES:
            raise InputError(f"--dtype is {dtype!r}; give one of {', '.join(DTYPES)}")
        weights: Any = dtype  # one of DTYPES, as was checked
        source = published_set(bats, lre, todd)
        chosen = _chosen_relations(relations, source)
        several = None if models is None else named_models(models, model)

        def line(out: Path, **named: str) -> str:
            options: dict[str, Any] = {"--relations": relations, **dict([source] if source else []), **named}
            options |= {"--dtype": dtype, "--seeds": seeds, "--out": out}
            given = [str(part) for option in options.items() if option[1] is not None for part in option]
            given += ["--baselines"] * baselines + ["--chat"] * chat
            return shlex.join(["fv-lens", "reproduce", *given])

        from .setup import Settings, sized

        settings = Settings(seeds=seeds, baselines=baselines)
        if baselines:
            from ...models.adapters import peft_module

            peft_module()  # which is refused before hours of work
        if dry_run:
            if chat:
                raise InputError("--dry-run counts the plain form of prompts; leave --chat out.")
            asked = {"jobs": jobs or 1, "devices": devices, "memory": memory}
            _print_estimates(list(several.values()) if several else [model], chosen, settings, weights, asked)
            return
        if (jobs, devices, memory) != (None, None, None):
            raise InputError("--jobs, --devices and --memory are of an estimate; give --dry-run beside them.")
        with output_folder(out, "reproduce", saved) as folder:
            kept, too_small = sized(chosen, settings)  # before the model is loaded
            _note_left_out(too_small)

            def load(name: str) -> "tuple[Study, dict[str, Any]]":
                return _study_of(name, weights, chosen, settings, too_small, chat)

            if several is None:
                study, facts = load(model)
                from .study import reproduce as run_all

                frame = run_all(study, Job(folder, line(out, **{"--model": model}), tell), facts)
            else:
                from .several import plan_of_models, study_models

                lines = {name: line(out / name, **{"--model": path}) for name, path in several.items()}
                command = line(out, **{"--models": ",".join(several.values())})
                plan = plan_of_models(several, kept, settings, dtype) | ({"chat": True} if chat else {})
                frame = study_models(folder, plan, load, lines, command, saved)
        console.print(_overview(frame) if several is None else _overview_of_models(frame, list(several)))
        names = ("report.html", "results.csv", "summary.json", *(several or ["vectors"]))
        console.print(Text("\n".join(str(out / name) for name in names)), soft_wrap=True)


def _print_estimates(
    models: "Sequence[str]", chosen: "Sequence[Relation]", settings: "Settings", dtype: Any, asked: Mapping[str, Any]
) -> None:
    from .dry_run.estimate import estimate

    for name in models:
        console.print(Text(str(estimate(name, chosen, settings, dtype, **asked))))


def _study_of(
    name: str, dtype: Any, chosen: "Sequence[Relation]", settings: "Settings", noted: Mapping[str, str], chat: bool
) -> "tuple[Study, dict[str, Any]]":
    """The study of a model, which is loaded, and the hash of its weights; relations left out are noted once."""
    notes.print(Text("Loading the libraries and the model", style="bold"))
    from ...datasets.prompts import PromptTemplate
    from ...models.lens import lens_of
    from ...models.load import load_model
    from .setup import Study

    loaded = load_model(name, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small parts were warned of before
        study = Study(loaded, chosen, settings, PromptTemplate.chat(loaded) if chat else PromptTemplate())
    _note_left_out({name: why for name, why in study.left_out.items() if name not in noted})
    return study, {"weights, SHA-256": lens_of(loaded).weights_hash}


def table(
    folder: Annotated[
        Path, typer.Argument(callback=expanded, help="The folder of a finished `fv-lens reproduce`.")
    ] = STUDY,
) -> None:
    """Print the results of `reproduce` as Markdown tables."""
    with plain_errors():
        import pandas as pd

        from .markdown import markdown
        from .several_markdown import markdown_of_models

        try:
            frame = pd.read_csv(folder / "results.csv")
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            text = (markdown_of_models if "models" in summary else markdown)(frame, summary)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # each damage has its own
            raise InputError(
                f"{str(folder)!r} holds no results of `fv-lens reproduce`: {_without_results(folder, error)}"
            ) from None
        typer.echo(text, nl=False)


def _without_results(folder: Path, error: Exception) -> str:
    if not folder.is_dir():
        return "there is no such folder; give the --out of a study"
    owner = owner_of(folder)
    if owner not in (None, "reproduce"):
        return f"they are of `fv-lens {owner}`; give the --out of a study"
    if not isinstance(error, FileNotFoundError):
        cause = f"{type(error).__name__}: {error}"
        return f"its results.csv or summary.json is damaged or another command's ({cause}); give the --out of a study"
    if owner == "reproduce" or (folder / "stages").is_dir():
        return "the study is not finished; the command that began it goes on from where it stopped"
    return "it has no results.csv and summary.json; give the --out of a finished study"


def _note_left_out(left_out: Mapping[str, str]) -> None:
    for name, why in left_out.items():
        typer.echo(f"Note: {name} is left out: {why}", err=True)


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
