"""One HTML page of a run: what was found in words, the figures, all numbers, and how they were made.

The page stands alone: plotly.js is in it once, and nothing is loaded from elsewhere.
"""

import os
import re
from collections.abc import Iterator, Mapping

import numpy as np

from ... import plots
from ...datasets.prompts import PromptTemplate
from ...evaluation.evaluate import Evaluation
from ...ground import scores
from ...ground.scores import Score
from ...vectors.effects import HeadEffects
from ...vectors.function_vector import FunctionVector
from ...vectors.sweeps import Sweep
from ...vectors.tuning import training_frame
from ..page import parts as page
from ..page.head_map import head_map
from .findings import Findings

NAMES_SHOWN = "Names of the relation are in bold."
NO_NAMES = "Names of the relation, of which a file of pairs can give some, would be in bold; here is none."
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
    path: str | os.PathLike,
    findings: Findings,
    *,
    title: str,
    summary: Mapping,
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
    if "words" in figures:
        captions["words"] += f" {NAMES_SHOWN if words.is_name.any() else NO_NAMES}"
    drawn = {name: page.figure(name, figure, captions[name]) for name, figure in figures.items()}
    if effects is not None:
        drawn["heads"] = f'<div id="heads">{head_map(effects, vector.heads if vector else (), head_words)}</div>'

    short = [*_tuning(tuned, tuned_evaluation), *_in_short(effects, sweep, evaluation, vector)]
    facts = {**_origin(effects, vector, tuned), **summary, **({"command": command} if command else {})}
    parts = [
        page.in_short(short),
        page.section("Effect of each head", drawn.get("heads", ""), note=CAPTIONS["heads"]),
        page.section("Layer and strength", drawn.get("layers", "")),
        page.section("Words completed", drawn.get("completion", "")),
        page.section("Fine-tuning", drawn.get("tuned", ""), drawn.get("training", "")),
        page.section("What the vectors say", drawn.get("words", "")),
        _table(f"All numbers{', summed vector' * bool(vector and vector.heads)}", evaluation),
        _table("All numbers, tuned vector", tuned_evaluation),
        page.how_made(facts),
    ]  # fmt: skip
    page.write_page(path, title, parts, downloads=downloads)


def _in_short(
    effects: HeadEffects | None, sweep: Sweep | None, evaluation: Evaluation | None, vector: FunctionVector | None
) -> Iterator[str]:
    """Sentences of measured numbers with their intervals; a gain whose interval holds 0 is called not shown."""
    if evaluation is not None:
        yield from _completion(evaluation, vector)
    if sweep is not None and vector is not None:
        tried = np.prod(sweep.right.shape[1:])
        heads = f", of {len(vector.heads)} heads," if vector.heads else ""
        yield (
            f"The {_called(vector)}{heads} was chosen, with its layer ({vector.layer}) and strength "
            f"({vector.strength:g}), among {tried} combinations on {len(sweep.right)} validation words."
        )
    if effects is not None:
        (layer, head), n = effects.top(1)[0], len(effects.values)
        low, high = (bound[layer, head] for bound in effects.confidence_interval())
        effect = f"{effects.mean[layer, head]:+.3g}" + (f" [{low:.3g}, {high:.3g}]" if n > 1 else " (no interval)")
        line = (
            f"Of {effects.n_heads} heads, L{layer}H{head} has the largest mean indirect effect on the answer's "
            f"probability, {effect} over {effects.over}"
        )
        if effects.batch is not None and (n_intact := effects.record.get("n_mean_prompts")):
            right = scores.proportion(np.arange(n_intact) < round(effects.share_right * n_intact))
            line += (
                f"; of {n_intact} intact prompts, {right} have a right answer's first token as the most probable one"
            )
        yield line + "."


def _tuning(tuned: FunctionVector | None, evaluation: Evaluation | None) -> Iterator[str]:
    if tuned is None or evaluation is None:
        return
    rows, n = evaluation.controls, evaluation.accuracy.n
    line = f"Fine-tuned on {tuned.training['n_pairs']} pairs, the vector completes {evaluation.accuracy} of {n} words"
    if (before := rows.get("FV")) is not None and before.accuracy_gain:
        line += f"; before, {before.accuracy}: {_gain(before.accuracy_gain)}"
        if (more := before.log_prob_gain) is not None and more.differs():
            line += f", in log-probability {_gain(more)} nats"
    if (shuffled := rows.get("FFV of shuffled pairs")) is not None and shuffled.accuracy_gain:
        line += f". Tuned on shuffled pairs, one reaches {shuffled.accuracy}: over it, {_gain(shuffled.accuracy_gain)}"
    yield line + "."
    for name in ("FFV from zero", "FFV from random"):  # a start that did better is not passed over in silence
        if (other := rows.get(name)) is not None and other.accuracy.value > evaluation.accuracy.value:
            start = name.removeprefix("FFV ")
            yield f"Tuned {start}, a vector reaches {other.accuracy}: over it, {_gain(other.accuracy_gain)}."


def _completion(evaluation: Evaluation, vector: FunctionVector | None) -> Iterator[str]:
    plain = evaluation.name.removesuffix(" + vector")
    control, n = evaluation.controls.get(plain), evaluation.accuracy.n
    subject = f"Added at layer {vector.layer}, the {_called(vector)}" if vector else "The vector"
    if plain == evaluation.name:
        line = f"Without a vector, {plain} prompts complete {evaluation.accuracy} of {n} unseen words right"
    elif control is None or control.accuracy_gain is None:
        line = f"{subject} completes {evaluation.accuracy} of {n} unseen words right"
    else:
        gain, change = control.accuracy_gain, f"from {control.accuracy} to {evaluation.accuracy}"
        verb = "lifts" if gain.low > 0 else "lowers" if gain.high < 0 else "moves"
        line = f"{subject} {verb} accuracy on {n} unseen words {change}, {_gain(gain)}"
    for name, row in evaluation.controls.items():
        if re.fullmatch(r"\d+-shot", name) and name != plain:
            line += f"; {name} prompting reaches {row.accuracy}"
    yield line + "."
    random = {name: row for name, row in evaluation.controls.items() if name.startswith("random")}
    if random:
        name, row = max(random.items(), key=lambda item: item[1].accuracy.value)
        yield f"The best random control ({name}) reaches {row.accuracy}; over it, {_gain(row.accuracy_gain)}."


def _called(vector: FunctionVector) -> str:
    return "summed vector" if vector.heads else "vector"


def _gain(gain: Score) -> str:
    if not gain.differs():
        return f"a gain is not shown ({gain.signed})"
    return f"a gain of {gain.signed}" if gain.value > 0 else f"a loss of {gain.unsigned}"


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


def _origin(effects: HeadEffects | None, vector: FunctionVector | None, tuned: FunctionVector | None) -> dict:
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
    if tuned is not None:
        names = {"n_pairs": "pairs", "chosen_step": "step kept", "learning_rate": "learning rate"}
        told = {label: tuned.training[name] for name, label in names.items() if name in tuned.training}
        facts["fine-tuned vector"] = {"layer": tuned.layer, "norm": float(tuned.vector.norm()), **told}
    return facts | ({"versions": record["versions"]} if "versions" in record else {})
