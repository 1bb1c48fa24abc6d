"""Results of lm-evaluation-harness as scores with intervals, and the gains between two runs of the same tasks.

Intervals: Wilson's for shares of documents, over whole documents for perplexities, and for all else the harness's own
standard error, 1.96 of it on either side.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ...ground import scores
from ...ground.scores import Score

# Metrics that are made of log-probabilities, of a whole document or of one with its number of words or bytes.
LOGARITHMIC: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "perplexity": lambda mean: np.exp(-mean),
    "word_perplexity": lambda mean: np.exp(-mean),
    "byte_perplexity": lambda mean: np.exp(-mean),
    "bits_per_byte": lambda mean: -mean / math.log(2),
}
Results = Mapping[str, Any]  # what `simple_evaluate` returns, samples included


class TaskMetric(NamedTuple):
    """A metric of a task, after a filter of the harness, whose name for none at all is "none"."""

    task: str
    name: str
    filter: str


def task_scores(results: Results) -> dict[TaskMetric, Score]:
    """Every metric of every task and group, in the harness's order."""
    return {
        metric: _score(
            metric.name, value, _stderr(results, metric), _values(results, metric),
            results["results"][metric.task].get("sample_len", 0),
        )
        for metric, value in _metrics(results)
    }  # fmt: skip


def task_gains(results: Results, without: Results) -> dict[TaskMetric, Score]:
    """Gain of each metric over another run of the same documents, where it is a mean over them.

    A perplexity has none: its two values stand side by side.
    """
    gains = {}
    for metric, _ in _metrics(results):
        values, others = _values(results, metric), _values(without, metric)
        in_pairs = values.ndim == others.ndim == 1 and len(values) == len(others) > 0
        if in_pairs and metric.name not in LOGARITHMIC:
            shares = _are_shares(values) and _are_shares(others)
            gains[metric] = (scores.gain if shares else scores.paired_difference)(values, others)
    return gains


def _metrics(results: Results) -> Iterator[tuple[TaskMetric, float]]:
    for task, entries in results["results"].items():
        for key, value in entries.items():
            name, separator, filter_name = key.partition(",")
            if separator and not name.endswith("_stderr") and isinstance(value, int | float):
                yield TaskMetric(task, name, filter_name), float(value)


def _stderr(results: Results, metric: TaskMetric) -> float:
    """The harness's standard error; NaN where it has none."""
    value = results["results"][metric.task].get(f"{metric.name}_stderr,{metric.filter}")
    return float(value) if isinstance(value, int | float) else math.nan


def _values(results: Results, metric: TaskMetric) -> np.ndarray:
    """The metric of each document, `[document]` or `[document, 2]`; empty where the harness kept none."""
    samples = results.get("samples", {}).get(metric.task, ())
    values = [sample[metric.name] for sample in samples if sample["filter"] == metric.filter]
    try:
        return np.array(values, dtype=float)
    except (TypeError, ValueError):  # lists of words and the like
        return np.empty(0)


def _score(metric: str, value: float, stderr: float, values: np.ndarray, n: int) -> Score:
    if metric in LOGARITHMIC and len(values):
        score = _of_log_probs(LOGARITHMIC[metric], values)
    elif values.ndim == 1 and len(values) and _are_shares(values):
        score = scores.proportion(values)
    else:
        score = Score(value, math.nan, math.nan, n)
    if score.known and math.isclose(score.value, value, rel_tol=1e-6, abs_tol=1e-9):
        return score
    half = 1.96 * stderr if stderr > 0 else math.inf  # a standard error of 0 says that all documents were alike
    return Score(value, value - half, value + half, n)


def _of_log_probs(falling: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> Score:
    """A function of the mean log-probability of a document, or of a word or byte of the documents."""
    parts = values if values.ndim == 2 else np.stack([values, np.ones(len(values))], 1)
    log_probs, sizes = parts[:, 0], parts[:, 1].astype(int)
    each = np.repeat(log_probs / sizes.clip(1), sizes)
    mean = scores.clustered_mean(each, np.repeat(np.arange(len(sizes)), sizes))
    with np.errstate(over="ignore"):  # where there is no interval
        value, low, high = falling(np.minimum([mean.value, mean.high, mean.low], 0.0)).tolist()
    return Score(value, low, high, len(sizes))


def _are_shares(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0, 1)).all())
