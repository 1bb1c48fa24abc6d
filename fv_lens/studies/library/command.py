"""The command `fv-lens library`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from ...ground.errors import InputError
from ..console import LIBRARY, console, expanded, plain_errors, quiet, tell
from ..names import split_names
from ..own_model import model_of

if TYPE_CHECKING:
    from ...vectors.library import Library


def library(
    source: Annotated[
        str,
        typer.Argument(
            callback=expanded,
            show_default=str(LIBRARY),
            help="A folder of vectors, or a library on the Hugging Face hub, org/name.",
        ),
    ] = str(LIBRARY),
    model: Annotated[
        str | None,
        typer.Option(callback=expanded, help="The model, to check and measure with; by default the library's own."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a library on the hub: a branch, a tag or a commit.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure each vector on the test words of its relation, with controls.")
    ] = False,
    others: Annotated[
        str, typer.Option(help="With --measure: relations in whose prompts side effects are measured, with commas.")
    ] = "",
    page: Annotated[Path | None, typer.Option(callback=expanded, help="An HTML page to write.")] = None,
    save: Annotated[Path | None, typer.Option(callback=expanded, help="A folder to save it in, with its card.")] = None,
    push: Annotated[str | None, typer.Option(help="A repository on the hub to put it in, org/name.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make that repository private, if it is new.")] = False,
    licence: Annotated[str | None, typer.Option(help="Of the vectors, for the card, such as mit.")] = None,
) -> None:
    """Show a library of vectors; check it against a model, measure it, save it or share it."""
    saved: list[Path] = []
    with plain_errors(saved), quiet():
        from ...evaluation.libraries import measure_library
        from ...vectors.library import Library

        if others and not measure:
            raise InputError(f"--others is {others!r}, and nothing is measured; give --measure as well.")
        is_folder = Path(source).exists() or source.count("/") != 1 or source.startswith((".", "/"))
        if is_folder and revision is not None:
            raise InputError(f"--revision is {revision!r}, and {source!r} is not on the hub; give org/name.")
        vectors = Library.load(source) if is_folder else Library.from_hub(source, revision=revision)
        if measure or model is not None:
            tell("Loading the model")
            loaded = model_of(vectors.first, Path(source), model)
            vectors.check(loaded)
            if measure:
                tell(f"Measuring {len(vectors)} vectors")
                vectors = measure_library(loaded, vectors, others=split_names(others))
            elif vectors.identity is None:
                vectors = vectors.for_model(loaded)
        console.print(Text(_place(vectors)), soft_wrap=True)
        console.print(_overview(vectors))
        if save is not None:
            vectors.save(save, licence=licence)
            saved.append(save)
            console.print(Text(str(save)), soft_wrap=True)
        if page is not None:
            from .page import write_library_page

            write_library_page(page, vectors)
            saved.append(page)
            console.print(Text(str(page)), soft_wrap=True)
        if push is not None:
            console.print(Text(vectors.push_to_hub(push, licence=licence, private=private)), soft_wrap=True)


def _place(vectors: "Library") -> str:
    methods = ", ".join(sorted({fv.method for fv in vectors.values()}))
    return f"{len(vectors)} vectors ({methods}) of {vectors.model or 'a model'}, after layer {vectors.layer}"


def _overview(vectors: "Library") -> Table:
    """A line for each vector: how it was made, and its score beside the controls', where there are any."""
    from ...vectors.library_scores import VECTOR

    rows, methods = vectors.rows(), {fv.method for fv in vectors.values()}
    table = Table(box=None, pad_edge=False)
    table.add_column("vector", no_wrap=True)
    if len(methods) > 1:
        table.add_column("made by")
    for row in rows:
        table.add_column(Text("whole answers right" if row == VECTOR else row), no_wrap=row == VECTOR)
    for name, fv in vectors.items():
        scores = [vectors.score(name, row=row) for row in rows]
        cells = ["" if score is None else str(score) if row == VECTOR else f"{score.value:.2f}"
                 for row, score in zip(rows, scores)]  # fmt: skip
        table.add_row(Text(name), *([Text(fv.method)] if len(methods) > 1 else []), *cells)
    return table
