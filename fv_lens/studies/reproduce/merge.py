"""The command `fv-lens merge`: the shards of a study brought together, and its results written."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ...ground.errors import InputError
from ..console import STUDY, console, expanded, output_folder, plain_errors, tell
from ..folders import owner_of, plan_in


def merge(
    out: Annotated[Path, typer.Argument(callback=expanded, help="The folder that shards have worked in.")] = STUDY,
    folders: Annotated[
        list[Path] | None, typer.Argument(callback=expanded, help="Other folders, where each shard had its own.")
    ] = None,
) -> None:
    """Bring the shards of `reproduce --shard` together, and write the results as one process would have."""
    saved: list[Path] = []
    with plain_errors(saved, goes_on=True):
        if plan_in(out) is None and not folders:
            raise InputError(f"{str(out)!r} holds no study; give the --out of `fv-lens reproduce --shard`")
        for source in folders or ():
            if owner_of(source) != "reproduce":
                raise InputError(f"{str(source)!r} holds no study; give the --out of `fv-lens reproduce --shard`")
        tell("Reading what the shards have left")
        with output_folder(out, "reproduce", saved) as folder:
            from ..jobs.presence import begin
            from .gather import finish_shards, gather

            begin(out, "")
            gather(folder, folders or [])
            finish_shards(folder)
        console.print(Text("\n".join(str(out / name) for name in ("report.html", "results.csv", "summary.json"))))
