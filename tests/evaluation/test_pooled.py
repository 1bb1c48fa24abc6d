"""Models together: the same relations on each, pooled over relations and over models, whatever is missing where."""

import numpy as np
import pandas as pd
import pytest

from fv_lens.evaluation.pooled import OVER_MODELS, POOLED, Kin, pooled_over_fewer, scores_by_model, side_by_side
from fv_lens.evaluation.table import COLUMNS, Table, write_csv
from fv_lens.ground.scores import clustered_mean
from fv_lens.studies.results import read_table

FAMILIES = ["f", "f", "g", "h", "h", "i"]
KIN = {f"r{i}": Kin("one" if i < 3 else "two", family) for i, family in enumerate(FAMILIES)}
MEASURED = ("accuracy", "first_token_accuracy", "log_prob")
WORDS = 7


def table(rows: dict[str, np.ndarray], compared: str = "FFV - FV") -> pd.DataFrame:
    """A study's table: row -> value of each relation, NaN where there is none."""
    made = Table(list(KIN), [kin.category for kin in KIN.values()], [kin.family for kin in KIN.values()])
    owners = np.repeat(np.arange(len(KIN)), WORDS)
    right = {row: (np.tile(np.arange(WORDS), len(KIN)) < np.repeat(x * WORDS, WORDS)) for row, x in rows.items()}
    drawn = {row: np.where(np.repeat(np.isnan(rows[row]), WORDS), np.nan, x)[None] for row, x in right.items()}
    values = made.scores(
        {row: dict.fromkeys(MEASURED[:2], x) | {"log_prob": x - 1} for row, x in drawn.items()}, owners
    )
    one, other = compared.split(" - ")
    if {(one, "accuracy"), (other, "accuracy")} <= values.keys():
        for measure in MEASURED:
            made.groups("difference", compared, measure, values[one, measure] - values[other, measure])
    return made.frame()


def made(seed: int, *rows: str, without: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = {row: rng.integers(0, WORDS + 1, len(KIN)) / WORDS for row in rows}
    for of in values.values():
        of[list(without)] = np.nan
    return values


def line(frame, model, row, part="score", name="all", measure="accuracy"):
    at = (frame.model == model) & (frame.part == part) & (frame.row == row)
    at &= (frame.name == name) & (frame.measure == measure)
    return frame[at].iloc[0] if at.any() else None


def test_every_line_of_every_model_is_there_as_it_was():
    tables = {"a": table(made(0, "FV", "FFV")), "b": table(made(1, "FV"))}
    frame = side_by_side(tables, KIN)
    for model, own in tables.items():
        lines = frame[frame.model == model]
        assert (lines.models == 1).all()
        pd.testing.assert_frame_equal(lines[list(COLUMNS)].reset_index(drop=True), own)


def test_gains_in_shuffled_prompts_are_over_the_prompt_by_itself():
    """It is the first row of its part; a model without a row has no part in it."""
    values = [made(i, "3-shot, shuffled", "FV", "FFV") for i in range(3)]
    del values[2]["FFV"]
    tables = {}
    for i, rows in enumerate(values):
        own = table(rows, compared="none - none").assign(part="shuffled")
        gains = own[own.row != "3-shot, shuffled"].assign(part="shuffled gain")
        tables[f"m{i}"] = pd.concat([own, gains])
    frame = side_by_side(tables, KIN)
    for row, n in (("FV", 3), ("FFV", 2)):
        gain = np.mean([rows[row] - rows["3-shot, shuffled"] for rows in values[:n]])
        found = line(frame, POOLED, row, "shuffled gain")
        assert found.value == pytest.approx(gain) and found.models == n
        level = np.mean([rows[row] for rows in values[:n]])
        assert line(frame, POOLED, row, "shuffled").value == pytest.approx(level)


@pytest.mark.parametrize("n_models", [1, 2, 3, 12])
def test_both_pooled_scores_are_the_mean_of_means_with_intervals_over_families_and_over_models(n_models):
    values = {f"m{i}": made(i, "FV", "FFV") for i in range(n_models)}
    frame = side_by_side({model: table(rows) for model, rows in values.items()}, KIN)
    for part, row in (("score", "FV"), ("score", "FFV"), ("difference", "FFV - FV")):
        x = np.array([rows["FFV"] - rows["FV"] if part == "difference" else rows[row] for rows in values.values()])
        for name, members in (("all", range(6)), ("one", range(3)), ("two", range(3, 6))):
            x_of, families = x[:, list(members)], [FAMILIES[r] for r in members]
            # A family's values on all models are resampled together: as if they were one long list.
            limits = (-1.0, 1.0) if part == "difference" else (0.0, 1.0)
            over_relations = clustered_mean(x_of.ravel(), families * n_models, within=limits)
            over_models = clustered_mean(x_of.mean(1), range(n_models), within=limits)
            pooled, mean = (line(frame, model, row, part, name) for model in (POOLED, OVER_MODELS))
            assert pooled.value == pytest.approx(x_of.mean()) and mean.value == pytest.approx(x_of.mean())
            np.testing.assert_allclose([pooled.low, pooled.high], over_relations.ends, atol=1e-9)
            np.testing.assert_allclose([mean.low, mean.high], over_models.ends, atol=1e-9)
            assert (pooled.n, mean.n) == (len(members), n_models) and pooled.models == mean.models == n_models
    assert np.isnan(line(frame, OVER_MODELS, "FV").low) == (n_models == 1)


def test_one_model_pooled_is_the_model():
    own = table(made(3, "FV", "FFV"))
    frame = side_by_side({"a": own}, KIN)
    for part, row in (("score", "FV"), ("difference", "FFV - FV")):
        for measure in MEASURED:
            alone, pooled = (line(frame, model, row, part, measure=measure) for model in ("a", POOLED))
            assert alone.value == pytest.approx(pooled.value) and alone.n == pooled.n
            if measure == "log_prob" or part == "score":  # a difference of shares ends at -1 and 1 when it is pooled
                np.testing.assert_allclose([alone.low, alone.high], [pooled.low, pooled.high], atol=1e-9)


def test_a_row_that_a_model_lacks_is_pooled_over_the_others_and_said():
    values = {"a": made(0, "FV", "FFV"), "b": made(1, "FFV"), "c": made(2, "FV", "FFV")}
    frame = side_by_side({model: table(rows) for model, rows in values.items()}, KIN)
    assert line(frame, "b", "FV") is None and line(frame, POOLED, "FV").models == 2
    assert line(frame, POOLED, "FV").value == pytest.approx(np.mean([values["a"]["FV"], values["c"]["FV"]]))
    gaps = [values[model]["FFV"] - values[model]["FV"] for model in "ac"]
    assert line(frame, POOLED, "FFV - FV", "difference").value == pytest.approx(np.mean(gaps))
    assert pooled_over_fewer(frame, "score", 3) == {"FV": 2}
    assert pooled_over_fewer(frame, "difference", 3) == {"FFV - FV": 2}
    assert scores_by_model(frame, "score", "accuracy")["FV"].keys() == {"a", "c", POOLED, OVER_MODELS}


def test_relations_that_one_model_lacks_are_pooled_on_none():
    values = {"a": made(0, "FV"), "b": made(1, "FV", without=(0, 4))}
    frame = side_by_side({model: table(rows) for model, rows in values.items()}, KIN)
    shared = [1, 2, 3, 5]
    pooled = line(frame, POOLED, "FV")
    assert pooled.n == 4 and line(frame, "a", "FV").n == 6
    assert pooled.value == pytest.approx(np.mean([values[model]["FV"][shared] for model in "ab"]))
    nothing = {"a": made(0, "FV", without=(0, 1, 2)), "b": made(1, "FV", without=(3, 4, 5))}
    frame = side_by_side({model: table(rows) for model, rows in nothing.items()}, KIN)
    assert set(frame.model) == {"a", "b"}


def test_models_that_agree_on_every_relation_say_nothing_of_other_models_even_when_read_from_a_file(tmp_path):
    thirds = {"FV": np.array([1, 0, 1, 0, 1, 1]) / WORDS, "FFV": np.array([1, 0, 1, 0, 1, 1]) / WORDS + 1 / WORDS}
    other = {"FV": thirds["FV"][[1, 0, 2, 4, 3, 5]], "FFV": thirds["FFV"][[1, 0, 2, 4, 3, 5]]}
    tables = {}
    for model, rows in {"a": thirds, "b": other}.items():
        write_csv(table(rows), tmp_path / f"{model}.csv")
        tables[model] = read_table(tmp_path / f"{model}.csv", COLUMNS)
    frame = side_by_side(tables, KIN)
    assert np.isnan(line(frame, OVER_MODELS, "FV").low), "both models' means are 4 / 42, but for rounding"
    assert np.isnan(line(frame, POOLED, "FFV - FV", "difference").low), "all gains are a seventh, but for rounding"
