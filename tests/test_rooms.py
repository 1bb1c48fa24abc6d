"""Imports run one way, from room to room and from module to module."""

import ast

import pytest

from . import house

TREES = house.modules()
ARROWS = house.imports(TREES)


def test_every_module_is_in_a_room_of_the_order():
    assert {house.room(name) for name in TREES if name and name != "__main__"} == set(house.ROOMS)


def test_no_import_goes_up():
    assert house.upward(ARROWS) == []


def test_imports_never_go_round_in_a_circle():
    assert house.floors(ARROWS) >= len(house.ROOMS)


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("name", sorted(name for name in TREES if name not in ("", "plots") and house.is_package(name)))
def test_a_room_says_in_one_sentence_what_it_is_for(name):
    """And imports nothing, so that `fv-lens --help` stays quick; `plots` alone, which is public, lists its figures."""
    sentence, *code = TREES[name].body
    assert len(sentence.value.value.splitlines()) == 1 and not code


def test_the_top_of_the_package_can_be_taken_in_at_a_glance():
    assert len([path for path in house.PACKAGE.iterdir() if path.name != "__pycache__"]) <= 12


def test_an_import_that_goes_up_and_a_circle_are_found():
    wrong = ARROWS | {"engine.whatif": ARROWS["engine.whatif"] | {"vectors.patching"}}
    assert house.upward(wrong) == ["engine.whatif -> vectors.patching"]
    with pytest.raises(RecursionError):
        house.floors(wrong | {"vectors.patching": {"engine.whatif"}})


def test_models_alone_imports_transformer_lens():
    """Also for type checkers: what other rooms need of it has its name there."""
    importing = [
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and "transformer_lens" in ast.unparse(node)
    ]
    assert importing and {house.room(name) for name in importing} == {"models"}
