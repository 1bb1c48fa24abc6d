"""Relations of several sets: the same ones once, kin by the pairs they share, names told apart."""

import pytest

from fv_lens.datasets.kinship import KIN, SAME, gather
from fv_lens.datasets.relations import Relation


def relation(name, start, n=20, family=None, back=False):
    pairs = [(f"a{i}", f"b{i}") for i in range(start, start + n)]
    return Relation(name, [pair[::-1] for pair in pairs] if back else pairs, family=family)


def test_a_relation_of_a_later_set_that_shares_half_of_its_pairs_is_left_out():
    half, less = relation("half", 10), relation("less", 11)
    found = gather([("first", [relation("one", 0)]), ("second", [half, less])])
    assert list(found.relations) == ["one", "less"] and found.left_out == {"half": "one"}
    assert SAME == 0.5 and found.relations["less"] == less


def test_shares_are_of_the_smaller_one_in_either_direction_and_letter_case():
    small = Relation("small", [(f"B{i}", f"A{i}") for i in range(6)] + [(f"x{i}", "y") for i in range(6)])
    assert gather([("first", [relation("one", 0, 200)]), ("second", [small])]).left_out == {"small": "one"}


def test_every_right_answer_counts():
    several = Relation("several", [(f"a{i}", ["other", f"b{i}"]) for i in range(10)])
    assert gather([("first", [relation("one", 0, 10)]), ("second", [several])]).left_out == {"several": "one"}


def test_relations_of_one_set_are_never_the_same_but_kin():
    found = gather([("first", [relation("one", 0), relation("two", 0, back=True)])])
    assert not found.left_out and found.kin == {"one": ("two",), "two": ("one",)}


@pytest.mark.parametrize(("shared", "kin"), [(2, ("early",)), (1, ())])
def test_kin_are_relations_that_share_a_tenth(shared, kin):
    found = gather([("first", [relation("one", 0, family="early")]), ("second", [relation("two", 20 - shared)])])
    assert found.kin["two"] == kin and (KIN == 0.1 and shared / 20 >= KIN) == bool(kin)


def test_ones_own_family_is_not_among_its_kin():
    found = gather([("first", [relation("one", 0, family="f")]), ("second", [relation("two", 15, family="f")])])
    assert found.kin == {"one": (), "two": ()}


def test_a_name_that_is_taken_gets_the_name_of_its_set():
    found = gather([("first", [relation("one", 0)]), ("second", [relation("one", 100)])])
    assert [(name, of.name) for name, of in found.relations.items()] == [("one", "one"), ("one-second", "one-second")]
    assert gather([("first", [relation("one", 0)]), ("second", [relation("one", 0)])]).left_out == {"one-second": "one"}
