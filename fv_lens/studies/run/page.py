"""One HTML page of a run: what was found in words, the figures, all numbers, and how they were made.

The page stands alone: plotly.js is in it once, and nothing is loaded from elsewhere.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from ... import plots
from ...datasets.prompts import PromptTemplate
from ...evaluation.controls import RANDOM
from ...evaluation.evaluate import Evaluation
from ...evaluation.faithfulness import Faithfulness
from ...ground import scores
from ...ground.measures import MEASURES
from ...ground.scores import Score
from ...plots.head_cells import HeadCells
from ...vectors.effects import HeadEffects
from ...vectors.function_vector import FunctionVector
from ...vectors.lessons import training_frame
from ...vectors.sweeps import Sweep
from ..page import parts as page
from ..page.head_map import head_map
from .findings import Findings

NAMES_SHOWN = "Names of the relation are in bold."
NO_NAMES = 'Names of the relation ("names" in a file of pairs) would be in bold; there are none here.'
LISTED = 5  # heads
CAPTIONS = {
    "heads": "A head's indirect effect: how much more probable the right answer becomes when the head's output at the "
    "last token of a prompt with shuffled answers is replaced by its mean over intact prompts.",
    "layers": "Zero-shot prompts of the validation words, with the vector added at each layer. The star marks the "
    "choice; test words had no part in it.",
    "completion": "Test words, which neither the vector nor the choices have seen. Hover for the vector's paired gain.",
    "tuned": "The same test words with the vector after fine-tuning (FFV), beside the function vector that it started "
    "from (FV), other starts, and one tuned on pairs with exchanged answers, which learns the form of answers alone.",
    "training": "The vector of the step whose loss on validation words is lowest was kept.",
    "words": "The most probable next tokens when the vector is inserted into neutral sentences such as “This is an "
    "example of the”, before and after fine-tuning.",
}


def write_report(
    path: str | os.PathLike[str],
    findings: Findings,
    *,
    title: str,
    summary: Mapping[str, Any],
    command: str | None = None,
) -> None:
    """Write the page of a run from whichever results there are; it appears whole or not at all.

    Args:
        summary: further facts for "How it was made", name -> value, such as timings; a value may be a mapping itself.
        command: the command line that made the results.

    Raises:
        InputError: the folder does not exist or cannot be written to; `vector` has a head outside `effects` or is not
            one of `sweep`'s.

    Example:
        >>> write_report("run.html", Findings(effects, vector=vector), title="antonym", summary={})
    """
    effects, sweep, vector, evaluation = findings.effects, findings.sweep, findings.vector, findings.evaluation
    tuned, tuned_evaluation = findings.tuned, findings.tuned_evaluation
    words, head_words = findings.words, findings.head_words
    figures, downloads = {}, {}
    if effects is not None:
        downloads["heads"] = effects.to_frame()
    if sweep is not None:
        figures["layers"], downloads["layers"] = plots.layer_sweep(sweep, vector), sweep.to_frame()
    if evaluation is not None:
        figures["completion"] = plots.evaluation(evaluation, "summed vector" if vector is not None else "")
        downloads["completion"] = evaluation.words
    if tuned_evaluation is not None:
        figures["tuned"] = plots.evaluation(tuned_evaluation, "fine-tuned vector")
        downloads["tuned"] = tuned_evaluation.words
    if tuned is not None:
        figures["training"] = plots.training({tuned.relation or "": training_frame(tuned)})
    if words is not None and len(words):
        figures["words"], downloads["words"] = plots.decoding(words), words
    captions = dict(CAPTIONS)
    if words is not None and "words" in figures:
        captions["words"] += f" {NAMES_SHOWN if words.is_name.any() else NO_NAMES}"
    figures_html = {name: page.figure(name, figure, captions[name]) for name, figure in figures.items()}
    if effects is not None:
        shown = head_map(effects, vector.heads if vector else (), head_words)
        figures_html["heads"] = Markup('<div id="heads">{}</div>').format(shown)

    short = _in_short(effects, evaluation, vector, tuned, tuned_evaluation)
    facts = {
        **_origin(effects, sweep, vector, tuned),
        **_held(findings.faithfulness),
        **summary,
        **({"command": command} if command else {}),
    }
    parts = [
        page.in_short(short),
        page.section("Effect of each head", figures_html.get("heads", ""), _strongest(effects), note=CAPTIONS["heads"]),
        page.section("Layer and strength", figures_html.get("layers", "")),
        page.section("Words completed", figures_html.get("completion", "")),
        page.section("Fine-tuning", figures_html.get("tuned", ""), figures_html.get("training", "")),
        page.section("What the vectors say", figures_html.get("words", "")),
        _table(f"All numbers{', summed vector' * bool(vector and vector.heads)}", evaluation),
        _table("All numbers, tuned vector", tuned_evaluation),
        page.how_made(facts),
    ]  # fmt: skip
    page.write_page(path, title, parts, downloads=downloads)


def _in_short(
    effects: HeadEffects | None,
    evaluation: Evaluation | None,
    vector: FunctionVector | None,
    tuned: FunctionVector | None,
    tuned_evaluation: Evaluation | None,
) -> list[str]:
    """At most three sentences on the results there are; everything else is in the tables."""
    sentences: list[str] = []
    if evaluation is not None:
        sentences.append(_completion(evaluation, vector))
    if tuned is not None and tuned_evaluation is not None:
        sentences.append(_tuning(tuned, tuned_evaluation))
    if evaluation is not None and (controls := _controls(evaluation)):
        sentences.append(controls)
    if effects is not None and len(sentences) < 3:
        cells, (layer, head) = HeadCells.of(effects, "probability"), effects.top(1)[0]
        if (effect := cells.score(layer, head)) is not None:
            sentences.append(
                f"Of {effects.n_heads} heads, L{layer}H{head} has the largest mean indirect effect on the answer's "
                f"probability: {cells.written(effect)} over {effects.over}."
            )
    return sentences


def _completion(evaluation: Evaluation, vector: FunctionVector | None) -> str:
    """What the vector does to the accuracy of prompts without one."""
    plain = evaluation.name.removesuffix(" + vector")
    control, n = evaluation.controls.get(plain), evaluation.accuracy.n
    subject = f"Added at layer {vector.layer}, the {_called(vector)}" if vector else "The vector"
    if plain == evaluation.name:
        return f"Without a vector, {plain} prompts complete {evaluation.accuracy} of {n} unseen words right."
    if control is None or control.accuracy_gain is None:
        return f"{subject} completes {evaluation.accuracy} of {n} unseen words right."
    change = f"accuracy on {n} unseen words from {control.accuracy} to {evaluation.accuracy}"
    return f"{subject} {_changes(control.accuracy_gain, change)}."


def _tuning(tuned: FunctionVector, evaluation: Evaluation) -> str:
    """What fine-tuning does to the vector, beside shuffled pairs and any start that did better."""
    rows, training = evaluation.controls, tuned.training or {}
    pairs = f"{training.get('n_pairs', 'some')} pairs"
    before, shuffled = rows.get("FV"), rows.get("FFV of shuffled pairs")
    if before is not None and before.accuracy_gain is not None:
        change = f"accuracy from {before.accuracy} to {evaluation.accuracy}"
        line = f"Fine-tuning on {pairs} {_changes(before.accuracy_gain, change)}"
    else:
        line = f"Fine-tuned on {pairs}, the vector completes {evaluation.accuracy} of {evaluation.accuracy.n} words"
    if shuffled is not None:
        line += f"; on shuffled pairs, a vector reaches {shuffled.accuracy}"
    for name in ("FFV from zero", "FFV from random"):  # a start that did better is not passed over in silence
        if (other := rows.get(name)) is not None and other.accuracy.value > evaluation.accuracy.value:
            line += f"; tuned {name.removeprefix('FFV ')}, one reaches {other.accuracy}"
    return line + "."


def _controls(evaluation: Evaluation) -> str:
    """The best prompt of several shots, and the best random control."""
    plain = evaluation.name.removesuffix(" + vector")
    shots = {
        name: row for name, row in evaluation.controls.items() if re.fullmatch(r"\d+-shot", name) and name != plain
    }
    random = {name: row for name, row in evaluation.controls.items() if name in RANDOM}
    clauses = []
    for rows, call in ((shots, "{} prompting"), (random, "the best random control ({})")):
        if rows:
            name, row = max(rows.items(), key=lambda item: item[1].accuracy.value)
            clauses.append(f"{call.format(name)} reaches {row.accuracy}")
            if rows is random and row.accuracy_gain is not None and not row.accuracy_gain.low > 0:
                clauses[-1] += ", which the vector is not shown to exceed"
    line = "; ".join(clauses)
    return f"{line[0].upper()}{line[1:]}." if line else ""


def _called(vector: FunctionVector) -> str:
    return "summed vector" if vector.heads else "vector"


def _changes(gain: Score, change: str) -> str:
    """What a gain does to an accuracy; one whose interval holds 0 is said to be doubtful."""
    if gain.differs():
        return f"{'raises' if gain.value > 0 else 'lowers'} {change}"
    return f"moves {change}, which may be chance"


def _strongest(effects: HeadEffects | None) -> str:
    """The heads of largest mean effect in a table, for those who do not open the map."""
    if effects is None:
        return ""
    cells = [HeadCells.of(effects, measure) for measure in ("probability", "log_prob")]
    rows = {}
    for layer, head in effects.top(min(LISTED, effects.n_heads)):
        scores = [of.score(layer, head) for of in cells]
        rows[f"L{layer}H{head}"] = [page.cell(score, True, of.form) for of, score in zip(cells, scores)]
    columns = ["probability", MEASURES["log_prob"].column]
    name = "Strongest writers"
    return page.titled(name, page.table(columns, rows, first_bold=False, name=name))


def _table(heading: str, evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return ""
    columns = {
        "accuracy": "accuracy", "first token": "first_token_accuracy", "log-prob (nats)": "log_prob",
        "gain in accuracy": "accuracy_gain", "gain in log-prob (nats)": "log_prob_gain",
    }  # fmt: skip
    rows = {
        name: [page.cell(getattr(row, part), part.endswith("gain")) for part in columns.values()]
        for name, row in evaluation.rows.items()
    }
    note = (
        f"{evaluation.accuracy.n} test words. Accuracy: the most probable tokens, one after the other, are a right "
        "answer as a whole, and the text then ends or goes on in a new line. First token: the most probable next token "
        "begins a right answer. Log-prob: of the whole first listed answer. 95 % intervals: Wilson's for shares of "
        f"words, bootstrap over words for all else. Gains: {evaluation.name} minus the row, on the same words."
    )
    return page.section(heading, page.table(columns, rows, note, name=heading))


def _held(faithfulness: Faithfulness | None) -> dict[str, str]:
    """How well the sum stands for its heads, where norms were held for it."""
    return {"norms behind attention": f"held at their mean; {faithfulness}"} if faithfulness else {}


def _origin(
    effects: HeadEffects | None, sweep: Sweep | None, vector: FunctionVector | None, tuned: FunctionVector | None
) -> dict[str, Any]:
    """What the results' own records say about how they came about."""
    record = {**(vector.record if vector else {}), **(effects.record if effects else {})}
    names = {
        "model": "model", "processing": "weights", "bos": "BOS token", "relation": "relation",
        "data_hash": "data, SHA-256", "n_shots": "demonstrations", "n_mean_prompts": "intact prompts", "seed": "seed",
        "split_seed": "seed of the split",
    }  # fmt: skip
    facts = {label: record[name] for name, label in names.items() if record.get(name) is not None}
    if effects is not None and effects.batch is not None:
        facts["corrupted prompts"] = len(effects.batch)
        if n_intact := record.get("n_mean_prompts"):
            right = scores.proportion(np.arange(n_intact) < round(effects.share_right * n_intact))
            facts["intact prompts whose most probable token begins a right answer"] = str(right)
    if record.get("template"):
        example = PromptTemplate.from_dict(record["template"]).prompt("{word}", [("{word}", "{answer}")])
        facts["prompt, of one shot"] = example
    if vector is not None:
        facts["vector"] = {
            "method": vector.method, "layer": vector.layer, "strength": vector.strength,
            "norm": float(vector.vector.norm()), "added at": vector.site,
        }  # fmt: skip
        if vector.heads:
            facts["heads"] = " ".join(f"L{layer}H{head}" for layer, head in vector.heads)
    if sweep is not None:
        tried = f"{np.prod(sweep.right.shape[1:])} combinations of heads, layer and strength"
        facts["vector chosen among"] = f"{tried}, on {len(sweep.right)} validation words"
    if tuned is not None:
        names = {"n_pairs": "pairs", "chosen_step": "step kept", "learning_rate": "learning rate"}
        training = tuned.training or {}
        training_facts = {label: training[name] for name, label in names.items() if name in training}
        facts["fine-tuned vector"] = {"layer": tuned.layer, "norm": float(tuned.vector.norm()), **training_facts}
    return facts | ({"versions": record["versions"]} if "versions" in record else {})
