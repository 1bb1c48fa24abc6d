"""The whole table: nothing is chosen on test pairs, an interrupted run ends as any other, and what is left is whole."""

import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from fv_lens.datasets.relations import Relation
from fv_lens.evaluation import evaluate as evaluation
from fv_lens.evaluation.rows import COMPARISONS, FEW_SHOT, ROWS, matching
from fv_lens.evaluation.table import COLUMNS
from fv_lens.ground import storage
from fv_lens.ground.errors import InputError
from fv_lens.ground.measures import COMPLETED
from fv_lens.models import load as models
from fv_lens.plots.comparison import curve_of
from fv_lens.plots.table import scores_of
from fv_lens.studies import cli
from fv_lens.studies.folders import LOCK, MARKER, OutputFolder
from fv_lens.studies.job import Job
from fv_lens.studies.reproduce import command as cli_study
from fv_lens.studies.reproduce import costs
from fv_lens.studies.reproduce import files as outputs
from fv_lens.studies.reproduce import setup as study_module
from fv_lens.studies.reproduce import steps as protocol
from fv_lens.studies.reproduce import study as module
from fv_lens.studies.reproduce.setup import Settings, Study
from fv_lens.studies.reproduce.study import reproduce
from fv_lens.studies.stages import StageRecord
from fv_lens.vectors import optimizer, tuning
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.lessons import training_frame
from fv_lens.vectors.optimizer import Tuning

from .test_protocol import breaking
from .test_report import Page
from .test_study import KIN, SMALL, made, relations, studied, study_of, with_permuted_test

FILES = [LOCK, MARKER, "report.html", "results.csv", "stages", "summary.json", "vectors"]
SUMMED = ["FV", "FV of own heads", "FV of random heads", "FV, strength 1", "FFV from FV"]
KIN_ROWS = ("mean of FFVs", "another relation's FFV")  # which depend on the vectors of other relations


def run(study: Study, out: Path, told: list | None = None, **facts: str) -> pd.DataFrame:
    tell = (lambda line: None) if told is None else told.append
    with OutputFolder(out, "reproduce") as folder:
        return reproduce(study, Job(folder, "fv-lens reproduce", tell), facts)


@pytest.fixture(scope="module")
def model():
    return studied()


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The folder that an uninterrupted run leaves."""
    out = tmp_path_factory.mktemp("whole")
    run(study_of(model), out)
    return out


@pytest.fixture
def without_page(monkeypatch):
    """The page takes longest; most runs here are not about it."""
    monkeypatch.setattr(outputs, "write_table_report", lambda path, *args, **more: path.write_text(""))


def small_study(model) -> Study:
    return study_of(model, relations()[:2], steps=2, curve=(1,))


@pytest.fixture(scope="module")
def small(model, tmp_path_factory):
    """The folder that an uninterrupted run of a small study leaves."""
    out = tmp_path_factory.mktemp("small")
    run(small_study(model), out)
    return out


def summary(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))


def table(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "results.csv")


def stages(out: Path) -> dict[str, tuple]:
    return {path.stem: storage.load(path, StageRecord) for path in sorted((out / "stages").glob("*.safetensors"))}


def equal(a: tuple, b: tuple) -> bool:
    """The tensors and record of a stage, bit by bit."""
    (mine, record), (others, other) = a, b
    bits = all(x.numpy().tobytes() == others[name].numpy().tobytes() for name, x in mine.items())
    return mine.keys() == others.keys() and bits and json.dumps(record["record"]) == json.dumps(other["record"])


def vector_files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out / "vectors")) for path in (out / "vectors").rglob("*.safetensors"))


def names(frame: pd.DataFrame, part: str = "score") -> set[str]:
    return set(frame[frame.part == part].row)


# Nothing is chosen on test pairs


@pytest.mark.slow
def test_no_test_answer_has_a_say_in_any_choice_or_vector(model, whole, tmp_path, without_page):
    settings = Settings(**SMALL)
    permuted = study_of(model, [with_permuted_test(relation, settings) for relation in relations()])
    for relation, other in zip(study_of(model).relations, permuted.relations):
        (train, validation, test), parts = relation.split(), other.split()
        assert parts[:2] == (train, validation) and parts.test.words == test.words and parts.test.pairs != test.pairs
        assert all(a != b for (_, a), (_, b) in zip(parts.test.pairs, test.pairs))
    run(permuted, tmp_path)

    before, after = stages(whole), stages(tmp_path)
    on_test = {"scores", "shots-3", "shots-3-shuffled", "shots-8", "shots-13"}
    assert before.keys() == after.keys() and on_test < before.keys()
    for name in before:
        assert equal(before[name], after[name]) == (name not in on_test), name
    for name in on_test:
        assert not torch.equal(before[name][0]["log_prob"], after[name][0]["log_prob"]), "new answers are seen"
    for part in ("chosen", "readings", "share_right", "broken", "left_out"):
        assert summary(whole)[part] == summary(tmp_path)[part]
    assert len(summary(whole)["readings"]) == 5 and summary(whole)["chosen"]["distributed"]
    assert summary(whole)["chosen"]["vectors"] in ("FFV from FV", "FFV from zero")
    assert vector_files(whole) == vector_files(tmp_path)
    for name in vector_files(whole):
        fv, other = (FunctionVector.load(out / "vectors" / name) for out in (whole, tmp_path))
        assert torch.equal(fv.vector, other.vector) and (fv.layer, fv.training) == (other.layer, other.training)
    mine, others = (frame[frame.part == "score"].value for frame in (table(whole), table(tmp_path)))
    assert (mine != others).mean() > 0.3


@pytest.mark.slow
def test_the_library_is_of_the_start_with_the_lower_validation_loss(whole):
    found, losses = stages(whole), {}
    layer = summary(whole)["chosen"]["layer"]
    for start, name in (("FFV from zero", f"tuned-from-zero-{layer}"), ("FFV from FV", "tuned-from-fv")):
        losses[start] = sum(record["training"]["validation_loss"] for record in found[name][1]["record"]["records"])
    chosen = min(losses, key=losses.get)
    assert summary(whole)["chosen"]["vectors"] == chosen
    for at in (1, 2):
        records = found[f"tuned-from-zero-{at}"][1]["record"]["records"]
        mean = np.mean([min(loss for _, loss in record["training"]["validation_losses"]) for record in records])
        assert summary(whole)["chosen"]["validation losses of the layers"][str(at)] == pytest.approx(mean, abs=1e-5)
        assert at == layer or mean > losses["FFV from zero"] / 5


# Resuming


@pytest.mark.slow
def test_a_finished_run_is_read_and_written_again_as_it_was(model, whole, monkeypatch, without_page):
    for step in ("heads", "sums", "tuned", "curve", "scores", "prompting", "mean_difference"):
        monkeypatch.setattr(protocol, step, lambda *args, **more: pytest.fail("this was computed before"))
    before, told = (whole / "results.csv").read_bytes(), []
    page = (whole / "report.html").read_bytes()
    run(study_of(model), whole, told)
    (whole / "report.html").write_bytes(page)
    assert (whole / "results.csv").read_bytes() == before
    assert told[:2] == [f"{len(stages(whole))} stages were there already", "Head maps"]
    assert len(told) == 1 + len(stages(whole))


STOPS = (
    (protocol, "heads", {}), (protocol, "sums", {}), (protocol, "tuned", {"shuffle": True}),
    (protocol, "tuned", {"seed": 1}), (protocol, "curve", {}), (protocol, "scores", {}),
    (protocol, "prompting", {"shuffled": True}), (protocol, "mean_difference", {}), (module, "readings", {}),
    (outputs, "write_csv", {}), (outputs, "_save_vectors", {}),
)  # fmt: skip


@pytest.mark.slow
def test_a_run_interrupted_again_and_again_ends_as_an_uninterrupted_one(
    model, small, tmp_path, monkeypatch, without_page
):
    def interrupted(step, when, *args, **how):
        if when.items() <= how.items():
            raise KeyboardInterrupt
        return step(*args, **how)

    finished = []
    for place, name, when in STOPS:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(place, name, partial(interrupted, getattr(place, name), when))
            run(small_study(model), tmp_path)
        finished.append(len(stages(tmp_path)))
        assert (tmp_path / "results.csv").exists() == (name == "_save_vectors")
    assert finished == [0, 1, 6, 8, 10, 11, 13, 16, 17, 18, 18] and len(stages(small)) == 18
    run(small_study(model), tmp_path)
    assert (tmp_path / "results.csv").read_bytes() == (small / "results.csv").read_bytes()
    assert summary(tmp_path)["chosen"] == summary(small)["chosen"] and vector_files(tmp_path) == vector_files(small)
    assert all(equal(stages(tmp_path)[name], stage) for name, stage in stages(small).items())


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.studies import test_reproduce
out, model = Path(sys.argv[1]), test_reproduce.studied()

def start():
    if (child := os.fork()) == 0:
        try:
            test_reproduce.run(test_reproduce.small_study(model), out)
            os._exit(0)
        finally:
            os._exit(1)
    return child

for n in sorted(random.sample(range(18), 3)):
    child = start()
    while len(list(out.glob("stages/*.safetensors"))) < n and os.waitpid(child, os.WNOHANG)[0] == 0:
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it ended before it was killed"
    assert not (out / "results.csv").exists()
    print("killed with", len(list(out.glob("stages/*"))), "files")
assert os.waitpid(start(), 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_at_three_moments_ends_as_an_uninterrupted_one(small, tmp_path):
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=root, capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stdout.count("killed") == 3, ended.stdout + ended.stderr
    assert (tmp_path / "results.csv").read_bytes() == (small / "results.csv").read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == FILES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (dict(seeds=3), r"settings \(seeds: 2 there, 3 here\)"),
        (dict(n_test=5), r"settings \(n_test: 6 there, 5 here\)"),
        (dict(split_seed=1), r"settings \(split_seed: 0 there, 1 here\)"),
        (dict(given=relations()[:4]), r"names and kin \(there alone: e\); relations \(there alone: e\)"),
        (dict(given=[*relations()[:4], replace(relations()[4], family="f")]), r"names and kin \(e\)"),
        (dict(given=[*relations()[:4], replace(relations()[4], names=["w9"])]), r"names and kin \(e\)"),
        (dict(facts={"weights": "0"}), "here alone: weights"),
    ],
    ids=str,
)
def test_another_plan_in_the_same_folder_is_refused(model, whole, change, named):
    facts, change = change.get("facts", {}), {name: x for name, x in change.items() if name != "facts"}
    with pytest.raises(InputError, match=f"holds another run. What differs: {named}. Give another --out"):
        run(study_of(model, **change), whole, **facts)


@pytest.mark.slow
def test_the_table_holds_no_times(whole):
    text = (whole / "results.csv").read_text()
    assert not any(word in text for word in ("second", "time", "duration", "_s,"))
    assert summary(whole)["timings_s"].keys() == stages(whole).keys()


# What a run leaves


@pytest.mark.slow
def test_the_folder_and_the_library(whole):
    assert [path.name for path in sorted(whole.iterdir())] == FILES
    folders = ["", "from-fv/", "from-zero/", "summed/"]
    assert vector_files(whole) == sorted(f"{folder}{name}.safetensors" for folder in folders for name in KIN)
    library = {"FFV from FV": "from-fv", "FFV from zero": "from-zero"}[summary(whole)["chosen"]["vectors"]]
    for name in KIN:
        file = f"{name}.safetensors"
        fv, same = (FunctionVector.load(whole / "vectors" / folder / file) for folder in ("", library))
        assert torch.equal(fv.vector, same.vector) and fv.record == same.record


@pytest.mark.slow
def test_saved_vectors_carry_their_record_and_are_measured_without_complaint(model, whole):
    chosen, frame = summary(whole)["chosen"], table(whole)
    how = dict(layer=1, n_pairs=8, n_validation=5, how=Tuning(8, 0.2))
    finetuned = tuning.finetune(model, relations()[0], **how)
    for relation, cut in zip(relations(), study_of(model).relations):
        train, validation, test = cut.split()
        for folder, method in (("from-fv", "tuned"), ("from-zero", "tuned"), ("summed", "sum"), ("", "tuned")):
            fv = FunctionVector.load(whole / "vectors" / folder / f"{relation.name}.safetensors")
            assert (fv.method, fv.relation, fv.split_seed) == (method, relation.name, 0)
            if method == "sum":
                assert [list(head) for head in fv.heads] == chosen["summed vectors"]["heads"]
                assert fv.layer == chosen["summed vectors"]["layer"] and fv.training is None
            else:
                assert fv.training.keys() == finetuned.training.keys()
                known = "learning_rate", "first_token", "shuffle", "seed", "n_pairs", "n_validation"
                assert all(fv.training[name] == finetuned.training[name] for name in known)
                seen = fv.training["train_words"], fv.training["validation_words"]
                assert seen == (list(train.words), list(validation.words)) and fv.layer == chosen["layer"]
                assert not {*seen[0], *seen[1]} & set(relation.split().test.words)
                lines = training_frame(fv)
                assert len(lines) == 9 and lines[lines.chosen].validation_loss.item() == lines.validation_loss.min()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = evaluation.evaluate(model, relation, fv, controls=False)
            words = found.words[found.words.word.isin(test.words)]
            row = {"from-fv": "FFV from FV", "from-zero": "FFV from zero", "summed": "FV", "": chosen["vectors"]}[
                folder
            ]
            lines = frame[(frame.part == "score") & (frame.row == row) & (frame.name == relation.name)]
            assert len(words) == 6
            assert lines[lines.measure == "log_prob"].value.item() == pytest.approx(words.log_prob.mean(), rel=1e-4)
            assert lines[lines.measure == "accuracy"].value.item() == pytest.approx(words.right.mean(), rel=1e-4)


@pytest.mark.slow
def test_the_table_has_every_part_and_the_columns_that_the_figures_read(whole):
    frame = table(whole)
    assert tuple(frame) == COLUMNS and set(frame.part) == {"score", "difference", "curve", "stability", "decoding"}
    assert set(frame.group) == {"relation", "category", "all"} and set(frame.name) == {*KIN, "one", "two", "all"}
    scores = frame[frame.part == "score"]
    assert (scores.groupby(["row", "measure"]).size() == 8).all() and set(scores.measure) == set(COMPLETED)
    assert set(scores[scores.group == "relation"].n) == {6} and set(scores[scores.group == "all"].n) == {5}
    assert list(curve_of(frame)) == [1, 4, 8] and not frame.value.isna().any()
    by_hand = scores_of(frame, part="score", group="relation", measure="log_prob")
    for row, of in scores_of(frame, part="score", group="all", measure="log_prob").items():
        assert of["all"].value == pytest.approx(sum(score.value for score in by_hand[row].values()) / 5, rel=1e-4)


@pytest.mark.slow
def test_the_names_of_rows_are_those_that_figures_and_differences_know(whole):
    rows = names(table(whole))
    found = {known.name: matching(known.name, rows) for known in ROWS}
    assert all(found.values()) and rows == {row for some in found.values() for row in some}
    assert sorted(found[FEW_SHOT]) == ["13-shot", "3-shot", "8-shot"]
    compared = [comparison.names(3, 8, 13) for comparison in COMPARISONS]
    assert {row for pair in compared for row in pair} <= rows
    differences = {" - ".join(pair) for pair in compared}
    of_names = {f"{kind} - FV" for kind in ("FFV from FV", "FFV from zero", "mean difference", "random")}
    assert names(table(whole), "difference") == differences | of_names


@pytest.mark.slow
def test_the_page_is_written_and_names_its_command(whole):
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in page for name in ("comparison", "relations", "learning", "training", "decoding"))
    assert "5 relations in tiny/llama" in page and "fv-lens reproduce" in page


@pytest.mark.slow
def test_every_row_is_in_the_estimate(model, small):
    study, (tensors, _) = small_study(model), stages(small)["scores"]
    shape, words = costs.Shape((1, 1, 1), *[1] * 8, (1, 1)), costs.Words(1, 1, 1, 0, 0, "")
    sizes = [[len(part) for part in relation.split()] for relation in study.relations]
    assert costs.stage_costs(shape, words, study.settings, sizes)["scores"].rows == tensors["right"].numel()


# Studies that lack something


@pytest.mark.slow
def test_a_model_without_sums_has_all_the_rest(tmp_path):
    study = study_of(studied("gemma2"), relations()[:3], seeds=1, steps=2, curve=(1,))
    frame = run(study, tmp_path)
    assert not names(frame) & set(SUMMED) and {"FFV from zero", "distributed FV", "3-shot"} <= names(frame)
    assert {"FFV from zero - FFV of shuffled pairs", "FFV from zero - 3-shot"} <= names(frame, "difference")
    assert "rescales what the heads of layer 0 write" in summary(tmp_path)["chosen"]["summed vectors"]["no_sums"]
    assert vector_files(tmp_path) == sorted(
        f"{folder}{name}.safetensors" for folder in ("", "from-zero/") for name in "abc"
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [path.name for path in sorted(tmp_path.iterdir())] == FILES and 'id="comparison"' in page


@pytest.mark.slow
def test_one_family_alone_works(model, tmp_path, without_page):
    kin = [replace(relation, family="f") for relation in relations()[:2]]
    frame = run(study_of(model, kin, seeds=1, steps=2, curve=(1,)), tmp_path)
    lines = frame[(frame.part == "score") & (frame.group == "all")]
    *_, another = KIN_ROWS
    assert {"FFV from zero", "FV", another} <= set(lines.row)
    assert "mean of FFVs" not in set(lines.row), "the mean of one vector is that vector"
    assert set(lines.n) == {2} and lines.low.isna().all() and lines.high.isna().all()
    assert "decoding" not in set(frame.part) and not summary(tmp_path)["readings"]
    found = stages(tmp_path)["scores"]
    rows = found[1]["record"]["rows"]
    zero, *others = (found[0]["log_prob"][:, rows[row]] for row in ("FFV from zero", another))
    for other in others:
        assert not torch.isclose(zero, other).all(1).any(), "none is helped by its own vector"


@pytest.mark.slow
def test_one_relation_alone_works_without_the_rows_of_others(model, tmp_path):
    frame = run(study_of(model, relations()[:1], steps=2, curve=(1,), head_counts=(12,)), tmp_path)
    assert {"FFV from zero", "FFV from FV", "FV", "pooled FFV", "random vector", "3-shot"} <= names(frame)
    assert not {*KIN_ROWS, "FV of random heads"} & names(frame)
    assert not [row for row in names(frame, "difference") if any(kin in row for kin in KIN_ROWS)]
    cosines = set(frame[frame.part == "stability"].measure) - set(COMPLETED)
    assert cosines == {"cosine over deals of pairs", "cosine of the two"}, "nothing is left of one vector when centred"
    assert not frame.value.isna().any() and frame[frame.group == "all"].low.isna().all()
    said = pd.DataFrame(stages(tmp_path)["readings"][1]["record"]["words"])
    for _, some in said.groupby("vector"):
        assert some.probability.is_monotonic_decreasing and len(some) == 8
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert all(words in page for words in ("Whole answers right, mean over 1 relation, 6 test words", "(no interval)"))
    assert "in the order of their probability" in page and "centred" not in page and "nan" not in page


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_mean_over_others_never_holds_the_vector_itself(model, n):
    study = study_of(model, [replace(relation, family="f") for relation in relations()[:n]])
    vectors = torch.eye(n, 32)
    vectors[n - 1] = torch.nan
    means = module._means_of_others(study, vectors)
    for r, mean in enumerate(means):
        others = [q for q in range(n - 1) if q != r]
        assert mean.isnan().all() if len(others) < 2 else torch.allclose(mean, vectors[others].mean(0))
    assert module._means_of_others(study_of(model, relations()[:1]), vectors[:1]).isnan().all()


@pytest.mark.slow
def test_a_vector_that_breaks_is_left_out_of_the_table_and_the_others_are_unharmed(
    model, whole, tmp_path, monkeypatch, without_page
):
    breaking(monkeypatch, "b")
    run(study_of(model), tmp_path)
    before, after = table(whole), table(tmp_path)
    tuned = {row for row in names(before) if row.startswith("FFV")}
    tuned |= {row for part in ("curve", "stability") for row in names(before, part)} | {"random vector"}
    of_relations = after[(after.group == "relation") & after.part.isin(["score", "curve", "stability"])]
    for row, lines in of_relations.groupby("row"):
        if row not in KIN_ROWS:
            assert set(lines.name) == (set("acde") if row in tuned else set("abcde")), row
    assert set(of_relations[of_relations.row == "mean of FFVs"].name) == set("abcde")
    key = ["part", "group", "name", "row", "measure"]
    both = of_relations[~of_relations.row.isin(KIN_ROWS)].merge(before, on=key, suffixes=("", "_before"))
    kept = both[(both.name != "b") & (both.row != "pooled FFV")]
    assert len(kept) > 150 and kept.value.equals(kept.value_before)
    everywhere = after[(after.group == "all") & (after.part == "score") & (after.measure == "accuracy")]
    assert everywhere.set_index("row").n["FFV from zero"] == 4 and everywhere.set_index("row").n["FV"] == 5
    assert "at step 3; lower learning_rate" in summary(tmp_path)["broken"]["from-zero"]["b"]
    assert "from-zero/b.safetensors" not in vector_files(tmp_path) and "summed/b.safetensors" in vector_files(tmp_path)


@pytest.mark.slow
def test_where_every_vector_breaks_the_other_rows_are_left(model, tmp_path, monkeypatch):
    monkeypatch.setattr(optimizer, "MOST_RATE", 1e31)
    frame = run(study_of(model, relations()[:2], seeds=1, steps=2, curve=(1,), rate=1e30), tmp_path)
    assert {"zero-shot", "3-shot", "FV", "distributed FV"} <= names(frame)
    assert not {"FFV from zero", "FFV from FV", "pooled FFV", "mean of FFVs", "random vector"} & names(frame)
    assert {name.split("/")[0] for name in vector_files(tmp_path)} == {"summed"}
    told = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert told["broken"]["from-zero"].keys() == {"a", "b"}
    assert told["chosen"]["validation losses of the layers"] == {"1": None, "2": None}


# The command


@pytest.fixture
def here(tmp_path, monkeypatch, model):
    """An empty working directory, a tiny model and a small study."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load_model", lambda name, **options: model)
    monkeypatch.setattr(study_module, "Settings", partial(Settings, **SMALL | dict(steps=2, curve=(1,))))
    return tmp_path


def call(*arguments):
    """The result of a command; an exception that is not an exit is a failure of the test."""
    result = CliRunner().invoke(cli.app, ["reproduce", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def write(relation: Relation) -> str:
    content = {"name": relation.name, "names": relation.names, "family": relation.family, "pairs": relation.pairs}
    Path(f"{relation.name}.json").write_text(json.dumps(content))
    return f"{relation.name}.json"


@pytest.mark.slow
def test_the_command_leaves_out_what_is_too_small_and_goes_on_where_it_stopped(here, without_page):
    good, small = [write(relation) for relation in relations()[:2]], write(made("small", n=15))
    given = ["--relations", ",".join([good[0], small, *good[1:]]), "--out", "deep/out", "--seeds", 1]
    first = call(*given)
    assert first.exit_code == 0, first.output
    assert first.stderr.count("Note: small is left out: relation 'small' has 15 pairs") == 1
    notes = first.stderr.splitlines()
    loading = next(i for i, line in enumerate(notes) if line.startswith("Loading the libraries"))
    assert any("small is left out" in line for line in notes[:loading])
    assert "Mean over 2 relations" in first.stdout and "FFV from zero" in first.stdout
    out = here / "deep" / "out"
    assert [path.name for path in sorted(out.iterdir())] == FILES and "has 15 pairs" in summary(out)["left_out"][
        "small"
    ]
    before = (out / "results.csv").read_bytes()
    again = call(*given)
    assert again.exit_code == 0 and (out / "results.csv").read_bytes() == before
    assert again.stdout == first.stdout
    other = call(*given[:-1], 2)
    assert other.exit_code == 2 and "What differs: settings (seeds: 1 there, 2 here)." in other.stderr
    assert "Saved before that" not in other.stderr, "this start has saved nothing"
    assert "Traceback" not in other.stderr and (out / "results.csv").read_bytes() == before


@pytest.mark.slow
def test_an_interrupted_command_says_that_it_goes_on(here, monkeypatch, without_page):
    def interrupted(*args, **how):
        raise KeyboardInterrupt

    given = ["--relations", write(relations()[0]), "--seeds", 1]
    with monkeypatch.context() as patched:
        patched.setattr(protocol, "heads", interrupted)
        first = call(*given)
        assert first.exit_code == 130 and first.stderr.splitlines()[-1] == "Interrupted. Nothing was saved."
    monkeypatch.setattr(protocol, "curve", interrupted)
    for there in (None, "8 stages were there already"):
        result = call(*given)
        assert result.exit_code == 130 and (there in result.stderr if there else "already" not in result.stderr)
        saved = f"Saved before that: {Path('fv_lens_study') / 'stages'}."
        assert result.stderr.splitlines()[-1] == f"Interrupted. {saved} The same command goes on from there."


@pytest.mark.slow
def test_a_study_interrupted_while_it_loads_says_what_is_there(here, monkeypatch, without_page):
    def interrupted(*args, **how):
        raise KeyboardInterrupt

    given = ["--relations", write(relations()[0]), "--seeds", 1]
    with monkeypatch.context() as patched:
        patched.setattr(protocol, "sums", interrupted)
        assert call(*given).exit_code == 130
    monkeypatch.setattr(models, "load_model", interrupted)
    result, stages_there = call(*given), Path("fv_lens_study") / "stages"
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        f"Interrupted. Saved before that: {stages_there}. The same command goes on from there."
    )
    other = call(*given, "--out", "other")
    assert other.stderr.splitlines()[-1] == "Interrupted. Nothing was saved." and not Path("other").exists()


@pytest.mark.slow
def test_one_relation_is_shown_without_intervals(here, without_page):
    result = call("--relations", write(relations()[0]), "--seeds", 1)
    assert result.exit_code == 0 and result.stdout.splitlines()[0].rstrip() == "Mean over 1 relation"
    assert "nan" not in result.stdout and re.search(r"FFV from zero +\d\.\d\d +\d\.\d\d +-\d", result.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--relations", "antonim"], "there is no bundled relation 'antonim'; did you mean antonym"),
        (["--relations", "antonym,zzzz"], "no bundled relation 'zzzz'; `fv-lens relations` lists all"),
        (["--relations", "antonym, none.json"], "none.json: there is no such file"),
        (["--bats", "missing"], "'missing' is not a folder; give the path of the folder BATS_3.0"),
        (["--bats", "."], "'.' has no BATS files"),
        (["--seeds", "0"], "Invalid value for '--seeds'"),
        (["--seeds", str(10**6)], "Invalid value for '--seeds'"),
        (["--dtype", "float8"], "--dtype is 'float8'; give one of float32, bfloat16, float16"),
        (["--relations", " ,"], "--relations is ' ,'; give comma-separated names or files"),
        (["--relations", ""], "--relations is ''; give comma-separated names or files"),
        (["--relations", "antonym", "--out", "file/below"], "Cannot write to 'file/below'"),
    ],
    ids=str,
)
def test_bad_input_is_told_before_the_model_is_loaded(here, monkeypatch, arguments, message):
    monkeypatch.setattr(models, "load_model", lambda name, **options: pytest.fail("the model was loaded"))
    (here / "file").write_text("")
    result = call(*arguments)
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert [path.name for path in here.iterdir()] == ["file"]


def test_a_bats_folder_without_the_relation_asked_for_lists_what_it_has(here):
    folder = here / "BATS_3.0" / "4_Lexicographic_semantics"
    folder.mkdir(parents=True)
    (folder / "L01 [hypernyms - animals].txt").write_text("w1\tw2/w3\n" * 3)
    result = call("--bats", "BATS_3.0", "--relations", "l02")
    assert result.exit_code == 2 and "has no relation 'l02'; it has l01-hypernyms-animals" in result.stderr


def test_only_small_relations_are_told_with_their_reasons_before_the_model_is_loaded(here, monkeypatch):
    monkeypatch.setattr(models, "load_model", lambda name, **options: pytest.fail("the model was loaded"))
    result = call("--relations", write(made("small", n=15)))
    assert result.exit_code == 2 and "has 15 pairs, too few to tune on: give 18 or more" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not (here / "fv_lens_study").exists()


@pytest.mark.slow
def test_smaller_parts_are_noted_once_with_what_would_be_enough(here, without_page):
    result = call("--relations", write(made("few", n=18)), "--seeds", 1)
    assert result.exit_code == 0, result.output
    note = "Note: 'few' is tuned with 8 train and 3 validation pairs, not 8 and 5; 25 pairs would be enough."
    assert result.stderr.splitlines()[0] == note and result.stderr.count("is tuned with") == 1


def test_a_comma_at_the_end_is_no_relation():
    assert [r.name for r in cli_study._chosen_relations("antonym, synonym,", None)] == ["antonym", "synonym"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("my,own, list.json", ["my,own, list.json"]),
        ("antonym,my,own, list.json,b.json", ["antonym", "my,own, list.json", "b.json"]),
        ("folder,1/a.json, synonym", ["folder,1/a.json", "synonym"]),
        ("a,b.json", ["a", "b.json"]),
        ("my,own.json", ["my", "own.json"]),
        (",,", []),
    ],
)
def test_a_path_may_have_commas_where_there_is_such_a_file(tmp_path, monkeypatch, given, names):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder,1").mkdir()
    for file in ("my,own, list.json", "folder,1/a.json", "b.json"):
        (tmp_path / file).write_text("")
    assert cli_study.split_names(given) == names


def test_the_dtypes_of_the_command_are_those_that_can_be_loaded():
    assert set(cli_study.DTYPES) == set(models.DTYPES)
