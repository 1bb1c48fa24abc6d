"""The table against loops over its numbers: groups, families, paired differences, and what has no number."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from fv_lens.evaluation.rows import COMPARISONS
from fv_lens.evaluation.table import COLUMNS, Table, cosines, rows_of, without, write_csv
from fv_lens.ground import scores
from fv_lens.ground.measures import COMPLETED

NAMES = ["a", "b", "c", "d", "e"]
CATEGORIES = ["one", "two", "one", "two", "two"]
FAMILIES = ["f", "g", "f", "h", "g"]
OWNERS = np.repeat(range(5), [4, 3, 4, 5, 2])
CONTROLS = ("FV", "10-shot", "FFV from FV")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def row(seed: int, draws: int = 1) -> dict[str, np.ndarray]:
    measured = {"accuracy": noise(draws, len(OWNERS), seed=seed) > 0, "log_prob": noise(draws, len(OWNERS), seed=seed)}
    measured["first_token_accuracy"] = noise(draws, len(OWNERS), seed=seed) > -0.5
    return {name: x.astype(float) for name, x in measured.items()}


ROWS = {"FV": row(1), "10-shot": row(2), "FFV from FV": row(3), "FV of random heads": row(4, draws=3)}


def table() -> Table:
    return Table(NAMES, CATEGORIES, FAMILIES)


def pick(frame: pd.DataFrame, **where) -> pd.Series:
    """The one line in which all of `where` holds."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1, where
    return frame.iloc[0]


def by_families(values: list[float], families: list[str]) -> tuple[float, float]:
    """Bounds of 95 % of means when whole families are drawn, one family after the other."""
    rng, known, means = np.random.default_rng(7), sorted(set(families)), []
    for _ in range(20_000):
        drawn = rng.choice(known, len(known))
        means.append(np.mean([v for family in drawn for v, of in zip(values, families) if of == family]))
    return tuple(np.quantile(means, [0.025, 0.975]))


def same_score(line: pd.Series, score: scores.Score) -> bool:
    return [line.value, line.low, line.high, line.n] == [score.value, score.low, score.high, score.n]


# Scores


@pytest.fixture(scope="module")
def frame():
    made = table()
    values = made.scores(ROWS, OWNERS)
    made.differences(values, 10, 20, 30)
    return made.frame()


@pytest.mark.slow
def test_a_relations_score_is_over_its_own_words(frame):
    for name, measured in ROWS.items():
        for measure in COMPLETED:
            for r, relation in enumerate(NAMES):
                kind = scores.mean if measure == "log_prob" else scores.proportion
                line = pick(frame, part="score", group="relation", name=relation, row=name, measure=measure)
                assert same_score(line, kind(measured[measure][:, OWNERS == r])) and line.n == sum(OWNERS == r)


@pytest.mark.parametrize("category", [None, "one", "two"])
def test_a_groups_score_is_the_mean_over_its_relations_whatever_their_numbers_of_words(frame, category):
    members = [r for r in range(5) if category in (None, CATEGORIES[r])]
    where = dict(group="category", name=category) if category else dict(group="all", name="all")
    for name, measured in ROWS.items():
        own = [float(measured["accuracy"][:, OWNERS == r].mean()) for r in members]
        line = pick(frame, part="score", row=name, measure="accuracy", **where)
        assert line.value == pytest.approx(np.mean(own)) and line.n == len(members)
        assert len({FAMILIES[r] for r in members}) == 1 or line.low <= line.value <= line.high


@pytest.mark.slow
def test_intervals_over_relations_draw_whole_families():
    families = [chr(ord("a") + min(at, 14)) for at in range(20)]  # the last has six
    made, own = Table([f"r{at}" for at in range(20)], ["one"] * 20, families), noise(20)
    own[14:] += 2
    score = made.groups("score", "FV", "log_prob", own)
    bounds = by_families(list(own), families)
    assert [score.low, score.high] == pytest.approx(bounds, abs=0.05 * (score.high - score.low))


def test_relations_that_are_alike_because_they_are_kin_tell_less():
    kin, strangers = table(), Table(NAMES, CATEGORIES, NAMES)
    wide, narrow = (
        made.groups("score", "FV", "accuracy", np.array([0.9, 0.1, 0.9, 0.4, 0.1])) for made in (kin, strangers)
    )
    assert wide.high - wide.low > 1.2 * (narrow.high - narrow.low) and wide.value == narrow.value


def test_one_family_says_nothing_of_the_spread(frame):
    line = pick(frame, part="score", group="category", name="one", row="FV", measure="accuracy")
    assert math.isnan(line.low) and math.isnan(line.high) and line.n == 2


def test_every_row_has_a_line_for_every_relation_category_and_all_together(frame):
    lines = frame[frame.part == "score"]
    assert len(lines) == len(ROWS) * len(COMPLETED) * (5 + 2 + 1) and tuple(frame) == COLUMNS
    assert list(lines.row.unique()) == list(ROWS) and not lines.duplicated(["group", "name", "row", "measure"]).any()


def test_categories_stand_in_the_order_of_their_relations():
    made = Table(NAMES, ["z", "a", "z", "m", "a"], FAMILIES)
    made.groups("score", "FV", "accuracy", np.arange(5.0))
    assert [(line[1], line[2]) for line in made.lines] == [("all", "all")] + [("category", c) for c in "zam"]


# Relations that have no number


@pytest.mark.parametrize("broken", [[1], [0, 2], [0, 1, 2, 3, 4]], ids=str)
def test_relations_without_a_vector_are_left_out_and_the_others_are_the_same(broken):
    made, others = table(), [r for r in range(5) if r not in broken]
    values = made.scores({"FV": without(ROWS["FV"], OWNERS, broken), "10-shot": ROWS["10-shot"]}, OWNERS)
    kept = np.isin(OWNERS, others)
    alone = Table(*([names[r] for r in others] for names in (NAMES, CATEGORIES, FAMILIES)))
    if others:
        renamed = np.searchsorted(others, OWNERS[kept])
        alone.scores({"FV": {measure: x[:, kept] for measure, x in ROWS["FV"].items()}}, renamed)
    assert [line for line in made.lines if line[3] == "FV"] == alone.lines
    assert [r for r in range(5) if math.isnan(values["FV", "accuracy"][r])] == broken
    untouched = table()
    untouched.scores({"10-shot": ROWS["10-shot"]}, OWNERS)
    assert [line for line in made.lines if line[3] == "10-shot"] == untouched.lines


def test_without_leaves_the_row_itself_as_it_was():
    before = {measure: x.copy() for measure, x in ROWS["FV"].items()}
    masked = without(ROWS["FV"], OWNERS, [0])
    for measure, x in ROWS["FV"].items():
        assert np.array_equal(x, before[measure])
        assert np.array_equal(np.isnan(masked[measure][0]), OWNERS == 0)


# Differences


def test_differences_are_paired_over_relations(frame):
    gaps = [
        float(ROWS["FFV from FV"]["log_prob"][:, OWNERS == r].mean() - ROWS["FV"]["log_prob"][:, OWNERS == r].mean())
        for r in range(5)
    ]
    line = pick(frame, part="difference", group="all", row="FFV from FV - FV", measure="log_prob")
    assert line.value == pytest.approx(np.mean(gaps)) and line.n == 5
    score = scores.clustered_mean(np.array(gaps), FAMILIES)
    assert [line.low, line.high] == pytest.approx([score.low, score.high])
    line = pick(frame, part="difference", name="two", row="FFV from FV - FV", measure="log_prob")
    assert line.value == pytest.approx(np.mean([gaps[1], gaps[3], gaps[4]])) and line.n == 3


def test_what_all_relations_gain_alike_is_sure_though_they_differ():
    made, level = table(), np.repeat([-9.0, -1.0, -5.0, -2.0, -7.0], [4, 3, 4, 5, 2])[None]
    gains = np.repeat([0.5, 0.501, 0.499, 0.502, 0.498], [4, 3, 4, 5, 2])[None]
    values = made.scores({"FV": {"log_prob": level}, "FFV from FV": {"log_prob": level + gains}}, OWNERS)
    made.differences(values, 10, 20, 30)
    line = pick(made.frame(), part="difference", group="all")
    assert line.value == pytest.approx(0.5) and 0.49 < line.low < line.value < line.high < 0.51


def test_differences_are_of_the_rows_that_are_there_and_of_the_relations_in_both(frame):
    assert set(frame[frame.part == "difference"].row) == {
        "FFV from FV - FV", "FFV from FV - 10-shot", "FV - FV of random heads",
    }  # fmt: skip
    made = table()
    rows = {"FV": without(ROWS["FV"], OWNERS, [0, 1]), "FFV from FV": without(ROWS["FFV from FV"], OWNERS, [1, 4])}
    values = made.scores(rows, OWNERS)
    made.differences(values, 10, 20, 30)
    line = pick(made.frame(), part="difference", group="all", measure="accuracy")
    gaps = [float((ROWS["FFV from FV"]["accuracy"] - ROWS["FV"]["accuracy"])[:, OWNERS == r].mean()) for r in (2, 3)]
    assert line.value == pytest.approx(np.mean(gaps)) and line.n == 2


def test_controls_are_named_by_their_numbers_of_shots_and_none_is_compared_with_itself():
    rows = {name: row(at) for at, name in enumerate(["FFV from FV", "4-shot", "9-shot", "4-shot, shuffled"])}
    made = table()
    made.differences(made.scores(rows, OWNERS), 4, 4, 9)
    found = list(made.frame()[made.frame().part == "difference"].row.unique())
    assert not made.frame().duplicated().any()
    assert found == ["FFV from FV - 4-shot", "FFV from FV - 9-shot", "4-shot - 4-shot, shuffled"]
    pairs = [(comparison.row, comparison.other) for comparison in COMPARISONS]
    assert len(set(pairs)) == len(pairs) and all(row != other for row, other in pairs)


# Rows of a step


def test_rows_are_the_columns_of_their_draws():
    tensors = {"right": torch.tensor([[1, 0, 1], [0, 0, 1]], dtype=torch.uint8)}
    tensors |= {
        "rank": torch.tensor([[0.0, 3, 0], [1, 0, 0]]),
        "log_prob": torch.tensor([[-1.0, -2, -3], [-4, -5, -6]]),
    }
    rows = rows_of(tensors, {"zero-shot": [0], "random": [2, 1]})
    assert rows["zero-shot"]["accuracy"].tolist() == [[1, 0]]
    assert rows["zero-shot"]["first_token_accuracy"].tolist() == [[1, 0]]
    assert rows["random"]["log_prob"].tolist() == [[-3, -6], [-2, -5]]
    assert rows["random"]["first_token_accuracy"].tolist() == [[1, 1], [0, 1]]
    assert set(rows["random"]) == set(COMPLETED)


# Cosines


def test_cosines_are_of_each_relations_two_vectors():
    a, b = (torch.from_numpy(noise(5, 8, seed=seed)).float() for seed in (0, 1))
    b[3] = torch.nan
    plain, centred = cosines(a, b, False), cosines(a + 100, b, True)
    for r in (0, 1, 2, 4):
        x, y = a[r].double().numpy(), b[r].double().numpy()
        assert plain[r] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        x, y = x - a.numpy().mean(0), y - np.nanmean(b.numpy(), 0)
        assert centred[r] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-4)
    assert math.isnan(plain[3]) and math.isnan(centred[3])


def test_a_vector_alone_has_nothing_left_when_centred():
    a, b = (torch.from_numpy(noise(3, 8, seed=seed)).float() for seed in (0, 1))
    b[1:] = torch.nan
    assert np.isfinite(cosines(a, b, False)).tolist() == [True, False, False]
    assert np.isnan(cosines(a, b, True)).all() and np.isnan(cosines(a[:1], a[:1], True)).all()


# The file


def test_the_file_has_six_digits_and_equal_bytes_for_equal_results(frame, tmp_path):
    write_csv(frame, tmp_path / "one.csv")
    nearly = frame.assign(value=frame.value * (1 + 1e-13))
    write_csv(nearly, tmp_path / "two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    lines = (tmp_path / "one.csv").read_bytes().decode().split("\n")
    assert lines[0] == ",".join(COLUMNS) and lines[-1] == "" and b"\r" not in (tmp_path / "one.csv").read_bytes()
    read = pd.read_csv(tmp_path / "one.csv", keep_default_na=True, na_values=[""])
    pd.testing.assert_frame_equal(read, frame, rtol=1e-5, check_dtype=False)
    digits = [cell.lstrip("-0.").replace(".", "") for cell in read.value.map(lambda x: f"{x:.10g}")]
    assert max(map(len, digits)) == 6
