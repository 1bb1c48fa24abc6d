"""Figures of the table of results show its numbers, intervals and order; and refuse what the table does not hold."""

import html
import re

import numpy as np
import pandas as pd
import pytest
import torch

from fv_lens import plots
from fv_lens.ground import scores
from fv_lens.ground.errors import InputError
from fv_lens.ground.scores import Score
from fv_lens.plots.table import COLUMNS, extent, lanes, scores_of, share_axis
from fv_lens.vectors.function_vector import FunctionVector

from .test_figures import HOSTILE, made_evaluation

LEVELS = {  # row -> whole answers right, before noise; the other measures follow
    "zero-shot": 0.04, "10-shot": 0.55, "20-shot": 0.58, "30-shot": 0.58, "10-shot, shuffled": 0.21,
    "FV, strength 1": 0.22, "FV": 0.38, "FFV from FV": 0.53, "FFV from zero": 0.51, "FFV from random": 0.49,
    "mean of FFVs": 0.53, "pooled FFV": 0.17, "FFV of shuffled pairs": 0.08, "another relation's FFV": 0.05,
    "FV of random heads": 0.07, "distributed FV": 0.36, "FV of own heads": 0.4,
}  # fmt: skip
DIFFERENCES = ("FFV from FV - FV", "FFV from FV - 10-shot", "zero-shot - FFV from FV")
KINDS = {
    "inflection": ("noun - plural_reg", "adj - comparative", "verb_inf - 3pSg", "verb_inf - Ving", "verb_Ving - Ved"),
    "derivation": ("noun+less_reg", "un+adj_reg", "adj+ly_reg", "over+adj_reg", "verb+tion_irreg"),
    "encyclopedic": ("country - capital", "country - language", "UK_city - county", "animal - young", "male - female"),
    "lexicographic": ("hypernyms - animals", "synonyms - intensity", "antonyms - gradable", "meronyms - substance"),
    "other": ("antonym", "park-country", "person-instrument", "landmark-country", "a rather long name of a relation"),
}


def made_categories(n=47) -> dict[str, str]:
    """`n` of at most 48 relations, some of every category."""
    named = [(name, kind) for kind, names in KINDS.items() for name in names]
    twice = [*named, *((f"{name} 2", kind) for name, kind in named)][:n]
    return dict(sorted(twice, key=lambda item: list(KINDS).index(item[1])))


def line(part, group, name, row, measure, score: Score) -> dict:
    return dict(zip(COLUMNS, (part, group, name, row, measure, score.value, score.low, score.high, score.n)))


def mean(values: np.ndarray) -> Score:
    """With a normal interval, which is quick, for what is drawn does not depend on how intervals are made."""
    half = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values))
    return Score(values.mean(), values.mean() - half, values.mean() + half, len(values))


def made_frame(n=47, words=20) -> pd.DataFrame:
    """A table of all parts, as if measured on `words` test words of each of `n` relations."""
    rng, categories, lines = np.random.default_rng(0), made_categories(n), []
    ease, named = rng.normal(0, 1.1, n), list(categories)
    groups = {("all", "all"): np.arange(n)}
    for kind in dict.fromkeys(categories.values()):
        groups["category", kind] = np.array([at for at, name in enumerate(named) if categories[name] == kind])
    values = {}
    for row, level in LEVELS.items():
        chance = 1 / (1 + np.exp(-(np.log(level / (1 - level)) + ease + rng.normal(0, 0.3, n))))
        right = rng.random((n, words)) < chance[:, None]
        first = right | (rng.random((n, words)) < 0.12)
        log_prob = np.log(np.clip(rng.normal(chance, 0.05)[:, None] + 0 * right, 0.003, 0.97)) - rng.random((n, words))
        for measure, of in {"accuracy": right, "first_token_accuracy": first, "log_prob": log_prob}.items():
            values[row, measure] = of.mean(1)
            score = mean if measure == "log_prob" else scores.proportion
            lines += [line("score", "relation", name, row, measure, score(of[at])) for at, name in enumerate(named)]
    for (group, name), members in groups.items():
        for (row, measure), of in values.items():
            lines.append(line("score", group, name, row, measure, mean(of[members])))
        for row in DIFFERENCES:
            for measure in ("accuracy", "first_token_accuracy", "log_prob"):
                one, other = (values[part, measure][members] for part in row.split(" - "))
                lines.append(line("difference", group, name, row, measure, mean(one - other)))
    for pairs in (1, 2, 3, 5, 10, 20):
        level = np.clip(0.6 * pairs / (pairs + 3.5) + rng.normal(0, 0.15, n), 0, 1)
        lines.append(line("curve", "all", "all", f"{pairs} pairs", "accuracy", mean(level)))
    for row, level in {"FV": 0.71, "FFV from FV": 0.8, "FFV from zero": 0.82, "random": 0.5}.items():
        for reading in ("unembed", "model"):
            score = mean(np.clip(rng.normal(level, 0.25, n), 0, 1))
            lines.append(line("decoding", "all", "all", row, f"name score, {reading}", score))
    cosine = mean(rng.normal(0.27, 0.1, n))
    lines.append(line("stability", "all", "all", "FFV from FV", "cosine over seeds", cosine))
    return pd.DataFrame(lines)


def made_training(n=47, steps=60) -> dict[str, pd.DataFrame]:
    rng, records = np.random.default_rng(0), {}
    for name in made_categories(n):
        step, floor = np.arange(steps + 1), rng.uniform(0.3, 2.5)
        loss = floor + rng.uniform(2, 5) * np.exp(-step / 12) + rng.normal(0, 0.05, steps + 1)
        validation = np.where(step % 5 == 0, loss + 0.2 + 0.008 * step, np.nan)
        records[name] = pd.DataFrame({"step": step, "loss": loss, "validation_loss": validation})
        records[name]["chosen"] = step == np.nanargmin(validation)
    return records


def made_words(relations=("antonym", "country - capital")) -> pd.DataFrame:
    words, lines = " opposite the\n black contrast anti <b> inverse unlike negative not reverse contrary".split(" "), []
    for relation in relations:
        for vector, scale in {"FV": 0.06, "FFV from FV": 0.5}.items():
            for at, word in enumerate(words[1:]):
                lines.append(
                    [relation, vector, f" {word}", scale * 0.6**at, word in ("opposite", "inverse", "reverse")]
                )
    return pd.DataFrame(lines, columns=["relation", "vector", "token", "probability", "is_name"])


FRAME = made_frame()


def pick(row, name="all", part="score", measure="accuracy"):
    at = (FRAME.part == part) & (FRAME.row == row) & (FRAME.name == name) & (FRAME.measure == measure)
    return FRAME[at].iloc[0]


def spans(trace):
    """x of each point, with the ends of its error bar."""
    return np.stack([trace.x, trace.x - trace.error_x.arrayminus, trace.x + trace.error_x.array], 1)


def traces(figure):
    return {trace.name: trace for trace in figure.data if trace.name}


def drawn_texts(figure):
    return str(figure.to_dict())


# The table


def test_scores_are_those_of_the_lines_in_their_order():
    found = scores_of(FRAME, part="score", group="all", measure="accuracy")
    assert list(found) == list(LEVELS)
    expected = pick("FV")
    assert found["FV"]["all"] == Score(expected.value, expected.low, expected.high, 47)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(column):
    with pytest.raises(InputError, match=f"lacks the column '{column}'"):
        plots.comparison(FRAME.drop(columns=column))


def test_what_was_measured_is_counted_over_relations_and_their_words():
    assert extent(FRAME) == "47 relations, 940 test words"
    assert extent(FRAME[FRAME.group == "all"]) == "47 relations"
    assert extent(made_frame(1, 1)) == "1 relation, 1 test word"


def test_a_number_without_an_interval_says_so():
    for ends in ((np.nan, np.nan), (-np.inf, np.inf)):
        assert str(Score(0.25, *ends, 1)) == "0.25 (no interval)"
    assert Score(0.25, np.nan, np.nan, 1).signed == "+0.25 (no interval)"


def test_groups_stand_below_each_other_under_their_names():
    places, ticks, labels, end = lanes({"one": ["a", "b"], "two": ["c"]})
    assert labels == ["<b>one</b>", "a", "b", "<b>two</b>", "c"] and ticks == [0, 1, 2, 3, 4]
    assert places == {"a": 1, "b": 2, "c": 4} and end == 5


LONG = "a relation whose name is far longer than any line of a figure, and_a_word_that_is_longer_than_a_line_as_well"


def whole(label):
    """A label without its line breaks and spaces."""
    return html.unescape(re.sub(r"<.*?>|\s", "", label))


def test_a_long_name_is_wrapped_and_has_the_room_that_its_lines_take():
    rows = lanes({"": ["a", LONG, "b"]}, width=20, height=25)
    lines = rows.labels[1].split("<br>")
    assert whole(rows.labels[1]) == whole(LONG) and max(map(len, lines)) <= 20
    room = 25 * (rows.places["b"] - rows.places["a"])
    assert room >= 17 * len(lines) and rows.end == pytest.approx(1 + (room - 25) / 25 + 1)
    assert 25 * rows.places[LONG] == pytest.approx((25 * rows.places["a"] + 25 * rows.places["b"]) / 2)


def named(frame, old, new, column="name"):
    return frame.assign(**{column: frame[column].where(frame[column] != old, new)})


def test_no_figure_cuts_a_long_name():
    name = FRAME[FRAME.group == "relation"].name.iloc[0]
    matrix = pd.DataFrame(np.eye(3), [LONG, "b", "c"], [LONG, "b", "c"])
    points = pd.DataFrame({"x": [0.0, 1], "y": [1.0, 0]}, index=[LONG, "b"])
    words = dict(relation="r", vector="FV", token=[LONG, " b"], probability=[0.5, 0.1], is_name=[True, False])
    vector = FunctionVector(torch.zeros(4), 0, weights={LONG: 0.75, "b": 0.25}, method="composite")
    for figure in (
        plots.comparison(named(FRAME, "FV", LONG, "row")), plots.relations(named(FRAME, name, LONG), {}),
        plots.similarity({"people": matrix}), plots.relation_map(points, {}), plots.composition(vector),
        plots.evaluation(made_evaluation(controls=(LONG, "10-shot"))), plots.decoding(pd.DataFrame(words)),
    ):  # fmt: skip
        labels = [*(figure.layout.yaxis.ticktext or ()), *(text for of in figure.data for text in of.text or ())]
        shown = next((label for label in labels if whole(LONG) in whole(label)), None)
        assert shown is not None and shown.count("<br>") >= 2, figure.layout.title.text


def test_an_axis_holds_every_interval_and_a_share_begins_at_zero():
    some = [Score(0.5, 0.4, 0.6, 9), Score(0.3, np.nan, np.nan, 1)]
    low, high = share_axis("accuracy", some)["range"]
    assert low < 0 and 0.6 < high < 0.7
    low, high = share_axis("log_prob", [Score(-3.0, -4.0, -2.0, 9)])["range"]
    assert -4.2 < low < -4 and -2 < high < -1.8


# Relations


def test_each_relation_has_a_point_with_its_interval_for_each_row():
    figure = plots.relations(FRAME, made_categories())
    ticks = dict(zip(figure.layout.yaxis.ticktext, figure.layout.yaxis.tickvals))
    for row in ("zero-shot", "10-shot", "FV", "FFV from FV"):
        trace = traces(figure)[row]
        assert len(trace.x) == 47 + 1
        for name in ("antonym", "country - capital 2"):
            [at] = np.flatnonzero(np.abs(np.array(trace.y) - ticks[name]) < 0.5)
            expected = pick(row, name)
            np.testing.assert_allclose(spans(trace)[at], [expected.value, expected.low, expected.high])


def test_relations_are_in_categories_and_sorted_by_the_last_row():
    labels = list(plots.relations(FRAME, made_categories()).layout.yaxis.ticktext)
    assert [label[3:-4] for label in labels if label.startswith("<b>")] == ["mean", *KINDS]
    ours = labels[labels.index("<b>derivation</b>") + 1 : labels.index("<b>encyclopedic</b>")]
    assert set(ours) == {name for name, kind in made_categories().items() if kind == "derivation"}
    best = [pick("FFV from FV", name).value for name in ours]
    assert best == sorted(best, reverse=True)
    assert ours != sorted(ours, key=lambda name: -pick("10-shot", name).value)


def test_the_mean_stands_on_top():
    figure = plots.relations(FRAME, made_categories(), rows=("FV",))
    [trace] = figure.data
    [at] = np.flatnonzero(np.array(trace.y) == 0)
    assert min(trace.y) == 0 and figure.layout.yaxis.ticktext[0] == "<b>mean</b>"
    np.testing.assert_allclose(spans(trace)[at], pick("FV")[["value", "low", "high"]].astype(float))
    assert "95 % over 47 relations" in trace.text[at]


def test_a_relation_without_a_category_comes_under_other():
    categories = made_categories()
    del categories["un+adj_reg"]
    labels = list(plots.relations(FRAME, categories).layout.yaxis.ticktext)
    assert labels.index("un+adj_reg") > labels.index("<b>other</b>")


def test_a_relation_that_lacks_the_last_row_comes_last():
    frame = FRAME[~((FRAME.name == "antonym") & (FRAME.row == "FFV from FV"))]
    labels = list(plots.relations(frame, made_categories()).layout.yaxis.ticktext)
    assert labels[-1] == "antonym"


@pytest.mark.slow
def test_the_figure_grows_with_the_relations():
    heights = [plots.relations(made_frame(n), made_categories(n)).layout.height for n in (5, 25, 47)]
    assert heights[0] < heights[1] < heights[2] and (heights[2] - heights[1]) >= 20 * 22


def test_hovering_tells_all_rows_of_the_relation():
    trace = plots.relations(FRAME, made_categories()).data[0]
    text = next(text for text in trace.text if text.startswith("<b>antonym (other)</b>"))
    for row in ("10-shot", "FFV from FV"):
        value = pick(row, "antonym")
        assert f"{row}: {value.value:.2f} [{value.low:.2f}, {value.high:.2f}]" in text
    assert "95 % over 20 words" in text


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(rows=("FV", "FFVs")), "no row 'FFVs'"),
        (dict(measure="top-5"), "measure is 'top-5'"),
        (dict(rows=()), "rows"),
        (dict(rows=("10-shot",) * 6), "rows"),
    ],
)
def test_rows_and_measures_that_are_not_there_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        plots.relations(FRAME, made_categories(), **options)


# All rows, and the learning curve


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("measure", ["accuracy", "first_token_accuracy", "log_prob"])
def test_the_comparison_has_every_row_with_its_interval(measure):
    figure = plots.comparison(FRAME, measure)
    ticks = dict(zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext))
    drawn = {ticks[y]: ends for trace in figure.data for y, ends in zip(trace.y, spans(trace))}
    assert len(drawn) == len(LEVELS)
    for row in LEVELS:
        expected = pick(row, measure=measure)[["value", "low", "high"]].astype(float)
        np.testing.assert_allclose(drawn[row], expected)


def test_rows_of_an_unknown_kind_come_last():
    frame = FRAME.replace({"row": {"FV": "something new"}})
    labels = plots.comparison(frame).layout.yaxis.ticktext
    assert list(labels[-2:]) == ["<b>other</b>", "something new"] and "FV" not in labels


def test_the_comparison_says_what_is_measured_and_on_how_much():
    title = plots.comparison(FRAME).layout.title.text
    assert "Whole answers right" in title and "47 relations, 940 test words" in title
    assert "nats" in plots.comparison(FRAME, "log_prob").layout.xaxis.title.text


@pytest.mark.slow
def test_rows_without_an_interval_are_drawn_without_bars():
    frame = FRAME.assign(low=np.nan, high=np.nan)
    for figure in (plots.comparison(frame), plots.relations(frame, made_categories())):
        assert all(not np.any(trace.error_x.array) for trace in figure.data)
        assert "(no interval)" in figure.data[0].text[0]
    assert not any(trace.fill for trace in plots.learning_curve(frame).data)


@pytest.mark.slow
@pytest.mark.parametrize("figure", [plots.comparison, plots.learning_curve])
def test_prompts_of_other_numbers_of_shots_stand_where_the_usual_do(figure):
    names = {"10-shot": "4-shot", "20-shot": "8-shot", "30-shot": "12-shot", "10-shot, shuffled": "4-shot, shuffled"}
    drawn, expected = figure(FRAME.replace({"row": names})).to_json(), figure(FRAME).to_json()
    for usual, other in list(names.items())[:3]:
        expected = expected.replace(usual, other)
    assert drawn == expected and "4-shot" in drawn


def test_the_learning_curve_is_in_the_order_of_numbers_with_its_band_and_levels():
    frame = FRAME.iloc[::-1]
    figure = plots.learning_curve(frame)
    curve, band = traces(figure)["fine-tuned"], figure.data[0]
    assert list(curve.x) == [1, 2, 3, 5, 10, 20]
    rows = [pick(f"{pairs} pairs", part="curve") for pairs in curve.x]
    np.testing.assert_allclose(curve.y, [row.value for row in rows])
    np.testing.assert_allclose(band.y, [row.high for row in rows] + [row.low for row in rows[::-1]])
    assert "<b>1 pair</b>:" in curve.text[0]
    for row in ("10-shot", "FV"):
        assert set(traces(figure)[row].y) == {pick(row).value} and traces(figure)[row].line.dash


def test_what_the_table_has_not_is_refused():
    with pytest.raises(InputError, match="no curve"):
        plots.learning_curve(FRAME[FRAME.part != "curve"])
    with pytest.raises(InputError, match="no scores over all relations"):
        plots.comparison(FRAME[FRAME.group == "relation"])
    with pytest.raises(InputError, match="no scores of relations"):
        plots.relations(FRAME[FRAME.group == "all"], {})


# Training


def test_losses_of_each_relation_their_means_and_the_kept_steps_are_drawn():
    records = made_training(5)
    figure = plots.training(records)
    thin = [trace for trace in figure.data if trace.name == "validation, each relation"]
    assert [trace.showlegend for trace in thin] == [True] + [False] * 4
    for trace, record in zip(thin, records.values()):
        np.testing.assert_allclose(trace.y, record.validation_loss.dropna())
    mean, training = traces(figure)["validation, mean"], traces(figure)["training, mean"]
    np.testing.assert_allclose(mean.y, np.mean([record.validation_loss.dropna() for record in records.values()], 0))
    np.testing.assert_allclose(training.y, np.mean([record.loss for record in records.values()], 0))
    assert mean.line.width > thin[0].line.width
    kept = traces(figure)["step kept"]
    for x, y, record in zip(kept.x, kept.y, records.values()):
        assert y == record.validation_loss.min() and x == record.step[record.validation_loss.idxmin()]


def test_the_mean_is_of_the_same_relations_at_every_step():
    records = made_training(3)
    records["antonym"] = made_training(1, steps=20).popitem()[1].assign(validation_loss=100.0)
    mean = traces(plots.training(records))["validation, mean"]
    assert max(mean.x) == 20 and min(mean.y) > 25


def test_records_that_cannot_be_drawn_are_refused():
    with pytest.raises(InputError, match="empty"):
        plots.training({})
    with pytest.raises(InputError, match="'antonym' lacks the column 'chosen'"):
        plots.training({"antonym": made_training(1).popitem()[1].drop(columns="chosen")})


# Decoding


def test_the_words_of_vectors_stand_side_by_side_with_names_marked():
    words = made_words()
    figure = plots.decoding(words, k=8)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [note.text for note in figure.layout.annotations] == [
        f"<b>{relation}</b><br>{vector}" for relation in words.relation.unique() for vector in words.vector.unique()
    ]
    for bar, (_, top) in zip(bars, words.groupby(["relation", "vector"], sort=False)):
        np.testing.assert_allclose(bar.x, top.probability[:8])
        colours = np.array(bar.marker.color)
        assert len(set(colours[top.is_name[:8]])) == 1 and not set(colours[top.is_name[:8]]) & set(
            colours[~top.is_name[:8]]
        )
    labels = [trace for trace in figure.data if trace.type == "scatter"][0].text
    assert labels[0].startswith("<b>opposite</b>") and labels[2].startswith("black ")
    assert labels[1].startswith("' the\\n'")  # what cannot be seen is quoted


def test_bars_of_a_relation_share_a_scale():
    axes = {axis.anchor: axis.range for axis in plots.decoding(made_words()).select_xaxes()}
    assert axes["y"] == axes["y2"] and axes["y"][1] >= 0.3


def test_relations_are_shown_in_the_order_asked_for():
    words = made_words(("a", "b", "c"))
    figure = plots.decoding(words, relations=["c", "a"])
    assert [note.text[3] for note in figure.layout.annotations] == ["c", "c", "a", "a"]
    with pytest.raises(InputError, match="relation 'd'; choose from 'a', 'b', 'c'"):
        plots.decoding(words, relations=["d"])


def test_words_that_cannot_be_drawn_are_refused():
    with pytest.raises(InputError, match="lack the column 'is_name'"):
        plots.decoding(made_words().drop(columns="is_name"))
    with pytest.raises(InputError, match="no words"):
        plots.decoding(made_words()[:0])
    with pytest.raises(InputError, match="k is 0"):
        plots.decoding(made_words(), k=0)


# All of them


@pytest.mark.slow
def test_text_from_the_table_cannot_become_markup():
    frame = FRAME.replace({"name": {"antonym": HOSTILE}, "row": {"zero-shot": HOSTILE}})
    words = made_words((HOSTILE,)).assign(token=HOSTILE, vector=HOSTILE)
    for figure in (
        plots.relations(frame, {HOSTILE: HOSTILE}, rows=(HOSTILE, "FV")),
        plots.comparison(frame),
        plots.training({HOSTILE: made_training(1).popitem()[1]}),
        plots.decoding(words),
    ):
        assert "&lt;script&gt;" in drawn_texts(figure)
        assert "<script" not in drawn_texts(figure)


@pytest.mark.slow
def test_slopes_join_each_relations_two_numbers_and_count_which_way_they_go():
    categories = made_categories()
    figure = plots.slopes(FRAME, categories)
    lines = {html.unescape(re.match("<b>(.*?)</b>", line.text[0])[1]): line for line in figure.data}
    assert lines.keys() == {*FRAME[(FRAME.part == "score") & (FRAME.group == "relation")].name, "mean"}
    for name, line in lines.items():
        ends = [pick(row, "all" if name == "mean" else name).value for row in ("FV", "FFV from FV")]
        assert list(line.y) == pytest.approx(ends) and list(line.x) == [0, 1]
    kinds = {line.legendgroup: line.line.color for line in figure.data if line.legendgroup}
    assert len(set(kinds.values())) == len(kinds) == len(set(categories.values()))
    assert [line.legendgroup for line in figure.data if line.showlegend and line.legendgroup] == list(kinds)
    up = sum(line.y[1] > line.y[0] for name, line in lines.items() if name != "mean")
    assert f"higher after in {up} relations" in re.sub("<.*?>", " ", figure.layout.title.text)


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("measure", ["accuracy", "log_prob"])
def test_the_axis_of_slopes_holds_the_whole_interval_of_the_mean(measure):
    frame = FRAME.copy()
    wide = (frame.part == "score") & (frame.group == "all") & (frame.measure == measure)
    frame.loc[wide, ["low", "high"]] = -7.5, 2.5  # beyond every relation's
    low, high = plots.slopes(frame, made_categories(), measure=measure).layout.yaxis.range
    assert low < -7.5 and 2.5 < high


def test_slopes_of_a_row_that_is_not_there_are_an_error():
    with pytest.raises(InputError, match="no row 'FFV from nowhere'"):
        plots.slopes(FRAME, {}, ("FV", "FFV from nowhere"))
