"""Types and shapes are checked while the suite runs: jaxtyping wraps fv_lens before it is imported. With
`JAXTYPING_DISABLE=1` in the environment it does not, which saves a fifth of the time or more.

`typechecker` says what is checked when, so that tests of bad input need no mark of their own.

Tests come in tiers. `pytest` alone leaves out what carries a mark of `SLOWER`, and `pytest --all` runs everything.
What is named (`file.py::test`), asked for by mark (`-m slow`) or failed last time (`--last-failed`) runs as well.
"""

import gc
import os
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
gc.disable()  # until all is imported and collected, of which nothing becomes garbage

import jaxtyping  # noqa: E402

from . import typechecker  # noqa: E402, F401

if not jaxtyping.config.jaxtyping_disable:
    jaxtyping.install_import_hook("fv_lens", "tests.typechecker.checked")

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from . import tiny  # noqa: E402

SLOWER = ("slow", "browser", "default_model", "real_model")  # what each stands for: pyproject.toml

# A busy machine is slow, and no failure.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

torch.set_num_threads(1)  # the models are tiny, and waiting for a second thread takes longer than the work


def pytest_addoption(parser):
    parser.addoption(
        "--all", action="store_true", dest="all_tiers", help=f"run every test, also those marked {', '.join(SLOWER)}"
    )
    parser.addoption("--slower", action="store_true", help="run only what is left out without --all")


@pytest.hookimpl(tryfirst=True)  # before `-m` reads the marks
def pytest_collection_modifyitems(config, items):
    for item in items:
        if "default_model" in item.fixturenames:
            item.add_marker("default_model")
        if "gemma" in item.fixturenames:
            item.add_marker("real_model")
    if config.option.all_tiers or config.option.markexpr:
        return
    kept: Counter = Counter()
    slower = [item for item in items if waits(item, kept)]
    if config.option.slower:
        waiting = set(slower)
        left_out = [item for item in items if item not in waiting]
    else:
        failed = config.cache.get("cache/lastfailed", {}) if config.getoption("lf", False) else {}
        left_out = [item for item in slower if item.nodeid not in failed and not named(item)]
        config.stash[LEFT_OUT] = len(left_out)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        apart = set(left_out)
        items[:] = [item for item in items if item not in apart]


LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def waits(item, kept: Counter) -> bool:
    """Whether a test waits for `pytest --all`; of one marked `slow(but=n)` the first n cases do not."""
    slow = list(item.iter_markers("slow"))
    but = [mark.kwargs["but"] for mark in slow if mark.kwargs]
    if any(map(item.get_closest_marker, SLOWER[1:])) or len(slow) > len(but):
        return True
    kept[item.path, item.originalname] += 1
    return bool(but) and kept[item.path, item.originalname] > min(but)


def named(item) -> bool:
    """Whether the command line names this test, or a class or function that it belongs to."""
    for argument in item.config.args:
        file, separator, name = str(argument).partition("::")
        if separator and Path(item.config.invocation_params.dir, file).resolve() == item.path.resolve():
            own = item.nodeid.partition("::")[2]
            if own == name or own.startswith((f"{name}[", f"{name}::")):
                return True
    return False


def pytest_terminal_summary(terminalreporter, config):
    if n := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"{n} slower tests were left out: pytest --all runs everything.")


@pytest.fixture(scope="session", params=tiny.params())
def model(request):
    """Every architecture, one after the other."""
    return tiny.build(request.param)


@pytest.fixture(scope="session")
def llama():
    return tiny.build("llama")


@pytest.fixture(scope="session")
def words():
    """A relation over the tiny tokenizer's words: w0 -> w1, w2 -> w3, ..."""
    from fv_lens.datasets.relations import Relation

    return Relation("successor", [(f"w{i}", f"w{i + 1}") for i in range(0, 80, 2)])


@pytest.fixture(scope="session")
def default_model():
    from fv_lens.models.load import load_model

    return load_model()


@pytest.fixture(scope="session")
def gemma():
    """A real model with post-norm blocks, which rescale what heads write."""
    from fv_lens.models.load import load_model

    return load_model("gemma-3-270m")
