"""A set of analogies from library to figures: what `fv-lens analogies` does."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from . import plots, results, storage
from .analogy_scores import LIBRARIES, PROMPT_ONLY, SUMMED, TRUE, AnalogyScores, Row, evaluate_analogies
from .errors import InputError
from .fitting import fit_compositions
from .lens import lens_of
from .questions import Question
from .recipes import METHODS, Folded
from .relations import load_relation, relation_names
from .stages import Stages
from .tuning import finetune_all
from .vectors import FunctionVector

RESULTS, SUMMARY = "results.csv", "summary.json"
MEASURES = ("accuracy", "first_token_accuracy", "choice")


def load_library(folder: Path) -> dict[str, FunctionVector]:
    """The vectors of a folder, by the relation of each; an InputError where there are none or two of one relation."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{str(folder)!r} has no vectors (*.safetensors); give the `vectors` folder of a `reproduce`.")
    vectors: dict[str, FunctionVector] = {}
    for file in files:
        fv = FunctionVector.load(file)
        name = fv.relation or file.stem
        if name in vectors:
            raise InputError(f"{str(folder)!r} has two vectors of {name!r}; keep one of them.")
        vectors[name] = fv
    return vectors


def tuned_library(model: object, folder: Path, tell: Callable[[str], None]) -> dict[str, FunctionVector]:
    """A vector of every bundled relation, tuned from zero; those kept in the folder are read instead."""
    kept = load_library(folder) if any(folder.glob("*.safetensors")) else {}
    if set(kept) >= set(relation_names()):
        return kept
    tell(f"Tuning the library: {len(relation_names())} bundled relations, from zero")
    tuned = finetune_all(model, relation_names())
    folder.mkdir(parents=True, exist_ok=True)
    for name, fv in tuned.items():
        fv.save(folder / f"{name}.safetensors")
    return dict(tuned)


def solve_all(
    model: object,
    vectors: Mapping[str, FunctionVector],
    parts: Sequence[Sequence[Question]],
    out: Path,
    command: str,
    tell: Callable[[str], None],
    summed: Mapping[str, FunctionVector] | None = None,
    choices: bool = False,
    choose_on: Sequence[Question] = (),
    seed: int = 0,
    progress: bool = True,
) -> tuple[AnalogyScores, list[str]]:
    """Fit composites on train and validation analogies, answer the test ones by every method, and write the results.

    `out` gets `results.csv`, `summary.json`, `composites/`, `figures/` and `stages/`.

    Args:
        parts: train, validation and test questions; without train questions nothing is fitted.
        summed: un-tuned vectors, for comparison.
        choices: also choose among answers.
        choose_on: questions with choices on which one way to choose is chosen, to be reported on the test questions.
        tell: called with a line before each step.

    Returns:
        The scores, and a line on what was chosen, if anything was.

    Raises:
        InputError: as `fit_compositions` and `evaluate_analogies`; `out` holds a run of other questions or vectors.
    """
    lens, (train, validation, test) = lens_of(model), parts
    if choose_on and not any(question.pairs for question in choose_on):
        raise InputError("The validation questions have no choices; give some that have, or none.")
    plan = {
        "model": lens.name, "weights, SHA-256": lens.weights_hash, "dtype": str(lens.dtype), "seed": seed,
        "questions, SHA-256": _hash([[repr(question) for question in part] for part in parts]),
        "vectors, SHA-256": [_hash({name: _identity(fv) for name, fv in x.items()}) for x in (vectors, summed or {})],
        "threads": torch.get_num_threads(), "versions": storage.versions(),
    }  # fmt: skip
    stages = Stages(out / "stages", plan)
    fitted: dict[str, Folded] = {}
    if train:
        tell(f"Composites fitted on {len(train)} train and {len(validation)} validation analogies")
        fitted = _unpacked(*stages.run("fit", lambda: _packed(fit_compositions(
            model, vectors, train, validation, seed=seed, progress=progress))))  # fmt: skip
    how = {"methods": METHODS | fitted, "summed": summed, "seed": seed, "progress": progress}
    lines, chosen = [], {}
    if choose_on:
        tell(f"{len(choose_on)} validation questions, by every method")
        tried = evaluate_analogies(model, vectors, choose_on, libraries=_libraries(vectors, test), **how)
        best = max(_ways(tried), key=lambda way: tried.score(*way).value)
    tell(f"{len(test)} test analogies, by every method")
    found = evaluate_analogies(model, vectors, test, choices=choices, libraries=_libraries(vectors, test), **how)
    if choose_on:
        (row, measure), (plain, plainly) = best, max(_ways(tried, PROMPT_ONLY), key=lambda way: tried.score(*way).value)
        chosen = {"row": str(row), "measure": measure, "validation": tried.score(*best).value}
        gain = found.difference(row, plain, measure, plainly)
        lines.append(f"Chosen on validation: {row} ({measure}): {found.score(row, measure)}; chance {found.chance:.2f}")
        lines.append(f"minus {plain}, its best prompt alone: {gain.signed}")
    frame = pd.concat([found.to_frame().assign(part="score"), _differences(found, fitted)], ignore_index=True)
    with storage.written_whole(out / RESULTS) as partial:
        results.write_csv(frame, partial)
    (out / "composites").mkdir(exist_ok=True)
    for name, how in fitted.items():
        how.save(out / "composites" / f"{name.replace(' + ', '-').replace(' ', '-')}.safetensors")
    summary = {
        "command": command, **plan, "vectors": sorted(vectors), "layer": next(iter(vectors.values())).layer,
        "questions": {"train": len(train), "validation": len(validation), "test": len(found.questions),
                      "left out, for a pair that was tuned on": found.left_out},
        "chance": found.chance, "chosen on validation questions": chosen,
        "fitted": {name: how.record for name, how in fitted.items()},
        "timings_s": stages.timings,
    }  # fmt: skip
    with storage.written_whole(out / SUMMARY) as partial:
        partial.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _figures(out / "figures", found)
    return found, lines


def _libraries(vectors: Mapping[str, FunctionVector], questions: Sequence[Question]) -> list[str]:
    """The full library, and those with something left out where a question has kin in it."""
    family = {name: load_relation(name).family or name for name in relation_names()}
    kin = {family.get(fv.relation or name, fv.relation or name) for name, fv in vectors.items()}
    known = any({q.relation, q.family, family.get(q.relation)} & (kin | set(vectors)) - {None} for q in questions)
    return list(LIBRARIES) if known else ["full"]


def _ways(found: AnalogyScores, method: str | None = None) -> list[tuple[Row, str]]:
    """Every row with each of its ways to choose; of one method, if given."""
    return [
        (row, measure)
        for row, measures in found.values.items()
        for measure in measures
        if measure.startswith("choice") and method in (None, row.method) and row.method != TRUE
    ]


def _differences(found: AnalogyScores, fitted: Mapping[str, Folded]) -> pd.DataFrame:
    """Every composite minus the baselines it has to beat, in the same prompt and library, paired over questions."""
    lines = []
    for row in found.values:
        if row.method in (PROMPT_ONLY, TRUE, SUMMED) or not row.prompt:
            continue
        others = [Row(PROMPT_ONLY, "", "one-shot")]
        others += [Row(name, row.library, row.prompt) for name in ("single best", "uniform", "shared alone")]
        for other in others:
            for measure in (*MEASURES, "log_prob"):
                if other != row and all(measure in found.values.get(one, {}) for one in (row, other)):
                    score = found.difference(row, other, measure)
                    name = f"{row.method} - {other.method}"
                    lines.append((name, row.library, row.prompt, measure, score.value, score.low, score.high, score.n))
    columns = ["method", "library", "prompt", "measure", "value", "low", "high", "n"]
    return pd.DataFrame(lines, columns=columns).assign(part="difference")


def _figures(folder: Path, found: AnalogyScores) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    frame = found.to_frame()
    for measure in ("accuracy", "choice"):
        if (frame.measure == measure).any():
            chance = found.chance if measure == "choice" else None
            figure = plots.analogies(frame, measure, chance)
            with storage.written_whole(folder / f"{measure}.html") as partial:
                figure.write_html(partial, include_plotlyjs=True, full_html=True)


def _packed(fitted: Mapping[str, Folded]) -> tuple[dict, dict]:
    tensors, record = {}, {}
    for name, how in fitted.items():
        own, record[name] = how.parts()
        tensors |= {f"{name}/{key}": value for key, value in own.items()}
    return tensors, record


def _unpacked(tensors: Mapping, record: Mapping) -> dict[str, Folded]:
    return {
        name: Folded.of_parts(
            {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}, saved
        )
        for name, saved in record.items()
    }


def _identity(fv: FunctionVector) -> list:
    return [fv.relation, fv.layer, fv.site, fv.vector.tolist()]


def _hash(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
