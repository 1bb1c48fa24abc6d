"""One HTML page of a library: its vectors with their scores, how alike they are, how they were tuned."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from ... import plots
from ...datasets.relation_files import load_relation, relation_names
from ...evaluation.similarity import mds, similarity_matrix
from ...ground.measures import COMPLETED, ELSEWHERE, MEASURES
from ...ground.scores import SHARE, clustered_mean
from ...vectors.lessons import training_frame
from ...vectors.library import Library
from ...vectors.library_scores import VECTOR
from ..page import parts as page

CAPTIONS = {
    "similarity": "Cosines of the vectors after subtracting their mean; otherwise what all share, the form of an "
    "answer, would dominate. Similar vectors stand together.",
    "map": "By multidimensional scaling: near in the map, alike in centred cosine, as well as two dimensions can show.",
    "training": "A vector's step is chosen by its loss on validation words. Hover for the relation of a line.",
}
MOST_IN_MATRIX = 60


def write_library_page(path: str | os.PathLike[str], library: Library) -> None:
    """Write the page; it appears whole or not at all.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    figures = {}
    if 2 < len(library):
        alike = similarity_matrix(library)
        if len(library) <= MOST_IN_MATRIX:
            figures["similarity"] = plots.similarity({"Vectors": alike.to_frame()})
        figures["map"] = plots.relation_map(mds(alike), _categories(library))
    training = {name: training_frame(fv) for name, fv in library.items() if fv.training}
    tuned = page.figure("training", plots.training(training), CAPTIONS["training"]) if training else Markup("")
    parts = [
        page.in_short(_in_short(library)),
        page.section("Vectors", _scores(library), note=_note(library)),
        page.section("What they do elsewhere", _elsewhere(library)),
        page.section("Vectors together", *(page.figure(name, of, CAPTIONS[name]) for name, of in figures.items())),
        page.section("Tuning", tuned),
        page.how_made(_facts(library)),
    ]
    title = f"{len(library)} function vectors of {library.model or 'a model'}"
    downloads = {"vectors": library.to_frame()} | ({"scores": library.scores} if len(library.scores) else {})
    page.write_page(path, title, parts, downloads=downloads)


def _in_short(library: Library) -> list[str]:
    """The means over vectors, and over the controls beside them."""
    means = {}
    for row in library.rows():
        values = np.array([score.value for name in library if (score := library.score(name, row=row))])
        if len(values) == len(library) > 1:
            mean = clustered_mean(values, _families(library), within=SHARE)
            means[row] = str(mean) if mean.known else f"{mean.value:.2f}"
    if VECTOR not in means:
        return []
    lines = [f"Whole answers right, mean over {len(library)} relations: {means.pop(VECTOR)} with the vectors."]
    if means:
        lines.append(f"In their place: {'; '.join(f'{row} {mean}' for row, mean in means.items())}.")
    return lines


def _scores(library: Library) -> Markup:
    rows, measures = library.rows(), [measure for measure in COMPLETED if library.rows(measure)]
    columns = ["made by", "norm", *(MEASURES[measure].column for measure in measures)]
    columns += [row for row in rows if row != VECTOR]
    lines = {}
    for name, fv in library.items():
        cells = [page.plain_cell(fv.method), page.plain_cell(f"{fv.vector.norm():.3g}")]
        cells += [page.cell(library.score(name, measure), gain=False) for measure in measures]
        cells += [page.cell(library.score(name, row=row), gain=False) for row in rows if row != VECTOR]
        lines[name] = cells
    return page.table(columns, lines, first_bold=False, name="Vectors")


def _elsewhere(library: Library) -> Markup:
    measures = [measure for measure in ELSEWHERE if library.rows(measure)]
    if not measures:
        return Markup("")
    lines: Mapping[str, list[Markup]] = {
        name: [page.cell(library.score(name, measure), gain=measure == "lost") for measure in measures]
        for name in library
    }
    return page.table([MEASURES[measure].column for measure in measures], lines, first_bold=False, name="Side effects")


def _note(library: Library) -> str:
    if not len(library.scores):
        return "Nothing was measured of these vectors."
    return (
        "Completed words of the test part, in prompts without examples, with 95 % intervals over words; the last "
        "columns are controls, whole answers right with that in the vector's place."
    )


def _categories(library: Library) -> dict[str, str]:
    known = set(relation_names())
    named = {name: load_relation(name) for name in library if name in known}
    return {name: (named[name].category or "other") if name in named else "other" for name in library}


def _families(library: Library) -> list[str]:
    known = set(relation_names())
    return [(load_relation(name).family or name) if name in known else name for name in library]


def _facts(library: Library) -> dict[str, Any]:
    first, identity = library.first, library.identity
    facts: dict[str, Any] = {"model": library.model or "not known"}
    if identity is not None:
        facts |= {"weights, SHA-256": identity.weights, "loaded as": f"{identity.kind}, {identity.dtype}"}
    facts |= {"added at": f"{first.hook_name}, the last token of each prompt", "prompts": library.template.to_dict()}
    return facts | {"versions": dict(first.versions)}
