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


def write(relation: Relation) -> str:
    content = {"name": relation.name, "names": relation.names, "family": relation.family, "pairs": relation.pairs}
    Path(f"{relation.name}.json").write_text(json.dumps(content))
    return f"{relation.name}.json"


def interrupted(*arguments, **options):
    """In the place of a function: Ctrl-C while it runs."""
    raise KeyboardInterrupt
