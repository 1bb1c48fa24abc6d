"""What `fv-lens reproduce --dry-run` says of a study, beside what the study took.

    python -m tests.benchmarks.estimate FOLDER [--model NAME] [--relations a,b]

FOLDER is that of a finished `fv-lens reproduce` of bundled relations; of one that still runs, the stages so far count.
The machine should be as idle as it was then, with as many threads. "checks" are not a stage of the folder's. `--model`
is for a folder whose model had a path.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from fv_lens.datasets.relation_files import load_relation
from fv_lens.studies.reproduce.dry_run.estimate import Estimate, estimate
from fv_lens.studies.reproduce.setup import Settings
from fv_lens.studies.stages import TIMINGS


def known(folder: Path, model: str | None, relations: str | None) -> tuple[dict[str, float], dict]:
    """Seconds of each stage, and what to estimate."""
    summary = folder / "summary.json"
    if summary.is_file():
        found = json.loads(summary.read_text(encoding="utf-8"))
        timings, plan = found["timings_s"], found
        settings = {key: tuple(x) if isinstance(x, list) else x for key, x in plan["settings"].items()}
    else:
        timings, plan = json.loads((folder / "stages" / TIMINGS).read_text(encoding="utf-8")), {}
        settings = {}
    names = relations.split(",") if relations else list(plan["relations"])
    return timings, {
        "model_name": model or plan["model"], "relations": [load_relation(name) for name in names],
        "settings": Settings(**settings), "dtype": plan.get("dtype", "float32").removeprefix("torch."),
    }  # fmt: skip


def table(estimated: Estimate, took: dict[str, float]) -> list[str]:
    """A line for each stage that is in both, and their sum."""
    said = {name: float(estimated.stage_seconds[name]) for name in estimated.stages if name in took}
    lines = [f"{'stage':<26} {'said, s':>9} {'took, s':>9} {'said/took':>10}"]
    for name, seconds in said.items():
        lines.append(f"{name:<26} {seconds:>9.1f} {took[name]:>9.1f} {seconds / max(took[name], 0.1):>10.2f}")
    all_said, all_took = sum(said.values()), sum(took[name] for name in said)
    lines.append(f"{'all':<26} {all_said:>9.1f} {all_took:>9.1f} {all_said / all_took:>10.2f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--relations")
    given = parser.parse_args()
    took, what = known(given.folder, given.model, given.relations)
    started = time.perf_counter()
    estimated = estimate(**what)
    seconds = time.perf_counter() - started
    rates = ", ".join(f"{kind} {rate / 1e9:.3g}" for kind, rate in estimated.rates.of.items())
    print(f"{estimated.model}, {torch.get_num_threads()} threads; the estimate itself took {seconds:.1f} s")
    print(f"GFLOP/s, {estimated.rates.source}: {rates}")
    print("\n".join(table(estimated, took)))
    print(f"checks, which no stage counts: {estimated.stage_seconds['checks']:.1f} s")


if __name__ == "__main__":
    main()
