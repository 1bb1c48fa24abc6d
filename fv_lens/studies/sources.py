"""Published sets of relations that commands take by the folder: `--bats`, `--lre` and `--todd`."""

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from ..datasets.bats import load_bats
from ..datasets.lre import load_lre
from ..datasets.relations import Relation
from ..datasets.todd import load_todd
from ..ground.errors import InputError
from .console import expanded

LOADERS = {"--bats": load_bats, "--lre": load_lre, "--todd": load_todd}

BatsFolder = Annotated[Path | None, typer.Option(callback=expanded, help="A folder of BATS 3.0, to use its relations.")]
LreFolder = Annotated[
    Path | None, typer.Option(callback=expanded, help="The folder `data` of LRE (Hernandez et al.), likewise.")
]
ToddFolder = Annotated[
    Path | None, typer.Option(callback=expanded, help="A folder of the word lists of Todd et al., likewise.")
]


class PublishedSet(NamedTuple):
    """The folder of a published set, and the option that it was given by."""

    option: str
    folder: Path

    def relations(self) -> dict[str, Relation]:
        """Its relations by name."""
        return LOADERS[self.option](self.folder)


def published_set(bats: Path | None, lre: Path | None, todd: Path | None) -> PublishedSet | None:
    """The set that was given, if any; an InputError for two."""
    given = [PublishedSet(option, path) for option, path in zip(LOADERS, (bats, lre, todd)) if path is not None]
    if len(given) > 1:
        (one, path), (other, second), *_ = given
        raise InputError(f"{one} is {str(path)!r} and {other} {str(second)!r}; give one of them.")
    return given[0] if given else None
