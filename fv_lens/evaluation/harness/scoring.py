"""Scores of continuations in batches, in the order of their requests."""

import logging
from collections.abc import Callable, Sequence

from ...engine.edits import WhatIf
from ...engine.sequences import continuation_scores, runs_alone
from ...ground.errors import InputError
from ...models.lens import Lens

# The texts if the harness keeps the result, tokens of the context, tokens of the continuation.
Encoded = tuple[tuple[str, str] | None, list[int], list[int]]
Mark = Callable[[int, int], slice]  # (tokens of a row, tokens of its targets) -> those of the row with the vectors

log = logging.getLogger("fv_lens")


def request_scores(
    lens: Lens,
    requests: Sequence[Encoded],
    edits: WhatIf,
    mark: Mark,
    max_length: int,
    batch_size: int,
    report: Callable[[int, tuple[float, bool]], None],
) -> list[tuple[float, bool]]:
    """Log-probability of each continuation, and whether it is what greedy decoding writes.

    Requests that read the same tokens behind contexts of one length share a forward: choices of one token. Contexts of
    different length do not, even then, as the vectors stand elsewhere.

    Args:
        max_length: the most tokens of a forward; contexts lose their first tokens where there would be more.
        report: is called with each request's index and score.

    Raises:
        InputError: a continuation without tokens, or of more than `max_length`.
    """
    for texts, _, behind in requests:
        if not 1 <= len(behind) <= max_length:
            what = "A text's window" if texts is None else f"The continuation {texts[1][:60]!r}"
            raise InputError(
                f"{what} has {len(behind)} tokens behind its context; give 1 to {max_length} (max_length)."
            )
    warn_of_long([len(before) + len(behind) - 1 for _, before, behind in requests], max_length)
    by_tokens: dict[tuple[int, ...], list[int]] = {}
    for i, (_, before, behind) in enumerate(requests):
        by_tokens.setdefault((len(before), *before, *behind[:-1]), []).append(i)
    groups = [by_tokens[key] for key in sorted(by_tokens, key=len, reverse=True)]
    rows = [_row(*requests[group[0]][1:], max_length) for group in groups]
    size = 1 if rows and runs_alone(lens, rows) else batch_size
    results: dict[int, tuple[float, bool]] = {}
    for start in range(0, len(groups), size):
        batch, batch_groups = rows[start : start + size], groups[start : start + size]
        targets = [[requests[i][2] for i in group] for group in batch_groups]
        marks = [mark(len(row), len(of_row[0])) for row, of_row in zip(batch, targets)]
        for group, scores in zip(batch_groups, continuation_scores(lens, batch, targets, edits, marks)):
            for i, score in zip(group, scores):
                results[i] = score
                report(i, score)
    return [results[i] for i in range(len(requests))]


def _row(before: list[int], behind: list[int], max_length: int) -> list[int]:
    """The tokens of a forward: those of a continuation but the last, and as many of the context as fit before."""
    return (before + behind)[-(max_length + 1) : -1]


def warn_of_long(lengths: Sequence[int], most: int) -> None:
    """Warn if some requests have more than `most` tokens."""
    if n := sum(length > most for length in lengths):
        log.warning("%d of %d requests are longer than %d tokens and lose their first ones.", n, len(lengths), most)
