"""What may begin, what is blocked, what goes first; and workers that share a graph of toy units."""

import re
import threading
from io import StringIO

import pytest
import torch
from rich.console import Console

from fv_lens.ground.errors import InputError
from fv_lens.studies.jobs import worker as module
from fv_lens.studies.jobs.graph import Graph
from fv_lens.studies.jobs.ledger import Ledger
from fv_lens.studies.jobs.shards import Shard, owner
from fv_lens.studies.jobs.unfinished import Reason
from fv_lens.studies.jobs.unit import Unit, Whole, in_order
from fv_lens.studies.jobs.watch import Board, state_of
from fv_lens.studies.jobs.worker import work
from fv_lens.studies.stages import Stages

PLAN = {"model": "toy"}


def number(*needs: str, plus: float = 1.0):
    """A unit's result: the sum of those that it needs, and one more."""
    return lambda subject, kept: ({"x": sum((kept[name][0]["x"] for name in needs), torch.tensor(plus))}, {})


def unit(name: str, *needs: str, work: float = 1.0, **more) -> Unit:
    return Unit(name, f"Unit {name}", number(*needs), needs, work, **more)


def units() -> list:
    """A stage of two parts, a chain after it, one of no part, and one apart."""
    parts = [unit(f"parts/a-{i}") for i in range(2)]
    whole = Whole("a", "Stage a", parts, lambda of: ({"x": torch.stack([tensors["x"] for tensors, _ in of])}, {}))
    never = unit("never", "a", applies=lambda kept: False)
    b = Unit("b", "Unit b", lambda subject, kept: ({"x": kept["a"][0]["x"].sum()}, {}), ["a"], 3.0)
    return [whole, b, never, unit("d"), unit("c", "b", "d", work=2.0), unit("e", work=4.5)]


@pytest.fixture
def graph(tmp_path):
    return Graph(units(), Stages(tmp_path / "stages", PLAN))


def done(graph: Graph, *names: str) -> None:
    for name in names:
        graph.stages.run(name, lambda: ({"x": torch.ones(2)}, {}))


def test_what_may_begin_is_what_needs_nothing_more_and_the_longest_way_comes_first(graph):
    assert graph.ready(graph.left()) == ["parts/a-0", "parts/a-1", "e", "d"]  # ways of 6, 6, 4.5 and 3
    done(graph, "parts/a-0", "parts/a-1")
    assert graph.ready(graph.left())[:2] == ["a", "e"]
    done(graph, "a")
    for part in ("parts/a-0", "parts/a-1"):
        graph.stages._path(part).unlink()
    assert graph.left() == ["b", "d", "c", "e"], (
        "parts of a stage are done with it, and one that does not apply is done"
    )
    assert graph.ready(graph.left()) == ["b", "e", "d"]
    done(graph, "b", "c", "d", "e")
    assert graph.left() == []


def test_what_some_units_need_is_left_with_them(graph):
    assert graph.left(["d"]) == ["d"] and graph.left(["b"]) == ["parts/a-0", "parts/a-1", "a", "b"]
    done(graph, "a")
    assert graph.left(["c"]) == ["b", "d", "c"]


def test_what_rests_on_a_unit_that_is_given_up_is_blocked(graph):
    assert graph.blocked(graph.left(), ["parts/a-1"]) == dict.fromkeys(["a", "b", "never", "c"], "parts/a-1")
    assert graph.blocked(graph.left(), ["e"]) == {}


def test_workers_compute_each_unit_once_and_end_as_one_process(graph, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WAIT", 0.01)
    told: list[str] = []
    threads = [
        threading.Thread(
            target=work, args=(Graph(units(), Stages(tmp_path / "stages", PLAN)), None, ledger, told.append)
        )
        for ledger in (Ledger(tmp_path / "units", f"worker-{n}") for n in range(3))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert graph.left() == [] and sorted(line.split(" (")[0] for line in told if line.startswith("Unit")) == sorted(
        f"Unit {name}" for name in ("parts/a-0", "parts/a-1", "b", "c", "d", "e")
    )
    alone = Stages(tmp_path / "alone", PLAN)
    in_order(units(), None, alone, told.append)
    assert alone.finished == graph.stages.finished
    for name in alone.finished:
        assert alone._path(name).read_bytes() == graph.stages._path(name).read_bytes()


def test_a_unit_that_fails_is_tried_twice_and_what_does_not_rest_on_it_is_done(tmp_path):
    calls: list[str] = []

    def broken(subject, kept):
        calls.append("b")
        raise InputError("no room\nfor it")

    broken_units = [Unit("b", "Unit b", broken, ["a"]) if of.name == "b" else of for of in units()]
    graph = Graph(broken_units, Stages(tmp_path / "stages", PLAN))
    ledger, told = Ledger(tmp_path / "units", "worker-1"), []
    assert work(graph, None, ledger, told.append) == {"b": Reason("InputError: no room"), "c": Reason(needs="b")}
    assert calls == ["b", "b"] and graph.stages.finished == ["a", "d", "e"]
    state = state_of(graph, ledger)
    assert (len(state.done), state.total, dict(state.failed)) == (6, 8, {"b": "InputError: no room"})
    ledger.forget()
    once = [Unit("b", "Unit b", number("d"), ["a", "d"]) if of.name == "b" else of for of in units()]
    assert work(Graph(once, graph.stages), None, ledger, told.append) == {}


def test_a_worker_that_waits_says_for_what(tmp_path, monkeypatch):
    graph = Graph(units(), Stages(tmp_path / "stages", PLAN))
    one, other, told = Ledger(tmp_path / "units", "worker-1"), Ledger(tmp_path / "units", "worker-2"), []
    other.claim("e")

    def finish(seconds):
        graph.units["e"].run(graph.stages, graph.kept, None)
        other.end("e")

    monkeypatch.setattr(module.time, "sleep", finish)
    assert work(graph, None, one, told.append) == {}
    assert [line for line in told if line.startswith("Waits")] == ["Waits for e, which others are at"]


def test_shards_together_are_the_whole_and_each_computes_what_it_needs(tmp_path):
    names = list(Graph(units(), Stages(tmp_path / "none", PLAN)).units)
    shards = [Shard.parse(f"{i}/3") for i in range(3)]
    assert sorted(name for shard in shards for name in shard.own(names)) == sorted(names)
    assert all(owner(name, names, 3) == shard for shard in shards for name in shard.own(names))
    for shard in shards:
        graph = Graph(units(), Stages(tmp_path / shard.name, PLAN))
        assert work(graph, None, Ledger(tmp_path / shard.name, shard.name), lambda line: None, shard.own(names)) == {}
        assert graph.left(shard.own(names)) == [] and graph.left()


class Plain:
    is_terminal = False


def test_in_a_terminal_what_runs_and_what_failed_is_shown_as_it_changes(graph, tmp_path):
    console = Console(file=StringIO(), force_terminal=True, width=80)
    ledger = Ledger(tmp_path / "units", "worker-1")
    ledger.claim("d")
    ledger.claim("b")
    ledger.end("b", "no room")
    with Board(console, lambda line: pytest.fail(line)) as board:
        board.show({"llama": state_of(graph, ledger)}, ["worker-1", "worker-2"])
    shown = console.file.getvalue()
    assert "llama: 0 of 8 units, 0% of the work" in shown and re.search(r"worker-1\s+d \(Unit d\)\s+\d+ s", shown)
    assert re.search(r"failed\s*\x1b\[0m\s+b \(Unit b\)\s+no room; it will be tried again", shown)
    assert "worker-2  is at no unit: it loads a model, or waits" in shown and shown.count("at no unit") == 1


def test_elsewhere_than_in_a_terminal_each_change_is_a_line(graph, tmp_path):
    told: list[str] = []
    ledger = Ledger(tmp_path / "units", "worker-1")
    with Board(Plain(), told.append) as board:
        board.show({"": state_of(graph, ledger)})
        done(graph, "d", "e")
        ledger.claim("b")
        ledger.end("b", "error")
        for _ in range(2):
            board.show({"": state_of(graph, ledger)})
    assert told == [
        "0 of 8 units are done", "1 of 8, 41% of the work: d (Unit d)", "2 of 8, 41% of the work: e (Unit e)",
        "b (Unit b) failed: error; it will be tried again",
    ]  # fmt: skip
