"""From library to figures: what a run of analogies leaves, how it goes on, what it refuses, and the command."""

import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from fv_lens.analogies.composition import METHODS, Composition, Folded
from fv_lens.analogies.evaluate import evaluate_analogies
from fv_lens.analogies.fit import BEST, Fitting, fit_compositions
from fv_lens.analogies.scores import LIBRARIES, PROFILES, PROMPT_ONLY, TRUE, AnalogyScores, Row
from fv_lens.datasets import question_files
from fv_lens.datasets.questions import Question
from fv_lens.ground.errors import InputError
from fv_lens.ground.measures import MEASURES
from fv_lens.models import load as models
from fv_lens.models.lens import lens_of
from fv_lens.studies import cli
from fv_lens.studies.analogies import study as module
from fv_lens.studies.analogies.study import Asked, load_library, solve_all, tuned_library
from fv_lens.studies.folders import LOCK, MARKER, OutputFolder
from fv_lens.studies.job import Job
from fv_lens.vectors.function_vector import FunctionVector

from .. import oracles, tiny
from ..analogies.test_fit import TRAIN, VALIDATION, equal, noise, vectors_of
from ..analogies.test_scores import asked as asked_at_length
from .test_report import Page

FILES = ["composites", "report.html", "results.csv", "stages", "summary.json"]


def asked(*args, **more) -> Question:
    question = asked_at_length(*args, **more)
    return replace(question, answers=question.answers[:20])


QUESTIONS = [asked(0, "a", 3), asked(1, "b"), asked(2, "c", 4, pairs=True), asked(4, None, 5, pairs=True)]
PARTS = (TRAIN, VALIDATION, QUESTIONS)
CHOOSE_ON = [replace(asked(i, "abcde"[i % 5], 3), source=(f"w{i}", f"w{i + 60}")) for i in range(6, 10)]
FEW = {"shared alone": [Composition("none")], "shared + composite": [Composition(scale=s) for s in (0.25, 0.5)]}
BUNDLED = ("antonym", "hypernym", "synonym", "tool-action")
NAMED = {name: METHODS[name] for name in ("posterior", "single best")}


@contextmanager
def quick(fits: list | None = None):
    """Fewer settings, steps and methods than by default; `fits` gets the number of questions of each fit."""

    def fit(model, vectors, train, validation, how):
        if fits is not None:
            fits.append((len(train), len(validation)))
        return fit_compositions(model, vectors, train, validation, candidates=FEW, how=replace(how, steps=2))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "fit_compositions", fit)
        patched.setattr(module, "METHODS", NAMED)
        yield


@pytest.fixture(autouse=True)
def fits():
    found: list = []
    with quick(found):
        yield found


@pytest.fixture(scope="module")
def model():
    """A tiny model to which half of all tokens end an answer, so that some answers are right as a whole."""
    made = tiny.build("llama")
    lens_of(made).state.endings = oracles.some_endings()
    return made


def solved(model, out, parts=PARTS, vectors=None, told=None, **settings):
    tell = (lambda line: None) if told is None else told.append
    with OutputFolder(out, "analogies") as folder:
        asked, job = Asked(*parts, settings.pop("choose_on", ())), Job(folder, "fv-lens analogies", tell)
        return solve_all(model, vectors or vectors_of(model), asked, job, **settings)


def summed_of(model) -> dict[str, FunctionVector]:
    return {name: replace(fv, vector=noise(32, seed=9 + i)) for i, (name, fv) in enumerate(vectors_of(model).items())}


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The folder of a run with everything, and what it returned."""
    out, told = tmp_path_factory.mktemp("whole"), []
    with quick():
        found, lines = solved(model, out, told=told, summed=summed_of(model), choices=True, choose_on=CHOOSE_ON)
    return out, found, lines, told


@pytest.fixture
def without_page(monkeypatch):
    monkeypatch.setattr(module, "_items", lambda *args: [])
    monkeypatch.setattr(module, "write_analogy_report", lambda *args, **more: None)


def saved_settings(out) -> dict[str, Folded]:
    """What a run fitted, by name."""
    names = {name: name.replace(" + ", "-").replace(" ", "-") for name in (*FEW, BEST)}
    return {name: Folded.load(out / "composites" / f"{file}.safetensors") for name, file in names.items()}


def summary(out) -> dict:
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))


def files(folder) -> list[str]:
    """What lies in a folder, without the two files that say whose it is."""
    return sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, MARKER))


def same(one: AnalogyScores, other: AnalogyScores) -> bool:
    """Bit by bit."""
    return one.values.keys() == other.values.keys() and all(
        measures[name].tobytes() == other.values[row][name].tobytes()
        for row, measures in one.values.items()
        for name in measures
    )


# What a run leaves


@pytest.mark.slow
def test_a_run_leaves_its_table_summary_settings_and_figures(whole):
    out, _, _, told = whole
    assert files(out) == FILES
    assert files(out / "composites") == [
        "shared-alone.safetensors",
        "shared-best.safetensors",
        "shared-composite.safetensors",
    ]
    assert files(out / "stages") == ["fit.safetensors", "timings.json"]
    assert told == [
        f"Composites fitted on {len(TRAIN)} train and {len(VALIDATION)} validation analogies",
        "4 validation questions, by every method", "4 test analogies, by every method", "8 single analogies",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_page_has_every_number_and_single_analogies(whole):
    out, found, lines, _ = whole
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    drawn = [parts["id"] for _, parts in page.tags if parts.get("class") == "plotly-graph-div"]
    assert drawn == ["accuracy", "choice"] and "Download results.csv" in page.text
    for row, measures in found.values.items():
        if "accuracy" in measures:
            assert str(found.score(row)).replace("\N{MINUS SIGN}", "-") in page.text
    assert all(line.split(":")[0] in page.text for line in lines)
    for question in found.questions:
        a, b = question.source
        assert f"{a} : {b} :: {question.target or '?'} : ?" in page.text
    assert sum(tag == "details" for tag, _ in page.tags) == len(found.questions) and "chosen" in page.text


@pytest.mark.slow
def test_saved_settings_are_those_that_were_fitted(model, whole):
    out, *_ = whole
    expected = fit_compositions(model, vectors_of(model), *PARTS[:2], candidates=FEW, how=Fitting(steps=2))
    assert [*expected] == [*FEW, BEST]
    for name, how in expected.items():
        saved = saved_settings(out)[name]
        assert saved.fold_of == how.fold_of and len(saved.folds) == len(how.folds) == 4
        assert all(map(equal, (saved.whole, *saved.folds), (how.whole, *how.folds)))
        assert summary(out)["fitted"][name] == json.loads(json.dumps(how.record))


@pytest.mark.slow
def test_scores_are_those_of_evaluate_analogies(model, whole):
    out, found, *_ = whole
    fitted = saved_settings(out)
    how = dict(methods=NAMED | fitted, summed=summed_of(model))
    assert same(found, evaluate_analogies(model, vectors_of(model), QUESTIONS, **how))


@pytest.mark.slow
def test_the_table_has_every_score_and_what_composites_have_over_baselines(whole):
    out, found, *_ = whole
    table = pd.read_csv(out / "results.csv", keep_default_na=False)
    assert [*table.columns] == ["method", "library", "prompt", "measure", "value", "low", "high", "n", "part"]
    frame = found.to_frame()
    told = table[table.part == "score"]
    assert told.iloc[:, :4].reset_index(drop=True).equals(frame.iloc[:, :4])
    assert told.value.to_numpy() == pytest.approx(frame.value.to_numpy(), rel=1e-5)
    gaps, lines = table[table.part == "difference"], set()
    for line in gaps.itertuples():
        method, other = line.method.split(" - ")
        one = Row(method, line.library, line.prompt)
        two = Row(other, "", "one-shot") if other == PROMPT_ONLY else one._replace(method=other)
        score = found.difference(one, two, line.measure)
        assert (line.value, line.n) == (pytest.approx(score.value, rel=1e-5, abs=1e-9), score.n)
        lines.add((method, other, line.library, line.prompt, line.measure))
    for library in LIBRARIES:
        for other in (PROMPT_ONLY, "single best", "shared alone"):
            for measure in ("accuracy", "first_token_accuracy", "choice", "log_prob"):
                assert ("shared + composite", other, library, "one-shot", measure) in lines
        assert ("posterior", PROMPT_ONLY, library, "zero-shot", "accuracy") in lines
    assert len(lines) == len(gaps) and not any(method in (PROMPT_ONLY, TRUE) for method, *_ in lines)
    assert not any(method == other for method, other, *_ in lines)


@pytest.mark.slow
def test_the_summary_says_what_was_run(model, whole):
    out, found, *_ = whole
    told = summary(out)
    assert told["command"] == "fv-lens analogies" and told["model"] == "tiny/llama" and told["seed"] == 0
    assert told["weights, SHA-256"] == lens_of(model).weights_hash and (told["layer"], told["vectors"]) == (
        1,
        [*"abcd"],
    )
    left_out = "left out, for a pair that was tuned on"
    assert told["questions"] == {"train": len(TRAIN), "validation": len(VALIDATION), "test": 4, left_out: 0}
    assert told["chance"] == pytest.approx(found.chance) and told["timings_s"].keys() == {"fit"}


@pytest.mark.slow
def test_questions_with_a_tuned_pair_are_counted(model, tmp_path, without_page):
    vectors = vectors_of(model)
    vectors["a"] = replace(vectors["a"], training={"train_words": [QUESTIONS[0].source[0]], "validation_words": []})
    found, _ = solved(model, tmp_path, ([], [], QUESTIONS), vectors)
    left_out = "left out, for a pair that was tuned on"
    assert (
        found.left_out == 1 == summary(tmp_path)["questions"][left_out] and summary(tmp_path)["questions"]["test"] == 3
    )


@pytest.mark.slow
def test_without_train_questions_nothing_is_fitted(model, tmp_path, fits, without_page):
    found, lines = solved(model, tmp_path, ([], [], QUESTIONS))
    assert fits == [] and lines == [] and files(tmp_path / "stages") == [] and files(tmp_path / "composites") == []
    assert {row.method for row in found.values} == {*NAMED, PROMPT_ONLY, TRUE}
    assert summary(tmp_path)["fitted"] == {} == summary(tmp_path)["chosen on validation questions"]


@pytest.mark.slow
def test_without_choices_asked_for_there_is_nothing_of_them(model, tmp_path):
    found, _ = solved(model, tmp_path, ([], [], QUESTIONS))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [parts["id"] for _, parts in page.tags if parts.get("class") == "plotly-graph-div"] == ["accuracy"]
    assert not any(name.startswith("choice") for measures in found.values.values() for name in measures)
    assert not any(row.method == PROFILES for row in found.values)


@pytest.mark.slow
@pytest.mark.parametrize(
    "relations, libraries",
    [("a", [*LIBRARIES]), ((None,), ["full"]), (("new",), ["full"]), (("new", "b"), [*LIBRARIES])],
)
def test_something_is_left_out_of_the_library_where_a_question_has_kin_in_it(
    model, tmp_path, without_page, relations, libraries
):
    questions = [asked(i, relation) for i, relation in enumerate(relations)]
    found, _ = solved(model, tmp_path, ([], [], questions))
    assert sorted({row.library for row in found.values} - {""}) == sorted(libraries)


@pytest.mark.slow
@pytest.mark.parametrize("relation, family", [("antonym", None), ("un-adjective", "opposite"), ("mine", "opposite")])
def test_kin_are_known_by_the_bundled_families(model, tmp_path, without_page, relation, family):
    vectors = {name: replace(fv, relation=name) for name, fv in zip(("antonym", "a"), vectors_of(model).values())}
    found, _ = solved(model, tmp_path, ([], [], [asked(0, relation, family=family)]), vectors)
    assert {row.library for row in found.values} >= set(LIBRARIES)


# Going on


@pytest.mark.slow
def test_a_second_start_fits_nothing_again_and_ends_as_the_first(model, whole, tmp_path, fits):
    out, found, lines, _ = whole
    before, settings = (
        {name: (out / name).read_bytes() for name in ("results.csv", "summary.json")},
        saved_settings(out),
    )
    again, told = solved(model, out, summed=summed_of(model), choices=True, choose_on=CHOOSE_ON)
    assert fits == [] and told == lines and same(again, found)
    assert {name: (out / name).read_bytes() for name in before} == before
    for name, how in saved_settings(out).items():
        assert all(map(equal, (how.whole, *how.folds), (settings[name].whole, *settings[name].folds)))


@pytest.mark.slow
def test_a_run_that_was_interrupted_behind_its_fit_goes_on_from_there(model, tmp_path, monkeypatch, fits, without_page):
    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "evaluate_analogies", interrupted)
        solved(model, tmp_path)
    assert fits == [(len(TRAIN), len(VALIDATION))] and files(tmp_path) == ["stages"]
    solved(model, tmp_path)
    assert len(fits) == 1 and files(tmp_path) == ["composites", "results.csv", "stages", "summary.json"]


@pytest.fixture
def begun(whole, tmp_path):
    """A folder with the stages of the run with everything."""
    shutil.copytree(whole[0] / "stages", tmp_path / "stages")
    shutil.copy(whole[0] / MARKER, tmp_path)
    return tmp_path


def changed(part: int):
    questions = list(PARTS[part])
    questions[0] = replace(questions[0], answers=("w199", *questions[0].answers[1:]), pairs=(), right=None)
    return [*PARTS[:part], questions, *PARTS[part + 1 :]]


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 1, 2], ids=["train", "validation", "test"])
def test_a_folder_of_other_questions_is_refused(model, begun, fits, part):
    with pytest.raises(
        InputError,
        match="holds another run. What differs: questions, SHA-256. Give another --out, or delete this folder",
    ):
        solved(model, begun, changed(part), summed=summed_of(model))
    assert fits == [] and files(begun) == ["stages"]


@pytest.mark.slow
def test_a_folder_of_other_vectors_or_another_seed_is_refused(model, begun, fits):
    vectors, summed = vectors_of(model), summed_of(model)
    other = vectors | {"b": replace(vectors["b"], vector=noise(32, seed=77))}
    for mine, sums in (
        (other, summed),
        (vectors, None),
        (vectors_of(model, "abc"), summed),
        (vectors, summed | {"a": vectors["a"]}),
    ):
        with pytest.raises(InputError, match="holds another run. What differs: vectors, SHA-256. Give another --out"):
            solved(model, begun, vectors=mine, summed=sums)
    with pytest.raises(InputError, match="holds another run. What differs: seed"):
        solved(model, begun, summed=summed, seed=1)
    assert fits == []


@pytest.mark.slow
@pytest.mark.parametrize("what", [dict(layer=2), dict(site="hook_resid_mid"), dict(relation="e")], ids=str)
def test_a_folder_of_the_same_numbers_elsewhere_is_refused(model, begun, without_page, what):
    """What was fitted for another place, or with other kin left out, is not what would be fitted now."""
    vectors = {
        name: replace(fv, **what) if name == "a" or "relation" not in what else fv
        for name, fv in vectors_of(model).items()
    }
    with pytest.raises(InputError, match="holds another run. What differs: vectors, SHA-256"):
        solved(model, begun, vectors=vectors, summed=summed_of(model))


# Choosing on validation questions


def of_lines(lines) -> tuple[float, float]:
    """The numbers told: the chosen way's score, and its gain."""
    found = re.search(r": (\d\.\d\d) \[", lines[0]), re.search(r"([+-]\d\.\d\d) \[", lines[1])
    return tuple(float(one[1]) for one in found)


@pytest.mark.slow
def test_the_way_to_choose_is_the_best_on_validation_questions(model, whole):
    out, found, lines, _ = whole
    fitted = saved_settings(out)
    tried = evaluate_analogies(model, vectors_of(model), CHOOSE_ON, NAMED | fitted, summed=summed_of(model))
    ways = {
        (str(row), measure): tried.score(row, measure).value
        for row, measures in tried.values.items() for measure in measures
        if measure.startswith("choice") and row.method != TRUE
    }  # fmt: skip
    chosen = summary(out)["chosen on validation questions"]
    best = max(ways.values())
    assert 0 < best and min(ways.values()) < best
    assert chosen["validation"] == best == ways[chosen["row"], chosen["measure"]]
    row = next(row for row in found.values if str(row) == chosen["row"])
    score = found.score(row, chosen["measure"])
    title = MEASURES[chosen["measure"]].heading.lower()
    assert lines[0] == f"Chosen on validation: {row} ({title}): {score}; chance {found.chance:.2f}."
    plain = max((way for way in ways if way[0].startswith(PROMPT_ONLY)), key=ways.get)
    assert lines[1].startswith(f"Over the best prompt alone there, {plain[0]} (") and len(lines) == 2


RIGHT = {"posterior": 0.9, "uniform": 0.2, "prompt only": 0.4}


def fake(questions, right: dict[tuple, float]) -> AnalogyScores:
    """Scores of so many right of ten by each row and measure."""
    values: dict = {}
    for (row, measure), share in right.items():
        values.setdefault(row, {"accuracy": np.zeros(10)})[measure] = (np.arange(10) < 10 * share).astype(float)
    return AnalogyScores(values, questions, [f"f{i}" for i in range(10)], 0)


POSTERIOR, PLAIN, SENTENCE = (
    Row("posterior", "full", "one-shot"),
    Row(PROMPT_ONLY, "", "one-shot"),
    Row(PROMPT_ONLY, "", "sentence"),
)
BOTH = "choice_both_ways"


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["choice", "choice_minus_plain", BOTH])
def test_the_gain_told_is_that_of_the_chosen_way_over_the_best_prompt(
    model, tmp_path, monkeypatch, without_page, measure
):
    shares = {
        (POSTERIOR, "choice"): 0.3, (POSTERIOR, "choice_minus_plain"): 0.3, (POSTERIOR, BOTH): 0.3,
        (PLAIN, "choice"): 0.2, (PLAIN, BOTH): 0.2, (SENTENCE, "choice"): 0.1, (SENTENCE, BOTH): 0.1,
    }  # fmt: skip
    tried, found = shares | {(POSTERIOR, measure): 0.9}, shares | {(POSTERIOR, measure): 0.8}
    questions = [asked(i, "a", 3) for i in range(10)]
    given = iter([fake(questions, tried), fake(questions, found)])
    monkeypatch.setattr(module, "evaluate_analogies", lambda *args, **settings: next(given))
    _, lines = solved(model, tmp_path, ([], [], questions), choose_on=questions, choices=True)
    title = MEASURES[measure].heading.lower()
    assert lines[0].startswith(f"Chosen on validation: {POSTERIOR} ({title}): 0.80 [")
    assert lines[1].startswith(f"Over the best prompt alone there, {PLAIN} (")
    assert of_lines(lines) == (0.8, 0.6), "0.8 right, of which the prompt alone has 0.2"


def test_the_way_of_the_best_prompt_is_compared_as_it_was_chosen(model, tmp_path, monkeypatch, without_page):
    """The best prompt alone is best in both directions; that, not its one direction, is what has to be beaten."""
    shares = {(POSTERIOR, "choice"): 0.9, (PLAIN, "choice"): 0.1, (PLAIN, BOTH): 0.5}
    questions = [asked(i, "a", 3) for i in range(10)]
    monkeypatch.setattr(module, "evaluate_analogies", lambda *args, **settings: fake(questions, shares))
    _, lines = solved(model, tmp_path, ([], [], questions), choose_on=questions, choices=True)
    assert of_lines(lines) == (0.9, 0.4)


def test_the_best_way_may_be_a_prompt_alone(model, tmp_path, monkeypatch, without_page):
    shares = {
        (POSTERIOR, "choice"): 0.3,
        (PLAIN, "choice"): 0.2,
        (SENTENCE, "choice"): 0.6,
        (Row(TRUE, "", "one-shot"), "choice"): 1.0,
    }
    questions = [asked(i, "a", 3) for i in range(10)]
    monkeypatch.setattr(module, "evaluate_analogies", lambda *args, **settings: fake(questions, shares))
    _, lines = solved(model, tmp_path, ([], [], questions), choose_on=questions, choices=True)
    assert lines[0].startswith(f"Chosen on validation: {SENTENCE} (right choices): 0.60")
    assert lines[1].endswith("a gain is not shown (+0.00 (no interval))."), "over itself nothing is gained"


@pytest.mark.slow
def test_no_test_answer_has_a_say_in_the_way_to_choose(model, whole, tmp_path, without_page):
    out, _, lines, _ = whole
    other = [replace(q, pairs=q.pairs[::-1], right=0, answers=q.pairs[-1][1:]) if q.pairs else q for q in QUESTIONS]
    _, told = solved(model, tmp_path, (*PARTS[:2], other), summed=summed_of(model), choices=True, choose_on=CHOOSE_ON)
    assert summary(tmp_path)["chosen on validation questions"] == summary(out)["chosen on validation questions"]
    assert told[0].split("):")[0] == lines[0].split("):")[0]


@pytest.mark.slow
def test_questions_to_choose_on_may_be_of_known_relations_where_the_test_questions_are_not(
    model, tmp_path, without_page
):
    """What is chosen on validation must be a way that the test questions can be asked."""
    test = [asked(i, None, 3, pairs=True) for i in range(5)]
    for seed in range(4):
        choose_on = [asked(5 + i + seed, "abcd"[i % 4], 3) for i in range(5)]
        _, lines = solved(model, tmp_path / str(seed), ([], [], test), choose_on=choose_on, choices=True)
        assert len(lines) == 2 and "left out" not in lines[0]


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("part", [0, 1, 2, 3], ids=["train", "validation", "test", "to choose on"])
def test_a_question_beyond_the_context_is_told_before_the_fit(model, tmp_path, fits, part):
    long = replace(
        QUESTIONS[0], source=(" ".join(["w3"] * 200), "w4"), pairs=(), right=None, target="w5", answers=("w6",)
    )
    parts = [[*some, long] if part == i else some for i, some in enumerate((*PARTS, CHOOSE_ON))]
    with pytest.raises(InputError, match="more than the model's context of 128"):
        solved(model, tmp_path / "out", parts[:3], choose_on=parts[3], choices=True)
    assert fits == [] and not (tmp_path / "out").exists()


def test_questions_to_choose_on_need_choices(model, tmp_path, without_page):
    with pytest.raises(InputError, match="choices"):
        solved(model, tmp_path, ([], [], QUESTIONS), choose_on=[asked(6, "a"), asked(7, "b")], choices=True)


# Libraries on disk


def test_a_library_is_read_by_the_relations_of_its_vectors(model, tmp_path):
    for i, (name, fv) in enumerate(vectors_of(model).items()):
        replace(fv, relation=None if name == "d" else name).save(tmp_path / f"{'d' if name == 'd' else i}.safetensors")
    (tmp_path / "notes.txt").write_text("")
    found = load_library(tmp_path)
    assert found.keys() == set("abcd")
    assert all(torch.equal(found[name].vector, fv.vector) for name, fv in vectors_of(model).items())


def test_a_folder_that_is_no_library_is_refused(model, tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(
            InputError, match=rf"^'{folder}' has no vectors .\*.safetensors.; give the `vectors` folder"
        ):
            load_library(folder)
    vectors_of(model)["a"].save(tmp_path / "one.safetensors")
    vectors_of(model)["a"].save(tmp_path / "two.safetensors")
    with pytest.raises(InputError, match="has two vectors of 'a'; keep one of them.$"):
        load_library(tmp_path)
    (tmp_path / "one.safetensors").write_text("nothing")
    with pytest.raises(InputError, match="is not a complete safetensors file"):
        load_library(tmp_path)


@pytest.fixture
def tunes(monkeypatch, model):
    """Tuning gives the vectors of four relations; how often it was asked for."""
    asked_for = []

    def finetune_all(of, names):
        asked_for.append(names)
        return {name: replace(fv, relation=name) for name, fv in zip(names, vectors_of(model).values(), strict=True)}

    monkeypatch.setattr(module, "relation_names", lambda: BUNDLED)
    monkeypatch.setattr(module, "finetune_all", finetune_all)
    return asked_for


def test_a_library_is_tuned_once_and_kept(model, tmp_path, tunes):
    told = []
    first = tuned_library(model, tmp_path / "deep" / "vectors", told.append)
    again = tuned_library(model, tmp_path / "deep" / "vectors", told.append)
    assert tunes == [BUNDLED] and told == ["Tuning the library: 4 bundled relations, from zero"]
    assert first.keys() == again.keys() == set(BUNDLED)
    assert all(torch.equal(first[name].vector, again[name].vector) for name in first)


def test_a_library_that_was_cut_short_is_not_taken_for_a_whole_one(model, tmp_path, tunes, monkeypatch):
    save, saved = FunctionVector.save, []

    def interrupted(fv, path):
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        save(fv, path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(FunctionVector, "save", interrupted)
        tuned_library(model, tmp_path, lambda line: None)
    assert len(saved) == 1 and tuned_library(model, tmp_path, lambda line: None).keys() == set(BUNDLED)


# The command


def call(*arguments):
    """The result of the command; an exception that is not an exit is a failure of the test."""
    result = CliRunner().invoke(cli.app, ["analogies", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory, of which everything that appears is seen."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def bundled(monkeypatch):
    """Few bundled questions, over the tiny tokenizer's words."""
    load, questions = question_files.load_questions, [*TRAIN, *CHOOSE_ON]
    monkeypatch.setattr(question_files, "load_questions", lambda path=None: questions if path is None else load(path))
    return questions


@pytest.fixture
def command(here, bundled, monkeypatch, model, tmp_path):
    """The command on the tiny model: a function of its arguments, with a folder of vectors among them."""
    monkeypatch.setattr(models, "load_model", lambda name, **options: model)
    folder = tmp_path / "vectors"
    (folder / "summed").mkdir(parents=True)
    for name, fv in vectors_of(model).items():
        fv.save(folder / f"{name}.safetensors")
        summed_of(model)[name].save(folder / "summed" / f"{name}.safetensors")
    return partial(call, "--vectors", folder)


@pytest.fixture
def no_model(monkeypatch):
    def load_model(name, **options):
        pytest.fail("the model was loaded, though the input was known to be wrong")

    monkeypatch.setattr(models, "load_model", load_model)


def written(path, questions) -> str:
    lines = [
        json.dumps({"stem": q.source, "choice": q.pairs, "answer": q.right, "prefix": "grade4"})
        if q.pairs else json.dumps({"source": q.source, "target": q.target, "answers": q.answers})
        for q in questions
    ]  # fmt: skip
    path.write_text("\n".join(lines))
    return str(path)


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


@pytest.mark.slow
def test_the_command_answers_the_bundled_test_questions(here, command, fits):
    result = command()
    assert result.exit_code == 0, result.output
    out = here / "fv_lens_analogies"
    assert files(out) == FILES and files(here) == ["fv_lens_analogies"] and len(fits) == 1
    told, table = summary(out), pd.read_csv(out / "results.csv", keep_default_na=False)
    n = told["questions"]
    assert min(n["train"], n["validation"], n["test"]) > 0
    assert n["train"] + n["validation"] + n["test"] == len(TRAIN) + len(CHOOSE_ON)
    assert told["command"].startswith("fv-lens analogies --vectors ") and told["command"].endswith("--seed 0")
    assert not (table.measure == "choice").any() and "Right choices" not in result.stdout
    assert f"Whole answers right, {n['test']} analogies; 95 % intervals" in result.stdout
    assert "summed vectors, posterior" in set(table.method)
    last = [f"fv_lens_analogies/{name}" for name in ("report.html", "results.csv", "summary.json")]
    assert squeezed(result.stdout).endswith("".join(last))
    assert "Composites fitted on" in result.stderr and "test analogies, by every method" in result.stderr


@pytest.mark.slow
def test_the_command_answers_a_file_and_chooses_on_others(here, command, tmp_path):
    file = written(tmp_path / "test.jsonl", [asked(i, None, 3, pairs=True) for i in range(6)])
    parts = {"one": range(6, 9), "two": range(10, 13)}
    others = [
        written(tmp_path / f"{name}.jsonl", [asked(i, None, 4, pairs=True) for i in part])
        for name, part in parts.items()
    ]
    result = command(file, "--validation", others[0], "--validation", others[1], "--out", "mine", "--seed", 3)
    assert result.exit_code == 0, result.output
    told = summary(here / "mine")
    assert told["questions"]["test"] == 6 and told["chance"] == pytest.approx(1 / 3) and told["seed"] == 3
    chosen = told["chosen on validation questions"]
    said, title = " ".join(result.stdout.split()), MEASURES[chosen["measure"]].heading.lower()
    assert f"Chosen on validation: {chosen['row']} ({title}): " in said
    assert "Over the best prompt alone there, " in said and "Right choices; chance 0.33" in result.stdout
    assert "6 validation questions, by every method" in result.stderr
    words = told["command"].split()
    assert words[:3] == ["fv-lens", "analogies", file] and words.count("--validation") == 2
    assert all(other in words for other in others)
    again = call(*words[2:])
    assert again.exit_code == 0 and again.stdout == result.stdout


@pytest.mark.slow
def test_a_file_of_questions_without_choices_is_completed(here, command, tmp_path):
    file = written(tmp_path / "test.jsonl", [asked(i, None) for i in range(4)])
    result = command(file)
    assert result.exit_code == 0 and summary(here / "fv_lens_analogies")["chance"] is None
    assert "Whole answers right, 4 analogies" in result.stdout


@pytest.mark.slow
def test_a_second_start_of_the_command_fits_nothing_again(here, command, fits):
    first = command()
    again = command()
    assert len(fits) == 1 and again.exit_code == 0 and again.stdout == first.stdout


@pytest.mark.slow
def test_without_vectors_the_bundled_relations_are_tuned_and_kept(here, command, tunes):
    for _ in range(2):
        result = call()
        assert result.exit_code == 0, result.output
        assert tunes == [BUNDLED] and files(here) == ["fv_lens_analogies"]
    assert files(here / "fv_lens_analogies") == sorted([*FILES, "vectors"])
    assert len(files(here / "fv_lens_analogies" / "vectors")) == 4


@pytest.mark.slow
def test_another_run_is_refused_before_the_library_is_tuned(here, command, tunes):
    assert call().exit_code == 0
    for file in (here / "fv_lens_analogies" / "vectors").iterdir():
        file.unlink()
    result = call("--seed", 1)
    assert result.exit_code == 2 and tunes == [BUNDLED]
    assert "holds another run. What differs: questions, SHA-256; seed: 0 there, 1 here." in result.stderr
    assert call().exit_code == 0 and tunes == [BUNDLED, BUNDLED]


@pytest.mark.slow
def test_tuned_vectors_outlive_an_interruption(here, command, tunes, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "fit_compositions", interrupted)
        result = call()
    assert result.exit_code == 130 and result.stderr.splitlines()[-1] == (
        "Interrupted. Saved before that: fv_lens_analogies/vectors. The same command goes on from there."
    )
    assert len(files(here / "fv_lens_analogies" / "vectors")) == 4
    assert call().exit_code == 0 and tunes == [BUNDLED]


@pytest.mark.slow
def test_an_interruption_while_the_library_is_tuned_leaves_nothing(here, command, tunes, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "finetune_all", interrupted)
        result = call()
    assert result.exit_code == 130 and result.stderr.splitlines()[-1] == "Interrupted. Nothing was saved."
    assert not files(here)


@pytest.mark.slow
def test_what_was_fitted_to_other_tuned_vectors_is_refused(here, command, tunes, model):
    assert call().exit_code == 0
    file = here / "fv_lens_analogies" / "vectors" / f"{BUNDLED[0]}.safetensors"
    fv = FunctionVector.load(file)
    replace(fv, vector=2 * fv.vector).save(file)
    result = call()
    assert result.exit_code == 2 and "fit.safetensors' belongs to another plan" in result.stderr


@pytest.mark.slow
def test_the_vectors_of_a_study_are_the_default(here, command, model):
    folder = here / "fv_lens_study" / "vectors"
    folder.mkdir(parents=True)
    for name, fv in vectors_of(model, "ac").items():
        fv.save(folder / f"{name}.safetensors")
    assert call().exit_code == 0 and summary(here / "fv_lens_analogies")["vectors"] == ["a", "c"]


def test_an_interrupted_command_says_that_it_goes_on(here, command, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "evaluate_analogies", interrupted)
    result = command()
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        "Interrupted. Saved before that: fv_lens_analogies/stages. The same command goes on from there."
    )


@pytest.mark.slow
def test_a_folder_of_other_questions_is_told_in_one_line(here, command, tmp_path):
    command()
    result = command(written(tmp_path / "test.jsonl", [asked(i, None) for i in range(3)]))
    assert result.exit_code == 2
    assert (
        "holds another run. What differs: questions, SHA-256. Give another --out, or delete this folder."
        in result.stderr.splitlines()[-1]
    )


@pytest.mark.slow
def test_help_says_what_may_be_given():
    result = call("--help")
    text = " ".join(result.output.split())
    assert result.exit_code == 0
    assert all(option in text for option in ("--validation", "--choices", "--vectors", "--model", "--out", "--seed"))
    assert "Solve analogies A:B :: C:?" in text and "analogies" in CliRunner().invoke(cli.app, ["--help"]).output


def test_questions_without_choices_cannot_be_chosen_among(here, bundled, no_model, tmp_path):
    file = written(tmp_path / "test.jsonl", [asked(i, None) for i in range(3)])
    with_choices = written(tmp_path / "other.jsonl", [asked(0, None, 3, pairs=True)])
    for arguments in (["--choices"], ["--validation", with_choices]):
        result = call(file, *arguments)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and not files(here)
        assert result.stderr.startswith(f"Error: '{file}' gives no choices; leave ")


def test_questions_to_choose_on_without_choices_are_told_in_one_line(here, command, tmp_path):
    file = written(tmp_path / "test.jsonl", [asked(i, None, 3, pairs=True) for i in range(3)])
    other = written(tmp_path / "other.jsonl", [asked(9, None), asked(8, None)])
    result = command(file, "--validation", other)
    assert result.exit_code == 2 and "choices" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.jsonl"], "Error: missing.jsonl: there is no such file"),
        (["--validation", "missing.jsonl"], "Error: missing.jsonl: there is no such file"),
        (["--out", "FILE"], "Error: Cannot write to 'FILE': "),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--each", str(10**9)], "Invalid value for '--each'"),
        (["NOTHING"], "scan.csv' has no questions: no two of its lines make an analogy"),
        (["--validation", "NOTHING"], "scan.csv' has no questions"),
        (["--n-folds", "2"], "No such option"),
        (["one.jsonl", "two.jsonl"], "unexpected extra argument"),
    ],
)
def test_the_command_refuses_bad_input_before_it_loads_anything(here, bundled, no_model, tmp_path, arguments, message):
    file, nothing = tmp_path / "file", tmp_path / "scan.csv"
    file.write_text("")
    nothing.write_text("target,source,targ_word,src_word,analogy_type\natom,solar system,nucleus,sun,science\n")
    result = call(*(text.replace("FILE", str(file)).replace("NOTHING", str(nothing)) for text in arguments))
    assert result.exit_code == 2 and not files(here) and "Traceback" not in result.stderr
    assert message.replace("FILE", str(file)) in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True], ids=["missing", "empty"])
def test_a_folder_without_vectors_is_told_in_one_line(here, command, tmp_path, there):
    folder = tmp_path / "others"
    if there:
        folder.mkdir()
    result = call("--vectors", folder)
    assert result.exit_code == 2 and not files(here)
    last = result.stderr.splitlines()[-1]
    assert last == f"Error: '{folder}' has no vectors (*.safetensors); give the `vectors` folder of a study."


@pytest.mark.slow
def test_vectors_of_two_layers_are_told_in_one_line(here, command, model, tmp_path):
    vectors_of(model, "b", 2)["b"].save(tmp_path / "vectors" / "b.safetensors")
    result = command()
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: The library mixes vectors of layer 1 ('a') and 2 ('b'); ")
