"""`analogies --models`: each model in a folder of its own, and one table, summary and page of all, however it ended."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fv_lens.datasets import question_files
from fv_lens.evaluation.pooled import OVER_MODELS, POOLED
from fv_lens.ground.errors import InputError, ParityError
from fv_lens.ground.markdown import score_text
from fv_lens.ground.scores import Score
from fv_lens.models import load
from fv_lens.studies.analogies import library, several, several_page, study
from fv_lens.studies.analogies.several import NO_SUMS, gaps_of
from fv_lens.studies.folders import MARKER
from fv_lens.studies.results import read_table
from fv_lens.vectors.library import Library

from ...analogies.made import TRAIN, vectors_of
from .. import commands
from ..commands import files, interrupted
from ..pages import Page, downloads, figures, rows_of
from ..small import studied
from .made import CHOOSE_ON, FILES, asked, summary, summed_of

pytestmark = pytest.mark.usefixtures("fits")

call = partial(commands.call, "analogies")
KINDS = {"org/one": "llama", "two": "gpt2"}


@pytest.fixture(scope="module")
def loaded():
    return {name: studied(kind) for name, kind in KINDS.items()}


@pytest.fixture
def here(tmp_path, monkeypatch, loaded):
    """A working directory with a study of both models, of which the second alone has summed vectors."""
    monkeypatch.chdir(tmp_path)

    def load_model(name, **options):
        if name not in loaded:
            raise InputError(f"there is no model {name!r}; check its name")
        return loaded[name]

    monkeypatch.setattr(load, "load_model", load_model)
    questions, read = [*TRAIN, *CHOOSE_ON], question_files.load_questions
    monkeypatch.setattr(question_files, "load_questions", lambda path=None: questions if path is None else read(path))
    for folder, name in (("one", "org/one"), ("other-name", "two")):
        (Path("study") / folder / "vectors" / "summed").mkdir(parents=True)
        for relation, fv in vectors_of(loaded[name]).items():
            fv.save(Path("study") / folder / "vectors" / f"{relation}.safetensors")
            if name == "two":
                summed = summed_of(loaded[name])[relation]
                summed.save(Path("study") / folder / "vectors" / "summed" / f"{relation}.safetensors")
    (Path("study") / "one" / "vectors" / "summed").rmdir()
    plan = {"models": {"one": "org/one", "other-name": "two"}}
    (Path("study") / MARKER).write_text(json.dumps({"command": "reproduce", "plan": plan}))
    lines = [
        {"source": q.source, "target": q.target, "answers": q.answers, "relation": q.relation, "family": q.family,
         "distance": "near" if i % 2 else "far"}
        for i, q in enumerate(asked(i, "abcde"[i % 5]) for i in range(6))
    ]  # fmt: skip
    Path("questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def given(models: str = "org/one,two", out: str = "out") -> list:
    return ["questions.jsonl", "--models", models, "--vectors", "study", "--out", out]


def table(folder) -> pd.DataFrame:
    return read_table(Path(folder) / "results.csv", several.TABLE)


def whole(folder: Path) -> dict[str, bytes]:
    return {
        f"{part}/{name}": (folder / part / name).read_bytes()
        for part in ("", "one", "two")
        for name in ("results.csv", "by_question.csv")
        if (folder / part / name).exists()
    }


@pytest.fixture
def fitted(monkeypatch, fits):
    """The models for which fits were asked."""
    models, fit = [], study.fit_compositions

    def counted(model, *args, **more):
        models.append(model)
        return fit(model, *args, **more)

    monkeypatch.setattr(study, "fit_compositions", counted)
    return models


@pytest.fixture
def without_pages(monkeypatch, fitted):
    monkeypatch.setattr(study, "_gates", lambda *args: {})
    monkeypatch.setattr(study, "_items", lambda *args: [])
    monkeypatch.setattr(study, "write_analogy_report", lambda path, *args, **more: path.write_text(""))
    monkeypatch.setattr(several, "write_page_of_models", lambda path, *args: path.write_text(""))


@pytest.mark.slow
def test_every_model_has_the_folder_that_it_would_have_alone_and_all_have_one_table_summary_and_page(here, fitted):
    result = call(*given())
    assert result.exit_code == 0, result.output
    out = here / "out"
    assert files(out) == sorted(["one", "two", "report.html", "results.csv", "summary.json"])
    alone = call("questions.jsonl", "--model", "two", "--vectors", "study/other-name/vectors", "--out", "alone")
    assert alone.exit_code == 0, alone.output
    for file in ("results.csv", "by_question.csv"):
        assert (here / "alone" / file).read_bytes() == (out / "two" / file).read_bytes()
    for name, model, own in (("one", "org/one", "one"), ("two", "two", "other-name")):
        assert files(out / name) == FILES
        assert (
            f"--vectors study/{own}/vectors --model {model} --dtype float32 --out out/{name}"
            in summary(out / name)["command"]
        )

    frame, said = table(out), summary(out)
    assert list(dict.fromkeys(frame.model)) == ["one", "two", POOLED, OVER_MODELS]
    for name in ("one", "two"):
        own = frame[frame.model == name].drop(columns=["model", "models"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(own, table(out / name))
    assert list(said["gaps"]) == ["one"] and set(said["gaps"]["one"].values()) == {NO_SUMS}
    assert said["by model"]["two"]["vectors"] == 4 and "--models org/one,two" in said["command"]

    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text).text
    assert figures(text) == ["accuracy"] and "6 analogies in 2 models" in page and "one/report.html" in page
    assert NO_SUMS in page and "near, gains over the prompt" in page
    assert len(downloads(text)["results.csv"]) == len(frame)
    pooled = frame[(frame.model == POOLED) & (frame.part == "score") & (frame.measure == "accuracy")]
    cells = dict(rows_of(text, "scores: Whole answers right, full"))
    for line in pooled[pooled.library == "full"].itertuples():
        shown = cells[f"{line.method}, {line.prompt}"]
        assert len(shown) == 3 and shown[2].startswith(f"{line.value:.2f} ")
    printed = re.sub(" +", " ", result.stdout)
    line = pooled[(pooled.method == "prompt only") & (pooled.prompt == "one-shot")].iloc[0]
    one, two = (table(out / name).query("method == 'prompt only' and prompt == 'one-shot'") for name in ("one", "two"))
    shown = f"{one.value.iloc[0]:.2f} {two.value.iloc[0]:.2f} {Score.of(line)}"
    assert f"prompt only, one-shot {shown}" in printed
    assert result.stdout.splitlines()[-1] == str(Path("out") / "two")
    markdown = commands.call("table", "out").stdout
    whole_answers = markdown.split("gain over")[0]
    shown = commands.cells(whole_answers, "method, prompt; full")
    assert shown["prompt only, one-shot"][2] == score_text(Score.of(line)) and len(shown["prompt only, one-shot"]) == 3
    assert "- one lacks " in markdown and NO_SUMS in markdown


@pytest.mark.slow
def test_each_model_takes_its_own_composites_of_an_earlier_study(here, without_pages, fitted):
    assert call(*given(out="first")).exit_code == 0 and len(fitted) == 2
    lines = (here / "questions.jsonl").read_text().splitlines()
    (here / "questions.jsonl").write_text("\n".join(lines[:4]))
    result = call(*given(out="second"), "--composites", "first")
    assert result.exit_code == 0 and len(fitted) == 2, result.output
    for name in ("one", "two"):
        assert f"--composites first/{name} " in summary(here / "second" / name)["command"]
        assert files(here / "second" / name / "composites") == files(here / "first" / name / "composites")
    assert call(*given(out="anew")).exit_code == 0 and whole(here / "anew") == whole(here / "second")
    (here / "first" / "two" / "stages" / "affine.safetensors").unlink()
    refused = call(*given(out="third"), "--composites", "first")
    assert refused.exit_code == 2 and "'first/two' has no fitted composites" in refused.stderr
    assert not (here / "third").exists()


@pytest.mark.slow
def test_a_study_stopped_in_each_model_and_behind_both_ends_as_one_that_was_not(
    here, monkeypatch, without_pages, fitted
):
    assert call(*given(out="whole")).exit_code == 0
    stops = ((study, "fit_affine_all", 0), (study, "evaluate_analogies", 1), (several, "pooled", 0))
    fitted.clear()
    for place, name, after in stops:
        with monkeypatch.context() as patched:
            step = iter([getattr(place, name)] * after + [interrupted])
            patched.setattr(place, name, lambda *args, step=step, **more: next(step)(*args, **more))
            result = call(*given())
        assert result.exit_code == 130 and not (here / "out" / "results.csv").exists()
        assert "Saved before that: " in result.stderr.splitlines()[-1]
    done = [str(Path("out") / name) for name in ("one", "two")]
    assert f"Saved before that: {', '.join(done)}. The same command goes on" in result.stderr.splitlines()[-1]
    stamps = [(here / "out" / name / "summary.json").stat().st_mtime_ns for name in ("one", "two")]
    result = call(*given())
    assert result.exit_code == 0 and result.stderr.count("its study was finished before") == 2
    assert stamps == [(here / "out" / name / "summary.json").stat().st_mtime_ns for name in ("one", "two")]
    assert whole(here / "out") == whole(here / "whole") and len(whole(here / "out")) == 5
    assert len(fitted) == 2, "each model is fitted once, whatever stopped behind that"


@pytest.mark.slow
def test_a_model_that_cannot_be_studied_is_a_named_gap_and_the_others_go_on(here, monkeypatch, without_pages, loaded):
    def broken(model, *args, **more):
        if model is loaded["org/one"]:
            raise ParityError("the engine and a full forward disagree")
        return solve(model, *args, **more)

    solve = several.solve_all
    monkeypatch.setattr(several, "solve_all", broken)
    result = call(*given("org/one,nowhere,two"))
    assert result.exit_code == 0, result.output
    gaps = summary(here / "out")["gaps"]
    assert gaps["one"] == {several.EVERY_ROW: "the engine and a full forward disagree"}
    assert gaps["nowhere"][several.EVERY_ROW].startswith("'study' has no vectors of 'nowhere' ('study/nowhere/vectors'")
    assert set(table(here / "out").model) == {"two", POOLED, OVER_MODELS} and not (here / "out" / "nowhere").exists()


def test_where_no_model_can_be_studied_nothing_is_left(here):
    result = call("questions.jsonl", "--models", "nowhere", "--out", "none")
    assert result.exit_code == 2 and "No model has results. nowhere: there is no model 'nowhere'" in result.stderr
    result = call(*given("org/one", out="none"), "--vectors", "elsewhere")
    assert result.exit_code == 2 and "'elsewhere' has no vectors of 'org/one'" in result.stderr
    assert not (here / "none").exists()


@pytest.mark.slow
def test_a_folder_of_other_models_choices_or_vectors_is_refused(here, monkeypatch, without_pages, loaded):
    assert call(*given("two")).exit_code == 0
    before = whole(here / "out")
    for change in (["--models", "org/one"], ["--seed", 1], ["--dtype", "bfloat16"]):
        result = call(*given("two"), *change)
        assert result.exit_code == 2 and "holds another run. What differs: " in result.stderr
    fv = vectors_of(loaded["two"])["a"]
    replace(fv, vector=2 * fv.vector).save(Path("study") / "other-name" / "vectors" / "a.safetensors")
    result = call(*given("two"))
    assert result.exit_code == 2 and "What differs: vectors, SHA-256" in result.stderr
    assert whole(here / "out") == before


@pytest.mark.slow
def test_without_vectors_each_model_has_its_own_library_tuned(here, monkeypatch, without_pages, tunes):
    def finetune_all(model, names):
        return Library({name: replace(fv, relation=name) for name, fv in zip(names, vectors_of(model).values())})

    monkeypatch.setattr(library, "finetune_all", finetune_all)
    result = call("questions.jsonl", "--models", "org/one,two", "--out", "out")
    assert result.exit_code == 0 and summary(here / "out")["gaps"] == {}, result.output
    assert result.stderr.count("Tuning the library") == 2
    for name in ("one", "two"):
        assert {"library.json", "README.md"} < set(files(here / "out" / name / "vectors"))
        assert len(Library.load(here / "out" / name / "vectors")) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "a,b,a"], "--models names 'a' twice; name each model once"),
        (["--models", "a,./missing"], "--models names './missing': there is no such file or folder; check the path"),
        (["--models", " ,"], "--models is ' ,'; give names or folders, with commas between"),
        (["--model", "gpt2", "--models", "a"], "--model is 'gpt2' and --models 'a'; give one of them"),
    ],
    ids=str,
)
def test_bad_input_is_told_before_a_model_is_loaded(here, no_model, arguments, message):
    result = call(*arguments)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (here / "fv_lens_analogies").exists()


DAMAGE = ("", "question,x\n9,1\n", "question,x\n1,1\n", "question,a | b | c | d\n1,x\n")


@pytest.mark.slow
def test_a_damaged_file_of_a_model_is_named(here, without_pages):
    assert call(*given("two")).exit_code == 0
    for name in ("by_question.csv", "results.csv", "summary.json"):
        before = (here / "out" / "two" / name).read_bytes()
        for content in DAMAGE:
            (here / "out" / "two" / name).write_text(content)
            result = call(*given("two"))
            assert result.exit_code == 2 and f"{Path('out') / 'two' / name}" in result.stderr, (content, result.stderr)
        (here / "out" / "two" / name).write_bytes(before)


def test_rows_that_a_model_lacks_are_named():
    lines = lambda *methods: pd.DataFrame(  # noqa: E731
        {"part": "score", "method": list(methods), "library": "", "prompt": "one-shot"}
    )
    gaps = gaps_of({"a": lines("x", "summed vectors, posterior"), "b": lines("x", "y")})
    assert gaps == {
        "a": {"y, one-shot": several.NO_NUMBERS}, "b": {"summed vectors, posterior, one-shot": NO_SUMS}
    }  # fmt: skip


def test_nothing_infinite_is_shown_of_one_model(tmp_path):
    lines = [
        (model, method, library, "one-shot", "accuracy", 0.5, np.nan, np.nan, 4, part, "all", 1)
        for model in ("one", POOLED, OVER_MODELS)
        for method, library, part in (
            ("prompt only", "", "score"), ("posterior", "full", "score"),
            ("posterior - prompt only", "full", "difference"),
        )
    ]  # fmt: skip
    columns = "model method library prompt measure value low high n part group models".split()
    frame = pd.DataFrame(lines, columns=columns)
    made = {"models": {"one": "one"}, "by model": {"one": {}}, "gaps": {}, "chance": None}
    several_page.write_page_of_models(
        tmp_path / "page.html", frame, made | dict.fromkeys(("seed", "versions", "command"), "")
    )
    text = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "posterior over the prompt alone, one-shot, full: one +0.50 (no interval)" in text
    assert "What is missing" not in text and "Groups of analogies" not in text
