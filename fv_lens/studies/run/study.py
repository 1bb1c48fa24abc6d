"""One relation from head map to tuned vector: the stages of `fv-lens run`.

What is slow to import (torch, TransformerLens) is imported inside, once the first line is on the screen.
"""

import json
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...datasets.relations import Relation
from ...ground.errors import InputError
from ..job import Job
from .files import REPORT, RunFiles

if TYPE_CHECKING:
    import pandas as pd

    from ...evaluation.evaluate import Evaluation
    from ...models.lens import Model
    from ...vectors.function_vector import FunctionVector
    from .findings import Findings

N_SHOTS, N_MEAN_PROMPTS = 10, 100
MEANING = (
    "Accuracy: share of test words completed with a whole right answer. Gain: accuracy of the first row minus the "
    "row's, on the same words; in brackets where its interval holds 0: no gain is shown."
)


def run(
    relation: Relation, model_name: str, n_prompts: int, seed: int, job: Job, saved: list[Path], console: Console,
    notes: Console,
) -> None:  # fmt: skip
    """Measure the head map, choose a summed vector, tune it, and evaluate both beside their controls.

    Every stage adds its results to the folder, whose report is whole after each; `saved` collects the files. What an
    equal run left there is replaced.

    Raises:
        InputError: the folder is of another run, or cannot be written to; what `indirect_effects`, `sweep` and
            `evaluate` raise.
    """
    relation, files = relation.with_split(seed), RunFiles(job, saved)
    job.folder.claim({
        "relation": relation.name, "relation, SHA-256": relation.hash, "model": model_name, "prompts": n_prompts,
        "seed": seed,
    })  # fmt: skip
    if job.folder.has_results:
        notes.print(Text(f"{job.folder.path} holds a run of the same plan, whose files are replaced."))

    def stage(what: str, name: str) -> AbstractContextManager[None]:
        notes.print(Text(what, style="bold"))
        return files.timed(name)

    with stage("Loading the libraries and the model", "load"):
        from ...evaluation.controls import Controls
        from ...evaluation.evaluate import Case, evaluate_cases
        from ...evaluation.faithfulness import faithfulness
        from ...evaluation.head_words import head_words
        from ...models.load import load_model
        from ...vectors.choice import head_count_vectors
        from ...vectors.mediation import indirect_effects
        from ...vectors.sweeps import sweep
        from .findings import Findings

        model = load_model(model_name)

    with stage(f"Indirect effect of every head on {relation.name}, {n_prompts} prompts", "effects"):
        _check_prompts(model, relation, n_prompts, seed)
        effects = indirect_effects(model, relation, n_prompts, N_SHOTS, N_MEAN_PROMPTS, seed)
    with stage("The words of each head", "head words"):
        findings = Findings(effects, head_words(model, effects))
    files.clear()
    files.save(findings)

    with stage("Vectors at some layers, on validation words", "sweep"):
        grid = sweep(model, relation, head_count_vectors(model, relation, effects))
        fv = grid.best()
        held = faithfulness(model, relation, fv, effects) if fv.frozen_rms else None
    if held:
        notes.print(Text(f"Note: norms behind attention are held at their mean to sum heads: {held}."))
    findings = replace(findings, sweep=grid, vector=fv, faithfulness=held)
    files.save(findings)

    with stage("Tuning the vector, and its controls", "tune"):
        tuned, beside = _tuned(model, relation, fv, seed, notes)
    findings = replace(findings, tuned=tuned)
    files.save(findings)

    with stage("The vectors and their controls, on test words", "evaluate"):
        cases = [
            Case(fv, Controls(mean_z=effects.mean_z, attention_rms=effects.attention_rms)),
            *([Case(tuned, beside=beside)] if tuned else []),
        ]
        evaluation, *tuned_evaluations = evaluate_cases(model, relation, cases, seed=seed)
    findings = replace(findings, evaluation=evaluation)
    if tuned is not None:
        with stage("Reading both vectors through the vocabulary", "decode"):
            words = _words(model, relation, {"FV": fv, "FFV": tuned})
        findings = replace(findings, tuned_evaluation=tuned_evaluations[0], words=words)
    files.save(findings)
    _print(console, findings, saved)


def _check_prompts(model: "Model", relation: Relation, n_prompts: int, seed: int) -> None:
    """Make the prompts of every stage, so that one that exceeds the model's context is refused before any is run.

    The longest serve to compare the engine with full forwards, once for all stages.
    """
    from ...datasets.prompts import corrupted, few_shot, with_demonstrations
    from ...engine.batches import batch
    from ...engine.parity import measure_ahead
    from ...models.lens import lens_of

    lens, (train, _, test) = lens_of(model), relation.split()
    few = [*corrupted(train, n_prompts, N_SHOTS, seed), *few_shot(train, N_MEAN_PROMPTS, N_SHOTS, seed)]
    for shuffled in (False, True):
        few += with_demonstrations(test, train, N_SHOTS, seed, shuffled)
    batch(lens, with_demonstrations(relation, relation, 0))
    measure_ahead(lens, batch(lens, few))


def _tuned(
    model: "Model", relation: Relation, fv: "FunctionVector", seed: int, notes: Console
) -> "tuple[FunctionVector | None, dict[str, FunctionVector]]":
    """The vector tuned from `fv`, and what is measured beside it: other starts, and shuffled pairs.

    If the relation is too small to tune on, there are none; controls it is too small for are left out, with a note.
    """
    from ...models.lens import lens_of
    from ...vectors.lessons import Lesson, tune_lessons
    from ...vectors.tuning import finetune
    from ...vectors.tuning_pairs import tuning_pairs

    try:
        tuned = finetune(model, relation, fv, seed=seed)
    except InputError as error:
        notes.print(Text(f"Note: not tuned: {error}"))
        return None, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to note was noted for the vector itself
        train, validation, _ = tuning_pairs(relation, seed=seed)
    zero = Lesson(relation, [train], [validation], "zero", seed)
    lessons = {"FFV from zero": zero, "FFV from random": replace(zero, start="random")}
    beside = {"FV": fv}
    try:
        lessons["FFV of shuffled pairs"] = zero.shuffled()
    except InputError as error:
        notes.print(Text(f"Note: no FFV of shuffled pairs: {error}"))
    vectors = tune_lessons(lens_of(model), list(lessons.values()), [tuned.layer], description="tuning the controls")
    for row, vector in zip(lessons, vectors[tuned.layer]):
        if isinstance(vector, InputError):
            notes.print(Text(f"Note: no {row}: {vector}"))
        else:
            beside[row] = vector
    return tuned, beside


def _words(model: "Model", relation: Relation, vectors: "Mapping[str, FunctionVector]") -> "pd.DataFrame":
    """The strongest tokens of each vector, inserted into neutral prompts."""
    import pandas as pd

    from ...evaluation.decoding import decode

    names, lines = {name.casefold() for name in relation.names}, []
    for kind, vector in vectors.items():
        read = decode(model, vector, through="model")
        lines += [
            (relation.name, kind, token.token, token.probability, token.token.strip().casefold() in names)
            for token in read.top
        ]
    return pd.DataFrame(lines, columns=["relation", "vector", "token", "probability", "is_name"])


def _print(console: Console, findings: "Findings", saved: list[Path]) -> None:
    """The tables of both vectors, their words, and the files that were written."""
    fv, tuned = findings.vector, findings.tuned
    assert fv is not None and findings.evaluation is not None  # they are found in every run
    console.print(_scores(findings.evaluation, _origin(fv)))
    if tuned is not None:
        assert tuned.training is not None and findings.tuned_evaluation is not None and findings.words is not None
        n_pairs = tuned.training["n_pairs"]
        what = f"the vector (FV) tuned on {n_pairs} pairs (FFV), layer {tuned.layer}"
        console.print(_scores(findings.tuned_evaluation, what))
        for kind, lines in findings.words.groupby("vector", sort=False):
            tokens = "  ".join(json.dumps(token, ensure_ascii=False) for token in lines.token)
            console.print(Text(f"{kind} in words: {tokens}"))
    console.print(Text(MEANING), style="dim")
    for path in saved:
        console.print(Text(f"{path}{'  <- open this first' * (path.name == REPORT)}"), soft_wrap=True)


def _origin(vector: "FunctionVector") -> str:
    heads = " ".join(f"L{layer}H{head}" for layer, head in vector.heads)
    return f"the sum of {len(vector.heads)} heads (FV), layer {vector.layer}, strength {vector.strength:g}: {heads}"


def _scores(evaluation: "Evaluation", what: str) -> Table:
    title = f"{evaluation.relation}, {what}\n{evaluation.accuracy.n} test words, 95 % intervals"
    table = Table("", title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("accuracy", "log-prob, nats", "gain in accuracy"):
        table.add_column(heading, no_wrap=True)
    table.columns[0].overflow = "fold"
    for name, row in evaluation.rows.items():
        gain = row.accuracy_gain
        shown = (gain.signed if gain.differs() else f"({gain.signed})") if gain else ""
        cells = (name, row.accuracy, row.log_prob, shown)
        table.add_row(*(Text(str(cell)) for cell in cells), style=None if gain else "bold")
    return table
