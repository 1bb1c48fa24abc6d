"""A run of vectors against people: what it leaves, how it goes on, and where its vectors act."""

import pandas as pd
import pytest

from fv_lens.ground.errors import InputError
from fv_lens.studies.folders import LOCK, MARKER, OutputFolder
from fv_lens.studies.humans import study as module
from fv_lens.studies.humans.steps import human_vectors
from fv_lens.studies.humans.study import place, study
from fv_lens.studies.job import Job

from ..pages import Page
from .made import HEADS, RELATIONS, made_ratings


@pytest.mark.slow
def test_a_run_leaves_numbers_and_figures_and_goes_on(model, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        module, "human_vectors", lambda *args, **how: made.append(1) or human_vectors(*args, **how, steps=2)
    )

    def run(layer):
        with OutputFolder(tmp_path, "humans") as folder:
            given = (RELATIONS, made_ratings(), layer, HEADS, Job(folder, "fv-lens humans", lambda line: None))
            return study(model, *given)

    first = run(1)
    left = {path.name for path in tmp_path.iterdir()} - {LOCK, MARKER}
    assert left == {"report.html", "results.csv", "by_relation.csv", "summary.json", "stages"}
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    drawn = [parts["id"] for _, parts in page.tags if parts.get("class") == "plotly-graph-div"]
    assert drawn == ["similarity", "map"] and "Download people.csv" in page.text
    for line in first[first.measure == "typicality, cross-fitted"].itertuples():
        assert f"{line.vectors} {line.value:.2f} [{line.low:.2f}, {line.high:.2f}]" in page.text
    again = run(1)
    assert made == [1]
    pd.testing.assert_frame_equal(first, again)
    assert {"FFV", "FV", "mean difference", "FFV - FV", "no vector"} <= set(first.vectors)
    with pytest.raises(InputError, match="holds another run. What differs: layer: 1 there, 2 here"):
        run(2)


def test_place_without_vectors_is_the_middle_of_the_grid(model, tmp_path, vectors):
    layer, heads = place(model, tmp_path)
    assert 0 <= layer < 3 and heads is None
    vectors["FFV"]["all"]["1a"].save(tmp_path / "a.safetensors")
    (tmp_path / "summed").mkdir()
    vectors["FV"]["all"]["1a"].save(tmp_path / "summed" / "a.safetensors")
    assert place(model, tmp_path) == (1, HEADS)
