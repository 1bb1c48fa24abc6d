"""Progress is a bar where one can be drawn, and elsewhere one line for each piece of work."""

import io
import re
import sys

import pytest
from tqdm import tqdm

from fv_lens.ground.progress import no_progress, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


Notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})


def work(steps: int = 50) -> None:
    with progress_bar(total=steps, desc="head maps", unit="prompt") as bar:
        for _ in range(steps):
            bar.update(1)


def test_a_log_gets_one_line_for_many_steps(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    work()
    assert re.fullmatch(r"head maps: 50 of 50, \d+\.\d s\n", log.getvalue())


def test_a_log_gets_one_line_for_a_list(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert list(progress_bar([3, 4, 5], desc="relations", unit="relation")) == [3, 4, 5]
    assert re.fullmatch(r"relations: 3 of 3, \d+\.\d s\n", log.getvalue())


def test_a_log_gets_nothing_of_what_an_error_ended(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with pytest.raises(KeyError), progress_bar(total=3, desc="relations", unit="relation") as bar:
        bar.update(1)
        raise KeyError
    with pytest.raises(KeyError):
        for _ in progress_bar([3, 4, 5], desc="relations", unit="relation"):
            raise KeyError
    assert log.getvalue() == ""


@pytest.mark.parametrize("stream", [Terminal, Notebook])
def test_terminals_and_notebooks_have_bars(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    with progress_bar(total=3, desc="relations", unit="relation") as bar:
        assert isinstance(bar, tqdm)
    assert "relations:   0%|" in sys.stderr.getvalue()


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_no_progress_is_shown_where_none_is_wanted(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    with no_progress(), progress_bar(total=3, desc="relations", unit="relation") as bar:
        bar.update(3)
    with no_progress():
        assert list(progress_bar([3, 4], desc="relations", unit="relation")) == [3, 4]
    assert sys.stderr.getvalue() == ""


def test_without_standard_error_the_work_is_done(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    work()
    assert list(progress_bar([3, 4], desc="relations", unit="relation")) == [3, 4]
