"""`reproduce --models`: each model in a folder of its own, and one table, summary and page of all, however it ended."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from fv_lens.evaluation.baselines.names import SOFT_1
from fv_lens.evaluation.pooled import OVER_MODELS, POOLED, by_reason, scores_by_model
from fv_lens.evaluation.rows import ROWS
from fv_lens.ground.errors import InputError, ParityError
from fv_lens.ground.scores import Score
from fv_lens.models import load
from fv_lens.studies.folders import LOCK, MARKER
from fv_lens.studies.names import model_folders
from fv_lens.studies.reproduce import several, steps
from fv_lens.studies.reproduce.dry_run import estimate
from fv_lens.studies.reproduce.several import EVERY_ROW, gaps_of

from .. import commands
from ..commands import interrupted, write
from ..left import FILES, summary
from ..pages import Page, downloads, figures, rows_of
from ..small import made, relations, studied

call = partial(commands.call, "reproduce")
KINDS = {"org/one": "llama", "two": "gpt2", "three": "neox"}


@pytest.fixture(scope="module")
def networks():
    """The tiny models by kind, each made once: what the engine measures of one, it measures once."""
    return {kind: studied(kind) for kind in KINDS.values()}


@pytest.fixture
def models(here, monkeypatch, networks):
    """Names of tiny models that can be loaded; the names that were loaded are appended."""
    loaded = []

    def load_model(name, **options):
        loaded.append(name)
        if name not in KINDS:
            raise InputError(f"there is no model {name!r}; check its name")
        return networks[KINDS[name]]

    monkeypatch.setattr(load, "load_model", load_model)
    return loaded


def given(*models: str, out: str = "out", of: int = 2) -> list:
    names = ",".join(write(relation) for relation in relations()[:of])
    return ["--relations", names, "--seeds", 1, "--out", out, *(x for model in models for x in ("--models", model))]


def results(folder: Path) -> bytes:
    return (folder / "results.csv").read_bytes()


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "results.csv")


@pytest.mark.slow
def test_every_model_has_the_folder_that_it_would_have_alone_and_all_have_one_table_summary_and_page(here, models):
    result = call(*given("org/one,two", of=3))
    assert result.exit_code == 0, result.output
    out = here / "out"
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [LOCK, MARKER, "one", "two", "report.html", "results.csv", "summary.json"]
    )
    for name, model in (("one", "org/one"), ("two", "two")):
        assert [path.name for path in sorted((out / name).iterdir())] == FILES
        alone = call(*given(of=3, out=f"alone-{name}"), "--model", model)
        assert alone.exit_code == 0 and results(here / f"alone-{name}") == results(out / name)
        assert f"--model {model} " in summary(out / name)["command"] and "--out out/" in summary(out / name)["command"]

    frame, said = table(out), summary(out)
    assert list(dict.fromkeys(frame.model)) == ["one", "two", POOLED, OVER_MODELS]
    assert said["models"] == {"one": "org/one", "two": "two"} and said["by model"].keys() == {"one", "two"}
    assert said["gaps"] == {} and "--models org/one,two" in said["command"]
    for name in ("one", "two"):
        pd.testing.assert_frame_equal(
            frame[frame.model == name].drop(columns=["model", "models"]).reset_index(drop=True), table(out / name)
        )
    levels = scores_by_model(frame, "score", "accuracy")
    printed = re.sub(" +", " ", result.stdout)
    assert all(
        f"{row} {of['one'].value:.2f} {of['two'].value:.2f} {of[POOLED]}" in printed for row, of in levels.items()
    )
    assert result.stdout.splitlines()[-5:] == [
        f"out{os.sep}{name}" for name in ("report.html", "results.csv", "summary.json", "one", "two")
    ]

    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text).text
    assert figures(text) == ["models"] and "3 relations in 2 models" in page and "one/report.html" in page
    assert len(downloads(text)["results.csv"]) == len(frame)
    assert dict(rows_of(text, "scores: Whole answers right"))["3-shot"][2] == " ".join(
        levels["3-shot"][POOLED].written()
    )
    shown = dict(rows_of(text, "differences: Whole answers right"))["FFV from zero - FV"]
    assert len(shown) == 4 and "What is missing" not in page

    markdown = commands.call("table", "out")
    assert markdown.exit_code == 0 and markdown.stdout.startswith("3 relations in one (layer ")
    lines = {line.split("|")[1].strip(): line for line in reversed(markdown.stdout.splitlines()) if line[:1] == "|"}
    for row, of in levels.items():
        assert f"{of[POOLED].value:.2f}" in lines[row], row
    assert "mean over models" in lines["whole answer, difference"] and "FFV from FV − FV" in lines


KILLED = """
import os, signal, sys, time
from functools import partial
from pathlib import Path
import torch
torch.set_num_threads(1)
from fv_lens.models import load
from fv_lens.studies.reproduce import setup
from tests.studies.commands import call
from tests.studies.small import SMALL, studied
load.load_model = lambda name, **options: studied({"org/one": "llama", "two": "gpt2"}[name])
setup.Settings = partial(setup.Settings, **SMALL | dict(steps=2, curve=(1,)))

def start(out):
    if (child := os.fork()) == 0:
        result = call("reproduce", *sys.argv[2:], "--out", out)
        Path(f"said-{os.getpid()}").write_text(result.output + result.stderr)
        os._exit(result.exit_code)
    return child

assert os.waitpid(start("whole"), 0)[1] == 0
out = Path(sys.argv[1])
for name, n in (("one", 4), ("two", 7)):
    child = start(out)
    while len(list((out / name).glob("stages/*.safetensors"))) < n:
        assert os.waitpid(child, os.WNOHANG)[0] == 0, "it ended before it was killed"
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not (out / "results.csv").exists() and (out / "one" / "report.html").exists() == (name == "two")
    print("killed in", name)
child = start(out)
assert os.waitpid(child, 0)[1] == 0
print(Path(f"said-{child}").read_text())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_study_killed_in_each_model_ends_as_an_uninterrupted_one_and_does_nothing_twice(here):
    root = Path(__file__).parents[3]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, "out", *map(str, given("org/one", "two"))], cwd=here, capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert ended.returncode == 0 and ended.stdout.count("killed in") == 2, ended.stdout + ended.stderr
    assert "its study was finished before" in ended.stdout and "stages were there already" in ended.stdout
    for folder in ("", "one", "two"):
        assert results(here / "out" / folder) == results(here / "whole" / folder)


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_an_interruption_says_what_is_there(here, models, monkeypatch, without_page):
    steps_of_two = steps.curve
    with monkeypatch.context() as patched:
        first = iter([steps_of_two, interrupted])
        patched.setattr(steps, "curve", lambda *args, **more: next(first)(*args, **more))
        result = call(*given("org/one,two"))
    assert result.exit_code == 130
    there = f"{Path('out') / 'one'}, {Path('out') / 'two' / 'stages'}"
    assert result.stderr.splitlines()[-1] == (
        f"Interrupted. Saved before that: {there}. The same command goes on from there."
    )
    unfinished = commands.call("table", "out")
    assert unfinished.exit_code == 2 and "the study is not finished" in unfinished.stderr
    stamp = (here / "out" / "one" / "summary.json").stat().st_mtime_ns
    computed = []
    monkeypatch.setattr(
        several, "reproduce", lambda study, *args: computed.append(study.lens.name) or REPRODUCE(study, *args)
    )
    assert call(*given("org/one,two")).exit_code == 0
    assert computed == ["tiny/gpt2"] and (here / "out" / "one" / "summary.json").stat().st_mtime_ns == stamp
    before = results(here / "out")
    assert call(*given("two,org/one")).exit_code == 0 and computed == ["tiny/gpt2"]
    assert sorted(results(here / "out").splitlines()) != [] and len(results(here / "out")) == len(before)


REPRODUCE = several.reproduce


@pytest.mark.slow
def test_a_folder_of_other_models_or_weights_is_refused_and_stays(here, models, monkeypatch, without_page):
    assert call(*given("two")).exit_code == 0
    before = {path: path.read_bytes() for path in (here / "out").rglob("*") if path.is_file()}
    for change in (["--models", "org/one"], ["--models", "two", "--models", "org/one"], ["--model", "two"]):
        result = call(*given(), *change)
        assert result.exit_code == 2 and "holds another run. What differs: " in result.stderr
    monkeypatch.setitem(KINDS, "two", "neox")
    result = call(*given("two"))
    assert result.exit_code == 2 and "holds another run. What differs: " in result.stderr and "weights" in result.stderr
    assert before.keys() <= set((here / "out").rglob("*")) and all(path.read_bytes() == x for path, x in before.items())


@pytest.mark.slow
def test_a_model_that_cannot_be_studied_is_a_named_gap_and_the_others_go_on(here, models, monkeypatch):
    heads = steps.heads

    def broken(study, *only):
        if study.lens.name == "tiny/neox":
            raise ParityError("the engine and a full forward disagree\nby far")
        return heads(study, *only)

    monkeypatch.setattr(steps, "heads", broken)
    result = call(*given("nowhere,three,two"))
    assert result.exit_code == 0, result.output
    assert "nowhere is left out: there is no model 'nowhere'; check its name" in result.stderr
    out = here / "out"
    gaps = summary(out)["gaps"]
    assert gaps["nowhere"] == {EVERY_ROW: "there is no model 'nowhere'; check its name"}
    assert gaps["three"][EVERY_ROW].startswith("the engine and a full forward disagree")
    assert set(table(out).model) == {"two", POOLED, OVER_MODELS}
    page = Page((out / "report.html").read_text(encoding="utf-8")).text
    assert "What is missing" in page and "there is no model 'nowhere'" in page
    markdown = commands.call("table", "out").stdout
    assert "- nowhere lacks every row: there is no model" in markdown and "disagree by far" in markdown
    assert [path.name for path in out.glob("*/results.csv")] == ["results.csv"] and not (out / "nowhere").exists()
    nothing = call(*given("nowhere", out="none"))
    assert nothing.exit_code == 2 and "No model has results. nowhere: there is no model 'nowhere'" in nothing.stderr
    assert not (here / "none").exists()


def test_rows_that_a_model_lacks_are_named_with_the_reason_that_its_study_recorded():
    lines = lambda *rows: pd.DataFrame({"part": "score", "row": list(rows)})  # noqa: E731
    tables = {
        "a": lines("zero-shot", "FV", "FFV from zero"),
        "b": lines("zero-shot", "FFV from zero"),
        "c": lines("zero-shot"),
    }
    nothing = {"chosen": {"summed vectors": {}, "distributed": {}}}
    rescaled = {"chosen": {"summed vectors": {"no_sums": "rescaled"}, "distributed": {"no_distributed": "no places"}}}
    gaps = gaps_of(tables, {"a": nothing, "b": rescaled, "c": nothing})
    assert gaps["a"] == {}
    summed = {row.name for row in ROWS if row.place == "summed"} | {"FFV from FV"}
    assert gaps["b"] == dict.fromkeys(summed, "rescaled") | {"distributed FV": "no places"}
    assert gaps["c"].keys() == {"FV", "FFV from zero"} and len(set(gaps["c"].values())) == 1
    untrained = nothing | {"baselines": {"gaps": {SOFT_1: {"antonym": "on disk", "b": "on disk"}}}}
    assert gaps_of(tables, {"a": untrained, "b": nothing, "c": nothing})["a"] == {SOFT_1: "on disk"}
    reasons = [(model, len(rows), why) for model, rows, why in by_reason({"b": gaps["b"]})]
    assert sorted(reasons) == [("b", 1, "no places"), ("b", len(summed), "rescaled")]


@pytest.mark.parametrize(
    ("models", "folders"),
    [
        (["smollm2-135m", "org/name"], ["smollm2-135m", "name"]),
        (["org/name", "other/name", "name"], ["name", "name-2", "name-3"]),
        (["org/stages", "vectors", "report.html"], ["stages-2", "vectors-2", "report.html-2"]),
        (["a b:c"], ["a-b-c"]),
    ],
)
def test_no_two_models_share_a_folder_and_none_has_that_of_results(models, folders):
    assert model_folders(models) == dict(zip(folders, models))


def test_the_folder_of_a_path_is_named_after_its_last_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("deep/er/model", "q4.gguf", ".hidden"):
        (tmp_path / path).mkdir(parents=True)
    assert list(model_folders(["./deep/er/model", str(tmp_path / "q4.gguf"), "./.hidden"])) == ["model", "q4", "hidden"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "a,b,a"], "--models names 'a' twice; name each model once"),
        (["--models", "a", "--models", "a"], "--models names 'a' twice"),
        (["--models", "a,./missing"], "--models names './missing': there is no such file or folder; check the path"),
        (["--models", "missing.gguf"], "--models names 'missing.gguf': there is no such file"),
        (["--models", " ,"], "--models is ' ,'; give names or folders, with commas between"),
        (["--model", "gpt2", "--models", "a"], "--model is 'gpt2' and --models 'a'; give one of them"),
    ],
    ids=str,
)
def test_bad_input_is_told_before_a_model_is_loaded(here, no_model, arguments, message):
    result = call(*arguments)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1
    assert not list(here.iterdir())


def test_relations_that_are_too_small_are_told_once(here, models, monkeypatch):
    monkeypatch.setattr(several, "reproduce", interrupted)
    result = call("--relations", f"{write(relations()[0])},{write(made('small', n=15))}", "--models", "org/one,two")
    assert result.exit_code == 130 and result.stderr.count("Note: small is left out") == 1
    assert result.stderr.splitlines()[-1] == "Interrupted. Nothing was saved." and not Path("fv_lens_study").exists()


def test_an_estimate_is_given_for_every_model(here, monkeypatch):
    monkeypatch.setattr(estimate, "estimate", lambda name, *args, **asked: f"estimated {name}")
    result = call("--models", "a,b", "--dry-run")
    assert result.exit_code == 0 and result.stdout.split("\n")[:2] == ["estimated a", "estimated b"]
    assert not list(here.iterdir())


@pytest.mark.slow
def test_a_damaged_file_of_a_model_is_named(here, models, without_page):
    assert call(*given("two")).exit_code == 0
    for name in ("results.csv", "summary.json"):
        before = (here / "out" / "two" / name).read_bytes()
        for content in ("", "model,part\n", "{"):
            (here / "out" / "two" / name).write_text(content)
            result = call(*given("two"))
            assert result.exit_code == 2 and f"{Path('out') / 'two' / name}" in result.stderr, (content, result.stderr)
        (here / "out" / "two" / name).write_bytes(before)
    (here / "out" / "two" / "summary.json").unlink()
    assert call(*given("two")).exit_code == 0 and json.loads((here / "out" / "two" / "summary.json").read_text())


def test_scores_keep_their_interval_through_the_table():
    line = pd.DataFrame(
        [dict(part="score", group="all", measure="accuracy", row="FV", model="a", value=0.5, low=0.4, high=0.6, n=3)]
    )
    assert scores_by_model(line, "score", "accuracy") == {"FV": {"a": Score(0.5, 0.4, 0.6, 3)}}
