"""The rows of a study's table: every name is of one row, and comparisons are of rows that there are."""

import re

import pytest

from fv_lens.evaluation.rows import COMPARISONS, ROWS, TUNED, deal, is_deal, matching, of_kind

NAMES = [row.name.replace(r"\d+", "10") for row in ROWS]
SHOTS = [(10, 20, 30), (3, 8, 13)]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_of_one_row(name):
    assert [row for row in ROWS if matching(row.name, [name])] == [ROWS[NAMES.index(name)]]


@pytest.mark.parametrize("shots", SHOTS, ids=str)
def test_comparisons_are_of_two_rows_and_each_is_found_by_its_pattern(shots):
    told = [" - ".join(comparison.names(*shots)) for comparison in COMPARISONS]
    assert len(set(told)) == len(told)
    for comparison, name in zip(COMPARISONS, told):
        row, other = comparison.names(*shots)
        assert row != other and all(any(matching(known.name, [one]) for known in ROWS) for one in (row, other))
        assert re.fullmatch(comparison.pattern, name)


def test_a_pattern_takes_any_number_of_shots_and_no_other_row():
    for one in COMPARISONS:
        found = [other for other in COMPARISONS if re.fullmatch(one.pattern, " - ".join(other.names(4, 4, 4)))]
        assert {other.pattern for other in found} == {one.pattern}


def test_rows_of_a_kind_stand_in_the_order_of_the_list_and_shots_in_their_own():
    given = ["random vector", "8-shot", "zero-shot", "FFV from zero", "3-shot", "FV", "3-shot, shuffled", "a stranger"]
    assert of_kind("prompting", given) == ["zero-shot", "8-shot", "3-shot", "3-shot, shuffled"]
    assert of_kind("control", iter(given)) == ["random vector"]


def test_a_deal_is_told_from_the_row_that_it_is_of():
    assert set(TUNED.values()) <= set(NAMES) and not any(map(is_deal, NAMES))
    assert all(is_deal(deal(row, seed)) for row in TUNED.values() for seed in (1, 12))
    assert len({deal(row, seed) for row in TUNED.values() for seed in (1, 2)}) == 2 * len(TUNED)
