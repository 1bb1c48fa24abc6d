"""The command `fv-lens table`: the results of a study as Markdown, of one model or of several."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..ground.errors import InputError
from .console import STUDY, expanded, plain_errors
from .folders import owner_of

if TYPE_CHECKING:
    import pandas as pd

PRINTED = ("reproduce", "analogies", "humans")


def table(
    folder: Annotated[
        Path,
        typer.Argument(
            callback=expanded, help="The folder of a finished `fv-lens reproduce`, `analogies` or `humans`."
        ),
    ] = STUDY,
) -> None:
    """Print the results of a study as Markdown tables."""
    with plain_errors():
        from .results import RESULTS, SUMMARY, read_summary

        if why := _without_results(folder):
            raise InputError(f"{str(folder)!r} holds no results of a study: {why}")
        try:
            summary, frame = read_summary(folder / SUMMARY, ["versions"]), _frame(folder / RESULTS)
            text = _printer(owner_of(folder), summary)(frame, summary)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # each damage has its own
            cause = f"{type(error).__name__}: {error}"
            raise InputError(
                f"{str(folder)!r} holds no results of a study: its results.csv or summary.json is damaged or another "
                f"command's ({cause}); give the --out of a study"
            ) from None
        typer.echo(text, nl=False)


def _frame(path: Path) -> "pd.DataFrame":
    """The table as it was written: names are text, also a relation called "null"; an empty number is NaN."""
    import pandas as pd

    from .results import NUMBERS

    return pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in NUMBERS})


def _printer(owner: str | None, summary: Mapping[str, Any]) -> Callable[["pd.DataFrame", Mapping[str, Any]], str]:
    """What prints the results of a command; a folder without a marker is taken for one of `reproduce`."""
    several = "models" in summary
    if owner in ("analogies", "humans"):
        module = import_module(f".{owner}.markdown", __package__)
        return module.markdown_of_models if several else module.markdown
    from .reproduce.markdown import markdown
    from .reproduce.several_markdown import markdown_of_models

    return markdown_of_models if several else markdown


def _without_results(folder: Path) -> str | None:
    """Why a folder has no results to print, and what to give; None where they are there."""
    from .results import RESULTS, SUMMARY

    if not folder.is_dir():
        return "there is no such folder; give the --out of a study"
    owner = owner_of(folder)
    if owner not in (None, *PRINTED):
        return f"they are of `fv-lens {owner}`; give the --out of {', '.join(PRINTED[:-1])} or {PRINTED[-1]}"
    if (folder / RESULTS).is_file() and (folder / SUMMARY).is_file():
        return None
    if owner in PRINTED or (folder / "stages").is_dir():
        return "the study is not finished; the command that began it goes on from where it stopped"
    return "it has no results.csv and summary.json; give the --out of a finished study"
