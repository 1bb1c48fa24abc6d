"""What all workers are doing, read from the folders that they share, and shown in one place."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .graph import Graph
from .ledger import Ledger, Try


@dataclass(frozen=True)
class State:
    """How far a study is.

    Args:
        done: names of the units that are done, or no part of the study, in order.
        total: how many there are.
        running: unit -> the try that is at it.
        failed: unit -> why, of those that have failed once or were given up.
        given_up: those that are not tried again.
        what: every unit -> what it is.
        share: of all the work, about, that is done.
    """

    done: list[str]
    total: int
    running: Mapping[str, Try]
    failed: Mapping[str, str]
    given_up: Collection[str]
    what: Mapping[str, str]
    share: float

    def failure(self, name: str) -> str:
        """Why a unit failed, and whether that is all."""
        return self.failed[name] + "; it will be tried again" * (name not in self.given_up)

    def called(self, name: str) -> str:
        """A unit by its name, and what it is."""
        return f"{name} ({self.what[name]})"


def state_of(graph: Graph[Any], ledger: Ledger) -> State:
    """What is on disk of a study."""
    left = graph.left()
    tries = {name: ledger.tries(name) for name in left}
    running = {name: of[-1] for name, of in tries.items() if of and of[-1].how == "running"}
    failed = {name: of[-1].why for name, of in tries.items() if of and of[-1].how == "failed"}
    done = [name for name in graph.units if name not in tries]
    work = {name: unit.work for name, unit in graph.units.items()}
    share = sum(work[name] for name in done) / (sum(work.values()) or 1.0)
    what = {name: unit.what for name, unit in graph.units.items()}
    return State(done, len(graph.units), running, failed, [*filter(ledger.is_given_up, failed)], what, share)


class Board:
    """The states of one or several studies: live in a terminal, elsewhere a line for each change; a context manager.

    Args:
        console: where they are shown.
        tell: called with a line for each change where the console is no terminal.
    """

    def __init__(self, console: Console, tell: Callable[[str], None]):
        self._tell, self._seen, self._began = tell, dict[str, State](), time.time()
        self._live = Live(console=console, refresh_per_second=2) if console.is_terminal else None

    def __enter__(self) -> "Board":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def show(self, states: Mapping[str, State], workers: Sequence[str] = ()) -> None:
        """Show the state of each study, by its label: "" where there is one; and workers that are at no unit."""
        if self._live:
            took = Text(f"{time.time() - self._began:.0f} s so far", style="dim")
            drawn = [_drawn(label, state) for label, state in states.items()]
            busy = {attempt.worker for state in states.values() for attempt in state.running.values()}
            idle = [Text(f"{name}  is at no unit: it loads a model, or waits") for name in workers if name not in busy]
            self._live.update(Group(*drawn, *idle, took))
        else:
            for label, state in states.items():
                self._print(label, state, self._seen.get(label))
        self._seen = dict(states)

    def _print(self, label: str, state: State, before: State | None) -> None:
        start = f"{label}: " if label else ""
        if before is None:
            self._tell(f"{start}{len(state.done)} of {state.total} units are done")
        else:
            for n, name in enumerate((x for x in state.done if x not in before.done), len(before.done) + 1):
                self._tell(f"{start}{n} of {state.total}, {state.share:.0%} of the work: {state.called(name)}")
        for name in state.failed:
            if before is None or name not in before.failed or before.failure(name) != state.failure(name):
                self._tell(f"{start}{state.called(name)} failed: {state.failure(name)}")


def _drawn(label: str, state: State) -> Table:
    table, now = Table.grid(padding=(0, 2, 0, 0)), time.time()
    head = f"{len(state.done)} of {state.total} units, {state.share:.0%} of the work"
    table.add_row(Text(f"{label}: {head}" if label else head, style="bold"))
    for name, attempt in state.running.items():
        table.add_row(Text(attempt.worker), Text(state.called(name)), Text(f"{now - attempt.started:.0f} s"))
    for name in state.failed:
        table.add_row(Text("failed", style="red"), Text(state.called(name)), Text(state.failure(name)))
    return table
