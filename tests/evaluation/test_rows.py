"""The rows of a study's table: every name is of one row, and comparisons are of rows that there are."""

import pytest

from fv_lens.evaluation.rows import COMPARISONS, ROWS, TUNED, deal, matching, of_kind

NAMES = [row.name.replace(r"\d+", "10") for row in ROWS]
SHOTS = [(10, 20, 30), (3, 8, 13)]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_of_one_row(name):
    assert [row for row in ROWS if matching(row.name, [name])] == [ROWS[NAMES.index(name)]]


@pytest.mark.parametrize("shots", SHOTS, ids=str)
def test_comparisons_are_of_two_rows_of_the_list(shots):
    told = [" - ".join(comparison.names(*shots)) for comparison in COMPARISONS]
    assert len(set(told)) == len(told)
    for comparison in COMPARISONS:
        row, other = comparison.names(*shots)
        assert row != other and all(any(matching(known.name, [one]) for known in ROWS) for one in (row, other))


def test_rows_of_a_kind_stand_in_the_order_of_the_list_and_shots_in_their_own():
    given = ["random vector", "8-shot", "zero-shot", "FFV from zero", "3-shot", "FV", "3-shot, shuffled", "a stranger"]
    assert of_kind("prompting", given) == ["zero-shot", "8-shot", "3-shot", "3-shot, shuffled"]
    assert of_kind("control", iter(given)) == ["random vector"]


def test_deals_have_names_of_their_own():
    deals = {deal(row, seed) for row in TUNED.values() for seed in (1, 2)}
    assert set(TUNED.values()) <= set(NAMES) and len(deals) == 2 * len(TUNED)
    assert not any(matching(row.name, deals) for row in ROWS), "no row of the table takes them in"
