"""The whole table: nothing is chosen on test pairs, an interrupted run ends as any other, and what is left is whole."""

import json
import os
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

from fv_lens.evaluation import evaluate
from fv_lens.evaluation.baselines.names import BASELINES
from fv_lens.evaluation.rows import BEST_BASELINE, COMPARISONS, FEW_SHOT, ROWS, matching
from fv_lens.evaluation.table import COLUMNS
from fv_lens.ground import storage
from fv_lens.ground.errors import InputError
from fv_lens.ground.measures import COMPLETED
from fv_lens.plots.comparison import curve_of
from fv_lens.plots.table import scores_of
from fv_lens.studies.reproduce import files, steps, units
from fv_lens.studies.reproduce.dry_run.stages import stage_costs
from fv_lens.studies.reproduce.dry_run.words import Words
from fv_lens.studies.reproduce.rows import means_of_others
from fv_lens.studies.reproduce.setup import Settings
from fv_lens.studies.stages import StageRecord
from fv_lens.vectors import optimizer, tuning
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.lessons import training_frame
from fv_lens.vectors.library import Library
from fv_lens.vectors.optimizer import Tuning

from ..left import FILES, summary
from ..pages import Page
from ..small import KIN, SMALL, breaking, relations, run, small_study, studied, study_of, with_permuted_test
from .counting import shape_with

SUMMED = ["FV", "FV of own heads", "FV of random heads", "FV, strength 1", "FFV from FV"]
PARTS = {"score", "difference", "shuffled", "shuffled gain", "curve", "stability", "decoding"}
KIN_ROWS = ("mean of FFVs", "another relation's FFV")  # which depend on the vectors of other relations


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The folder that an uninterrupted run leaves."""
    out = tmp_path_factory.mktemp("whole")
    run(study_of(model), out)
    return out


@pytest.fixture(scope="module")
def small(model, tmp_path_factory):
    """The folder that an uninterrupted run of a small study leaves."""
    out = tmp_path_factory.mktemp("small")
    run(small_study(model), out)
    return out


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
        monkeypatch.setattr(steps, step, lambda *args, **more: pytest.fail("this was computed before"))
    before, told = (whole / "results.csv").read_bytes(), []
    page = (whole / "report.html").read_bytes()
    run(study_of(model), whole, told)
    (whole / "report.html").write_bytes(page)
    assert (whole / "results.csv").read_bytes() == before
    assert told[:2] == [f"{len(stages(whole))} stages were there already", "Head maps"]
    assert len(told) == 1 + len(stages(whole))


STOPS = (
    (steps, "heads", {}), (steps, "sums", {}), (steps, "tuned", {"shuffle": True}),
    (steps, "tuned", {"seed": 1}), (steps, "curve", {}), (steps, "scores", {}),
    (steps, "prompting", {"shuffled": True}), (steps, "mean_difference", {}), (units, "readings", {}),
    (files, "write_csv", {}), (files, "_save_vectors", {}),
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
from tests.studies.small import run, small_study, studied
out, model = Path(sys.argv[1]), studied()

def start():
    if (child := os.fork()) == 0:
        try:
            run(small_study(model), out)
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
    root = Path(__file__).parents[3]
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


def test_each_kind_of_vectors_is_a_library_with_its_scores_in_the_table(model, whole):
    frame = pd.read_csv(whole / "results.csv")
    lines = frame[(frame.part == "score") & (frame.group == "relation")].set_index(["name", "row", "measure"])
    rows = {
        "from-fv": "FFV from FV",
        "from-zero": "FFV from zero",
        "summed": "FV",
        "": summary(whole)["chosen"]["vectors"],
    }
    for folder, row in rows.items():
        library = Library.load(whole / "vectors" / folder, model)
        assert list(library) == [relation.name for relation in relations()] and library.identity is not None
        for name in library:
            for own, its in (("vector", row), ("zero-shot", "zero-shot"), ("3-shot", "3-shot")):
                score, line = library.score(name, "accuracy", own), lines.loc[name, its, "accuracy"]
                assert (score.value, score.n) == (pytest.approx(line.value, abs=1e-5), line.n)


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
                found = evaluate.evaluate(model, relation, fv, controls=False)
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
    assert tuple(frame) == COLUMNS and set(frame.part) == PARTS
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
    found = {known.name: matching(known.name, rows) for known in ROWS if known.kind != "baseline"}
    assert all(found.values()) and rows == {row for some in found.values() for row in some}
    assert sorted(found[FEW_SHOT]) == ["13-shot", "3-shot", "8-shot"]
    named = [comparison.names(3, 8, 13) for comparison in COMPARISONS]
    compared = [pair for pair in named if not {BEST_BASELINE, *BASELINES} & set(pair)]
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
    shape, words = shape_with(1, 1, 1), Words(1, 1, 1, 0, 0, "")
    sizes = [[len(part) for part in relation.split()] for relation in study.relations]
    assert stage_costs(shape, words, study.settings, sizes)["scores"].rows == tensors["right"].numel()


# Studies that lack something


@pytest.mark.slow
def test_a_model_without_sums_has_all_the_rest(tmp_path):
    study = study_of(studied("bent"), relations()[:3], seeds=1, steps=2, curve=(1,))
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
    means = means_of_others(study, vectors)
    for r, mean in enumerate(means):
        others = [q for q in range(n - 1) if q != r]
        assert mean.isnan().all() if len(others) < 2 else torch.allclose(mean, vectors[others].mean(0))
    assert means_of_others(study_of(model, relations()[:1]), vectors[:1]).isnan().all()


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
