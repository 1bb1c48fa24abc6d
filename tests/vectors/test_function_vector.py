"""Vectors: the sum they are, where they do not belong, arithmetic, and files."""

import hashlib
import io
import json
import os
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fv_lens.datasets.prompts import PromptTemplate
from fv_lens.ground import storage
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.effects import HeadEffects
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.mediation import mean_head_outputs
from fv_lens.vectors.summed import function_vector

from .. import oracles, tiny
from ..oracles import EXACT, difference

HEADS = [(2, 3), (0, 1), (1, 0)]
D_MODEL = 32
FINITE = st.floats(-100, 100, width=32)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fitting(made_on, vector=None, layer=1, **more) -> FunctionVector:
    """A vector with the record of one made on the model."""
    lens = lens_of(made_on)
    vector = noise(lens.d_model) if vector is None else vector
    record = dict(model=lens.name, processing=lens.processing, bos=lens.bos) | more
    return FunctionVector(vector, layer, **record)


def as_json(record):
    """A record as a file would give it back."""
    return json.loads(json.dumps(record))


# The sum


def test_a_function_vector_is_the_sum_of_what_its_heads_write(model, words):
    if model.cfg.model_name == "tiny/gemma2":
        pytest.skip("no such sum on Gemma-2; see the next test")
    z = noise(3, 4, model.cfg.d_head)
    fv = function_vector(model, words, HEADS, 1, z)
    expected = z[2, 3] @ model.blocks[2].attn.W_O[3] + z[0, 1] @ model.blocks[0].attn.W_O[1]
    expected = expected + z[1, 0] @ model.blocks[1].attn.W_O[0]
    assert difference(fv.vector, expected.detach()) <= EXACT
    assert (fv.layer, fv.heads, fv.model) == (1, tuple(HEADS), model.cfg.model_name)


@pytest.fixture(scope="module")
def biased():
    """GPT-2 with output biases, which are zero in a random model."""
    model = tiny.build("gpt2")
    for block in model.blocks:
        block.attn.b_O.data.copy_(noise(D_MODEL))
    return model


@pytest.mark.slow
def test_the_bias_of_attention_is_no_part_of_what_a_head_writes(biased, words):
    prompt = oracles.random_prompts(7)[0]
    _, cache = biased.run_with_cache(torch.tensor([prompt]))
    z, out = cache["blocks.1.attn.hook_z"][0, -1], cache["blocks.1.hook_attn_out"][0, -1]
    mean_z = z.expand(3, *z.shape)
    written = sum(function_vector(biased, words, [(1, head)], 1, mean_z).vector for head in range(4))
    assert difference(written + noise(D_MODEL), out.detach()) <= EXACT
    assert function_vector(biased, words, HEADS, 1, torch.zeros_like(mean_z)).vector.abs().max() == 0


@pytest.mark.slow
def test_mean_head_outputs_are_computed_where_they_are_not_given(llama, words):
    template = PromptTemplate("{word} :")
    mean_z, _ = mean_head_outputs(llama, words.with_split(1), template=template)
    made, given_z = (
        function_vector(llama, words.with_split(1), HEADS, 1, z, template=template) for z in (None, mean_z)
    )
    assert torch.equal(made.vector, given_z.vector) and made.record == given_z.record


def test_a_vector_says_where_it_came_from(llama, words):
    record = function_vector(llama, words.with_split(3), HEADS, 2, noise(3, 4, 8)).record
    expected = dict(
        relation="successor", data_hash=words.hash, split_seed=3, model="tiny/llama", bos=True, method="sum"
    )
    expected |= dict(processing="raw", site="hook_resid_post", token="last", layer=2, strength=1.0)
    assert record.items() >= expected.items() and record["template"] == PromptTemplate().to_dict()


# What is refused


@pytest.mark.slow(but=1)
@pytest.mark.parametrize(
    "heads, layer, message",
    [
        ([], 1, "No heads"),
        ([(0, 1), (2, 2), (0, 1)], 1, r"\(0, 1\) was given twice"),
        ([(3, 0)], 1, "Layer 3 is outside 0..2"),
        ([(0, 4)], 1, "Head 4 of layer 0 is outside 0..3"),
        ([(-1, 0)], 1, "at least 0"),
        ([(0, -1)], 1, "at least 0"),
        ([(0, 1.5)], 1, "1.5"),
        ([0, 1], 1, "0 is not a head"),
        ([(0, 1, 2)], 1, "not a head"),
        ([(0, 1)], 3, "Layer 3 is outside 0..2"),
        ([(0, 1)], -1, "at least 0"),
    ],
)
def test_heads_and_layers_that_are_not_there_are_refused(llama, words, heads, layer, message):
    with pytest.raises(InputError, match=message):
        function_vector(llama, words, heads, layer, noise(3, 4, 8))


@pytest.mark.parametrize("shape", [(3, 4, 16), (4, 3, 8), (3, 4), (8,)])
def test_mean_head_outputs_of_another_shape_are_refused(llama, words, shape):
    with pytest.raises(InputError, match=r"\(3, 4, 8\)"):
        function_vector(llama, words, HEADS, 1, noise(*shape))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_vector_with_nan_or_infinity_is_refused(llama, words, number):
    vector, z = noise(D_MODEL), noise(3, 4, 8)
    vector[5] = z[0, 1, 0] = number
    with pytest.raises(InputError, match="1 of 32 numbers"):
        FunctionVector(vector, 0)
    with pytest.raises(InputError, match="NaN or infinite"):
        function_vector(llama, words, [(0, 1)], 1, z)


def test_a_vector_does_not_change_with_the_tensor_it_was_made_from():
    tuned = torch.ones(4, requires_grad=True)
    fv = FunctionVector(tuned, 0)
    tuned.data.zero_()
    assert fv.vector.tolist() == [1.0] * 4 and not fv.vector.requires_grad


def test_the_hash_of_a_vector_is_that_of_its_float32_numbers_alone():
    numbers = torch.arange(8).double() / 3
    fv = FunctionVector(numbers[::2], 0)
    assert fv.sha256 == hashlib.sha256(b"".join(np.float32(n).tobytes() for n in numbers[::2].tolist())).hexdigest()
    assert replace(fv, layer=1, relation="antonym").sha256 == fv.sha256 != (-fv).sha256


@pytest.mark.parametrize("shape", [(), (2, 16)])
def test_a_vector_has_one_dimension(shape):
    with pytest.raises(InputError, match="shape"):
        FunctionVector(torch.zeros(shape), 0)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(vector=torch.ones(16)), "16 numbers.*32"),
        (dict(layer=3), "Layer 3 is outside"),
        (dict(processing="centered"), "centered weights"),
        (dict(bos=False), "without a BOS token"),
    ],
    ids=["d_model", "layer", "processing", "BOS"],
)
def test_a_vector_of_another_model_is_refused(llama, changes, message):
    with pytest.raises(InputError, match=message):
        fitting(llama, **changes).check(lens_of(llama))


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("name", ["other", "tiny/llama-2", "llama/tiny", "tiny/"])
def test_a_vector_of_a_model_of_another_name_is_refused_unless_the_name_is_taken_away(llama, name):
    fv = fitting(llama, model=name)
    with pytest.raises(InputError, match=f"made on '{name}' and this model is 'tiny/llama'.*replace.fv, model=None"):
        fv.check(lens_of(llama))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replace(fv, model=None).check(lens_of(llama)) is None
        assert replace(fv, model="").check(lens_of(llama)) is None


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("name", ["llama", "TINY/Llama", "/models/llama/", "C:\\models\\llama"])
def test_another_name_of_one_model_is_a_warning(llama, name):
    with pytest.warns(UserWarning, match="made on .*; this model is 'tiny/llama'"):
        fitting(llama, model=name).check(lens_of(llama))


def test_the_rule_that_another_bos_asks_for_is_one_that_serves():
    model = tiny.build("llama")
    fv = fitting(model, bos=False)
    with pytest.raises(InputError, match="runs with. Make the vector again on this model; or, in Python, set"):
        fv.check(lens_of(model))
    model.cfg.default_prepend_bos = False
    assert fv.check(lens_of(model)) is None
    with pytest.raises(InputError, match="default_prepend_bos = True, if its tokenizer has a BOS token"):
        replace(fv, bos=True).check(lens_of(model))


def test_a_vector_that_fits_passes_in_silence(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitting(model).check(lens_of(model)) is None


@pytest.mark.slow
def test_processed_weights_are_told_from_raw_ones(words):
    model = tiny.build("gpt2")
    raw = fitting(model)
    model.enable_compatibility_mode(disable_warnings=True)
    centered = function_vector(model, words, HEADS, 1, noise(3, 4, 8))
    assert centered.processing == "centered" and centered.vector.mean().abs() < EXACT
    with pytest.raises(InputError, match="same processing mode"):
        raw.check(lens_of(model))


# Arithmetic


@settings(max_examples=25, deadline=None)
@given(a=FINITE, b=FINITE, seed=st.integers(0, 5))
def test_vectors_combine_linearly_and_keep_their_parents(a, b, seed):
    x = FunctionVector(noise(D_MODEL, seed=seed), 1, relation="x", heads=tuple(HEADS))
    y = FunctionVector(noise(D_MODEL, seed=seed + 6), 1, relation="y")
    mixed = a * x + y * b
    assert torch.equal(mixed.vector, a * x.vector + y.vector * b)
    (_, left), (_, right) = mixed.parents
    assert as_json(left["parents"]) == [[a, as_json(x.record)]] and as_json(right["parents"]) == [
        [b, as_json(y.record)]
    ]
    assert (mixed.method, mixed.heads, mixed.strength, mixed.layer) == ("combination", (), 1.0, 1)


def test_minus_is_plus_the_negative():
    x, y = FunctionVector(noise(D_MODEL), 1), FunctionVector(noise(D_MODEL, seed=1), 1)
    assert torch.equal((x - y).vector, x.vector - y.vector) and torch.equal((-x).vector, -x.vector)
    assert (x - x).vector.abs().max() == 0


def test_a_combination_keeps_what_its_parents_share():
    x, y = (FunctionVector(noise(4), 1, model="m", relation=name, split_seed=2, bos=True) for name in "xy")
    assert ((x + y).relation, (x + y).split_seed, (x + y).model, (x + y).bos) == (None, 2, "m", True)
    assert (x + x).relation == (2.0 * x).relation == "x"


def test_a_strength_is_multiplied_in_and_recorded():
    x = FunctionVector(noise(4), 1, heads=tuple(HEADS)).strengthened(2.0).strengthened(1.5)
    assert torch.equal(x.vector, 3 * noise(4)) and (x.strength, x.heads, x.parents) == (3.0, tuple(HEADS), ())


def test_the_training_of_a_vector_is_not_that_of_a_combination():
    tuned = FunctionVector(noise(4), 1, method="tuned", training={"chosen_step": 2})
    for combined in (2.0 * tuned, tuned + tuned, -tuned):
        assert combined.training is None and combined.method == "combination"
        assert all(parent["training"] == {"chosen_step": 2} for _, parent in combined.parents)
    assert tuned.strengthened(2.0).training == tuned.training == {"chosen_step": 2}
    assert FunctionVector(noise(4), 1).training is None


def test_whole_numbers_and_those_of_numpy_scale_as_well():
    x = FunctionVector(noise(4), 1)
    assert torch.equal((np.float32(2) * x).vector, 2 * x.vector)
    assert torch.equal((x * np.int64(2)).vector, 2 * x.vector) and torch.equal((2 * x).vector, 2 * x.vector)


@pytest.mark.parametrize(
    "other", [dict(layer=2), dict(processing="centered"), dict(bos=True), dict(vector=torch.ones(5))], ids=str
)
def test_vectors_that_differ_in_kind_do_not_add_up(other):
    with pytest.raises(InputError):
        FunctionVector(torch.ones(4), 1) + FunctionVector(**dict(vector=torch.ones(4), layer=1) | other)


def test_vectors_of_two_models_do_not_add_up_and_those_of_one_by_two_names_do():
    one, other, same, any_ = (
        FunctionVector(torch.ones(4), 1, model=name) for name in ("org/a", "org/b", "other/A", None)
    )
    with pytest.raises(InputError, match="of model 'org/a' and 'org/b' cannot be added"):
        one + other
    assert all(torch.equal((one + more).vector, 2 * one.vector) for more in (same, any_))


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), True])
def test_a_scale_is_a_finite_number(scale):
    with pytest.raises((InputError, TypeError)):
        FunctionVector(torch.ones(4), 1) * scale


def test_a_sum_beyond_float32_is_refused():
    with pytest.raises(InputError, match="infinite"):
        FunctionVector(torch.full((4,), 3e38), 1) * 2.0


# On disk


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("vectors") / "fv.safetensors"


TRAINING = dict(
    n_pairs=2, n_validation=1, chosen_step=2, validation_loss=2.5, losses=[3.5, 2.25],
    validation_losses=[[0, 3.0], [2, 2.5]], train_words=["été", "w1"], validation_words=["w2"],
)  # fmt: skip
TRAININGS = st.lists(FINITE, min_size=2, max_size=9).map(lambda losses: TRAINING | {"losses": losses})


RECORDS = st.fixed_dictionaries(
    {"layer": st.integers(0, 200)},
    optional=dict(
        model=st.none() | st.text(max_size=9),
        bos=st.none() | st.booleans(),
        relation=st.none() | st.text(min_size=1, max_size=9),
        split_seed=st.none() | st.integers(0, 2**40),
        template=st.none() | st.just(PromptTemplate("{word} ->", prefix="é\n").to_dict()),
        training=st.none() | TRAININGS,
        heads=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), max_size=4, unique=True).map(tuple),
        method=st.sampled_from(["sum", "tuned"]),
        strength=st.floats(allow_nan=False, allow_infinity=False),
    ),
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    vector=hnp.arrays(
        np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    ),
    record=RECORDS,
)
def test_a_saved_vector_comes_back_bit_for_bit(file, vector, record):
    fv = FunctionVector(torch.from_numpy(vector), **record)
    fv.save(file)
    loaded = FunctionVector.load(file)
    assert loaded.vector.numpy().tobytes() == vector.tobytes() and loaded.record == fv.record


def test_a_saved_combination_comes_back_with_its_parents(file):
    x, y = (FunctionVector(noise(4), 1, relation=name, heads=tuple(HEADS)) for name in "xy")
    mixed = 0.5 * x - 2.0 * y
    mixed.save(file)
    loaded = FunctionVector.load(file)
    assert torch.equal(loaded.vector, mixed.vector) and loaded.record == mixed.record
    assert torch.equal((loaded + loaded).vector, 2 * mixed.vector)


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none.safetensors", str(tmp_path / "none.safetensors"), tmp_path):
        with pytest.raises(InputError, match="No file.*FunctionVector"):
            FunctionVector.load(path)


def test_a_saved_training_record_comes_back(tmp_path):
    fv = FunctionVector(
        noise(4), 1, method="tuned", training=TRAINING, parents=[(2.0, FunctionVector(noise(4), 1).record)]
    )
    fv.save(tmp_path / "fv")
    loaded = FunctionVector.load(tmp_path / "fv")
    assert loaded.training == TRAINING and loaded.record == fv.record
    assert torch.equal(loaded.vector, fv.vector)


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.6, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, kept):
    path = tmp_path / "fv.safetensors"
    FunctionVector(noise(D_MODEL), 1).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(InputError, match="fv.safetensors' is not a complete safetensors file"):
        FunctionVector.load(path)


@pytest.mark.parametrize("content", [b"hello", b'{"vector": [1, 2]}', b"\x00" * 200, bytes(range(256))], ids=len)
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "fv.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a complete safetensors file"):
        FunctionVector.load(tmp_path / "fv.safetensors")


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "write, unpickle",
    [
        (lambda x, path: path.write_bytes(pickle.dumps(x)), lambda path: pickle.loads(path.read_bytes())),
        (torch.save, lambda path: torch.load(io.BytesIO(path.read_bytes()), weights_only=False)),
    ],
    ids=["pickle", "torch"],
)
def test_a_pickle_is_never_loaded(tmp_path, write, unpickle):
    path, bomb = tmp_path / "fv.safetensors", tmp_path / "went off"
    write(Bomb(bomb), path)
    for kind in (FunctionVector, HeadEffects):
        with pytest.raises(InputError, match="not a complete safetensors file"):
            kind.load(path)
    assert not bomb.exists()
    unpickle(path)
    assert bomb.exists()


def test_effects_are_no_vector_and_a_vector_no_effects(tmp_path):
    values, path = (torch.ones(2, 1, 1), torch.ones(2, 1, 1)), tmp_path / "file"
    storage.save(path, "HeadEffects", dict(zip(("values", "log_prob_values"), values)), {})
    with pytest.raises(InputError, match="holds fv_lens.HeadEffects, not fv_lens.FunctionVector"):
        FunctionVector.load(path)
    FunctionVector(torch.ones(2), 0).save(path)
    with pytest.raises(InputError, match="holds fv_lens.FunctionVector, not fv_lens.HeadEffects"):
        HeadEffects.load(path)


def test_a_safetensors_file_of_another_program_is_refused(tmp_path):
    storage.save_file({"vector": torch.ones(2)}, tmp_path / "file")
    with pytest.raises(InputError, match="fv_lens did not write"):
        FunctionVector.load(tmp_path / "file")


def test_a_file_of_a_later_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "FORMAT", "2")
    FunctionVector(torch.ones(2), 0).save(tmp_path / "file")
    monkeypatch.undo()
    with pytest.raises(InputError, match="format '2'"):
        FunctionVector.load(tmp_path / "file")


def test_a_saved_nan_is_refused_when_loaded(tmp_path):
    record = FunctionVector(torch.ones(2), 0).record
    storage.save(tmp_path / "file", "FunctionVector", {"vector": torch.tensor([1.0, torch.nan])}, record)
    with pytest.raises(InputError, match="NaN"):
        FunctionVector.load(tmp_path / "file")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "a file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none" / "fv", tmp_path / "a file" / "fv", tmp_path / "folder", "/proc/fv"):
        with pytest.raises(InputError, match="Cannot write"):
            FunctionVector(torch.ones(2), 0).save(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "folder"]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="limits on file size are a matter of POSIX")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    import resource

    path = tmp_path / "fv.safetensors"
    FunctionVector(torch.ones(4), 0).save(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(InputError, match="Cannot write"):
            FunctionVector(torch.ones(10_000), 0).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert FunctionVector.load(path).vector.tolist() == [1.0] * 4 and os.listdir(tmp_path) == ["fv.safetensors"]


def test_kin_and_aliases_are_those_of_all_that_a_vector_was_made_from():
    one, other = (FunctionVector(torch.ones(3), 0, kin=[f"f{i}", "f"], aliases=[f"a{i}"]) for i in range(2))
    assert (one + other).kin == ("f0", "f", "f1") and (2 * one - other).aliases == ("a0", "a1")
    assert one.strengthened(2).kin == one.kin
    for name in ("kin", "aliases"):
        with pytest.raises(InputError, match=f"{name} is 'opposite'; give a list of names"):
            FunctionVector(torch.ones(3), 0, **{name: "opposite"})
