"""What the vectors of a library do, each on the test words of its relation, as scores that go with the library."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

import pandas as pd

from ..datasets.relation_files import RelationLike, load_relation, relation_names
from ..datasets.relations import Relation
from ..ground.errors import InputError
from ..ground.measures import COMPLETED
from ..ground.progress import progress_bar
from ..ground.scores import Score
from ..models.lens import Model
from ..vectors.library import Library
from ..vectors.library_scores import COLUMNS, VECTOR
from .controls import Controls
from .evaluate import evaluate
from .side_effects import SideEffect, side_effects

Line = tuple[str, str, str, float, float, float, int]


def measure_library(
    model: Model,
    library: Library,
    relations: Mapping[str, RelationLike] | None = None,
    *,
    controls: Controls | bool = True,
    others: Sequence[RelationLike] = (),
    seed: int = 0,
) -> Library:
    """The same library with scores: what each vector completes of its relation's test words, with controls beside it.

    Args:
        model: the model that the vectors were made on; it goes on record, see `Library.for_model`.
        library: the Library.
        relations: the relation of each vector by the vector's name; bundled relations are known.
        controls: as for `evaluate`: also measure prompts without the vector and random vectors in its place.
        others: other relations, in whose prompts, beside neutral text, it is measured what the vectors do where they
            are not wanted (see `side_effects`); a vector's own is left out. None: not measured.
        seed: seed of the draws.

    Raises:
        InputError: the vectors do not belong to the model; a vector whose relation is not known, or that may have seen
            the words it would be measured on.

    Example:
        >>> library = finetune_all(model, ["antonym", "present-past"])
        >>> library = measure_library(model, library, others=["country-capital"])
        >>> library.score("antonym"), library.score("antonym", row="10-shot")
    """
    if not isinstance(library, Library):
        raise InputError(f"library is {type(library).__name__}; give a Library, such as Library(vectors).")
    recorded = library.for_model(model)
    asked = _relations(recorded, relations or {})
    elsewhere = [load_relation(other) for other in others]
    lines: list[Line] = []
    for name, relation in progress_bar(asked.items(), desc="vectors", unit="vector"):
        found = evaluate(model, relation, recorded[name], controls=controls, seed=seed)
        for row, result in found.rows.items():
            own = VECTOR if row == found.name else row
            lines += _lines(name, own, {measure: getattr(result, measure) for measure in COMPLETED})
        if rest := [other for other in elsewhere if other.name != relation.name]:
            effects = side_effects(model, relation, recorded[name], rest).rows[VECTOR]
            lines += _lines(name, VECTOR, {part.name: getattr(effects, part.name) for part in fields(SideEffect)})
    return recorded.with_scores(pd.DataFrame(lines, columns=list(COLUMNS)))


def _relations(library: Library, given: Mapping[str, RelationLike]) -> dict[str, Relation]:
    if unknown := [name for name in given if name not in library]:
        raise InputError(f"relations has {unknown[0]!r}, which the library has no vector of.")
    known = set(relation_names())
    named: dict[str, Relation] = {}
    for name, fv in library.items():
        if name in given:
            named[name] = load_relation(given[name])
            continue
        bundled = fv.relation if fv.relation in known else name
        if bundled not in known:
            raise InputError(f"The words of {name!r} are not known; give relations={{{name!r}: ...}}, as for evaluate.")
        named[name] = load_relation(bundled).with_split(fv.split_seed or 0)
    return named


def _lines(name: str, row: str, scores: Mapping[str, Score]) -> Iterator[Line]:
    for measure, score in scores.items():
        yield (name, row, measure, score.value, *score.ends, score.n)
