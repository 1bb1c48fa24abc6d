"""Which tests run: the quick ones alone, all with `--all`, and those that are named."""

import pytest

from .conftest import SLOWER

pytest_plugins = ["pytester"]

SAMPLE = """
import os
import pytest

@pytest.fixture
def default_model():
    pass

@pytest.mark.slow(but=1)
@pytest.mark.parametrize("name", ["a", pytest.param("b", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", range(2))
def test_cases(case, name):
    pass

@pytest.mark.slow
def test_slow():
    assert "FAIL" not in os.environ

@pytest.mark.browser
def test_page():
    pass

def test_loads(default_model):
    pass

def test_quick():
    pass
"""


@pytest.fixture
def run(pytester):
    """Runs the sample; gives how many tests passed and were left out."""
    pytester.makeconftest(
        "from tests.conftest import pytest_addoption, pytest_collection_modifyitems, pytest_terminal_summary"
    )
    pytester.makeini("\n".join(["[pytest]", "addopts = --strict-markers", "markers =", *(f" {x}" for x in SLOWER)]))
    pytester.makepyfile(test_sample=SAMPLE)

    def run(*arguments):
        done = pytester.runpytest_inprocess(*arguments)
        counts = done.parseoutcomes()
        return counts.get("passed", 0), counts.get("deselected", 0), done.stdout.str()

    return run


def test_the_quick_ones_run_alone_and_how_many_wait_is_said(run):
    """Of `slow(but=1)` the first case that is quick by its other marks runs."""
    passed, left_out, text = run()
    assert (passed, left_out) == (2, 6) and "6 slower tests were left out: pytest --all runs everything." in text


def test_all_run_with_all(run):
    passed, left_out, text = run("--all")
    assert (passed, left_out) == (8, 0) and "left out" not in text


def test_the_others_run_with_slower(run):
    passed, left_out, text = run("--slower")
    assert (passed, left_out) == (6, 2) and "slower tests were left out" not in text


@pytest.mark.parametrize(
    "named, n",
    [("test_sample.py::test_slow", 1), ("test_sample.py::test_cases", 4), ("test_sample.py::test_cases[1-b]", 1)],
)
def test_what_is_named_runs(run, named, n):
    assert run(named)[0] == n


@pytest.mark.parametrize("mark, n", [("slow", 5), ("browser", 1), ("default_model", 1), ("not slow", 3)])
def test_what_is_asked_for_by_its_mark_runs(run, mark, n):
    assert run("-m", mark)[0] == n


def test_what_failed_runs_again(run, monkeypatch):
    monkeypatch.setenv("FAIL", "1")
    assert run("--all")[0] == 7
    monkeypatch.delenv("FAIL")
    assert run("--last-failed")[0] == 1
