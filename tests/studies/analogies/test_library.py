"""One library from several folders: of one layer, with one vector of a relation."""

from dataclasses import replace

import pytest
import torch

from fv_lens.analogies.basis import Basis
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.studies.analogies.library import load_libraries
from fv_lens.vectors.library import Library

from ...analogies.made import noise, vectors_of


def folder(path, vectors, summed=None):
    for place, made in ((path, vectors), (path / "summed", summed or {})):
        for name, fv in made.items():
            place.mkdir(parents=True, exist_ok=True)
            fv.save(place / f"{name}.safetensors")
    return path


def test_folders_are_one_library_of_all_their_vectors(model, tmp_path):
    folders = [folder(tmp_path / names, vectors_of(model, names)) for names in ("ab", "c", "d")]
    vectors, summed = load_libraries(folders)
    assert summed is None and vectors.keys() == set("abcd") and len(Basis.of(lens_of(model), vectors)) == 4
    assert all(torch.equal(vectors[name].vector, fv.vector) for name, fv in vectors_of(model).items())


def test_two_vectors_of_a_relation_are_refused_and_both_folders_are_named(model, tmp_path):
    """The name is the relation's, not the file's."""
    one = folder(tmp_path / "one", vectors_of(model, "ab"))
    two = folder(tmp_path / "two", {"z": vectors_of(model, "b")["b"]})
    with pytest.raises(
        InputError, match=f"^'{one}' and '{two}' both have a vector of 'b'; give one of the folders, or"
    ):
        load_libraries([one, two])
    with pytest.raises(InputError, match=f"^'{one}' and '{one}' both have a vector of 'a'"):
        load_libraries([one, one])


@pytest.mark.parametrize(
    ("other", "place"), [({"layer": 2}, "layer 2"), ({"site": "hook_mlp_out"}, "hook_mlp_out"), ({"model": "x"}, "'x'")]
)
def test_vectors_of_two_places_are_refused_and_both_folders_are_named(model, tmp_path, other, place):
    one = folder(tmp_path / "one", vectors_of(model, "ab"))
    moved = {name: replace(fv, **other) for name, fv in vectors_of(model, "c").items()}
    two = folder(tmp_path / "two", moved)
    with pytest.raises(InputError, match=f"^'{one}' has vectors for layer 1 .* and '{two}' for .*{place}.*; a library"):
        load_libraries([one, two])


def test_summed_vectors_are_for_comparison_only_where_all_folders_have_them_at_one_layer(model, tmp_path):
    def sums(names, layer=1):
        return {name: replace(fv, vector=noise(32), layer=layer) for name, fv in vectors_of(model, names).items()}

    whole = folder(tmp_path / "one", vectors_of(model, "a"), sums("a"))
    same = folder(tmp_path / "two", vectors_of(model, "b"), sums("b"))
    other = folder(tmp_path / "three", vectors_of(model, "c"), sums("c", 2))
    without = folder(tmp_path / "four", vectors_of(model, "d"))
    assert load_libraries([whole])[1].keys() == {"a"} and load_libraries([whole, same])[1].keys() == {"a", "b"}
    for odd in (other, without):
        assert load_libraries([whole, same, odd])[1] is None


def test_a_folder_without_vectors_is_named(model, tmp_path):
    one = folder(tmp_path / "one", vectors_of(model, "a"))
    with pytest.raises(InputError, match=f"There is no folder '{tmp_path / 'none'}'"):
        load_libraries([one, tmp_path / "none"])


def test_vectors_of_other_weights_are_refused(model, tmp_path):
    Library(vectors_of(model, "ab")).save(tmp_path / "one", model)
    assert load_libraries([tmp_path / "one"], model)[0].keys() == set("ab")
    other = Library.load(tmp_path / "one")
    other = Library(other, identity=other.identity.model_copy(update={"weights": "0" * 64}))
    other.save(tmp_path / "two")
    with pytest.raises(InputError, match=f"^The library in '{tmp_path / 'two'}' was made on other weights"):
        load_libraries([tmp_path / "two"], model)
