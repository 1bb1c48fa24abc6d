"""`fv-lens table`: the results of a study as Markdown, and what it says where there are none."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from fv_lens.analogies.differences import table as table_of
from fv_lens.analogies.scores import LIBRARIES, PROMPT_ONLY, Row
from fv_lens.evaluation.table import write_csv
from fv_lens.ground.markdown import score_text
from fv_lens.studies.folders import OutputFolder
from fv_lens.studies.job import Job
from fv_lens.studies.reproduce.study import reproduce

from .analogies.test_page import made_scores, values
from .commands import call, cells, files
from .small import relations as kin
from .small import studied, study_of


@pytest.mark.slow
def test_table_prints_what_a_study_left(here, monkeypatch):
    monkeypatch.setattr("fv_lens.studies.reproduce.files.write_table_report", lambda *args, **more: None)
    study = study_of(studied(), kin()[:2], seeds=1, steps=2, curve=(1,))
    with OutputFolder(here / "fv_lens_study", "reproduce") as folder:
        frame = reproduce(study, Job(folder, "", lambda line: None), {})
    before = files(here / "fv_lens_study")
    result = call("table")
    assert result.exit_code == 0 and result.stdout == call("table", "fv_lens_study").stdout
    printed = re.sub(" +", " ", result.stdout)  # columns are padded
    of = frame[(frame.group == "all") & (frame.measure == "accuracy")].set_index(["part", "row"])
    for row in ("zero-shot", "3-shot", "13-shot", "FV", "FFV from FV", "FFV from zero"):
        known = " [" * bool(np.isfinite(of.low["score", row]))
        assert f"| {row} | {of.value['score', row]:.2f}{known}" in printed
    for row in ("FFV from FV - FV", "FFV from FV - 3-shot", "FFV from FV - 8-shot"):
        line = next(line for line in printed.splitlines() if line.startswith(f"| {row.replace(' - ', ' − ')} |"))
        known = " [" * bool(np.isfinite(of.low["difference", row]))
        assert f" {of.value['difference', row]:+.2f}{known}" in line.replace("*", "")
    assert result.stdout.startswith("tiny/llama (torch.float32), 2 relations, 12 test words; vectors tuned on 8 pairs")
    assert files(here / "fv_lens_study") == before


def test_table_of_a_folder_without_results_says_so(here, no_model):
    (here / "empty").mkdir()
    (here / "half").mkdir()
    (here / "half" / "results.csv").write_text("part,row\n")
    (here / "begun" / "stages").mkdir(parents=True)
    reasons = {
        "empty": "it has no results.csv and summary.json; give the --out of a finished study",
        "missing": "there is no such folder; give the --out of a study",
        "half": "it has no results.csv and summary.json",
        "begun": "the study is not finished; the command that began it goes on from where it stopped",
    }
    for folder, reason in reasons.items():
        result = call("table", folder)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and not result.stdout
        assert result.stderr.startswith(f"Error: '{folder}' holds no results of a study: {reason}")
        assert "Errno" not in result.stderr


def test_table_of_another_commands_folder_says_whose_it_is(here):
    with OutputFolder(here / "out", "run") as folder:
        folder.claim({})
        (here / "out" / "summary.json").write_text("{}")
        (here / "out" / "results.csv").write_text("method,library\nposterior,full\n")
    result = call("table", "out")
    assert result.exit_code == 2 and not result.stdout
    assert result.stderr == (
        "Error: 'out' holds no results of a study: they are of `fv-lens run`; give the --out of reproduce, analogies "
        "or humans\n"
    )


LINE = "part,group,name,row,measure,value,low,high,n\nscore,relation,a,zero-shot,accuracy,0.5,0.4,0.6,20\n"


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("frame", ["", "method,library\nposterior,full\n", LINE[:44], LINE, "\x00"], ids=str)
@pytest.mark.parametrize(
    "summary", ["", "{", "[]", "{}", '{"command": "fv-lens run", "relation": "antonym"}', '{"versions": 3}']
)
def test_table_of_damaged_results_says_so(here, frame, summary):
    (here / "results.csv").write_text(frame)
    (here / "summary.json").write_text(summary)
    result = call("table", ".")
    assert result.exit_code == 2 and not result.stdout and len(result.stderr.splitlines()) == 1
    assert "its results.csv or summary.json is damaged or another command's (" in result.stderr


def left(folder, frame: pd.DataFrame, said: dict, command: str) -> None:
    """What a finished study leaves."""
    with OutputFolder(folder, command) as out:
        out.claim({})
        write_csv(frame, folder / "results.csv")
        (folder / "summary.json").write_text(json.dumps({"versions": {"fv-lens": "1"}} | said))


def test_table_of_analogies_has_every_method_by_library_and_its_gain_over_the_prompt(here):
    scores = made_scores(values() | {Row("null", "full", "one-shot"): {"accuracy": np.ones(24)}})
    frame = table_of(scores, scores.questions)
    said = {"model": "m", "dtype": "torch.float32", "layer": 3, "vectors": ["a", "b"], "questions": {"test": 24}}
    left(here / "out", frame, said, "analogies")
    result = call("table", "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("m (torch.float32), 24 test analogies, 2 vectors at layer 3.")
    whole, gains = result.stdout.split("Whole answers right, gain over the one-shot prompt:")
    shown = cells(whole, "method, prompt")
    assert shown.pop("method, prompt") == list(LIBRARIES)
    assert set(shown) == {f"{row.method}, {row.prompt}" for row in scores.values}
    for row in scores.values:
        column = list(LIBRARIES).index(row.library or "full")
        assert shown[f"{row.method}, {row.prompt}"][column] == score_text(scores.score(row))
    assert shown[f"{PROMPT_ONLY}, one-shot"][1:] == ["", ""] and shown["null, one-shot"][0].startswith("1.00")
    gained = cells(gains, "method, prompt")
    row, prompt = Row("posterior", "full", "one-shot"), Row(PROMPT_ONLY, "", "one-shot")
    assert gained["posterior − prompt only, one-shot"][0] == score_text(scores.difference(row, prompt), signed=True)
    assert len(gained) == 6 and any("**" in value for values in gained.values() for value in values)


def test_table_of_people_has_every_measure_by_kind_of_vectors(here):
    lines = [
        ("relations", "FFV", 0.5, 0.25, 0.75, 0.001, 10), ("relations", "FV", 0.25, np.nan, np.nan, 0.1, 10),
        ("typicality", "FFV", 0.3, 0.2, 0.4, np.nan, 9), ("relations", "FFV - FV", 0.25, 0.125, 0.375, np.nan, 10),
    ]  # fmt: skip
    frame = pd.DataFrame(lines, columns=["measure", "vectors", "value", "low", "high", "p", "n"])
    said = {"model": "m", "dtype": "torch.float32", "layer": 3, "n_comparisons": 6194, "human ceiling": 0.93}
    left(here / "out", frame, said, "humans")
    result = call("table", "out")
    assert result.exit_code == 0, result.output
    levels, apart = result.stdout.split("\n\n")[1:3]
    assert cells(levels, "agreement") == {
        "agreement": ["FFV", "FV"], "relations": ["0.50 [0.25, 0.75]", "0.25"], "typicality": ["0.30 [0.20, 0.40]", ""]
    }  # fmt: skip
    assert cells(apart, "difference in agreement") == {
        "difference in agreement": ["FFV - FV"],
        "relations": ["**+0.25** [0.12, 0.38]"],
    }
    assert "6,194 rated comparisons" in result.stdout and "to 0.93 (split halves)" in result.stdout
