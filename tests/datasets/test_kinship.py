"""Relations of several sets: the same ones once, kin by family and by the pairs they share, names told apart."""

import pytest

from fv_lens.datasets.kinship import KIN, SAME, unite
from fv_lens.datasets.relations import Relation


def relation(name, start, n=20, family=None, back=False):
    pairs = [(f"a{i}", f"b{i}") for i in range(start, start + n)]
    return Relation(name, [pair[::-1] for pair in pairs] if back else pairs, family=family)


def test_a_relation_of_a_later_set_that_shares_half_of_its_pairs_is_left_out():
    half, less = relation("half", 10), relation("less", 11)
    found = unite([("first", [relation("one", 0)]), ("second", [half, less])])
    assert list(found.relations) == ["one", "less"] and found.left_out == {"half": "one"}
    assert SAME == 0.5 and found.relations["less"] == less


def test_shares_are_of_the_smaller_one_in_either_direction_and_letter_case():
    small = Relation("small", [(f"B{i}", f"A{i}") for i in range(6)] + [(f"x{i}", "y") for i in range(6)])
    assert unite([("first", [relation("one", 0, 200)]), ("second", [small])]).left_out == {"small": "one"}


def test_every_right_answer_counts():
    several = Relation("several", [(f"a{i}", ["other", f"b{i}"]) for i in range(10)])
    assert unite([("first", [relation("one", 0, 10)]), ("second", [several])]).left_out == {"several": "one"}


def test_relations_of_one_set_are_never_the_same_but_kin():
    found = unite([("first", [relation("one", 0), relation("two", 0, back=True)])])
    assert not found.left_out and found.kin == {"one": ("two",), "two": ("one",)}


@pytest.mark.parametrize(("shared", "kin"), [(2, ("one", "early")), (1, ())])
def test_kin_are_relations_that_share_a_tenth_and_their_families(shared, kin):
    found = unite([("first", [relation("one", 0, family="early")]), ("second", [relation("two", 20 - shared)])])
    assert found.kin["two"] == kin and (KIN == 0.1 and shared / 20 >= KIN) == bool(kin)


def test_siblings_and_the_own_family_are_kin():
    found = unite([("first", [relation("one", 0, family="f")]), ("second", [relation("two", 90, family="f")])])
    assert found.kin == {"one": ("f", "two"), "two": ("f", "one")}


def test_what_is_left_out_as_the_same_stays_an_alias_and_kin():
    found = unite([("first", [relation("one", 0)]), ("second", [relation("twin", 0, family="g"), relation("x", 50)])])
    assert found.aliases == {"one": ("twin",), "x": ()} and found.kin == {"one": ("twin", "g"), "x": ()}


def test_a_name_that_is_taken_gets_the_name_of_its_set_and_keeps_its_own_as_an_alias():
    sets = [("first", [relation("one", 0), relation("one-second", 200)]), ("second", [relation("one", 100)])]
    found = unite(sets)
    assert [(name, of.name) for name, of in found.relations.items()] == [
        (name, name) for name in ("one", "one-second", "one-second-second")
    ]
    assert found.aliases["one-second-second"] == ("one",)
    same = unite([("first", [relation("one", 0)]), ("second", [relation("one", 0)])])
    assert same.left_out == {"one-second": "one"} and same.aliases == {"one": ("one-second",)}
