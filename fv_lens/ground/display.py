"""Notebook layouts of the results, from plain numbers, frames and texts; the pieces of HTML come from `markup`."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from markupsafe import Markup

from .errors import InputError
from .markup import (
    bars,
    card,
    colour_limit,
    decimals,
    escape,
    grid,
    minus,
    number,
    scale,
    side,
    small,
    table,
    tint,
)
from .measures import ELSEWHERE, MEASURES
from .scores import Score

FEW = 12  # the most vectors whose similarity matrix is shown with its numbers
LISTED = 5  # heads of either sign, or pairs of vectors
MOST_LAYERS = 25  # the most layers of a sweep shown, centred on the best


def scored(score: Score | None, signed: bool = False) -> Markup:
    """A score with its interval on the line below; a gain (`signed`) whose interval holds 0 is marked "not shown"."""
    if score is None:
        return Markup("")
    value, interval = map(minus, score.written("+" * signed))
    unsure = Markup("<br>") + small("not shown") if signed and not score.differs() else ""
    return value + Markup("<br>") + small(interval) + unsure


def effects(frame: pd.DataFrame, relation: object, about: str, over: str) -> str:
    """HeadEffects: the map, and the strongest writers and cancellers.

    Args:
        frame: layer, head, effect, low, high; a line for each head, layer by layer.
        about: where they were measured.
        over: what the means are taken over.
    """
    values = frame.pivot(index="layer", columns="head", values="effect").to_numpy(float)
    limit, places = colour_limit(values), decimals(float(np.nanmax(np.abs(values))))
    marked, columns = {}, []
    for kind, sign, side_of in (("writers", 1, "low"), ("cancellers", -1, "high")):
        rows = []
        strongest = frame[sign * frame.effect > 0].sort_values("effect", ascending=sign < 0, kind="stable")
        for line in strongest.head(LISTED).itertuples():
            score = Score(line.effect, line.low, line.high, 1)
            value, interval = map(minus, score.written(f"+.{places}f"))
            sure = sign * getattr(line, side_of) > 0
            name, unsure = f"L{line.layer}H{line.head}", "" if sure else " not shown"
            rows.append((name, value, interval + small(unsure)))
            marked[line.layer, line.head] = f"{name}: {value} {interval}{unsure}"
        columns.append(table([kind, "effect", "95 % interval"], rows))
    n_heads = int(frame.effect.notna().sum())
    label = f"Mean indirect effect of each head, {len(values)} layers by {values.shape[1]} heads"
    return card(
        "HeadEffects",
        relation,
        about,
        grid(values.tolist(), limit, label, ("layer", "head"), marked),
        scale(f"{limit:.2g}", "cancellers", "writers", "change in the probability of the answer"),
        side(*columns),
        note=f"Mean over {over}. Outlined: the heads listed, the largest of {n_heads}; their intervals are not "
        "corrected for that choice.",
    )


def evaluation(relation: str, rows: Mapping[str, Sequence[Score | None]], n_words: int) -> str:
    """Evaluation: one row per name, the evaluated vector first, with four scores and two gains each."""
    columns = ["", "accuracy", "first token", "top 5", "log-prob, nats", "gain in accuracy", "gain in log-prob"]
    lines = [
        (name, *map(scored, values[:4]), *(scored(gain, True) for gain in values[4:])) for name, values in rows.items()
    ]
    note = f"{n_words} test words, 95 % intervals."
    if len(rows) > 1:
        note += f" Gain: {next(iter(rows))} minus the row, paired over words; not shown: the interval holds 0."
    return card("Evaluation", relation, table(columns, lines, strong=[0]), note=note)


def side_effects(relation: str, rows: Mapping[str, Sequence[Score]], others: str) -> str:
    """SideEffects: one row per name, the vector under test first: divergence, others right, lost, wrong way."""
    columns = ["", *(MEASURES[measure].column for measure in ELSEWHERE)]
    lines = [
        (name, *(scored(score, measure == "lost") for measure, score in zip(ELSEWHERE, values)))
        for name, values in rows.items()
    ]
    return card("SideEffects", relation, table(columns, lines, strong=[0]), note=f"Others: {others}. 95 % intervals.")


def sweep(
    relation: str,
    names: Sequence[str],
    layers: Sequence[int],
    strengths: Sequence[float],
    accuracy: Float[np.ndarray, "vector layer strength"],
    best: tuple[int, int, int],
    score: Score,
    plain: float,
) -> str:
    """Sweep: accuracy by layer and strength of the vector that holds the best, and the best of each vector.

    Args:
        best: indices of the best vector, layer and strength.
        score: the accuracy there.
        plain: the accuracy without a vector.
    """
    vector, at, strength = best
    first = max(0, min(at - MOST_LAYERS // 2, len(layers) - MOST_LAYERS))
    shown = range(first, min(first + MOST_LAYERS, len(layers)))
    lines = [
        (layers[i], *(tint(_with_star(x, (vector, i, s) == best), x) for s, x in enumerate(accuracy[vector, i])))
        for i in shown
    ]
    places = [np.unravel_index(part.argmax(), part.shape) for part in accuracy]
    places[vector] = at, strength  # the log-probability chooses between equals
    each = [
        (name, layers[i], f"{strengths[s]:g}", number(accuracy[v, i, s]))
        for v, (name, (i, s)) in enumerate(zip(names, places))
    ]
    chosen = f"{names[vector]} at layer {layers[at]}, strength {strengths[strength]:g}: accuracy {score}"
    left = f" {len(shown)} of {len(layers)} layers." if len(shown) < len(layers) else ""
    note = f"Accuracy of {names[vector]} by layer and strength.{left} The best of {accuracy.size} is "
    note += "likely lower on other words."
    heading = ["layer", *(f"× {s:g}" for s in strengths)]
    return card(
        "Sweep", relation, f"Best on {score.n} validation words: {chosen}; without a vector {number(plain)}.",
        side(table(heading, lines, most=MOST_LAYERS), table(["best of", "layer", "strength", "accuracy"], each)),
        note=note,
    )  # fmt: skip


def decoding(frame: pd.DataFrame, of: str, layer: int, model: str, units: str, pieces: Sequence[str]) -> str:
    """Decoding: the most promoted and most suppressed tokens, and the ranks of names.

    Args:
        frame: part ("top", "suppressed", "name"), name, token, rank, probability, change.
        pieces: names whose token is not the whole name.
    """
    numbers = ["rank", "probability", "change"] if frame.change.notna().any() else ["rank", "probability"]
    parts = []
    for part, heading in (("top", "top"), ("suppressed", "suppressed"), ("name", "names")):
        lines = []
        for line in frame[frame.part == part].itertuples():
            token = Markup("<code>{}</code>").format(escape(json.dumps(line.token, ensure_ascii=False)))
            if part == "name":
                piece = Markup(" ") + small("a piece of the name") if line.name in pieces else ""
                token = escape(line.name) + ": " + token + piece
            values = (number(line.rank, "d"), number(line.probability, ".2g"), number(line.change, "+.2f"))
            lines.append((token, *values[: len(numbers)]))
        parts.append(table([heading, *numbers], lines, most=12))
    return card("Decoding", of, f"layer {layer} of {model}", side(*parts), note=units)


def answer(
    question: str,
    weights: Mapping[str, float],
    columns: Mapping[str, Sequence[Any]],
    choices: Sequence[tuple[Any, ...]],
) -> str:
    """AnalogyAnswer: weights, completions with and without the vector, choices with the chosen one marked.

    Args:
        columns: "with the vector" and "without" -> (word, log-probability) of each completion.
        choices: (choice, score, score without the vector, whether chosen, whether chosen without the vector) of each.
    """
    completed = [
        table([f"completed {how}", "probability"], [(word, number(math.exp(x))) for word, x in completions], most=12)
        for how, completions in columns.items()
    ]
    lines = [
        (choice, _with_star(score, chosen), _with_star(plain, plainly))
        for choice, score, plain, chosen, plainly in choices
    ]
    strong = [i for i, line in enumerate(choices) if line[3]]
    return card(
        "AnalogyAnswer",
        question,
        side(
            bars(weights, "relation"), *completed, table(["choice", "with the vector", "without"], lines, strong=strong)
        ),
        note="Choices: log P(D | C) in nats, ★ the best of its column." if lines else "",
    )


def analogies(frame: pd.DataFrame, chance: float | None, n_questions: int, left_out: int) -> str:
    """AnalogyScores: one table of completion and one of choice, method and prompt by library.

    Args:
        frame: method, library, prompt, measure, value, low, high, n.
    """
    parts = []
    for measure in ("accuracy", "choice"):
        of_measure = frame[frame.measure == measure]
        libraries: list[str] = list(dict.fromkeys(of_measure.library))
        rows: dict[str, dict[str, Any]] = {}
        for line in of_measure.itertuples():
            cells = rows.setdefault(", ".join(filter(None, (line.method, line.prompt))), dict.fromkeys(libraries))
            cells[line.library] = Score.of(line)
        lines = [(name, *map(scored, cells.values())) for name, cells in rows.items()]
        if measure == "choice" and chance is not None and lines:
            lines.append(("by guessing", number(chance), *[""] * (len(libraries) - 1)))
        parts.append(table([MEASURES[measure].heading, *(name or "no library" for name in libraries)], lines, most=40))
    out = f" {left_out} left out: a vector was tuned on one of their pairs." if left_out else ""
    note = f"{n_questions} questions, 95 % intervals over groups of kin.{out} to_frame() has the other measures."
    return card("AnalogyScores", "analogies", *parts, note=note)


def similarity(frame: pd.DataFrame, metric: str, centered: bool) -> str:
    """Similarity: a matrix with its numbers where they are few, else a map and the most and least alike."""
    values, names = frame.to_numpy(float), list(map(str, frame.index))
    rows, columns = np.triu_indices(len(names), 1)
    apart = values[rows, columns]
    limit = float(np.abs(apart).max(initial=0)) or 1.0
    shares = values / limit if metric == "cosine" else 1 + values / limit
    about = f"{len(names)} vectors, {'cosine' if metric == 'cosine' else 'negative euclidean distance'}"
    about += ", mean-centred" if centered else ""
    if len(names) <= FEW:
        lines = [(name, *(tint(number(x), s) for x, s in zip(*row))) for name, row in zip(names, zip(values, shares))]
        return card("Similarity", "how alike vectors are", about, table(["", *names], lines))
    order = np.argsort(apart, kind="stable")
    ends = [
        table([title, ""], [(f"{names[rows[i]]}, {names[columns[i]]}", number(apart[i])) for i in places])
        for title, places in (("most alike", order[::-1][:LISTED]), ("least alike", order[:LISTED]))
    ]
    map_of_all = grid(shares[::-1].tolist(), 1.0, about)  # the first name on top
    note = f"Map: in the order of names, from {names[0]} to {names[-1]}. Mean off the diagonal: {number(apart.mean())}."
    return card("Similarity", "how alike vectors are", about, side(map_of_all, Markup("").join(ends)), note=note)


def library(frame: pd.DataFrame, place: str, errors: Mapping[str, InputError]) -> str:
    """Library: a line for each vector, and why others are missing.

    Args:
        frame: relation, norm, n_pairs, chosen_step, start_loss, validation_loss; and accuracy, accuracy_low and
            accuracy_high where it was measured.
        place: where the vectors are added.
    """
    measured, was_tuned = "accuracy" in frame, bool(frame["n_pairs"].notna().any())
    columns = ["relation", "norm", *was_tuned * ("pairs", "step", "loss at the start", "loss")]
    columns += measured * ["whole answers right"]
    lines = []
    for x in frame.itertuples():
        line: list[Any] = [x.relation, number(x.norm, ".3g")]
        if was_tuned:
            line += [number(x.n_pairs, ".0f"), number(x.chosen_step, ".0f")]
            line += [number(x.start_loss), number(x.validation_loss)]
        if measured:
            known = x.accuracy == x.accuracy
            line.append(minus(Score(x.accuracy, x.accuracy_low, x.accuracy_high, 0)) if known else "")
        lines.append(line)
    notes = was_tuned * ["Loss: of validation pairs, nats per answer; the step at which it was lowest is kept."]
    notes += measured * ["Whole answers right: share of test words, with its 95 % interval."]
    return card(
        "Library", f"{len(lines)} vectors, {place}", table(columns, lines),
        table(["left out", "why"], errors.items(), words=True), note=" ".join(notes),
    )  # fmt: skip


def _with_star(value: float, best: bool) -> Markup:
    return Markup("<b>★ {}</b>").format(number(value)) if best else number(value)
