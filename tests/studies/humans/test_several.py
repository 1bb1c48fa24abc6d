"""`humans --models`: each model in a folder of its own, and one table, summary and page of all, however it ended."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fv_lens.evaluation.pooled import OVER_MODELS, POOLED, both_scores
from fv_lens.evaluation.pooled_rho import pooled_rho
from fv_lens.evaluation.rank_correlation import matrices_error
from fv_lens.ground.errors import InputError
from fv_lens.ground.scores import Score
from fv_lens.models import load
from fv_lens.studies.humans import several, study
from fv_lens.studies.humans.steps import CROSSED, KINDS, RELATIONS, TYPICALITY, human_vectors
from fv_lens.studies.results import read_table

from ... import tiny
from .. import commands
from ..commands import files, interrupted
from ..pages import Page, downloads, rows_of
from .made import HEADS, made_ratings
from .made import RELATIONS as RATED

call = partial(commands.call, "humans")
MODELS = {"org/one": "llama", "two": "gpt2"}
LEFT = ["by_relation.csv", "report.html", "results.csv", "stages", "summary.json"]


@pytest.fixture(scope="module")
def loaded():
    return {name: tiny.build(kind) for name, kind in MODELS.items()}


@pytest.fixture(scope="module")
def vectors_of(loaded):
    """The vectors of each model, after one step; the first has no summed ones."""
    every = {name: human_vectors(model, RATED, 1, HEADS, steps=1) for name, model in loaded.items()}
    return {name: {kind: of for kind, of in every[name].items() if kind != "FV" or name == "two"} for name in loaded}


@pytest.fixture
def here(tmp_path, monkeypatch, loaded, vectors_of):
    """A working directory; the names of the models whose vectors are made."""
    monkeypatch.chdir(tmp_path)
    made = []

    def load_model(name, **options):
        if name not in loaded:
            raise InputError(f"there is no model {name!r}; check its name")
        return loaded[name]

    def vectors(model, *args, **more):
        made.append(next(name for name, other in loaded.items() if other is model))
        return vectors_of[made[-1]]

    monkeypatch.setattr(load, "load_model", load_model)
    monkeypatch.setattr(study, "human_vectors", vectors)
    monkeypatch.setattr("fv_lens.datasets.semeval.load_semeval", lambda folder: RATED)
    monkeypatch.setattr("fv_lens.datasets.ratings.load_ratings", lambda folder: made_ratings())
    return made


@pytest.fixture
def without_pages(monkeypatch):
    for place, name in ((study, "write_human_report"), (several, "write_page_of_models")):
        monkeypatch.setattr(place, name, lambda path, *args, **more: path.write_text(""))


def given(models: str = "org/one,two", out: str = "out") -> list:
    return ["semeval", "--models", models, "--out", out]


def results(out: str, part: str = "") -> bytes:
    return (Path(out) / part / "results.csv").read_bytes()


def table(folder: str, columns=study.COLUMNS, file: str = "results.csv") -> pd.DataFrame:
    return read_table(Path(folder) / file, list(columns))


def line(frame, measure, vectors):
    found = frame[(frame.measure == measure) & (frame.vectors == vectors)]
    assert len(found) <= 1
    return found.iloc[0] if len(found) else None


@pytest.mark.slow
def test_every_model_has_the_folder_that_it_would_have_alone_and_all_have_one_table_summary_and_page(here):
    result = call(*given())
    assert result.exit_code == 0, result.output
    assert files(Path("out")) == sorted(["one", "two", "report.html", "results.csv", "summary.json"])
    assert files(Path("out/one")) == files(Path("out/two")) == LEFT
    assert call("semeval", "--model", "two", "--out", "alone").exit_code == 0
    assert results("alone") == results("out", "two")

    frame = table("out")
    assert list(dict.fromkeys(frame.model)) == ["one", "two", POOLED, OVER_MODELS]
    single = {name: table(f"out/{name}") for name in ("one", "two")}
    parts = {
        name: table(f"out/{name}", ("measure", "vectors", "relation", "what", "value"), "by_relation.csv")
        for name in single
    }
    for name, own in single.items():
        of_model = frame[frame.model == name].drop(columns=["model", "models"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(of_model, own)
    pooled, over = (frame[frame.model == name] for name in (POOLED, OVER_MODELS))
    for measure in (RELATIONS, CROSSED):
        rhos = np.array([line(own, measure, "FFV").value for own in single.values()])
        without = np.array([
            part[(part.measure == measure) & (part.vectors == "FFV")].value.tolist() for part in parts.values()
        ])  # fmt: skip
        assert without.shape == (2, len(RATED))
        for own, score in zip((pooled, over), pooled_rho(rhos, without, 10, matrices_error)):
            found = line(own, measure, "FFV")
            np.testing.assert_allclose([found.value, found.low, found.high], [score.value, *score.ends], rtol=1e-4)
            assert found.models == 2 and np.isnan(found.p)
    own = np.array([part[(part.measure == TYPICALITY) & (part.vectors == "FFV")].value for part in parts.values()])
    score, _ = both_scores(own, list(RATED), several.WITHIN)
    found = line(pooled, TYPICALITY, "FFV")
    np.testing.assert_allclose([found.value, found.low, found.high], [score.value, *score.ends], rtol=1e-4)
    for vectors in ("FV", "FFV - FV"):
        found, alone = line(pooled, RELATIONS, vectors), line(single["two"], RELATIONS, vectors)
        assert found.models == 1 and line(single["one"], RELATIONS, vectors) is None
        np.testing.assert_allclose(
            [found.value, found.low, found.high, found.n], [alone.value, alone.low, alone.high, alone.n], rtol=1e-4
        )

    text = Path("out/report.html").read_text(encoding="utf-8")
    page = Page(text).text
    assert "Vectors of 2 models against people" in page and "What is missing" in page and "two/report.html" in page
    assert len(downloads(text)["results.csv"]) == len(frame)
    shown = dict(rows_of(text, "Agreement: relations"))
    assert list(shown) == ["FFV", "mean difference", "FV"] and shown["FV"][0] == "none"
    assert shown["FFV"][2] == str(Score.of(line(pooled, RELATIONS, "FFV")))
    printed = re.sub(" +", " ", result.stdout)
    one, two = (line(of, RELATIONS, "FFV").value for of in single.values())
    assert f"relations FFV {one:.2f} {two:.2f} {Score.of(line(pooled, RELATIONS, 'FFV'))}" in printed
    markdown = commands.call("table", "out").stdout
    assert commands.cells(markdown, "relations")["FFV"][:3] == shown["FFV"][:3]
    assert "- one lacks FV" in markdown


@pytest.mark.slow
def test_a_single_model_together_is_the_model_in_every_measure(here, without_pages):
    assert call(*given("two")).exit_code == 0
    frame = table("out")
    own, pooled = frame[frame.model == "two"], frame[frame.model == POOLED]
    assert len(own) == len(pooled) > 20 and {*KINDS, "FFV - FV", "no vector"} <= set(own.vectors)
    for x in own.itertuples():
        found = line(pooled, x.measure, x.vectors)
        np.testing.assert_allclose([found.value, found.low, found.high], [x.value, x.low, x.high], atol=2e-4)
        assert found.n == x.n
    assert frame[frame.model == OVER_MODELS].low.isna().all()


@pytest.mark.slow
def test_a_study_stopped_in_each_model_and_behind_both_ends_as_one_that_was_not(here, monkeypatch, without_pages):
    assert call(*given(out="whole")).exit_code == 0
    here.clear()
    for place, name, after in ((study, "human_vectors", 0), (study, "compare", 1), (several, "pooled", 0)):
        with monkeypatch.context() as patched:
            step = iter([getattr(place, name)] * after + [interrupted])
            patched.setattr(place, name, lambda *args, step=step, **more: next(step)(*args, **more))
            result = call(*given())
        assert result.exit_code == 130 and not Path("out/results.csv").exists()
    done = f"{Path('out') / 'one'}, {Path('out') / 'two'}"
    assert f"Saved before that: {done}. The same command goes on from there." in result.stderr
    result = call(*given())
    assert result.exit_code == 0 and result.stderr.count("its study was finished before") == 2
    assert here == ["org/one", "two"], "the vectors of each were made once"
    for part in ("", "one", "two"):
        assert results("out", part) == results("whole", part)


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_a_named_gap_and_other_models_are_refused(here, without_pages):
    result = call(*given("nowhere,two"))
    assert result.exit_code == 0 and "nowhere is left out: there is no model 'nowhere'" in result.stderr
    assert set(table("out").model) == {"two", POOLED, OVER_MODELS}
    for change in (["--models", "org/one"], ["--seed", 1], ["--dtype", "bfloat16"]):
        refused = call(*given("nowhere,two"), *change)
        assert refused.exit_code == 2 and "holds another run. What differs: " in refused.stderr


def test_the_layer_and_heads_are_those_of_each_model_in_a_study(here, monkeypatch, model, vectors):
    for name, layer in (("one", 1), ("two", 0)):
        folder = Path("study") / name / "vectors"
        folder.mkdir(parents=True)
        fv = vectors["FFV"]["all"]["1a"]
        type(fv).of_parts(fv.vector, fv.record | {"layer": layer}).save(folder / "a.safetensors")
    places = []
    monkeypatch.setattr(several, "study", lambda model, relations, ratings, layer, *rest: places.append(layer))
    result = call(*given("org/one,two"), "--vectors", "study")
    assert places == [1, 0] and result.exit_code == 2, "nothing was written, so there is nothing to show"
    result = call(*given("org/one", out="other"), "--vectors", "elsewhere")
    assert result.exit_code == 2 and "'elsewhere' has no vectors of 'org/one'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "a,b,a"], "--models names 'a' twice; name each model once"),
        (["--dtype", "float8"], "--dtype is 'float8'; give one of float32, bfloat16, float16"),
        (["--model", "gpt2", "--models", "a"], "--model is 'gpt2' and --models 'a'; give one of them"),
    ],
    ids=str,
)
def test_bad_input_is_told_before_a_model_is_loaded(here, no_model, arguments, message):
    result = call("semeval", *arguments)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1
