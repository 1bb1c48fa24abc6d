"""One HTML page of a set of analogies: the scores of every method, comparisons, and single items."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from ... import plots
from ...analogies.differences import GROUPED
from ...analogies.gate import GateCurve
from ...analogies.scores import LIBRARIES, PROMPT_ONLY, TRUE, AnalogyScores, Row
from ...analogies.solve import AnalogyAnswer
from ...datasets.questions import Question
from ...ground.measures import CHOSEN, MEASURES
from ...ground.scores import Score
from ..page import parts as page

LEFT_OUT = (
    "Full: all vectors of the library; relation or family left out: without those of the analogy's own relation or "
    "family, in the library and in the shared vector. "
)
CHOICE_CAPTION = "By log P(D | C) with the vector, choices in an order drawn by seed. The dashed line is chance."
GATE_CAPTION = (
    "Analogies in the order of a signal that is known from A:B alone. Signal and threshold (the star) were chosen on "
    "validation analogies; without a star the gate never inserts."
)
GROUPS = (
    "Whole words completed, each group of analogies by itself. Groups are the distances that the file of questions "
    "gives (near, far), or its levels or domains; numbers are divided at their median."
)
# Said where a method has the word in its name.
WORDS = {
    "posterior": "Posterior: vectors weighted by how probable each makes B after A.",
    "shared": "Shared: one vector fitted on analogies of other families; alone, it carries the form of an answer and "
    "nothing of the pair.",
    "fitted": "Fitted: what gradient steps on A:B alone make.",
    "affine": "Affine: the scores of the posterior through a map fitted on analogies of other families.",
    "centred": "Centred: weights less their mean.",
    TRUE: "True relation: its own tuned vector, where there is one.",
}
MINUS = " \N{MINUS SIGN} "
N_WEIGHTS = 5  # of an item


def write_analogy_report(
    path: str | os.PathLike[str],
    scores: AnalogyScores,
    frame: pd.DataFrame,
    items: Sequence[tuple[Question, AnalogyAnswer]],
    *,
    title: str,
    lines: Sequence[str] = (),
    best: str = "",
    gates: Mapping[str, GateCurve] = {},
    facts: Mapping[str, Any] = {},
) -> None:
    """Write the page; it appears whole or not at all.

    Args:
        frame: `AnalogyScores.to_frame` as part "score", and methods minus their baselines as part "difference"; other
            parts are for the download alone.
        items: single analogies with their answers.
        lines: further sentences for the top of the page.
        best: the method that was chosen on validation, whose numbers the page begins with.
        gates: library -> what the best method gains over its prompt by the signal of its gate.
        facts: what "How it was made" says, name -> value.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    levels = frame[frame.part == "score"]
    captions = {"accuracy": _caption(scores), "choice": CHOICE_CAPTION}
    figures = {
        measure: page.figure(measure, plots.analogies(levels, measure, chance), captions[measure])
        for measure, chance in (("accuracy", None), ("choice", scores.chance))
        if (levels.measure == measure).any()
    }
    tables = {m: _table(scores, m) for m in MEASURES if (levels.measure == m).any()}
    words = " ".join(said for part, said in WORDS.items() if any(part in row.method for row in scores.values))
    parts = [
        page.in_short([*_in_short(scores, best), *_groups_in_short(frame, best), *lines]),
        page.section("Completed", figures.get("accuracy", ""), tables.get("accuracy", ""), note=words),
        page.section("Chosen among answers", figures.get("choice", ""), *(tables.get(m, "") for m in CHOSEN)),
        page.section("Differences", _differences(frame[frame.part == "difference"])),
        page.section("Groups of analogies", *groups(frame), note=GROUPS),
        page.section("When to insert", _gates(gates, best)),
        page.section("Single analogies", *(_item(*item) for item in items)),
        page.section("More numbers", *(tables.get(m, "") for m in ("first_token_accuracy", "log_prob"))),
        page.how_made(facts),
    ]
    page.write_page(path, title, parts, downloads={"results": frame})


def _caption(scores: AnalogyScores) -> str:
    """Caption of the completion figure, which explains the libraries if something is left out of them."""
    left_out = any(row.library not in ("", "full") for row in scores.values)
    return (LEFT_OUT if left_out else "") + "Intervals are over families."


def _in_short(scores: AnalogyScores, best: str) -> Iterator[str]:
    """The chosen method beside the best prompt alone, in each library, with their paired difference."""
    line = f"{len(scores.questions)} analogies A : B :: C : ?, answered by every method"
    if scores.left_out:
        line += f"; {scores.left_out} more were left out because a vector was tuned on one of their pairs"
    yield line + "."
    prompt = max((row for row in scores.values if row.method == PROMPT_ONLY and "accuracy" in scores.values[row]),
                 key=lambda row: scores.score(row).value)  # fmt: skip
    for library in LIBRARIES:
        rows = [row for row in scores.values if (row.method, row.library) == (best, library)]
        rows = [row for row in rows if "accuracy" in scores.values[row]]
        for row in sorted(rows, key=lambda row: row.prompt != prompt.prompt)[:1]:
            which = f"{best}, {row.prompt}, {library if library == 'full' else 'its ' + library}"
            line = f"{which}: {scores.score(row)} completed with the whole word; "
            line += f"the prompt alone ({prompt.prompt}) {scores.score(prompt)}"
            alone = Row("shared alone", row.library, row.prompt)
            for name, other in (("over the prompt", prompt), ("over the shared vector alone", alone)):
                if other in scores.values:
                    gain = scores.difference(row, other)
                    line += f"; {name} {gain.signed if gain.differs() else f'a gain is not shown ({gain.signed})'}"
            yield line + "."


def _groups_in_short(frame: pd.DataFrame, best: str) -> Iterator[str]:
    """What the chosen method gains over the prompt in each group of analogies."""
    lines = frame[(frame.part == GROUPED["difference"]) & (frame.method == f"{best} - {PROMPT_ONLY}")]
    lines = lines[(lines.measure == "accuracy") & (lines.prompt == "one-shot")]
    for library, of_library in lines.groupby("library", sort=False):
        gains = "; ".join(f"{line.group} {Score.of(line).signed}" for line in of_library.itertuples())
        yield f"{best}, one-shot, over that prompt alone, {library}: {gains}."


def groups(frame: pd.DataFrame) -> Iterator[Markup]:
    """A table for each library of the scores in every group of analogies, and of the gains over the prompt."""
    lines = frame[frame.part.isin(GROUPED.values()) & (frame.measure == "accuracy")]
    if lines.empty:
        return
    gains = lines.method.str.endswith(f" - {PROMPT_ONLY}")
    sizes = lines.groupby("group", sort=False).n.max()
    columns = [f"{group} (n = {n})" for group, n in sizes.items()]
    for part, some in (("score", lines), ("difference", lines[gains])):
        some = some[some.part == GROUPED[part]]
        known = [library for library in LIBRARIES if (some.library == library).any()]
        for at, library in enumerate(known):
            rows, cells = {}, some[some.library.isin([library, ""])]
            for (method, prompt), of_row in cells.groupby(["method", "prompt"], sort=False):
                scores = {line.group: Score.of(line) for line in of_row.itertuples()}
                name = f"{method.replace(' - ', MINUS)}, {prompt}"
                rows[name] = [page.cell(scores.get(group), part == "difference") for group in sizes.index]
            heading = f"{'Gains over the prompt, ' * (part == 'difference')}{library}"
            drawn = page.table(columns, rows, "", first_bold=False, name=f"Groups: {heading}")
            yield page.titled(heading, drawn) if at == 0 else page.opening(heading, drawn)


def _table(scores: AnalogyScores, measure: str) -> str:
    """A line for each method and prompt, a column for each library; without a library in all of them."""
    libraries: list[str] = [name for name in LIBRARIES if any(row.library == name for row in scores.values)] or [""]
    rows: dict[str, list[Markup]] = {}
    for method, prompt in dict.fromkeys((row.method, row.prompt) for row in scores.values):
        library_rows = [
            next((row for row in (Row(method, library, prompt), Row(method, "", prompt)) if row in scores.values), None)
            for library in libraries
        ]
        cells = [scores.score(row, measure) if row and measure in scores.values[row] else None for row in library_rows]
        if any(cells):
            rows[f"{method}, {prompt}" if prompt else method] = [page.cell(score, False) for score in cells]
    what, unit = MEASURES[measure].heading, MEASURES[measure].unit("analogies")
    chance = f" Chance is {scores.chance:.2f}." if measure in CHOSEN and scores.chance is not None else ""
    note = f"{unit.capitalize()}, 95 % intervals over families of relations.{chance}"
    return page.titled(what, page.table(libraries, rows, note, first_bold=False, name=what))


def _differences(frame: pd.DataFrame) -> str:
    """Whole words completed, paired over the same analogies."""
    frame, rows = frame[frame.measure == "accuracy"], {}
    libraries = [name for name in LIBRARIES if (frame.library == name).any()]
    for (method, prompt), lines in frame.groupby(["method", "prompt"], sort=False):
        scores = {line.library: Score.of(line) for line in lines.itertuples()}
        name = method.replace(" - ", " \N{MINUS SIGN} ")
        rows[f"{name}, {prompt}"] = [page.cell(scores.get(library), True) for library in libraries]
    note = "Paired over the same analogies; not shown: the 95 % interval holds 0."
    return page.table(libraries, rows, note, first_bold=False, name="Differences") if rows else ""


def _gates(gates: Mapping[str, GateCurve], best: str) -> Markup | str:
    """The figure of the gates."""
    if not gates:
        return ""
    return page.figure("gate", plots.gate(gates), f"{best}, one-shot, minus the same prompt alone. {GATE_CAPTION}")


def _item(question: Question, answer: AnalogyAnswer) -> str:
    """One analogy, which opens to its weights, its completions and its choices."""
    head, answers = answer.asked, question.completion[1]
    if answer.completions:
        first = answer.completions[0][0]
        head += f" {first}, " + ("right" if first in answers else f"not {answers[0]}")
    elif answer.choice is not None:
        chosen = " : ".join(question.pairs[answer.choice])
        head += f" {chosen}, " + ("right" if answer.choice == question.right else "wrong")
    rows = [
        (name, [page.plain_cell(f"{w:.2f}"), page.meter(w)]) for name, w in list(answer.weights.items())[:N_WEIGHTS]
    ]
    weights = page.table(["weight", ""], rows, "", first_bold=False, name=f"Weights, {head}") if rows else ""
    ways = {"With the composite": answer.completions, "Without": answer.plain_completions}
    paragraphs = [
        page.paragraph(f"{way}: {', '.join(f'{word} {np.exp(value):.2f}' for word, value in words)}.")
        for way, words in ways.items()
        if words
    ]
    return page.opening(head, weights, *paragraphs, _choices(question, answer))


def _choices(question: Question, answer: AnalogyAnswer) -> str:
    """The choices with their scores, the right one and those that were chosen named."""
    if not answer.choices:
        return ""
    rows = []  # not a mapping: the same wrong choice may stand twice
    for i, (choice, score, plain) in enumerate(zip(question.pairs, answer.scores, answer.plain_scores)):
        marks = ["right"] * (i == question.right) + ["chosen"] * (i == answer.choice)
        marks += ["chosen without"] * (i == answer.plain_choice)
        cells = (f"{score:.2f}", f"{plain:.2f}", ", ".join(marks))
        rows.append((" : ".join(choice), list(map(page.plain_cell, cells))))
    columns = ["log P(D | C), nats", "without the composite", ""]
    return page.table(columns, rows, "", first_bold=False, name=f"Choices of {' : '.join(question.source)}")
