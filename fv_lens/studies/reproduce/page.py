"""One HTML page of the results: many relations, prompting and every vector, and the differences that are shown.

The page stands alone, as the page of a single run does.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from ... import plots
from ...evaluation.names import CHANCE
from ...ground.measures import MEASURES
from ...ground.scores import Score
from ...plots.comparison import curve_of, usual_shots
from ...plots.relations import main_rows
from ...plots.table import extent, scores_of
from ..page import parts as page

CAPTIONS = {
    "comparison": "Zero-shot prompts with each vector added, beside prompting and controls. Relations weigh the same; "
    "intervals are over relations. Test words had no part in any vector or choice.",
    "shuffled": "The same vectors at the last token of prompts whose demonstrations have exchanged answers, all wrong: "
    "a vector acts against its context there. Layers and strengths are those chosen in zero-shot prompts.",
    "relations": "Hover for the numbers of a relation. A relation's interval is over its test words.",
    "learning": "Vectors fine-tuned from zero on the given number of pairs of each relation; prompts are zero-shot.",
    "training": "A vector's step is chosen by its loss on validation words. Hover for the relation of a line.",
    "decoding": "Words stand in the order of the centred reading: by how much more probable than with the mean of all "
    "relations' vectors they become when the vector is inserted into neutral prompts. Bars and numbers are the plain "
    "probability there, so a lower word may have a longer bar.",
    "slopes": "From the summed vector to the one that was fine-tuned from it. Hover for a relation and its intervals.",
    "similarity": "Cosines of the relations' vectors after subtracting the mean vector; otherwise what all share, the "
    "form of an answer, would dominate. All are in the order of the first matrix, similar relations together.",
    "map": "Fine-tuned vectors by multidimensional scaling: near in the map, alike in centred cosine, as well as two "
    "dimensions can show.",
    "decoding, alone": "Words stand in the order of their probability when the vector is inserted into neutral "
    "prompts.",
}
WORDS = (
    "FV: function vector, the sum of the outputs of the chosen heads, at strength 1 or at the strength chosen on "
    "validation. FFV: function vector fine-tuned on a relation's pairs, from a start. Pooled: one vector for all "
    "relations. n-shot: the prompt shows n pairs, and nothing is added."
)
SLOPES = ("FV", "FFV from FV")
SHUFFLED = "FFV of shuffled pairs"


@dataclass(frozen=True, eq=False)
class Portrait:
    """What is drawn of a study's vectors, beside their scores; None where there is nothing to draw.

    Args:
        training: relation -> training record, as `plots.training` takes it.
        decoding: the top words of vectors, as `plots.decoding` takes them.
        similarities, points: matrices and map of the relations' vectors, as `plots.similarity` and `plots.relation_map`
            take them.
    """

    training: Mapping[str, pd.DataFrame] | None = None
    decoding: pd.DataFrame | None = None
    similarities: Mapping[str, pd.DataFrame] | None = None
    points: pd.DataFrame | None = None


def write_table_report(
    path: str | os.PathLike[str],
    frame: pd.DataFrame,
    categories: Mapping[str, str],
    vectors: Portrait,
    *,
    title: str,
    summary: Mapping[str, Any],
    command: str | None = None,
    baselines: Mapping[str, Any] | None = None,
) -> None:
    """Write the page from whichever parts the table has; it appears whole or not at all.

    Args:
        frame: the table of results, with the columns `plots.table.COLUMNS`: a number, its interval and what it is of.
        categories: relation -> category, in the order to show.
        summary: facts for "How it was made", name -> value, such as model and timings; a value may be a mapping itself.
        vectors: what else is drawn of them.
        command: the command line that made the results.
        baselines: what is said of the other methods, where there are any: `costs`, `best` and `gaps`.

    Raises:
        InputError: a column that `frame`, a record or `decoding` lacks; the folder does not exist or cannot be written.

    Example:
        >>> write_table_report("table.html", frame, {"antonym": "lexicographic"}, Portrait(), title="one", summary={})
    """
    training, decoding, similarities, points = vectors.training, vectors.decoding, vectors.similarities, vectors.points
    everywhere = scores_of(frame, part="score", group="all", measure="accuracy")
    of_relations = scores_of(frame, part="score", group="relation", measure="accuracy")
    figures = {}
    if everywhere:
        figures["comparison"] = plots.comparison(frame)
    if (again := frame[frame.part == "shuffled"].assign(part="score")).size:
        figures["shuffled"] = plots.comparison(again)
    if main_rows(of_relations):
        figures["relations"] = plots.relations(frame, categories)
    if set(SLOPES) <= set(of_relations):
        figures["slopes"] = plots.slopes(frame, categories, SLOPES)
    if curve_of(frame):
        figures["learning"] = plots.learning_curve(frame)
    if training:
        figures["training"] = plots.training(training)
    if decoding is not None and len(decoding):
        figures["decoding"] = plots.decoding(decoding)
    if similarities:
        figures["similarity"] = plots.similarity(similarities)
    if points is not None and len(points) > 2:
        figures["map"] = plots.relation_map(points, categories)
    captions = dict(CAPTIONS)
    if decoding is not None and "decoding" in figures and decoding.relation.nunique() == 1:
        captions["decoding"] = CAPTIONS["decoding, alone"]
    figures_html = {name: page.figure(name, of, captions[name]) for name, of in figures.items()}

    def some(*names: str) -> Markup:
        return Markup("").join(figures_html[name] for name in names if name in figures_html)

    facts = {**summary, **({"command": command} if command else {})}
    parts = [
        page.in_short(_in_short(frame)),
        page.section("How well", some("comparison"), _all_numbers(frame), note=WORDS),
        page.section("Differences", _differences(frame)),
        page.section("Other methods on the same pairs", _costs(baselines or {})),
        page.section("With shuffled answers before the question", some("shuffled"), _shuffled(frame)),
        page.section("Relation by relation", some("slopes", "relations"), _by_category(frame)),
        page.section("Fine-tuning", some("learning", "training"), _plain_table(frame, "stability")),
        page.section("What the vectors say", some("decoding"), _plain_table(frame, "decoding")),
        page.section("Relations together", some("similarity", "map")),
        page.how_made(facts),
    ]
    page.write_page(path, title, parts, downloads={"results": frame})


def _in_short(frame: pd.DataFrame) -> Iterator[str]:
    """Three sentences: how well, above what, and what the vectors say; everything else is in the tables."""
    levels = _overall(frame, "score", "accuracy")
    if clauses := [f"{row} {levels[row]}" for row in main_rows(levels)]:
        yield f"{MEASURES['accuracy'].heading}, mean over {extent(frame)}: {'; '.join(clauses)}."
    differences = _overall(frame, "difference", "accuracy")
    subject = next(iter(differences), "").partition(" - ")[0]
    against = {row: differences.get(f"{subject} - {row}") for row in ("FV", *usual_shots(levels), SHUFFLED)}
    if clauses := [_against(row, gain) for row, gain in against.items() if gain is not None]:
        yield f"{subject} is {'; '.join(clauses)}."
    readings = {name: of for name, of in _measures(frame, "decoding").items() if name.startswith("name score")}
    for measure, scores in list(readings.items())[-1:]:  # that of the chosen reading, where there is one
        sure = [f"{row} {score}" for row, score in scores.items() if score.differs(CHANCE)]
        unsure = [f"{row} {score}" for row, score in scores.items() if not score.differs(CHANCE)]
        clauses = [", ".join(sure), f"not shown to differ from chance: {', '.join(unsure)}" * bool(unsure)]
        yield f"Names of relations in their vectors ({measure}; chance {CHANCE}): {'; '.join(filter(None, clauses))}."


def _against(other: str, gain: Score) -> str:
    """A difference to another row in words; one whose interval holds 0 is not shown."""
    if not gain.differs():
        return f"not shown to differ from {other} ({gain.signed})"
    return f"{'above' if gain.value > 0 else 'below'} {other} by {gain.unsigned}"


def _minus(row: str) -> str:
    return row.replace(" - ", " \N{MINUS SIGN} ")


def _overall(frame: pd.DataFrame, part: str, measure: str) -> dict[str, Score]:
    """Row -> score over all relations."""
    return {row: of["all"] for row, of in scores_of(frame, part=part, name="all", measure=measure).items()}


def _measures(frame: pd.DataFrame, part: str) -> dict[str, dict[str, Score]]:
    """Measure -> row -> score over all relations, for the measures of a part."""
    by_measure = {
        measure: _overall(frame, part, measure) for measure in frame.loc[frame.part == part, "measure"].unique()
    }
    return {measure: scores for measure, scores in by_measure.items() if scores}


def _all_numbers(frame: pd.DataFrame) -> str:
    return _table(
        "All numbers", _measures(frame, "score"),
        f"Means over relations ({extent(frame)}) with 95 % intervals. Whole answers: the share of words that are "
        "completed with a right answer to its end; first tokens: with the first token of one.",
    )  # fmt: skip


def _differences(frame: pd.DataFrame) -> str:
    note = "Paired over the same relations and words; not shown: the 95 % interval holds 0."
    return _table("", _measures(frame, "difference"), note, gain=True)


def _costs(baselines: Mapping[str, Any]) -> str:
    """What the baselines cost, or nothing where there are none."""
    rows = {
        name: [page.plain_cell(f"{cost['parameters']:,.0f}"), page.plain_cell(f"{cost['seconds']:,.1f}"),
               page.plain_cell(f"{cost['memory'] / 1e6:,.0f}")]
        for name, cost in baselines.get("costs", {}).items()
    }  # fmt: skip
    if not rows:
        return ""
    gaps = baselines["gaps"]
    note = (
        "Means over relations: the numbers that are trained, the seconds of training or measuring, and the most memory "
        "held meanwhile, beyond the model's weights. All see a relation's train pairs and are stopped or placed by its "
        f"validation pairs. The best baseline of the tables is {baselines['best']}: of highest mean on these test "
        "words, which favours it."
    )
    why = {name: "; ".join(dict.fromkeys(of.values())) for name, of in gaps.items()}
    missing = {name: [page.plain_cell(str(len(gaps[name]))), page.plain_cell(text)] for name, text in why.items()}
    parts = [page.table(["numbers trained", "seconds", "MB"], rows, note, first_bold=False, name="What they cost")]
    if missing:
        parts.append(page.table(["relations", "why"], missing, "", first_bold=False, name="Left out"))
    return Markup("").join(parts)


def _shuffled(frame: pd.DataFrame) -> str:
    prompt = next(iter(frame[frame.part == "shuffled"].row), "the prompt")
    heading, note = f"Gains over {prompt}", f"Each vector in these prompts, minus {prompt} without one, paired."
    return _table(heading, _measures(frame, "shuffled gain"), note, gain=True)


def _plain_table(frame: pd.DataFrame, part: str) -> str:
    note = {
        "decoding": "Name score: the share of other relations' vectors that speak less of a relation's names than its "
        f"own vector does; {CHANCE} is chance. Rank: of the best name, where 0 is the strongest token.",
        "stability": "Vectors of one relation tuned on several deals of its pairs: each seed deals train and "
        "validation pairs again among themselves, and test words stay unseen.",
    }[part]
    heading = {"decoding": "Names of relations in vectors", "stability": "Stability over deals of pairs"}[part]
    return _table(heading, _measures(frame, part), note)


def _table(heading: str, columns: Mapping[str, Mapping[str, Score]], note: str, gain: bool = False) -> str:
    """A column for each measure, or nothing where there is none."""
    names = dict.fromkeys(row for scores in columns.values() for row in scores)
    rows = {_minus(row): [page.cell(scores.get(row), gain) for scores in columns.values()] for row in names}
    labels = [MEASURES[measure].column if measure in MEASURES else measure for measure in columns]
    if not rows:
        return ""
    drawn = page.table(labels, rows, note, first_bold=False, name=heading or "Differences")
    return page.titled(heading, drawn) if heading else drawn


def _by_category(frame: pd.DataFrame) -> str:
    scores = scores_of(frame, part="score", group="category", measure="accuracy")
    gains = scores_of(frame, part="difference", group="category", measure="accuracy")
    names = dict.fromkeys(name for of_row in scores.values() for name in of_row)
    # A row in which a relation's vector broke has fewer.
    counts = {name: max(of_row[name].n for of_row in scores.values() if name in of_row) for name in names}
    if not counts:
        return ""
    rows = {row: [page.cell(of_row.get(name), False) for name in counts] for row, of_row in scores.items()}
    rows |= {_minus(row): [page.cell(of_row.get(name), True) for name in counts] for row, of_row in gains.items()}
    labels = [f"{name} ({n})" for name, n in counts.items()]
    note = (
        f"{MEASURES['accuracy'].heading}, mean over the relations of a category, whose number stands beside its name."
    )
    return page.titled("By category", page.table(labels, rows, note, first_bold=False, name="By category"))
