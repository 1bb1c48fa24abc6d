"""The folder of a run: its report, summary, head map and vectors, whole after every stage."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ...ground.errors import InputError
from ..job import Job

if TYPE_CHECKING:
    from .findings import Findings

REPORT, SUMMARY, EFFECTS = "report.html", "summary.json", "effects.safetensors"
VECTOR, TUNED = "vector.safetensors", "tuned.safetensors"


class RunFiles:
    """What a run writes, and how long its stages took.

    Args:
        saved: collects the files, each once.
    """

    def __init__(self, job: Job, saved: list[Path]):
        self.job, self.saved, self.out = job, saved, job.folder.path
        self.timings: dict[str, float] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Record the seconds of a stage that succeeds."""
        started = time.perf_counter()
        yield
        self.timings[stage] = round(time.perf_counter() - started, 1)

    def clear(self) -> None:
        """Remove the files of an earlier run of the same plan, so that all files are of one run.

        Raises:
            InputError: a file cannot be removed.
        """
        try:
            for file in (REPORT, SUMMARY, EFFECTS, VECTOR, TUNED):
                (self.out / file).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"Cannot write to {str(self.out)!r}: {error.strerror or error}. Choose another --out."
            ) from None

    def save(self, findings: "Findings") -> None:
        """Write the results so far, so that a run that is stopped leaves a complete report of them."""
        from .page import write_report

        for part, file in ((findings.effects, EFFECTS), (findings.vector, VECTOR), (findings.tuned, TUNED)):
            if part is not None and self.out / file not in self.saved:
                part.save(self.out / file)
                self.saved.append(self.out / file)
        assert findings.effects is not None  # they are found first
        record = findings.effects.record
        title = f"Function vector of {record['relation']} in {record['model']}"
        facts = {"timings, s": dict(self.timings), "peak memory, MB": _peak_memory()}
        write_report(self.out / REPORT, findings, title=title, summary=facts, command=self.job.command)
        _write_summary(self.out / SUMMARY, self.job.command, self.timings, findings)
        self.saved.extend(self.out / file for file in (REPORT, SUMMARY) if self.out / file not in self.saved)


def _write_summary(path: Path, command: str, timings: Mapping[str, float], findings: "Findings") -> None:
    from ...ground.storage import save_json

    effects, vector, tuned = findings.effects, findings.vector, findings.tuned
    assert effects is not None  # they are found first
    names = ("relation", "data_hash", "model", "n_shots", "n_mean_prompts", "seed", "split_seed", "versions")
    summary = {"command": command} | {name: effects.record[name] for name in names}
    summary |= {"n_prompts": len(effects.values), "share_right": effects.share_right}
    if vector:
        summary["vector"] = {name: getattr(vector, name) for name in ("layer", "strength", "heads", "method")}
    if findings.faithfulness:
        summary["faithfulness"] = {
            name: asdict(getattr(findings.faithfulness, name)) for name in ("by_heads", "by_sum")
        }
    if tuned is not None:
        summary["tuned"] = {name: getattr(tuned, name) for name in ("layer", "method", "training")}
    if findings.tuned_evaluation is not None:
        summary["tuned_scores"] = {name: asdict(row) for name, row in findings.tuned_evaluation.rows.items()}
    if findings.words is not None:
        summary["words"] = findings.words.to_dict("records")
    if findings.evaluation is not None:
        summary["scores"] = {name: asdict(row) for name, row in findings.evaluation.rows.items()}
    summary |= {"timings_s": timings, "peak_memory_mb": _peak_memory()}
    save_json(path, summary)


def _peak_memory() -> int | None:
    """The most host memory that the process has held, in MB, where the system counts it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    per_mb = 1024**2 if sys.platform == "darwin" else 1024  # macOS counts bytes, others kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // per_mb
