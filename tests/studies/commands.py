"""Commands as a shell would run them, and what they leave."""

import json
from pathlib import Path

from typer.testing import CliRunner

from fv_lens.datasets.relations import Relation
from fv_lens.studies import cli
from fv_lens.studies.folders import LOCK, MARKER


def call(*arguments):
    """The result of a command; an exception that is not an exit is a failure of the test."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def files(folder):
    """What lies in a folder, without the two files that say whose it is."""
    return sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, MARKER))


def cells(printed: str, first: str) -> dict[str, list[str]]:
    """Row -> cells of the one table in Markdown whose heading begins with `first`."""
    lines = printed.splitlines()
    [start] = [i for i, line in enumerate(lines) if line.startswith(f"| {first} ")]
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith("|")), len(lines))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:end]]
    return {name: rest for name, *rest in (rows[0], *rows[2:])}


def write(relation: Relation) -> str:
    content = {"name": relation.name, "names": relation.names, "family": relation.family, "pairs": relation.pairs}
    Path(f"{relation.name}.json").write_text(json.dumps(content))
    return f"{relation.name}.json"


def interrupted(*arguments, **options):
    """In the place of a function: Ctrl-C while it runs."""
    raise KeyboardInterrupt
