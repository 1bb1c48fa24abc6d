"""What people's ratings say of two relations, and how well they agree."""

import numpy as np
import pandas as pd
import pytest

from fv_lens.datasets.ratings import COLUMNS, load_ratings
from fv_lens.ground.errors import InputError

NAMES = "abcdefgh"
LINES = [
    ("1a", "1a", "dog", "poodle", "cat", "tabby", 6.0, 10), ("1a", "2a", "dog", "poodle", "wheel", "car", 2.0, 11),
    ("2a", "1a", "hand", "arm", "cat", "tabby", 3.0, 12), ("2a", "2a", "hand", "arm", "wheel", "car", 5.0, 13),
    ("1a", "3a", "dog", "poodle", "big", "huge", 1.0, 9), ("3a", "2a", "big", "huge", "wheel", "car", 2.5, 9),
]  # fmt: skip


def write(path, columns=COLUMNS, lines=LINES):
    pd.DataFrame(lines, columns=COLUMNS)[list(columns)].to_csv(path, index=False)
    return path


def test_the_matrix_is_the_mean_of_the_comparisons_of_two_relations(tmp_path):
    write(tmp_path / "relsim_mean_ratings.csv")
    found = load_ratings(tmp_path)
    assert len(found) == 6 and found.main == ["1a", "2a", "3a"] and ("1a", ("dog", "poodle")) in found.pairs
    human = found.matrix()
    assert human.to_frame().loc["1a", "2a"] == human.to_frame().loc["2a", "1a"] == 2.5
    assert human.counts.tolist() == [[1, 2, 1], [2, 1, 1], [1, 1, 0]] and np.isnan(human.values[2, 2])
    assert human.ceiling is None
    assert load_ratings(tmp_path / "relsim_mean_ratings.csv").matrix(["1a", "3a"]).values[0, 1] == 1.0


@pytest.mark.slow
def test_a_ceiling_is_near_one_where_people_agree_and_lower_where_they_do_not(tmp_path):
    rng, found = np.random.default_rng(8), []
    for noise in (0.01, 2.0):
        lines = [
            (a, b, "x", "y", "z", f"w{i}",
             np.clip(1 + abs(NAMES.index(a) - NAMES.index(b)) + noise * rng.standard_normal(), 1, 7), 10)
            for a in NAMES for b in NAMES if a < b for i in range(8)
        ]  # fmt: skip
        found.append(load_ratings(write(tmp_path / f"{noise}.csv", lines=lines)).matrix().ceiling)
    assert found[0] > 0.97 and found[1] < found[0]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(tmp_path, column):
    path = write(tmp_path / "r.csv", [name for name in COLUMNS if name != column])
    with pytest.raises(InputError, match=f"has no column '{column}'"):
        load_ratings(path)


def test_other_files_that_are_no_ratings(tmp_path):
    with pytest.raises(InputError, match="has no relsim_mean_ratings.csv"):
        load_ratings(tmp_path)
    lines = [(*LINES[0][:6], "high", 10)]
    with pytest.raises(InputError, match="line 2 has mean_rating 'high'; expected a number"):
        load_ratings(write(tmp_path / "r.csv", lines=lines))
    with pytest.raises(InputError, match="No comparison of relation '9z' was rated"):
        load_ratings(write(tmp_path / "s.csv")).matrix(["1a", "9z"])
