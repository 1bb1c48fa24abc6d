"""The error of a study of which units are left: which failed, why, and which wait for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Reason(NamedTuple):
    """Why a unit is left: its own `error`, or the failed unit that it `needs`; neither where nobody has begun it."""

    error: str = ""
    needs: str = ""


class UnfinishedError(Exception):
    """Units of a study are left; what was finished is kept, and the same command goes on.

    Args:
        left: where ("" for the only study) -> unit -> why it is left.
        ends: how workers ended that did not run to their end.
        logs: the folder of their logs.
    """

    def __init__(self, left: Mapping[str, Mapping[str, Reason]], ends: Mapping[str, str], logs: Path):
        super().__init__("\n".join(_lines(left, ends, logs)))


def _lines(left: Mapping[str, Mapping[str, Reason]], ends: Mapping[str, str], logs: Path) -> list[str]:
    lines = []
    for where, reasons in left.items():
        start = f"{where}: " if where else ""
        resting = [name for name, why in reasons.items() if why.needs and not why.error]
        waiting = [name for name, why in reasons.items() if why == Reason()]
        lines += [f"{start}{name} failed: {why.error}" for name, why in reasons.items() if why.error]
        if resting:
            lines.append(f"{start}not run, because they need a unit that failed: {', '.join(resting)}")
        if waiting:
            lines.append(f"{start}not run: {', '.join(waiting)}")
    lines += [f"{name}: {how}" for name, how in ends.items()]
    return [*lines, f"What is finished is kept, and the same command goes on. Logs: {logs}"]
