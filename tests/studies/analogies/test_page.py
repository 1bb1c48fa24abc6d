"""The page of analogies tells what was answered, calls shown only what is, and lets nothing of the data be markup."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fv_lens.analogies.differences import table
from fv_lens.analogies.scores import LIBRARIES, PROFILES, PROMPT_ONLY, TRUE, AnalogyScores, Row
from fv_lens.analogies.solve import AnalogyAnswer
from fv_lens.datasets.questions import Question
from fv_lens.ground.errors import InputError
from fv_lens.studies.analogies.page import write_analogy_report

from ..pages import WORST, Page, assert_like_harmless, downloads, figures, rows_of, short, words

N = 24
ASKED = [Question(("hot", "cold"), target="big", answers=("small",))] * N
CHOOSING = [Question(("hot", "cold"), (("big", "huge"), ("big", "small")), 1)] * N


def share(of: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(N) < of).astype(float)


def values(measure: str = "accuracy", method: str = "posterior", prompts=("zero-shot", "one-shot")) -> dict:
    """By hand: the best prompt alone is the one-shot one, while the method is better in a zero-shot prompt."""
    levels = {Row(PROMPT_ONLY, "", "zero-shot"): 0.15, Row(PROMPT_ONLY, "", "one-shot"): 0.35}
    levels[Row(PROMPT_ONLY, "", "sentence")] = 0.2
    for library in LIBRARIES:
        for name, level in ((method, 0.8), ("shared alone", 0.1)):
            levels |= {Row(name, library, prompt): level - 0.2 * i for i, prompt in enumerate(prompts)}
    levels[Row(TRUE, "", "one-shot")] = 0.7
    return {row: {measure: share(level, i)} for i, (row, level) in enumerate(levels.items())}


def made_scores(found: dict | None = None, questions=ASKED, groups=None, left_out: int = 0) -> AnalogyScores:
    groups = [f"family {i // 2}" for i in range(N)] if groups is None else groups
    return AnalogyScores(values() if found is None else found, questions, groups, left_out)


def made_differences(value=0.25, low=0.125, high=0.375, name="posterior - prompt only", prompt="one-shot"):
    lines = [
        (name, library, prompt, measure, *of, N, "difference")
        for library in LIBRARIES
        for measure, of in (("accuracy", (value, low, high)), ("log_prob", (9.5, 9.25, 9.75)))
    ]
    return pd.DataFrame(lines, columns=["method", "library", "prompt", "measure", "value", "low", "high", "n", "part"])


def together(scores: AnalogyScores, differences: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([scores.to_frame().assign(part="score"), differences], ignore_index=True)


def answered(question: Question, chances=(), plain=(), completions=(("small", -0.5), ("tiny", -2.0)), **more):
    """An answer by hand, with log-probabilities of the choices."""
    completions = () if question.target is None else completions
    return AnalogyAnswer(
        question.source, question.target, completions, completions[::-1], more.get("weights", {"antonym": 0.75}),
        question.choices, tuple(chances), tuple(plain),
    )  # fmt: skip


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fv_lens.studies.page.parts.get_plotlyjs", lambda: ""
    )  # four megabytes, which take long to parse

    def write(scores=None, differences=None, items=(), **options):
        path = tmp_path / "analogies.html"
        scores = made_scores() if scores is None else scores
        differences = made_differences() if differences is None else differences
        options = dict(title="a title", best="posterior") | options
        write_analogy_report(path, scores, together(scores, differences), items, **options)
        return path.read_text(encoding="utf-8")

    return write


def summaries(text: str) -> list[str]:
    return [Page(found).text for found in re.findall("<summary>.*?</summary>", text, re.S)]


# What is said


def test_groups_of_analogies_have_tables_of_scores_and_gains_and_a_sentence(write):
    questions = [replace(ASKED[0], label=("near", "far")[i % 2]) for i in range(N)]
    scores, near = made_scores(questions=questions), [*range(0, N, 2)]
    frame = table(scores, scores.questions)
    text = write(scores, frame[frame.part != "score"])
    assert "Groups of analogies" in words(text)
    for library in LIBRARIES:
        found = dict(rows_of(text, f"Groups: {library}"))
        row = Row("posterior", library, "one-shot")
        assert found["posterior, one-shot"][0] == str(scores.only(near).score(row))
        gain = scores.only(near).difference(row, Row(PROMPT_ONLY, "", "one-shot"))
        cells = dict(rows_of(text, f"Groups: Gains over the prompt, {library}"))[f"posterior - {PROMPT_ONLY}, one-shot"]
        assert cells[0].startswith(gain.signed) and len(cells) == 2
        assert f"posterior, one-shot, over that prompt alone, {library}: near {gain.signed}; far " in short(text)


@pytest.mark.slow
def test_without_groups_nothing_is_said_of_them(write):
    assert "Groups" not in words(write())


def test_every_part_has_its_place_and_the_page_loads_nothing(write):
    both = values()
    for row, of in values("choice").items():
        both[row] |= of
    both[Row(PROFILES, "full")] = {"choice": share(0.5, 99)}
    text = write(made_scores(both, CHOOSING), items=[(ASKED[0], answered(ASKED[0]))], facts={"seed": 0})
    assert figures(text) == ["accuracy", "choice"]
    assert re.findall("<h2>(.*?)</h", text) == [
        "Completed", "Chosen among answers", "Differences", "Single analogies", "How it was made", "Downloads",
    ]  # fmt: skip
    assert "Chance is 0.50." in words(text) and "weight profiles" in words(text)
    assert not [tag for tag, parts in Page(text).tags if {"src", "href", "srcset", "data"} & parts.keys()]


@pytest.mark.slow
def test_without_choices_nothing_is_said_of_choosing(write):
    text = write(items=[(ASKED[0], answered(ASKED[0]))])
    assert figures(text) == ["accuracy"]
    assert not re.search("chosen among|choices|chance", words(text), re.I)


@pytest.mark.slow
def test_the_tables_have_every_row_in_every_library(write):
    made = made_scores()
    found = dict(rows_of(write(made), "Whole answers right"))
    assert set(found) == {f"{row.method}, {row.prompt}" for row in made.values}
    for row in made.values:
        columns = [row.library] if row.library else LIBRARIES
        for column in columns:
            assert found[f"{row.method}, {row.prompt}"][list(LIBRARIES).index(column)] == str(made.score(row))


def test_the_headline_takes_the_row_in_the_best_prompt_alone_and_names_it(write):
    made = made_scores()
    prompt, rows = Row(PROMPT_ONLY, "", "one-shot"), [Row("posterior", library, "one-shot") for library in LIBRARIES]
    better = Row("posterior", "full", "zero-shot")
    assert made.score(better).value > made.score(rows[0]).value and next(iter(LIBRARIES)) == "full"
    told = short(write(made))
    for row, where in zip(rows, ("full", "its relation left out", "its family left out")):
        assert f"posterior, one-shot, {where}: {made.score(row)} completed with the whole word" in told
    assert told.count(f"the prompt alone (one-shot) {made.score(prompt)}") == 3
    assert "zero-shot" not in told


@pytest.mark.slow
def test_where_the_method_has_no_such_prompt_both_prompts_are_named(write):
    made = made_scores(values(prompts=("zero-shot",)))
    told = short(write(made))
    assert "posterior, zero-shot, full: " in told and "the prompt alone (one-shot) " in told


@pytest.mark.slow
def test_a_method_that_is_not_there_is_not_told_of(write):
    told = short(write(best="shared + best"))
    assert told.strip() == f"{N} analogies A : B :: C : ?, answered by every method."


@pytest.mark.slow
def test_only_methods_and_libraries_that_are_there_are_explained(write):
    whole = words(write())
    few = {row: of for row, of in values().items() if row.method in (PROMPT_ONLY, "posterior")}
    few = words(write(made_scores({row: of for row, of in few.items() if row.library in ("", "full")})))
    for said, of_few in (("Posterior:", True), ("Shared:", False), ("True relation:", False), ("Fitted:", None)):
        assert (said in whole) == (of_few is not None) and (said in few) == bool(of_few)
    assert "relation or family left out: without" in whole and "relation or family left out: without" not in few


@pytest.mark.slow
@pytest.mark.parametrize("left_out", [0, 3])
def test_left_out_ones_are_told_only_where_there_are_any(write, left_out):
    told = short(write(made_scores(left_out=left_out)))
    line = "; 3 more were left out because a vector was tuned on one of their pairs." in told
    assert line == ("more were" in told) == bool(left_out)


@pytest.mark.slow
@pytest.mark.parametrize("level, shown", [(0.9, True), (0.35, False), (0.0, True)])
def test_a_gain_of_the_headline_is_shown_only_where_its_interval_leaves_out_zero(write, level, shown):
    row, prompt, alone = (
        Row(*parts, "one-shot") for parts in (("posterior", "full"), (PROMPT_ONLY, ""), ("shared alone", "full"))
    )
    found = values()
    found[row] = {"accuracy": share(level, 7)}
    made = made_scores(found)
    gain = made.difference(row, prompt)
    assert gain.differs() == shown and not made.difference(prompt, prompt).differs()
    [told] = re.findall("posterior, one-shot, full: .*?whole word; (.*?); over the shared", short(write(made)))
    expected = gain.signed if shown else f"a gain is not shown ({gain.signed})"
    assert told == f"the prompt alone (one-shot) {made.score(prompt)}; over the prompt {expected}"
    assert made.difference(row, alone).signed in short(write(made))


@pytest.mark.slow
@pytest.mark.parametrize(
    "ends, cell",
    [
        ((0.25, 0.125, 0.375), "+0.25 [0.12, 0.38]"),
        ((-0.25, -0.375, -0.125), "-0.25 [-0.38, -0.12]"),
        ((0.25, -0.125, 0.5), "+0.25 [-0.12, 0.50] not shown"),
        ((0.25, 0.0, 0.5), "+0.25 [0.00, 0.50] not shown"),
        ((0.25, np.nan, np.nan), "+0.25 (no interval) not shown"),
    ],
)
def test_a_difference_whose_interval_holds_zero_is_called_not_shown(write, ends, cell):
    [(name, cells)] = rows_of(write(differences=made_differences(*ends)), "Differences")
    assert name == "posterior - prompt only, one-shot" and cells == [cell] * 3


def test_a_score_without_an_interval_says_so_and_nothing_infinite_is_written(write):
    text = write(made_scores(groups=["one"] * N), made_differences(0.25, np.nan, np.nan))
    assert words(text).count("(no interval)") > len(values())
    assert not re.search(r"\b(inf|infinity|nan)\b", words(text), re.I)
    [saved] = downloads(text).values()
    assert saved.low.isna().sum() == len(values()) + 3 and not np.isinf(saved.select_dtypes("number")).any(axis=None)


@pytest.mark.slow
def test_what_is_saved_is_every_score_and_difference(write):
    made, apart = made_scores(), made_differences()
    saved = downloads(write(made, apart))["results.csv"]
    pd.testing.assert_frame_equal(saved.fillna({"library": ""}), together(made, apart))


# Single analogies


@pytest.mark.slow
def test_a_completion_is_told_right_or_what_would_have_been(write):
    question = Question(("hot", "cold"), target="big", answers=("small", "little"))
    firsts = ("little", "right"), ("cold", "not small")
    items = [(question, answered(question, completions=((word, -0.5), ("tiny", -2.0)))) for word, _ in firsts]
    text = write(items=items)
    assert summaries(text) == [f"hot : cold :: big : ? {word}, {told}" for word, told in firsts]
    assert "With the composite: little 0.61, tiny 0.14." in words(text)
    assert "Without: tiny 0.14, little 0.61." in words(text)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [0, 1])
def test_choices_that_are_pairs_ask_for_both_words(write, chosen):
    question = Question(("hot", "cold"), (("dog", "cat"), ("big", "small")), 1)
    chances = np.where(np.arange(2) == chosen, -0.5, -3.0).tolist()
    text = write(items=[(question, answered(question, chances, [-1.0, -2.0]))])
    told = ("dog : cat, wrong", "big : small, right")[chosen]
    assert summaries(text) == [f"hot : cold :: ? : ? {told}"]
    assert [name for name, _ in rows_of(text, "Choices of hot : cold")] == ["dog : cat", "big : small"]


@pytest.mark.slow
def test_the_same_wrong_choice_twice_has_two_rows(write):
    question = Question(("hot", "cold"), (("big", "huge"), ("big", "small"), ("big", "huge")), 1)
    text = write(items=[(question, answered(question, [-3.25, -0.75, -0.25], [-1.25, -4.5, -1.75]))])
    assert rows_of(text, "Choices of hot : cold") == [
        ("big : huge", ["-3.25", "-1.25", "chosen without"]), ("big : small", ["-0.75", "-4.50", "right"]),
        ("big : huge", ["-0.25", "-1.75", "chosen"]),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_largest_weights_are_listed(write):
    weights = {f"relation {i}": 0.5 - 0.1 * i for i in range(7)}
    text = write(items=[(ASKED[0], answered(ASKED[0], weights=weights))])
    listed = [(name, cells[0]) for name, cells in rows_of(text, "Weights, hot : cold :: big : ? small, right")]
    assert listed == [(f"relation {i}", f"{0.5 - 0.1 * i:.2f}") for i in range(5)]


# Words of the data


@pytest.mark.slow
def test_nothing_of_the_data_is_markup(write):
    def page_of(word):
        source, other = (f"{word}A", f"{word}B"), (f"{word}C", f"{word}X")
        completed = Question(source, target=f"{word}C", answers=(f"{word}D",), relation=f"{word}R", family=f"{word}F")
        alike = Question(source, (other, (f"{word}C", f"{word}D"), other), 1)
        apart = Question(source, (other, (f"{word}E", f"{word}D")), 1)
        weights = {f"{word}R": 0.75, f"{word}S": -0.25}
        items = [
            (completed, answered(completed, completions=((f"{word}X", -0.5), (f"{word}D", -1.0)), weights=weights)),
            (alike, answered(alike, [-1.0, -2.0, -3.0], [-2.0, -1.0, -3.0], (), weights=weights)),
            (apart, answered(apart, [-1.0, -2.0], [-2.0, -1.0], weights=weights)),
        ]
        found = {row: of | {"choice": share(0.5, 3)} for row, of in values(method=f"{word}M").items()}
        found |= {Row(f"{word}O", f"{word}L", f"{word}P"): {"accuracy": share(0.5, 4)}}
        made = made_scores(found, CHOOSING, [f"{word}{i // 2}" for i in range(N)])
        return write(
            made, made_differences(name=f"{word}M - {word}O", prompt=f"{word}P"), items, title=f"{word}T",
            lines=[f"{word} chosen"], best=f"{word}M",
            facts={"command": f"{word} run", f"{word}K": {f"{word}N": f"{word}V"}, "more": f"{word}\nlines"},
        )  # fmt: skip

    text = assert_like_harmless(write, page_of)
    assert figures(text) == ["accuracy", "choice"] and Page(text).text.count(f"{WORST}D") == 5
    assert f"{WORST}M - {WORST}O" in set(downloads(text)["results.csv"].method)


@pytest.mark.slow
def test_the_page_is_the_same_when_written_again_and_a_missing_folder_is_named(write, tmp_path):
    assert write() == write()
    with pytest.raises(InputError, match="missing"):
        made = made_scores()
        write_analogy_report(
            tmp_path / "missing" / "a.html", made, together(made, made_differences()), [], title="a title"
        )
