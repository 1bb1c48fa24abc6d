"""One relation from head map to tuned vector: the stages of `fv-lens run`, and the files they leave.

What is slow to import (torch, TransformerLens) is imported inside, once the first line is on the screen.
"""

import dataclasses
import json
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...datasets.relations import Relation
from ...ground.errors import InputError
from ..job import Job

if TYPE_CHECKING:
    import pandas as pd

    from ...evaluation.evaluate import Evaluation
    from ...models.lens import Model
    from ...vectors.function_vector import FunctionVector
    from ...vectors.lessons import Start
    from .findings import Findings

REPORT, SUMMARY, EFFECTS = "report.html", "summary.json", "effects.safetensors"
VECTOR, TUNED = "vector.safetensors", "tuned.safetensors"
N_SHOTS = 10
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
    folder, out, relation = job.folder, job.folder.path, relation.with_split(seed)
    timings: dict[str, float] = {}
    folder.claim({
        "relation": relation.name, "relation, SHA-256": relation.hash, "model": model_name, "prompts": n_prompts,
        "seed": seed,
    })  # fmt: skip
    if folder.has_results:
        notes.print(Text(f"{out} holds an equal run, whose files are replaced."))

    def stage(what: str, name: str) -> AbstractContextManager[None]:
        return _stage(notes, what, timings, name)

    with stage("Loading the libraries and the model", "load"):
        from ...evaluation.evaluate import Controls, evaluate
        from ...evaluation.head_words import head_words
        from ...models.load import load_model
        from ...vectors.choice import head_count_vectors
        from ...vectors.mediation import indirect_effects
        from ...vectors.sweeps import sweep
        from .findings import Findings
        from .page import write_report

        model = load_model(model_name)
    _check_prompts(model, relation, n_prompts, seed)

    def save(findings: Findings) -> None:
        """Add what was found to the folder, so that whatever stops the run leaves a whole report of what it had."""
        for part, file in ((findings.effects, EFFECTS), (findings.vector, VECTOR), (findings.tuned, TUNED)):
            if part is not None and out / file not in saved:
                part.save(out / file)
                saved.append(out / file)
        facts = {"timings, s": dict(timings), "peak memory, MB": _peak_memory()}
        title = f"Function vector of {relation.name} in {effects.record['model']}"
        write_report(out / REPORT, findings, title=title, summary=facts, command=job.command)
        _write_summary(out / SUMMARY, job.command, timings, findings)
        saved.extend(out / file for file in (REPORT, SUMMARY) if out / file not in saved)

    with stage(f"Indirect effect of every head on {relation.name}, {n_prompts} prompts", "effects"):
        effects = indirect_effects(model, relation, n_prompts, N_SHOTS, seed=seed)
    with stage("The words of each head", "head words"):
        spoken = head_words(model, effects)
    _empty(out)
    findings = Findings(effects, spoken)
    save(findings)

    with stage("Vectors at some layers, on validation words", "sweep"):
        grid = sweep(model, relation, head_count_vectors(model, relation, effects))
        best = grid.best()
    findings = dataclasses.replace(findings, sweep=grid, vector=best)
    save(findings)

    with stage("The chosen vector and its controls, on test words", "evaluate"):
        result = evaluate(model, relation, best, controls=Controls(mean_z=effects.mean_z), seed=seed)
    findings = dataclasses.replace(findings, evaluation=result)
    save(findings)

    with stage("Tuning the vector, and its controls", "tune"):
        tuned, beside = _tuned(model, relation, best, seed, notes)
    if tuned is not None:
        with stage("The tuned vector and its controls, on test words", "evaluate tuned"):
            after = evaluate(model, relation, tuned, beside=beside, seed=seed)
        with stage("Reading both vectors through the vocabulary", "decode"):
            words = _words(model, relation, {"FV": best, "FFV": tuned})
        save(dataclasses.replace(findings, tuned=tuned, tuned_evaluation=after, words=words))

    console.print(_scores(result, _origin(best)))
    if tuned is not None:
        assert tuned.training is not None  # it was tuned
        n_pairs = tuned.training["n_pairs"]
        console.print(_scores(after, f"the vector (FV) tuned on {n_pairs} pairs (FFV), layer {tuned.layer}"))
        for kind, some in words.groupby("vector", sort=False):
            console.print(Text(f"{kind} in words: {'  '.join(json.dumps(x, ensure_ascii=False) for x in some.token)}"))
    console.print(Text(MEANING), style="dim")
    for path in saved:
        console.print(Text(f"{path}{'  <- open this first' * (path.name == REPORT)}"), soft_wrap=True)


def _check_prompts(model: "Model", relation: Relation, n_prompts: int, seed: int) -> None:
    """Make the prompts of every stage: one that exceeds the model's context is told before the first of them."""
    from ...datasets.prompts import corrupted, with_demonstrations
    from ...engine.batches import batch
    from ...models.lens import lens_of

    train, _, test = relation.split()
    few = [*corrupted(train, n_prompts, N_SHOTS, seed), *with_demonstrations(test, train, N_SHOTS, seed)]
    for prompts in (with_demonstrations(relation, relation, 0), few):
        batch(lens_of(model), prompts)


def _tuned(
    model: "Model", relation: Relation, fv: "FunctionVector", seed: int, notes: Console
) -> "tuple[FunctionVector | None, dict[str, FunctionVector]]":
    """The vector tuned from `fv`, and what is measured beside it: other starts, and shuffled pairs.

    A relation that is too small to tune on has none, and a control that it is too small for is left out, with a note.
    """
    from ...vectors.optimizer import Tuning
    from ...vectors.tuning import finetune

    try:
        tuned = finetune(model, relation, fv, seed=seed)
    except InputError as error:
        notes.print(Text(f"Note: not tuned: {error}"))
        return None, {}
    beside = {"FV": fv}
    controls: dict[str, tuple[Start, Tuning]] = {
        "FFV from zero": ("zero", Tuning()),
        "FFV from random": ("random", Tuning()),
        "FFV of shuffled pairs": ("zero", Tuning(shuffle=True)),
    }
    for row, (init, how) in controls.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what there is to note was noted for the vector itself
                beside[row] = finetune(model, relation, init, layer=tuned.layer, seed=seed, how=how)
        except InputError as error:
            notes.print(Text(f"Note: no {row}: {error}"))
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


@contextmanager
def _stage(notes: Console, what: str, timings: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    notes.print(Text(what, style="bold"))
    yield
    timings[name] = round(time.perf_counter() - started, 1)


def _empty(out: Path) -> None:
    """Take away the files of an equal run: what lies together is of one start."""
    try:
        for file in (REPORT, SUMMARY, EFFECTS, VECTOR, TUNED):
            (out / file).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write to {str(out)!r}: {error.strerror or error}. Choose another --out.") from None


def _write_summary(path: Path, command: str, timings: Mapping[str, float], findings: "Findings") -> None:
    from ...ground.storage import save_json

    effects, vector, tuned = findings.effects, findings.vector, findings.tuned
    assert effects is not None  # they are found first
    names = ("relation", "data_hash", "model", "n_shots", "n_mean_prompts", "seed", "split_seed", "versions")
    summary = {"command": command} | {name: effects.record[name] for name in names}
    summary |= {"n_prompts": len(effects.values), "share_right": effects.share_right}
    if vector:
        summary["vector"] = {name: getattr(vector, name) for name in ("layer", "strength", "heads", "method")}
    if tuned is not None:
        summary["tuned"] = {name: getattr(tuned, name) for name in ("layer", "method", "training")}
    if findings.tuned_evaluation is not None:
        summary["tuned_scores"] = {
            name: dataclasses.asdict(row) for name, row in findings.tuned_evaluation.rows.items()
        }
    if findings.words is not None:
        summary["words"] = findings.words.to_dict("records")
    if findings.evaluation is not None:
        summary["scores"] = {name: dataclasses.asdict(row) for name, row in findings.evaluation.rows.items()}
    summary |= {"timings_s": timings, "peak_memory_mb": _peak_memory()}
    save_json(path, summary)


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
        told = (gain.signed if gain.differs() else f"({gain.signed})") if gain else ""
        cells = (name, row.accuracy, row.log_prob, told)
        table.add_row(*(Text(str(cell)) for cell in cells), style=None if gain else "bold")
    return table


def _peak_memory() -> int | None:
    """The most host memory that the process has held, in MB, where the system counts it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    per_mb = 1024**2 if sys.platform == "darwin" else 1024  # macOS counts bytes, others kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // per_mb
