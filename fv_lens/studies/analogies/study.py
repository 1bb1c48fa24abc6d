"""A set of analogies from library to figures: what `fv-lens analogies` does."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from ...analogies.by_question import by_question
from ...analogies.composition import METHODS, CompositionLike, Folded
from ...analogies.differences import table
from ...analogies.evaluate import evaluate_analogies
from ...analogies.fit import CANDIDATES, Fitting, fit_compositions
from ...analogies.gate import Gate, GateCurve
from ...analogies.scores import LIBRARIES, AnalogyScores, LibraryName
from ...analogies.selection import BEST
from ...analogies.solve import AnalogyAnswer, solve_analogy
from ...analogies.unseen import unseen
from ...datasets.published import Published
from ...datasets.question_groups import group_names
from ...datasets.questions import Question, digest
from ...datasets.relation_files import load_relation, relation_names
from ...engine.batches import batch
from ...ground import storage
from ...ground.errors import InputError
from ...models.lens import Model, lens_of
from ...vectors.function_vector import FunctionVector, own_template
from ...vectors.sharing.files import library_files
from ..folders import OutputFolder
from ..job import Job
from ..stages import Stages
from .choice import best_method
from .files import COMPOSITES, file_name, packed, unpacked, write_outputs
from .fitted import FIT_STAGE, STAGES, fitting_plan, read_fitted
from .library import relations_for, tuned_library
from .page import write_analogy_report
from .steps import AFFINE_STAGE, affine_names, by_prompt, fit_affine_all, gates_frame, gates_of

TUNED_HERE = "of the bundled relations, tuned for this run"  # in the plan, which is there before they are
N_ITEMS = 8  # single analogies on the page


class Asked(NamedTuple):
    """The questions of a study.

    Args:
        train, validation: questions for fitting and choosing composites; without train questions nothing is fitted.
        test: questions that are reported.
        choose_on: questions with choices, for choosing the method of choice that is reported on the test questions,
            whose choices are then scored too.
    """

    train: Sequence[Question]
    validation: Sequence[Question]
    test: Sequence[Question]
    choose_on: Sequence[Question] = ()


def solve_all(
    model: Model,
    vectors: Mapping[str, FunctionVector] | None,
    asked: Asked,
    job: Job,
    summed: Mapping[str, FunctionVector] | None = None,
    choices: bool = False,
    seed: int = 0,
    sets: Sequence[Published] = (),
    composites: Path | None = None,
) -> tuple[AnalogyScores, list[str]]:
    """Fit composites on train and validation analogies, answer the test ones by every method, and write the results.

    The folder gets `report.html`, `results.csv`, `by_question.csv`, `summary.json`, `composites/` and `stages/`.

    Args:
        vectors: the library; None for that of `tuned_library`, which is kept in `vectors/` of the folder.
        summed: un-tuned vectors, for comparison.
        choices: also choose among answers.
        sets: whose relations the tuned library has as well.
        composites: the folder of an earlier run, whose composites are taken where the same would be fitted here.

    Returns:
        The scores, and a line on what was chosen, if anything was.

    Raises:
        InputError: as `fit_compositions`, `evaluate_analogies` and `read_fitted`; the folder holds a run of other
            questions or vectors.
    """
    train, validation, test, choose_on = asked
    out, tell = job.folder.path, job.tell
    plan = plan_of(model, vectors, asked, summed, seed, sets)
    earlier = {} if composites is None else read_fitted(composites, fitting_plan(plan, train, validation))
    claim(job.folder, plan, sets)
    if vectors is None:
        vectors = tuned_library(model, out / "vectors", tell, sets)
        plan["vectors, SHA-256"] = _digests(vectors, summed or {})  # what is fitted is of these very vectors
    stages = Stages(out / STAGES, fitting_plan(plan, train, validation))
    for name in earlier:
        stages.run(name, partial(earlier.__getitem__, name))
    fitted, affine = _fitted(model, vectors, asked, seed, stages, tell) if train else ({}, {})
    held = _libraries(vectors, test)
    methods = METHODS | fitted | by_prompt(affine)
    ask = partial(evaluate_analogies, model, vectors, methods=methods, libraries=held, summed=summed, seed=seed)
    scores, chosen, lines = _answered(ask, test, choose_on, choices, tell)
    summary = {
        "command": job.command, **plan, "vectors": sorted(vectors), "layer": next(iter(vectors.values())).layer,
        "questions": {"train": len(train), "validation": len(validation), "test": len(scores.questions),
                      "left out, for a pair that was tuned on": scores.left_out},
        "chance": scores.chance, "chosen on validation questions": chosen,
        "fitted": {name: how.record for name, how in (fitted | affine).items()},
        "timings_s": stages.timings,
    }  # fmt: skip
    best = BEST if fitted else "posterior"
    tell(f"{N_ITEMS} single analogies")
    items = _items(model, vectors, scores.questions, fitted[best].whole if fitted else "posterior")
    frame = table(scores, test)
    gates = _gates(model, vectors, (validation, scores.questions), fitted, held, tell)
    if gates:
        frame = pd.concat([frame, gates_frame(gates).assign(group="all")], ignore_index=True)
        summary["gates"] = {library: gate.to_dict() for library, (gate, _) in gates.items()}
    write_outputs(out, frame, by_question(scores, test), fitted | affine, summary)
    facts = {
        key: summary[key] for key in ("model", "dtype", "layer", "seed", "questions", "fitted", "versions", "command")
    }
    write_analogy_report(
        out / "report.html", scores, frame, items, title=f"Analogies in {summary['model']}", lines=lines,
        best=best, gates={name: curve for name, (_, curve) in gates.items()},
        facts=facts | {"weights, SHA-256": plan["weights, SHA-256"], "timings, s": stages.timings},
    )  # fmt: skip
    return scores, lines


def plan_of(
    model: Model,
    vectors: Mapping[str, FunctionVector] | None,
    asked: Asked,
    summed: Mapping[str, FunctionVector] | None = None,
    seed: int = 0,
    sets: Sequence[Published] = (),
) -> dict[str, Any]:
    """The plan of `solve_all` with the same arguments, which a later start must share to resume.

    Raises:
        InputError: questions that cannot be asked.
    """
    if asked.choose_on and not any(question.pairs for question in asked.choose_on):
        raise InputError("The validation questions have no choices; give some that have, or none.")
    group_names(asked.test)  # refuses what cannot be divided into groups
    lens = lens_of(model)
    every = [question for part in asked for question in part]
    # Prompts that exceed the context are refused before the fit.
    batch(lens, [question.asked(1) for question in every], own_template(list((vectors or {}).values())))
    return {
        "model": lens.name, "weights, SHA-256": lens.weights_hash, "dtype": str(lens.dtype), "seed": seed,
        "questions, SHA-256": digest([[repr(question) for question in part] for part in asked[:3]]),
        "vectors, SHA-256": TUNED_HERE if vectors is None else _digests(vectors, summed or {}),
        "threads": torch.get_num_threads(), "versions": storage.versions(),
        **of_sets(sets),
    }  # fmt: skip


def of_sets(sets: Sequence[Published]) -> dict[str, Any]:
    """What a plan says of sets whose relations the library has as well."""
    listed = [[name, *([relation.name, relation.family, relation.hash] for relation in of)] for name, of in sets]
    return {"library": listed} if sets else {}


def claim(folder: OutputFolder, plan: Mapping[str, Any], sets: Sequence[Published] = ()) -> None:
    """Mark the folder as that of the plan; an InputError where it holds a run of other questions or vectors."""
    tuned = library_files(list(relations_for(sets).relations)) if plan["vectors, SHA-256"] == TUNED_HERE else ()
    composites = (*CANDIDATES, BEST, *affine_names())
    folder.claim(plan, {"vectors": tuned, COMPOSITES: list(map(file_name, composites))})


def _fitted(
    model: Model, vectors: Mapping[str, FunctionVector], asked: Asked, seed: int, stages: Stages,
    tell: Callable[[str], None],
) -> tuple[dict[str, Folded], dict[str, Folded]]:  # fmt: skip
    """Composites fitted on train and chosen on validation analogies, and those with affine weights."""
    train, validation = asked.train, asked.validation
    if not stages.has(FIT_STAGE):
        tell(f"Composites fitted on {len(train)} train and {len(validation)} validation analogies")
    how = Fitting(seed=seed)
    fitted = stages.run(FIT_STAGE, lambda: packed(fit_compositions(model, vectors, train, validation, how=how)))
    if not stages.has(AFFINE_STAGE):
        tell("Affine weights, for zero-shot and for one-shot prompts")
    return unpacked(*fitted), fit_affine_all(model, vectors, train, validation, seed, stages)


def _gates(
    model: Model, vectors: Mapping[str, FunctionVector], parts: tuple[Sequence[Question], Sequence[Question]],
    fitted: Mapping[str, Folded], libraries: Sequence[LibraryName], tell: Callable[[str], None],
) -> dict[LibraryName, tuple[Gate, GateCurve]]:  # fmt: skip
    """The gates of the best fitted composite, where there is one and validation analogies to choose them on."""
    if not fitted:
        return {}
    if not unseen(parts[0], vectors.values())[0]:
        tell("No gate: every validation analogy has a pair that a vector was tuned on")
        return {}
    tell(f"When to insert {BEST!r}, chosen on validation analogies")
    return gates_of(model, vectors, parts, fitted[BEST], libraries)


def _answered(
    ask: Callable[..., AnalogyScores],
    test: Sequence[Question],
    choose_on: Sequence[Question],
    choices: bool,
    tell: Callable[[str], None],
) -> tuple[AnalogyScores, dict[str, Any], list[str]]:
    """Scores of the test questions by every method; the method of choice that does best on `choose_on`, if any."""
    tried = None
    if choose_on:
        tell(f"{len(choose_on)} validation questions, by every method")
        tried = ask(choose_on)
    tell(f"{len(test)} test analogies, by every method")
    scores = ask(test, choices=choices or bool(choose_on))
    return scores, *(best_method(tried, scores) if tried else ({}, []))


def _items(
    model: Model, vectors: Mapping[str, FunctionVector], questions: Sequence[Question], how: CompositionLike
) -> list[tuple[Question, AnalogyAnswer]]:
    """Some questions, of as many relations as there are, with their answers by the full library."""
    by_relation: dict[str | None, list[Question]] = {}
    for question in questions:
        by_relation.setdefault(question.relation, []).append(question)
    rounds = [question for turn in zip_longest(*by_relation.values()) for question in turn if question is not None]
    return [
        (question, solve_analogy(model, vectors, (a, b), question.target, question.choices or None, how=how))
        for question in rounds[:N_ITEMS]
        for a, b in [question.source]
    ]


def _digests(*libraries: Mapping[str, FunctionVector]) -> list[str]:
    return [digest(sorted(map(_identity, library, library.values()))) for library in libraries]


def _identity(name: str, fv: FunctionVector) -> list[Any]:
    others = [list(labels) for labels in (fv.aliases, fv.kin) if labels]
    template = [] if fv.template is None else [dict(fv.template)]
    return [name, fv.relation or "", fv.layer, fv.site, fv.vector.tolist(), *others, *template]


def _libraries(vectors: Mapping[str, FunctionVector], questions: Sequence[Question]) -> list[LibraryName]:
    """The full library, and those with something left out where a question has kin in it."""
    family = {name: load_relation(name).family or name for name in relation_names()}
    kin = {family.get(fv.relation or name, fv.relation or name) for name, fv in vectors.items()}
    kin |= {other for fv in vectors.values() for other in (*fv.aliases, *fv.kin)}
    known = any({q.relation, q.family, family.get(q.relation or "")} & (kin | set(vectors)) - {None} for q in questions)
    return list(LIBRARIES) if known else ["full"]
