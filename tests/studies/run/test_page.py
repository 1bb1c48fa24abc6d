"""The page stands alone, says what was measured, and lets nothing of the data act as markup."""

import re
from dataclasses import replace

import pytest

from fv_lens.ground.errors import InputError
from fv_lens.studies.run.findings import Findings
from fv_lens.studies.run.page import write_report

from ...plots.made import HOSTILE, made_effects, made_evaluation, made_sweep
from ..pages import Page


@pytest.fixture
def write(tmp_path):
    def write(title="a title", summary=None, command=None, **results):
        path = tmp_path / "report.html"
        write_report(path, Findings(**results), title=title, summary=summary or {}, command=command)
        return path.read_text(encoding="utf-8")

    return write


@pytest.fixture
def everything():
    grid = made_sweep(heads=(2, 3))
    return dict(
        effects=made_effects(),
        sweep=grid,
        vector=grid.best(),
        evaluation=made_evaluation(),
        command="fv-lens run antonym",
    )


@pytest.mark.slow
def test_the_page_loads_nothing_and_holds_plotly_once(write, everything):
    text = write(**everything)
    tags = Page(text).tags
    loads = [(tag, parts) for tag, parts in tags if {"src", "href", "srcset", "data"} & parts.keys()]
    assert not loads and not {"link", "img", "iframe", "object"} & {tag for tag, _ in tags}
    assert "@import" not in re.search(r"<style>.*?</style>", text, re.S)[0]
    assert len(re.findall(r"\* plotly\.js v\d", text)) == 1


@pytest.mark.slow
def test_each_result_adds_its_figure(write, everything):
    def figures(text):
        return [parts["id"] for tag, parts in Page(text).tags if parts.get("class") == "plotly-graph-div"]

    assert figures(write(**everything)) == ["layers", "completion"]
    assert figures(write(evaluation=everything["evaluation"])) == ["completion"]
    assert figures(write()) == []


def test_the_map_of_heads_is_there_with_effects_and_needs_no_plotly(write, everything):
    def cells(text):
        return [parts["aria-label"] for tag, parts in Page(text).tags if parts.get("role") == "gridcell"]

    text = write(effects=everything["effects"], vector=everything["vector"])
    assert len(cells(text)) == 12 and "plotly.js" not in text
    outlined = {name.split(":")[0] for name in cells(text) if name.endswith(", chosen")}
    assert outlined == {f"layer {layer}, head {head}" for layer, head in everything["vector"].heads}
    assert not cells(write(evaluation=everything["evaluation"]))


@pytest.mark.slow
def test_the_page_is_the_same_when_written_again(write, everything):
    assert write(**everything) == write(**everything)


def sentences(text):
    """The sentences on top of the page."""
    short = re.search(r'<section class="short">(.*?)</section>', text, re.S)
    return (
        [Page(line).text.replace("\xa0", " ").strip() for line in re.findall(r"<p>.*?</p>", short[1])] if short else []
    )


def tuned_from(vector):
    training = dict(
        n_pairs=20, n_validation=10, chosen_step=0, validation_loss=1.0, losses=[2.0], validation_losses=[[0, 1.0]]
    )
    return replace(vector, method="tuned", heads=(), training=training)


@pytest.mark.slow
def test_the_page_opens_with_three_sentences_at_most_and_one_where_there_is_one_result(write, everything):
    tuning = dict(
        tuned=tuned_from(everything["vector"]),
        tuned_evaluation=made_evaluation((25, 18, 3), controls=("FV", "FFV of shuffled pairs")),
    )
    for results, n in (
        (everything | tuning, 3), (everything, 3), (dict(effects=everything["effects"]), 1),
        (dict(evaluation=made_evaluation((9, 2), controls=("zero-shot",))), 1), (dict(sweep=everything["sweep"]), 0),
    ):  # fmt: skip
        found = sentences(write(**results))
        assert len(found) == n and all(len(line) < 230 and line.endswith(".") for line in found)


def test_every_number_on_top_has_its_interval(write, everything):
    for line in sentences(write(**everything)):
        numbers = re.findall(r"[+-]?\d\.\d+", line)
        assert len(numbers) % 3 == 0 and len(numbers) == 3 * line.count("[")


def test_a_change_is_told_with_both_accuracies(write, everything):
    tested, plain = everything["evaluation"], everything["evaluation"].controls["zero-shot"]
    first, second = sentences(write(**everything))[:2]
    change = f"accuracy on 30 unseen words from {plain.accuracy} to {tested.accuracy}."
    assert first == f"Added at layer {everything['vector'].layer}, the summed vector raises {change}"
    assert second == f"10-shot prompting reaches {tested.controls['10-shot'].accuracy}."


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("right, verb", [((18, 2), "raises"), ((2, 18), "lowers"), ((5, 5), "moves")])
def test_what_a_change_is_called_depends_on_its_interval(write, right, verb):
    first = sentences(write(evaluation=made_evaluation(right, controls=("zero-shot",))))[0]
    assert first.startswith(f"The vector {verb} accuracy on ")
    assert first.endswith(", which may be chance.") == (verb == "moves")
    tuned = dict(tuned=tuned_from(made_sweep().best()), tuned_evaluation=made_evaluation(right, controls=("FV",)))
    assert f"Fine-tuning on 20 pairs {verb} accuracy from " in sentences(write(**tuned))[0]


def test_a_start_that_did_better_is_told(write):
    tuned = tuned_from(made_sweep().best())
    for right, told in ((20, True), (17, False)):
        evaluation = made_evaluation((18, 5, right), controls=("FV", "FFV from zero"))
        line = sentences(write(tuned=tuned, tuned_evaluation=evaluation))[0]
        assert (f"; tuned from zero, one reaches {evaluation.controls['FFV from zero'].accuracy}" in line) == told


@pytest.mark.parametrize("right, doubted", [(17, True), (3, False)])
def test_the_best_random_control_is_told_and_whether_the_vector_is_shown_to_exceed_it(write, right, doubted):
    controls = ("zero-shot", "random vector", "random heads")
    line = sentences(write(evaluation=made_evaluation((18, 1, 2, right), controls=controls)))[1]
    assert line.startswith("The best random control (random heads) reaches 0.")
    assert line.endswith("], which the vector is not shown to exceed.") == doubted


def test_a_plain_evaluation_is_told_without_a_change(write):
    evaluation = replace(made_evaluation((15, 3), controls=("10-shot",)), name="zero-shot")
    first, second = sentences(write(evaluation=evaluation))
    assert first.startswith("Without a vector, zero-shot prompts complete 0.50 [")
    assert second.startswith("10-shot prompting reaches 0.10 [")


def test_the_strongest_heads_stand_in_a_table_with_both_effects(write):
    effects = made_effects()
    text = Page(write(effects=effects)).text
    low, high = effects.confidence_interval()
    for layer, head in effects.top(5):
        at = layer, head
        assert f"L{layer}H{head} {effects.mean[at]:+.5f} [{low[at]:.5f}, {high[at]:.5f}]" in text


@pytest.mark.slow
def test_the_table_has_every_row_with_intervals_and_gains(write, everything):
    text = Page(write(**everything)).text
    for row in everything["evaluation"].controls.values():
        for score in (row.accuracy, row.first_token_accuracy, row.log_prob):
            assert f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]" in text
        for gain in (row.accuracy_gain, row.log_prob_gain):
            assert f"{gain.value:+.2f} [{gain.low:.2f}, {gain.high:.2f}]" in text


@pytest.mark.slow
def test_the_note_says_that_answers_are_counted_whole(write, everything):
    text = Page(write(**everything)).text
    assert "Accuracy: the most probable tokens, one after the other, are a right answer as a whole" in text
    assert "First token: the most probable next token begins a right answer." in text
    assert "Log-prob: of the whole first listed answer." in text and not re.search(r"\btop-\d", text)


@pytest.mark.slow
def test_how_it_was_made_lists_the_records_the_summary_and_the_command(write, everything):
    text = Page(write(**everything, summary={"timings, s": {"effects": 1.25}, "threads": 2})).text
    heads = " ".join(f"L{layer}H{head}" for layer, head in everything["vector"].heads)
    for fact in (heads, "a model", "timings, s effects 1.25", "threads 2", "fv-lens run antonym", "torch"):
        assert fact in text


def test_one_prompt_and_no_vector_are_told_without_an_interval(write):
    assert "(no interval) over 1 corrupted prompt of 10 shots" in Page(write(effects=made_effects(n=1))).text


def test_nothing_of_the_data_is_markup(write):
    grid = made_sweep(heads=(2, 3), relation=HOSTILE)
    text = write(
        title=HOSTILE, summary={HOSTILE: {HOSTILE: HOSTILE}}, effects=made_effects(relation=HOSTILE), sweep=grid,
        vector=replace(grid.best(), relation=HOSTILE, model=HOSTILE), command=HOSTILE + "\n$title",
        evaluation=made_evaluation(relation=HOSTILE, controls=(HOSTILE, "10-shot")),
    )  # fmt: skip
    assert "<script>alert" not in text
    assert Page(text).text.count(HOSTILE) >= 6


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing" / "report.html", tmp_path / "file" / "report.html", tmp_path):
        with pytest.raises(InputError, match=re.escape(str(path))):
            write_report(path, Findings(), title="a title", summary={})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_vector_that_belongs_to_other_results_is_refused(write, everything):
    with pytest.raises(InputError, match="outside the map"):
        write(effects=made_effects(layers=1, heads=1), vector=everything["vector"])
    with pytest.raises(InputError, match="not a vector of"):
        write(sweep=everything["sweep"], vector=everything["vector"].strengthened(3.0))
