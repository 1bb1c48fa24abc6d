"""Libraries: what holds of all their vectors, scores, files in a folder, and the model that they belong to."""

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fv_lens.analogies.compose import compose
from fv_lens.analogies.solve import solve_analogy
from fv_lens.evaluation.similarity import similarity_matrix
from fv_lens.ground.errors import InputError
from fv_lens.models.identity import identity_of
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.library import Library
from fv_lens.vectors.patching import patch
from fv_lens.vectors.sharing.card import card_of

from .. import tiny
from .made import library_of, scores_of, vectors_of


def scored(model, names="abc", **more) -> Library:
    return Library(vectors_of(model, names), scores=scores_of(names), **more)


def test_a_library_is_a_mapping_that_knows_its_model_and_place(llama):
    vectors = vectors_of(llama)
    library = Library(vectors)
    assert dict(library) == vectors and list(library) == list("abc") and len(library) == 3 and "b" in library
    assert "z" not in library and library.get("z") is None
    assert (library.model, library.layer, library.site) == ("tiny/llama", 1, "hook_resid_post")
    assert library.matrix.equal(torch.stack([fv.vector for fv in vectors.values()]))
    assert repr(library) == "Library(3 vectors of tiny/llama, layer 1: 'a', 'b', 'c')"
    with pytest.raises(InputError, match=r"^The library has no vector 'z'; it has a, b, c\.$"):
        library["z"]
    with pytest.raises(TypeError):
        library["d"] = vectors["a"]


def test_functions_take_a_library_as_they_take_a_dict(llama):
    vectors, library = vectors_of(llama), library_of(llama)
    assert np.array_equal(similarity_matrix(vectors).values, similarity_matrix(library).values)
    pair = ("w0", "w1")
    assert compose(llama, vectors, pair).vector.equal(compose(llama, library, pair).vector)
    answers = [solve_analogy(llama, of, pair, "w2").to_frame() for of in (vectors, library)]
    pd.testing.assert_frame_equal(*answers)


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        ({}, "The library has no vectors"),
        ([1], "The library has no vectors"),
        ({1: None}, "The library has the name 1"),
        ({"a": "antonym"}, "The library holds str for 'a'"),
    ],
)
def test_what_is_no_library_is_refused(vectors, expected):
    with pytest.raises(InputError, match=expected):
        Library(vectors)


@pytest.mark.parametrize("other", [{"layer": 2}, {"site": "hook_mlp_out"}, {"model": "x"}, {"bos": None}])
def test_vectors_of_two_places_are_refused(llama, other):
    vectors = vectors_of(llama, "ab")
    what = next(iter(other))
    with pytest.raises(InputError, match=f"^The library mixes vectors of {what} "):
        Library({**vectors, "c": replace(vectors["a"], **other)})


def test_scores_go_with_their_vectors(llama):
    library = scored(llama)
    assert str(library.score("b")) == "0.75 [0.50, 0.88]" and library.score("b").n == 20
    assert library.score("b", row="zero-shot").value == 0.0 and library.score("b", "log_prob") is None
    some = library.select(["c", "b"])
    assert list(some) == ["c", "b"] and set(some.scores["name"]) == {"b", "c"}
    frame = library.to_frame().set_index("relation")
    assert frame.loc["a", ["accuracy", "accuracy_low", "accuracy_high"]].tolist() == [0.75, 0.5, 0.875]
    assert frame.loc["a", "divergence"] == 1.5 and "zero-shot" not in frame


def test_scores_of_other_vectors_or_of_another_form_are_refused(llama):
    with pytest.raises(InputError, match="^scores are of 'z', which the library has no vector of"):
        library_of(llama).with_scores(scores_of("az"))
    for wrong in (dict(value=float("nan")), dict(value=float("inf")), dict(n=0), dict(n=float("nan")), dict(row="")):
        with pytest.raises(InputError, match=f"^scores, line 0: {next(iter(wrong))} is "):
            library_of(llama).with_scores(scores_of("a").assign(**wrong))
    with pytest.raises(InputError, match="^scores is list; give a DataFrame"):
        library_of(llama).with_scores([1])
    with pytest.raises(InputError, match="^scores have no column 'n'"):
        library_of(llama).with_scores(scores_of("a").drop(columns="n"))


def test_two_libraries_are_joined_and_the_later_wins(llama):
    one, other = scored(llama, "ab"), library_of(llama, "bc").with_scores(scores_of("bc", 0.5))
    both = one | other
    assert list(both) == list("abc") and [both.score(name).value for name in "abc"] == [0.75, 0.5, 0.5]
    doubled = one | {"b": 2.0 * one["b"]}
    assert doubled["b"].vector.equal(2 * one["b"].vector) and doubled.score("b") is None and doubled.score("a")
    with pytest.raises(InputError, match="mixes vectors of layer"):
        one | library_of(llama, "c", layer=2)


def test_a_folder_gives_back_what_was_saved(llama, tmp_path):
    library = scored(llama, ["a", "of two words", "c/d"])
    library.save(tmp_path / "deep" / "library", llama, licence="mit")
    back = Library.load(tmp_path / "deep" / "library", llama)
    assert list(back) == list(library)
    for name, fv in library.items():
        assert back[name].record == fv.record and back[name].vector.equal(fv.vector)
    pd.testing.assert_frame_equal(back.scores, library.scores)
    assert back.identity == identity_of(lens_of(llama))
    files = sorted(file.name for file in (tmp_path / "deep" / "library").iterdir())
    assert files == ["README.md", "a.safetensors", "c-d.safetensors", "library.json", "of-two-words.safetensors"]


def test_saving_again_makes_equal_bytes_and_leaves_no_vector_of_before(llama, tmp_path):
    first, second = scored(llama), scored(llama, "ab")
    (tmp_path / "notes.safetensors").write_bytes(b"mine")
    first.save(tmp_path)
    second.save(tmp_path)
    contents = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert contents.keys() == {"notes.safetensors", "a.safetensors", "b.safetensors", "library.json", "README.md"}
    second.save(tmp_path)
    assert contents == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def test_a_folder_of_vectors_alone_is_a_library(llama, tmp_path):
    for i, (name, fv) in enumerate(vectors_of(llama).items()):
        replace(fv, relation=None if name == "c" else name).save(tmp_path / f"{i}.safetensors")
    library = Library.load(tmp_path)
    assert list(library) == ["a", "b", "2"] and library.identity is None and library.scores.empty


def test_a_vector_that_was_exchanged_or_a_damaged_record_is_refused(llama, tmp_path):
    library_of(llama, "ab").save(tmp_path)
    record = (tmp_path / "library.json").read_text()
    vectors_of(llama, "c")["c"].save(tmp_path / "b.safetensors")
    with pytest.raises(InputError, match="is not the vector of 'b' that library.json lists: the SHA-256 differs"):
        Library.load(tmp_path)
    for broken, expected in (
        ("{", "is not JSON"),
        (record.replace('"format": "1"', '"format": "2"'), "has format '2'; this version reads '1'"),
        (record.replace("a.safetensors", "../a.safetensors"), "field 'vectors.a.file' is '../a.safetensors'"),
        (record.replace('"kind"', '"sort"'), "field 'sort' is "),
    ):
        (tmp_path / "library.json").write_text(broken)
        with pytest.raises(InputError, match=expected):
            Library.load(tmp_path)


NAMES = ["x²", "½", ".hidden", "..", "../../etc", "US", "us", "Us", "長" * 100, "a" * 300, "a b", "a-b"]


def test_every_name_comes_back_and_no_two_share_a_file_in_any_file_system(llama, tmp_path):
    library = library_of(llama, NAMES)
    library.save(tmp_path / "library")
    assert list(Library.load(tmp_path / "library")) == NAMES
    files = [file.name for file in (tmp_path / "library").glob("*.safetensors")]
    assert len({file.casefold() for file in files}) == len(NAMES) and all(len(file.encode()) < 255 for file in files)
    for name in ("", " ", "\ud800"):
        with pytest.raises(InputError, match="^The library has the name"):
            Library({name: library["us"]})


def test_files_of_the_users_own_are_left_and_named(llama, tmp_path):
    own = (("README.md", "my thesis"), ("a.safetensors", "my numbers"), ("library.json", '{"books": 3}'))
    for name, content in own:
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(InputError, match=f"{name}' is there and not a library's; save to another folder"):
            library_of(llama).save(folder)
        assert [file.name for file in folder.iterdir()] == [name] and (folder / name).read_text() == content


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("over", [False, True])
def test_a_save_that_is_killed_leaves_a_folder_that_is_refused_or_whole(llama, tmp_path, monkeypatch, at, over):
    first, second = library_of(llama, "abc"), Library({n: 2.0 * fv for n, fv in vectors_of(llama, "bcd").items()})
    if over:
        first.save(tmp_path)
    moves, replace_file = iter(range(100)), os.replace

    def killed(*paths):
        if "saving" in str(paths[0]) and Path(paths[1]).parent == tmp_path and next(moves) == at:
            raise KeyboardInterrupt
        replace_file(*paths)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with contextlib.suppress(KeyboardInterrupt):
            second.save(tmp_path)
    if at > 4:  # behind three vectors, the card and the record
        assert list(Library.load(tmp_path)) == list("bcd")
    else:
        with pytest.raises(InputError, match="a save of this library was interrupted; save it again"):
            Library.load(tmp_path)
    second.save(tmp_path)
    assert Library.load(tmp_path)["b"].vector.equal(second["b"].vector)


def test_a_save_that_fails_leaves_the_library_that_was_there(llama, tmp_path, monkeypatch):
    library_of(llama).save(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr(FunctionVector, "save", lambda fv, path: (_ for _ in ()).throw(InputError("the disk is full")))
    with pytest.raises(InputError, match="the disk is full"):
        library_of(llama, "abd").save(tmp_path)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def test_the_licence_stays_on_record(llama, tmp_path):
    library_of(llama).save(tmp_path / "one", licence="mit")
    library = Library.load(tmp_path / "one")
    library.select(["a", "b"]).save(tmp_path / "two")
    assert library.licence == "mit" and "license: mit" in (tmp_path / "two" / "README.md").read_text()


def test_scores_are_changed_in_a_copy(llama):
    library = scored(llama)
    library.scores.loc[0, "value"] = 9.0
    assert library.score("a").value == 0.75


def test_the_model_stays_on_record_only_where_both_have_it(llama):
    recorded, bare = library_of(llama, "a").for_model(llama), library_of(llama, "b")
    assert (recorded | bare).identity is None and (bare | recorded).identity is None
    assert (recorded | dict(bare)).identity is None
    assert (recorded | bare.for_model(llama)).identity == recorded.identity


def test_a_model_that_gives_other_numbers_each_time_or_none_is_not_recorded():
    model = tiny.build("llama")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="gives NaN or infinite log-probabilities"):
        identity_of(lens_of(model))
    model = tiny.build("llama")
    model.add_hook("blocks.0.hook_resid_post", lambda x, hook: x + torch.randn_like(x))
    with pytest.raises(InputError, match="gives other numbers each time"):
        identity_of(lens_of(model))


def test_names_are_listed(llama):
    with pytest.raises(InputError, match=r"^names is 'antonym'; give a list of names, such as \['antonym'\]"):
        library_of(llama).select("antonym")


def test_a_folder_that_cannot_be_made_is_named(llama, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="^Cannot make the folder .*file/library"):
        library_of(llama).save(tmp_path / "file" / "library")


def test_scores_without_an_interval_stay_without_one(llama, tmp_path):
    scored(llama, "a").save(tmp_path)
    assert json.loads((tmp_path / "library.json").read_text())["scores"][1]["low"] is None
    assert not Library.load(tmp_path).score("a", row="zero-shot").known


# The model


@tiny.FAMILIES
def test_a_copy_of_the_model_is_accepted_and_other_weights_under_its_name_are_refused(request, tmp_path, model):
    name = model.cfg.model_name.split("/")[-1]
    library_of(model).save(tmp_path, model)
    assert len(Library.load(tmp_path, tiny.build(name))) == 3
    other = tiny.build(name)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-4
    with pytest.raises(InputError, match="their weights have another SHA-256. Load the model it was made on"):
        Library.load(tmp_path, other)


def test_where_the_layout_is_another_log_probabilities_decide(llama):
    """As of the other model class, another version of TransformerLens, or another dtype."""
    identity = identity_of(lens_of(llama))
    elsewhere = identity.model_copy(update={"kind": "HookedTransformer of TransformerLens 3.9.0", "weights": "0" * 64})
    Library(vectors_of(llama), identity=elsewhere).check(llama)
    moved = [log_prob - 0.02 for log_prob in identity.log_probs]
    with pytest.raises(InputError, match="differ by 0.02 nats"):  # as under a hook of the user, with equal weights
        Library(vectors_of(llama), identity=identity.model_copy(update={"log_probs": moved})).check(llama)
    with pytest.raises(InputError, match=r"log-probabilities differ by 0.02 nats, and copies by 0.01 at most"):
        Library(vectors_of(llama), identity=elsewhere.model_copy(update={"log_probs": moved})).check(llama)
    half = elsewhere.model_copy(update={"log_probs": moved, "dtype": "torch.bfloat16"})
    Library(vectors_of(llama), identity=half).check(llama)  # which rounds
    with pytest.raises(InputError, match="differ by inf nats"):
        Library(vectors_of(llama), identity=elsewhere.model_copy(update={"log_probs": [-1.0]})).check(llama)


@pytest.mark.skipif(not tiny.HOOKED_INSTALLED, reason="TransformerLens 4 has no HookedTransformer")
@pytest.mark.default_model
@pytest.mark.slow
def test_both_classes_of_one_model_are_the_same_model():
    from fv_lens.models.load import load_model

    bridge, hooked = (identity_of(lens_of(load_model(cls=cls))) for cls in ("bridge", "hooked"))
    assert not bridge.same_layout(hooked) and bridge.difference(hooked) < 0.001
    bridge.check(hooked, "The library")


def test_a_patched_model_is_another_model(llama):
    library = library_of(llama).for_model(llama)
    with patch(llama, library["a"]), pytest.raises(InputError, match="^tiny/llama is patched; take the patches off"):
        library.check(llama)
    library.check(llama)


def test_a_library_of_another_model_is_refused(llama, tmp_path):
    library_of(llama).save(tmp_path)
    with pytest.raises(InputError, match="made on 'tiny/llama' and this model is 'tiny/gpt2'"):
        Library.load(tmp_path, tiny.build("gpt2"))


def test_libraries_of_two_states_of_a_model_do_not_join(llama):
    library = library_of(llama).for_model(llama)
    other = Library(vectors_of(llama, "d"), identity=library.identity.model_copy(update={"weights": "0" * 64}))
    with pytest.raises(
        InputError, match="were made on two states of 'tiny/llama': their weights have another SHA-256. Join"
    ):
        library | other


# The card


def test_a_card_tells_scores_controls_and_what_was_not_measured(llama):
    card = card_of(scored(llama, ["a", "b|c"], licence="mit").for_model(llama))
    lines = [line.split("|")[1:-1] for line in card.replace(r"\|", "/").splitlines() if line.startswith("| b/c")]
    cells = [cell.strip().replace("\N{NO-BREAK SPACE}", " ") for cell in lines[1]]
    assert cells == ["b/c", "0.75 [0.50, 0.88]", "0.00 (no interval)", "20"]
    assert "| zero-shot " in card
    assert "divergence, nats" in card and "1.50 [1.25,\N{NO-BREAK SPACE}1.75]" in card
    assert identity_of(lens_of(llama)).weights in card and "license: mit" in card
    bare = card_of(library_of(llama, "a"))
    assert "Their accuracy is not on record" in bare and "Not measured" in bare and "none is given" in bare
    assert "its weights are not on record" in bare and "model-index" not in bare


def test_a_card_does_not_tell_where_a_models_file_lies():
    fv = FunctionVector(torch.ones(4), 1, model="/home/ada/models/own.gguf")
    card = card_of(Library({"a": fv}))
    assert "/home" not in card and 'load_model("own.gguf")' in card and "base_model" not in card


def test_the_cards_lines_of_python_run(tmp_path, llama, monkeypatch, capsys):
    import fv_lens

    library = library_of(llama, ['quote"d', "b`c"])
    library.save(tmp_path / "FOLDER", llama)
    code = card_of(library).split("```")[1].removeprefix("python\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fv_lens, "load_model", lambda name: {"tiny/llama": llama}[name])
    exec(code, {})
    assert capsys.readouterr().out.startswith("Q : A :")
