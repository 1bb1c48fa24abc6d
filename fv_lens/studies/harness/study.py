"""The study of `fv-lens harness`: tasks without vectors, with them and with random ones, and the files it writes."""

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ...datasets.relation_files import load_relation
from ...datasets.relations import Relation
from ...evaluation.controls import RANDOM_VECTOR, random_directions
from ...evaluation.harness.lm_eval_names import TaskManager, evaluator, handle_non_serializable, simple_evaluate
from ...evaluation.harness.model import PatchedLM, Rolling
from ...evaluation.harness.scores import Results, task_gains, task_scores
from ...evaluation.harness.tasks import BUNDLED, write_tasks
from ...evaluation.table import write_csv
from ...ground import storage
from ...ground.errors import InputError
from ...ground.streams import Stream, generator
from ...models.lens import Model, lens_of
from ...models.libraries import quoting
from ...vectors.function_vector import FunctionVector, own_template
from ..job import Job
from ..results import RESULTS

WITHOUT, VECTOR = "without", "vector"
BY_HARNESS, TASKS = "results.json", "harness_tasks"
COLUMNS = ["part", "task", "metric", "filter", "row", "value", "low", "high", "n"]
RESAMPLES, MULTIPROC = 1000, "DISABLE_MULTIPROC"  # of the harness's own bootstrap
Part = Literal["score", "gain"]


@dataclass(frozen=True)
class Settings:
    """What is asked, and how.

    Args:
        tasks: bundled ones by their short names, and any other that the harness knows.
        relation: whose test words the task "relation" asks for; None: the vectors' own.
        strength, rolling, batch_size, max_length: as `PatchedLM` takes them.
        limit: the first documents of each task: a number, or below 1 a share; None for all.
        shots: demonstrations in tasks of the harness; None: the task's own number. The bundled ones have theirs.
        chat: whether prompts are asked in the model's chat form.
        include: folders with task files of the user's own.
        seed: of the random vectors.
    """

    tasks: tuple[str, ...] = tuple(BUNDLED)
    relation: str | None = None
    strength: float = 1.0
    rolling: Rolling = "first"
    batch_size: int = 8
    max_length: int | None = None
    limit: float | None = None
    shots: int | None = None
    chat: bool = False
    include: tuple[str, ...] = ()
    seed: int = 0


def study(model: Model, vectors: Sequence[FunctionVector], settings: Settings, job: Job) -> pd.DataFrame:
    """Run the tasks without the vectors, with them, and with one draw of random ones; write what comes of it.

    The row "random vector" is that one draw, of the vectors' norms; in `evaluate` it is the mean of several.

    Into the folder go `results.json`, which holds what the harness returns for each of the three, `results.csv`, and
    in `harness_tasks` the bundled tasks as files that any model of the harness can run.

    Returns:
        One line for each task, metric and row: part ("score", or "gain" over the row "without"), task, metric, filter,
        row, value, low, high, n.

    Raises:
        InputError: an unknown task, or one that cannot be loaded; no relation for the task "relation", or one whose
            words the vectors may have seen; the folder holds another run.
    """
    manager = _manager(settings) if set(settings.tasks) - BUNDLED.keys() else None
    relation = _relation(vectors, settings) if "relation" in settings.tasks else None
    models = {
        WITHOUT: _patched(model, (), settings),
        VECTOR: _patched(model, vectors, settings),
        RANDOM_VECTOR: _patched(model, random_vectors(vectors, settings.seed), settings),
    }
    job.folder.claim(_plan(model, models[VECTOR], settings, relation))
    bundled = _write_bundled(job.folder.path / TASKS, vectors, relation, settings)
    others = [name for name in settings.tasks if name not in BUNDLED]
    bundled_manager = TaskManager(include_path=str(job.folder.path / TASKS), include_defaults=False)
    results: dict[str, Results] = {}
    for row, lm in models.items():
        job.tell(f"Tasks of the harness: {row}")
        parts = [_evaluate(lm, bundled, bundled_manager, replace(settings, shots=None))] if bundled else []
        parts += [] if manager is None else [_evaluate(lm, others, manager, settings)]
        results[row] = merged(parts)
    frame = table(results)
    with storage.written_whole(job.folder.path / RESULTS) as partial:
        write_csv(frame, partial)
    summaries = {row: {key: value for key, value in of.items() if key != "samples"} for row, of in results.items()}
    plain = json.loads(json.dumps(summaries, default=handle_non_serializable))
    storage.save_json(job.folder.path / BY_HARNESS, {"command": job.command, **plain})
    return frame


def table(results: Mapping[str, Results]) -> pd.DataFrame:
    """The scores of every row, and the gains over the row "without", as one frame."""
    lines: list[tuple[Any, ...]] = []
    for row, of_row in results.items():
        parts: dict[Part, Any] = {"score": task_scores(of_row)}
        if row != WITHOUT:
            parts["gain"] = task_gains(of_row, results[WITHOUT])
        for part, scores in parts.items():
            lines += [(part, *metric, row, x.value, *x.ends, x.n) for metric, x in scores.items()]
    return pd.DataFrame(lines, columns=COLUMNS)


def random_vectors(vectors: Sequence[FunctionVector], seed: int) -> list[FunctionVector]:
    """One draw of a random direction in place of each vector, of its norm and at its place."""
    rng = generator(seed, Stream.CONTROLS)
    directions = [random_directions(fv, rng, draws=1)[0] for fv in vectors]
    return [
        FunctionVector(
            direction, fv.layer, site=fv.site, model=fv.model, processing=fv.processing, bos=fv.bos, method="random"
        )
        for fv, direction in zip(vectors, directions)
    ]


def merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The harness's results for several lists of tasks, as if they were one."""
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            whole[key] = {**whole[key], **value} if isinstance(value, dict) and key in whole else value
    return whole


def _patched(model: Model, vectors: Sequence[FunctionVector], settings: Settings) -> PatchedLM:
    return PatchedLM(
        model, vectors, settings.strength, batch_size=settings.batch_size, rolling=settings.rolling,
        max_length=settings.max_length,
    )  # fmt: skip


def _relation(vectors: Sequence[FunctionVector], settings: Settings) -> Relation:
    """The relation whose test words are asked for, split as it was for the vectors."""
    names = list(dict.fromkeys(vector.relation for vector in vectors if vector.relation))
    if settings.relation is None and len(names) != 1:
        what = f"are of the relations {', '.join(names)}" if names else "do not say of which relation they are"
        raise InputError(f"The vectors {what}, and the task 'relation' asks for the words of one: give --relation.")
    relation = load_relation(settings.relation or names[0])
    seeds = {fv.split_seed for fv in vectors if fv.relation == relation.name and fv.split_seed is not None}
    if len(seeds) == 1 and relation.parts is None:
        relation = relation.with_split(*seeds)
    for vector in vectors:
        vector.check_split(relation)
    return relation


def _manager(settings: Settings) -> TaskManager:
    """An index of tasks in which those that are asked for are: of the user's own, or else of all."""
    for folder in settings.include:
        if not Path(folder).is_dir():
            raise InputError(f"There is no folder {folder!r} of task files; check --include-path.")
    names = [name for name in settings.tasks if name not in BUNDLED and not Path(name).is_file()]
    manager = TaskManager(include_path=list(settings.include), include_defaults=False)
    if not all(manager.match_tasks([name]) for name in names):  # an index of all takes long
        manager = TaskManager(include_path=list(settings.include))
    for name in names:
        if not manager.match_tasks([name]):
            near = difflib.get_close_matches(name, [*BUNDLED, *manager.all_tasks])
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise InputError(f"The harness has no task {name!r}: {hint}`lm_eval ls tasks` lists all of its own.")
    return manager


def _write_bundled(
    folder: Path, vectors: Sequence[FunctionVector], relation: Relation | None, settings: Settings
) -> list[str]:
    """Write the files of the bundled tasks that are asked for; their names in the harness."""
    folder.mkdir(exist_ok=True)
    return write_tasks(folder, relation, own_template(vectors), [name for name in settings.tasks if name in BUNDLED])


def _evaluate(lm: PatchedLM, names: list[str], manager: TaskManager, settings: Settings) -> dict[str, Any]:
    tasks = [task for name in names for task in (manager.match_tasks([name]) or [name])]
    with quoting(", ".join(names), "Their data may have to be downloaded first."):
        manager.load(tasks)
    with _in_one_process(), _no_complaints_of_git():
        results = simple_evaluate(
            lm, tasks=tasks, task_manager=manager, num_fewshot=settings.shots, limit=settings.limit,
            batch_size=settings.batch_size, bootstrap_iters=RESAMPLES, apply_chat_template=settings.chat,
        )  # fmt: skip
    return dict(results or {})


@contextmanager
def _in_one_process() -> Iterator[None]:
    """Keep the harness from starting processes for its resamples, unless the user has said how it is to be."""
    if MULTIPROC in os.environ:
        yield
        return
    os.environ[MULTIPROC] = "1"
    try:
        yield
    finally:
        del os.environ[MULTIPROC]


@contextmanager
def _no_complaints_of_git() -> Iterator[None]:
    """Keep the harness from asking git for the commit of a folder in no repository, which prints an error."""
    here, ask = Path.cwd(), evaluator.get_git_commit_hash
    if not any((folder / ".git").exists() for folder in (here, *here.parents)):
        evaluator.get_git_commit_hash = lambda: None
    try:
        yield
    finally:
        evaluator.get_git_commit_hash = ask


def _plan(model: Model, lm: PatchedLM, settings: Settings, relation: Relation | None) -> dict[str, Any]:
    versions = {**storage.versions(), "lm_eval": metadata.version("lm_eval")}
    plan = {"model": lens_of(model).name, "vectors": lm.get_model_info()["fv_lens"]["vectors"], "versions": versions}
    return plan | asdict(settings) | {"relation": None if relation is None else relation.hash}
