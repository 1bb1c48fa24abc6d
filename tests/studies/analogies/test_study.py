"""From library to figures: what a run of analogies leaves, how it goes on, and what it refuses."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fv_lens.analogies.composition import Folded
from fv_lens.analogies.differences import COLUMNS
from fv_lens.analogies.evaluate import evaluate_analogies
from fv_lens.analogies.fit import Fitting, fit_compositions
from fv_lens.analogies.gate import fit_gate
from fv_lens.analogies.scores import LIBRARIES, PROFILES, PROMPT_ONLY, TRUE, AnalogyScores, Row
from fv_lens.analogies.selection import BEST
from fv_lens.datasets.published import Published
from fv_lens.datasets.relation_files import load_relation
from fv_lens.datasets.relations import Relation
from fv_lens.ground.errors import InputError
from fv_lens.ground.measures import MEASURES
from fv_lens.models.lens import lens_of
from fv_lens.studies.analogies import study as module
from fv_lens.studies.analogies.library import tuned_library
from fv_lens.studies.analogies.study import Asked, solve_all
from fv_lens.studies.folders import MARKER, OutputFolder
from fv_lens.studies.job import Job
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.library import Library

from ...analogies.made import TRAIN, VALIDATION, equal, noise, vectors_of
from ..commands import files, interrupted
from ..pages import Page
from .made import (
    AFFINE_FILES,
    BUNDLED,
    CHOOSE_ON,
    FEW,
    FILES,
    NAMED,
    PARTS,
    QUESTIONS,
    asked,
    quick,
    summary,
    summed_of,
)

pytestmark = pytest.mark.usefixtures("fits")


def solved(model, out, parts=PARTS, vectors=None, told=None, **settings):
    tell = (lambda line: None) if told is None else told.append
    with OutputFolder(out, "analogies") as folder:
        asked, job = Asked(*parts, settings.pop("choose_on", ())), Job(folder, "fv-lens analogies", tell)
        return solve_all(model, vectors or vectors_of(model), asked, job, **settings)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The folder of a run with everything, and what it returned."""
    out, told = tmp_path_factory.mktemp("whole"), []
    with quick(items=8):
        found, lines = solved(model, out, told=told, summed=summed_of(model), choices=True, choose_on=CHOOSE_ON)
    return out, found, lines, told


@pytest.fixture
def without_page(monkeypatch):
    monkeypatch.setattr(module, "_items", lambda *args: [])
    monkeypatch.setattr(module, "write_analogy_report", lambda *args, **more: None)


def saved_settings(out) -> dict[str, Folded]:
    """What a run fitted, by name."""
    names = {name: name.replace(" + ", "-").replace(" ", "-") for name in (*FEW, BEST)}
    names |= {f"affine, diagonal, {prompt}": f"affine-diagonal-{prompt}" for prompt in ("zero-shot", "one-shot")}
    return {name: Folded.load(out / "composites" / f"{file}.safetensors") for name, file in names.items()}


def methods_of(out) -> dict:
    """The methods of a run: those with a name and those it fitted; affine ones of two prompts are one method."""
    fitted = saved_settings(out)
    pair = tuple(fitted.pop(f"affine, diagonal, {prompt}") for prompt in ("zero-shot", "one-shot"))
    return NAMED | fitted | {"affine, diagonal": pair}


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
        *AFFINE_FILES,
        "shared-alone.safetensors",
        "shared-best.safetensors",
        "shared-composite.safetensors",
    ]
    assert files(out / "stages") == ["affine.safetensors", "fit.safetensors", "timings.json"]
    assert told == [
        f"Composites fitted on {len(TRAIN)} train and {len(VALIDATION)} validation analogies",
        "Affine weights, for zero-shot and for one-shot prompts",
        "4 validation questions, by every method", "4 test analogies, by every method", "8 single analogies",
        "When to insert 'shared + best', chosen on validation analogies",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_page_has_every_number_and_single_analogies(whole):
    out, found, lines, _ = whole
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    drawn = [parts["id"] for _, parts in page.tags if parts.get("class") == "plotly-graph-div"]
    assert drawn == ["accuracy", "choice", "gate"] and "Download results.csv" in page.text
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
    how = dict(methods=methods_of(out), summed=summed_of(model))
    assert same(found, evaluate_analogies(model, vectors_of(model), QUESTIONS, **how))


@pytest.mark.slow
def test_the_table_has_every_score_and_what_composites_have_over_baselines(whole):
    out, found, *_ = whole
    table = pd.read_csv(out / "results.csv", keep_default_na=False)
    assert [*table.columns] == [*COLUMNS, "part", "group"] and set(table.group) == {"all"}
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
        for prompt in ("zero-shot", "one-shot"):
            for other in (PROMPT_ONLY, "single best", "posterior"):
                assert ("affine, diagonal", other, library, prompt, "accuracy") in lines
    assert len(lines) == len(gaps) and not any(method in (PROMPT_ONLY, TRUE) for method, *_ in lines)
    assert not any(method == other for method, other, *_ in lines)


@pytest.mark.slow
def test_gates_are_chosen_on_validation_and_measured_on_test_analogies(model, whole):
    out, found, *_ = whole
    table, how = pd.read_csv(out / "results.csv", keep_default_na=False), saved_settings(out)[BEST]
    of_gates = table[table.part == "gate"]
    assert [*dict.fromkeys(of_gates.library)] == [*LIBRARIES] and [*summary(out)["gates"]] == [*LIBRARIES]
    for library in LIBRARIES:
        gate = fit_gate(model, vectors_of(model), VALIDATION, how, library=library)
        curve = gate.curve(model, vectors_of(model), found.questions)
        told = summary(out)["gates"][library]
        assert (told["signal"], told["threshold"]) == (gate.signal, pytest.approx(gate.threshold, abs=1e-5))
        values = of_gates[of_gates.library == library].set_index("measure").value
        assert values["accuracy, 50% covered"] == pytest.approx(curve.gain(0.5).value, rel=1e-5)
        gain = found.difference(Row(BEST, library, "one-shot"), Row(PROMPT_ONLY, "", "one-shot"))
        assert values["accuracy, 100% covered"] == pytest.approx(gain.value, rel=1e-5), "all covered, as in the table"


@pytest.mark.slow
def test_a_gate_is_not_chosen_on_pairs_that_were_tuned_on(model, tmp_path, without_page):
    """Validation analogies of one relation are left out, then all of them."""
    counts, told = [], []
    for i, names in enumerate((["a"], ["a", "b", "c", "d"])):
        vectors = vectors_of(model)
        for name in names:
            some = [q for q in VALIDATION if q.relation == name or len(names) > 1]
            training = {"train_words": [q.source[0] for q in some], "validation_words": []}
            vectors[name] = replace(vectors[name], training=training, relation=name if len(names) == 1 else None)
        solved(model, tmp_path / str(i), vectors=vectors, told=told)
        counts.append({gate["left out"] for gate in summary(tmp_path / str(i)).get("gates", {}).values()})
    of_a = sum(question.relation == "a" for question in VALIDATION)
    assert counts == [{of_a}, set()] and sum(line.startswith("No gate: every") for line in told) == 1


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
    assert told["chance"] == pytest.approx(found.chance) and told["timings_s"].keys() == {"fit", "affine"}


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
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "evaluate_analogies", interrupted)
        solved(model, tmp_path)
    assert fits == [(len(TRAIN), len(VALIDATION))] and files(tmp_path) == ["stages"]
    solved(model, tmp_path)
    assert len(fits) == 1 and files(tmp_path) == [name for name in FILES if name != "report.html"]


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
    tried = evaluate_analogies(model, vectors_of(model), CHOOSE_ON, methods_of(out), summed=summed_of(model))
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
    found = Library.load(tmp_path)
    assert found.keys() == set("abcd")
    assert all(torch.equal(found[name].vector, fv.vector) for name, fv in vectors_of(model).items())


def test_a_folder_that_is_no_library_is_refused(model, tmp_path):
    with pytest.raises(InputError, match=rf"^'{tmp_path}' has no vectors .\*.safetensors.; give the `vectors` folder"):
        Library.load(tmp_path)
    with pytest.raises(InputError, match=f"^There is no folder '{tmp_path / 'missing'}'; give one that holds saved"):
        Library.load(tmp_path / "missing")
    vectors_of(model)["a"].save(tmp_path / "one.safetensors")
    vectors_of(model)["a"].save(tmp_path / "two.safetensors")
    with pytest.raises(InputError, match="has two vectors of 'a'; keep one of them.$"):
        Library.load(tmp_path)
    (tmp_path / "one.safetensors").write_text("nothing")
    with pytest.raises(InputError, match="is not a complete safetensors file"):
        Library.load(tmp_path)


def test_a_library_is_tuned_once_and_kept(model, tmp_path, tunes):
    told = []
    first = tuned_library(model, tmp_path / "deep" / "vectors", told.append)
    again = tuned_library(model, tmp_path / "deep" / "vectors", told.append)
    assert tunes == [BUNDLED] and told == ["Tuning the library from zero: 4 relations"]
    assert first.keys() == again.keys() == set(BUNDLED)
    assert all(torch.equal(first[name].vector, again[name].vector) for name in first)


def test_a_library_has_the_relations_of_sets_that_are_not_among_the_bundled_ones(model, tmp_path, tunes):
    antonym = load_relation("antonym")
    sets = [
        Published("one", [Relation("opposites", antonym.pairs[:30]), Relation("antonym", [("x", "y")])]),
        Published("two", [Relation("some", [*antonym.pairs[:2], *((f"a{i}", f"b{i}") for i in range(18))])]),
    ]
    told = []
    vectors = tuned_library(model, tmp_path, told.append, sets)
    assert tunes == [(*BUNDLED, "antonym-one", "some")]
    assert told == [
        "Left out, as half of their pairs or more are those of another relation: opposites (antonym)",
        "Tuning the library from zero: 6 relations",
    ]
    assert {name: (fv.aliases, fv.kin) for name, fv in vectors.items() if fv.kin} == {
        "antonym": (("opposites",), ("opposite", "opposites", "some")),
        "antonym-one": (("antonym",), ("antonym",)), "some": ((), ("antonym", "opposite", "opposites")),
        "tool-action": ((), ("action",)),
    }  # fmt: skip
    again = tuned_library(model, tmp_path, told.append, sets)
    assert len(tunes) == 1 and {name: fv.kin for name, fv in again.items()} == {
        name: fv.kin for name, fv in vectors.items()
    }


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
