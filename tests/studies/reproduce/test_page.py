"""The page of the table tells what was measured, calls shown only what is, and stands alone with any part missing."""

import re

import numpy as np
import pandas as pd
import pytest

from fv_lens.ground.errors import InputError
from fv_lens.studies.reproduce.page import Portrait, write_table_report

from ...plots.made import HOSTILE
from ...plots.made_table import DIFFERENCES, FRAME, LEVELS, made_categories, made_training, made_words, pick
from ..pages import Page, figures, short, words


@pytest.fixture
def write(tmp_path):
    def write(frame=FRAME, title="a title", summary=None, command=None, **drawn):
        path, categories = tmp_path / "table.html", made_categories()
        write_table_report(
            path, frame, categories, Portrait(**drawn), title=title, summary=summary or {}, command=command
        )
        return path.read_text(encoding="utf-8")

    return write


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "table.html"
    write_table_report(
        path, FRAME, made_categories(), Portrait(made_training(), made_words()), title="a title",
        summary={"model": "a model", "seeds": [0, 1]}, command="fv-lens reproduce --seed -1",
    )  # fmt: skip
    return path.read_text(encoding="utf-8")


def numbers(row, signed=False, **where):
    found = pick(row, **where)
    return f"{found.value:{'+' * signed}.2f} [{found.low:.2f}, {found.high:.2f}]"


def with_difference(value, low, high):
    """The table with one difference in accuracy over all relations."""
    kept = FRAME[FRAME.part != "difference"]
    line = pick("FFV from FV - FV", part="difference").copy()
    line[["value", "low", "high"]] = value, low, high
    return pd.concat([kept, line.to_frame().T], ignore_index=True)


@pytest.mark.slow
def test_the_page_stands_alone_with_plotly_once_and_is_small(whole):
    tags = Page(whole).tags
    assert not [tag for tag, parts in tags if {"src", "href", "srcset", "data"} & parts.keys()]
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in tags}
    assert len(re.findall(r"\* plotly\.js v\d", whole)) == 1
    assert len(whole.encode()) < 8e6


def test_every_part_has_its_place(whole):
    assert figures(whole) == ["comparison", "slopes", "relations", "learning", "training", "decoding"]
    assert re.findall("<h[23]>(.*?)</h", whole) == [
        "How well", "All numbers", "Differences", "Relation by relation", "By category", "Fine-tuning",
        "Stability over deals of pairs", "What the vectors say", "Names of relations in vectors", "How it was made",
        "Downloads",
    ]  # fmt: skip
    assert "FFV: function vector fine-tuned" in words(whole)


@pytest.mark.slow
def test_relations_are_shown_together_where_there_are_enough_of_them(write):
    alike = pd.DataFrame(np.eye(3), list("abc"), list("abc"))
    points = pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [1.0, 0.0, 1.0]}, index=list("abc"))
    assert figures(write(similarities={"FV": alike, "FFV": alike}, points=points))[-2:] == ["similarity", "map"]
    assert not {"similarity", "map"} & set(figures(write(points=points[:2])))


@pytest.mark.slow
def test_the_table_can_be_saved(write):
    assert "Download results.csv" in words(write())


def test_the_numbers_in_short_are_those_of_the_table(whole):
    text = short(whole)
    assert "mean over 47 relations, 940 test words" in text
    for row in ("zero-shot", "10-shot", "FV", "FFV from FV"):
        assert f"{row} {numbers(row)}" in text
    assert f"FFV from FV is above FV by {numbers('FFV from FV - FV', part='difference')}" in text
    unsure = numbers("FFV from FV - 10-shot", signed=True, part="difference")
    assert f"; not shown to differ from 10-shot ({unsure})." in text
    assert whole.split('<section class="short">')[1].split("</section>")[0].count("<p>") == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "ends, said",
    [
        ((0.25, 0.125, 0.375), "FFV from FV is above FV by 0.25 [0.12, 0.38]."),
        ((-0.25, -0.375, -0.125), "FFV from FV is below FV by 0.25 [0.12, 0.38]."),
        ((0.25, -0.125, 0.5), "FFV from FV is not shown to differ from FV (+0.25 [-0.12, 0.50])."),
        ((0.25, 0.0, 0.5), "not shown to differ from FV (+0.25"),
        ((0.25, np.nan, np.nan), "not shown to differ from FV (+0.25 (no interval))"),
    ],
)  # fmt: skip
def test_a_difference_is_shown_only_where_its_interval_leaves_out_zero(write, ends, said):
    text = write(with_difference(*ends))
    assert said in short(text)
    table = text[text.index("<h2>Differences") :]
    assert ("<small>not shown</small>" in table) == ("not shown" in said)


def test_a_name_score_whose_interval_holds_chance_is_not_shown(whole):
    told = short(whole)
    score = [name for name in FRAME.measure.unique() if name.startswith("name score")][-1]  # the chosen one comes last
    assert f"({score}; chance 0.5): FV {numbers('FV', part='decoding', measure=score)}, FFV" in told
    assert f"; not shown to differ from chance: random {numbers('random', part='decoding', measure=score)}." in told


def test_the_tables_have_every_row_measure_and_category(whole):
    text = words(whole)
    for measure in ("accuracy", "first_token_accuracy", "log_prob"):
        for row in LEVELS:
            assert numbers(row, measure=measure) in text
        for row in DIFFERENCES:
            assert numbers(row, signed=True, part="difference", measure=measure) in text
    by_category = text[text.index("By category") :]
    for category in dict.fromkeys(made_categories().values()):
        of = sum(kind == category for kind in made_categories().values())
        assert f"{category} ({of})" in by_category
        assert numbers("FFV from FV", name=category) in by_category
        assert numbers("FFV from FV - FV", signed=True, name=category, part="difference") in by_category
    assert numbers("FFV from FV", part="stability", measure="cosine over seeds") in text


def test_how_it_was_made_lists_the_facts_and_the_command_as_it_was_typed(whole):
    text = words(whole)
    assert "a model" in text and "seeds [0, 1]" in text
    assert "<pre>fv-lens reproduce --seed -1</pre>" in whole


@pytest.mark.slow
def test_prompts_of_other_numbers_of_shots_are_shown_as_well(write):
    names = {"10-shot": "4-shot", "20-shot": "8-shot", "30-shot": "12-shot", "10-shot, shuffled": "4-shot, shuffled"}
    frame = FRAME.replace({"row": names | {"FFV from FV - 10-shot": "FFV from FV - 4-shot"}})
    assert f"4-shot {numbers('10-shot')}" in short(write(frame.iloc[::-1]))
    expected = words(write()).replace("10-shot", "4-shot").replace("20-shot", "8-shot").replace("30-shot", "12-shot")
    assert words(write(frame)) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("relations", "said"), [(("a", "b"), "order of the centred reading"), (("a",), None)])
def test_the_order_of_words_is_said(write, relations, said):
    text = words(write(decoding=made_words(relations)))
    assert ("order of the centred reading" in text and "Bars and numbers are the plain probability" in text) == bool(
        said
    )
    assert ("in the order of their probability" in text) != bool(said)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["score", "difference", "curve", "decoding", "stability"])
def test_a_page_without_a_part_is_the_page_with_less(write, part):
    lost = {"score": {"comparison", "slopes", "relations"}, "curve": {"learning"}}.get(part, set())
    assert set(figures(write(FRAME[FRAME.part != part]))) == {"comparison", "slopes", "relations", "learning"} - lost


@pytest.mark.slow
@pytest.mark.parametrize("group", ["relation", "category", "all"])
def test_a_page_without_a_group_is_the_page_with_less(write, group):
    lost = {"relation": {"slopes", "relations"}, "all": {"comparison", "learning"}}.get(group, set())
    text = write(FRAME[FRAME.group != group])
    assert set(figures(text)) == {"comparison", "slopes", "relations", "learning"} - lost
    assert ("<h3>By category</h3>" in text) == (group != "category")


@pytest.mark.slow
def test_an_empty_table_makes_a_page_without_results(write):
    text = write(FRAME[:0], summary={"model": "a model"}, training={}, decoding=made_words()[:0])
    assert not figures(text) and 'class="short"' not in text and "a model" in text


@pytest.mark.slow
def test_without_intervals_nothing_is_called_shown(write):
    told = short(write(FRAME.assign(low=np.nan, high=np.nan)))
    assert "(no interval)" in told and "nan" not in told
    assert "above" not in told and "below" not in told and "not shown to differ from FV" in told


@pytest.mark.slow
def test_the_page_is_the_same_when_written_again(write):
    assert write(training=made_training(3)) == write(training=made_training(3))


@pytest.mark.slow
def test_nothing_of_the_data_is_markup(write):
    frame = FRAME.replace({"row": {"FV": HOSTILE}, "name": {"antonym": HOSTILE, "inflection": HOSTILE + "2"}})
    text = write(
        frame, title=HOSTILE, summary={HOSTILE: HOSTILE}, command=HOSTILE,
        training={HOSTILE: made_training(1).popitem()[1]}, decoding=made_words((HOSTILE,)),
    )  # fmt: skip
    assert "<script>alert" not in text
    assert Page(text).text.count(HOSTILE) >= 6


@pytest.mark.slow
def test_a_missing_column_or_folder_is_named(write, tmp_path):
    with pytest.raises(InputError, match="lacks the column 'measure'"):
        write(FRAME.drop(columns="measure"))
    with pytest.raises(InputError, match="missing"):
        write_table_report(tmp_path / "missing" / "t.html", FRAME, {}, Portrait(), title="a title", summary={})
    assert not list(tmp_path.iterdir())
