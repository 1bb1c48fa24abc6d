"""The shards of a study, brought together from the folders that they worked in."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from ...ground import storage
from ...ground.errors import InputError
from ..console import tell
from ..folders import JOBS, OutputFolder, models_of, plan_in
from ..jobs.presence import refuse_workers
from ..jobs.shards import owner
from ..stages import TIMINGS, timings_in
from .files import vector_files
from .sharing import COMMAND, finish_models
from .workers import LEFT_OUT, Part, finish_part, graph_of

SHARD = re.compile(r"shard-\d+-of-(\d+)\.alive")


def gather(folder: OutputFolder, sources: Sequence[Path]) -> None:
    """Copy what other folders have and this one lacks: stages and parts of them, and what shards said of the study.

    Args:
        sources: folders of `reproduce`.

    Raises:
        InputError: workers are at work in one; a folder is of another study.
    """
    for source in sources:
        refuse_workers(source)
        plan = plan_in(source)
        models = models_of(source)
        makes = {} if models else {"vectors": vector_files(list(plan["relations"]))}
        folder.claim(plan, makes)  # refuses another than its own
        for name in ["", *models]:  # what lies at the top of a folder of several models counts, too
            _copy(source / name, folder.path / name)


def _copy(source: Path, out: Path) -> None:
    marker = plan_in(source)
    if marker is not None and plan_in(out) is None:  # before the files, which are then of a plan
        with OutputFolder(out, "reproduce", keep=True) as folder:
            folder.claim(marker)
    elif marker is not None and marker != plan_in(out):
        raise InputError(f"{str(source)!r} and {str(out)!r} are of other plans; merge shards of one study")
    for path in sorted((source / "stages").rglob("*.safetensors")) + sorted((source / JOBS).glob("*.*")):
        target = out / path.relative_to(source)
        if target.exists() or path.suffix not in (".safetensors", ".json", ".alive"):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with storage.written_whole(target) as partial:
            shutil.copyfile(path, partial)
    if (out / "stages").is_dir():
        both = timings_in(source / "stages") | timings_in(out / "stages")
        storage.save_json(out / "stages" / TIMINGS, both)


def finish_shards(folder: OutputFolder) -> None:
    """Write the results of a study whose units its shards have computed.

    Raises:
        InputError: units are missing, which are named, with the shards they belong to.
    """
    out, models = folder.path, models_of(folder.path)
    parts = {name: Part(out / name, model, "") for name, model in models.items()} or {"": Part(out, "", "")}
    left: dict[str, list[str]] = {}
    for name, part in parts.items():
        if (graph := graph_of(part)) is None:
            if not models:
                raise InputError(f"{str(out)!r} has no study that shards have begun; give the folder of one")
            if not (part.jobs / LEFT_OUT).is_file():
                left[name] = ["No shard has begun it."]
            continue
        graph.join()
        if missing := graph.left():
            left[name] = _by_shard(missing, list(graph.units), _counts(part.jobs) | _counts(out / JOBS))
    if left:
        lines = [f"{name}: {line}" if name else line for name, of in left.items() for line in of]
        raise InputError(f"{str(out)!r} lacks units of the study. {' '.join(lines)}")
    if models:
        command = json.loads((out / JOBS / COMMAND).read_text(encoding="utf-8"))["command"]
        finish_models(out, plan_in(out), parts, command, {}, {})
    else:
        tell("Writing the results")
        finish_part(folder, parts[""])


def _counts(jobs: Path) -> set[int]:
    """The numbers of shards that have been at work in a folder."""
    return {int(match[1]) for path in jobs.glob("*.alive") if (match := SHARD.fullmatch(path.name))}


def _by_shard(missing: Sequence[str], names: Sequence[str], counts: set[int]) -> list[str]:
    """What is missing, by the shard it belongs to, if all shards were of one division."""
    if len(counts) != 1:
        return [f"Missing: {', '.join(missing)}. Start shards that make a whole."]
    of: dict[str, list[str]] = {}
    for name in missing:
        of.setdefault(str(owner(name, names, *counts)), []).append(name)
    return [f"--shard {shard} would make {', '.join(units)}." for shard, units in sorted(of.items())]
