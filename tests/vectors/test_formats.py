"""Vectors to other engines and back, with the real libraries where they are installed."""

import copy
import dataclasses
import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
import transformers as hf
from safetensors import safe_open

from fv_lens.ground.errors import InputError
from fv_lens.vectors.formats.control_vectors import COUNT, HINT, RECORD
from fv_lens.vectors.formats.exchange import export_vectors, import_vectors
from fv_lens.vectors.formats.steering_vectors import as_steering_vector
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.patching import patch

from .. import tiny
from .patched import SIDES, padded, prompts, run, vector


@pytest.fixture(scope="module")
def repeng():
    """The library repeng, whose annotations name a number of numpy 1."""
    if not hasattr(np, "float_"):
        np.float_ = np.float64
    return pytest.importorskip("repeng", reason="repeng is not installed: pip install --no-deps repeng")


@pytest.fixture(scope="module")
def steering_vectors():
    reason = "steering-vectors is not installed: pip install --no-deps steering-vectors"
    return pytest.importorskip("steering_vectors", reason=reason)


@pytest.fixture
def two(llama):
    return [vector(llama, layer, seed=layer) for layer in (1, 2)]


def written(path, directions, architecture="controlvector", **fields):
    """A GGUF file as another program writes it."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string(HINT, "llama")
    for name, value in fields.items():
        writer.add_string(name.replace("__", "."), value)
    for name, numbers in directions.items():
        writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def assert_equal(one: FunctionVector, other: FunctionVector):
    assert one.record == other.record
    assert one.vector.numpy().tobytes() == other.vector.numpy().tobytes()


# Control vectors


def test_a_file_comes_back_as_it_was(llama, two, tmp_path):
    mixed = [two[0], (0.5 * two[1]).strengthened(3.0)]
    export_vectors(mixed[::-1], tmp_path / "v.gguf", model=llama)
    for model in (None, llama, tiny.network("llama"), "tiny/llama"):
        for before, after in zip(mixed, import_vectors(tmp_path / "v.gguf", model), strict=True):
            assert_equal(after, before)


def test_what_llama_cpp_reads(llama, two, tmp_path):
    """One float32 tensor of one dimension for each layer, by the name that the loader splits, and three keys."""
    export_vectors(two, tmp_path / "v.gguf", model=llama)
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    assert [(tensor.name, tensor.tensor_type.name, list(tensor.shape)) for tensor in reader.tensors] == [
        ("direction.1", "F32", [32]), ("direction.2", "F32", [32]),
    ]  # fmt: skip
    assert all((tensor.data == fv.vector.numpy()).all() for tensor, fv in zip(reader.tensors, two))
    text = {name: reader.get_field(name).contents() for name in ("general.architecture", HINT, COUNT)}
    assert text == {"general.architecture": "controlvector", HINT: "llama", COUNT: 2}


def test_equal_vectors_make_equal_bytes(two, tmp_path):
    for name in "ab":
        export_vectors(two, tmp_path / name, model_type="llama")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_repeng_reads_what_is_written_here(llama, two, repeng, tmp_path):
    export_vectors(two, tmp_path / "v.gguf", model=llama)
    control = repeng.ControlVector.import_gguf(tmp_path / "v.gguf")
    assert control.model_type == "llama" and list(control.directions) == [1, 2]
    assert all((control.directions[fv.layer] == fv.vector.numpy()).all() for fv in two)


def test_what_repeng_writes_and_holds_is_read_here(llama, repeng, tmp_path):
    random = np.random.default_rng(0)
    control = repeng.ControlVector("llama", {layer: random.normal(size=32).astype(np.float32) for layer in (2, 0, 1)})
    control.export_gguf(tmp_path / "v.gguf")
    for source in (control, tmp_path / "v.gguf", str(tmp_path / "v.gguf")):
        vectors = import_vectors(source, llama)
        assert [(fv.layer, fv.method, fv.model) for fv in vectors] == [(n, "imported", "tiny/llama") for n in range(3)]
        assert all((fv.vector.numpy() == control.directions[fv.layer]).all() for fv in vectors)
        export_vectors(vectors[1:], tmp_path / "again.gguf", model=llama)
        assert repeng.ControlVector.import_gguf(tmp_path / "again.gguf").directions.keys() == {1, 2}


def test_a_direction_is_of_the_block_of_its_number(llama, tmp_path):
    path = written(tmp_path / "v.gguf", {f"direction.{n}": np.full(32, n, np.float32) for n in (2, 1)})
    assert [(fv.layer, fv.vector.unique().tolist()) for fv in import_vectors(path, llama)] == [(1, [1]), (2, [2])]


def test_a_negative_layer_counts_from_the_last(llama):
    control = SimpleNamespace(model_type="llama", directions={-1: np.ones(32), 0: np.zeros(32)})
    assert [(fv.layer, fv.vector[0].item()) for fv in import_vectors(control, llama)] == [(0, 0.0), (2, 1.0)]


@pytest.mark.parametrize("name", tiny.params(["llama", "gpt2", "gemma2", "qwen3", "mistral"], quick=("llama", "gpt2")))
@SIDES
def test_repengs_control_model_adds_what_apply_does_at_every_token(name, side, repeng):
    """repeng finds padding by position ids; without them it adds there, too, which changes no token in a forward."""
    network, (ids, mask, _) = tiny.network(name), padded(side)
    two = [FunctionVector(torch.randn(32, generator=torch.Generator().manual_seed(n)), layer=n) for n in (1, 2)]
    more = dict(attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0))
    with torch.no_grad(), two[0].apply(network, 1.5, at=mask), two[1].apply(network, 1.5, at=mask):
        applied = network(ids, **more).logits
    control = repeng.ControlModel(network, [1, 2])
    control.set_control(repeng.ControlVector("llama", {fv.layer: fv.vector.numpy() for fv in two}), 1.5)
    with torch.no_grad():
        expected = control(ids, **more).logits
    assert (applied - expected)[mask.bool()].abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(layer=0), "after block 0, where llama.cpp adds none"),
        (dict(site="attn.hook_out"), "added at 'attn.hook_out', and llama.cpp adds at the end of a block alone"),
        (dict(processing="centered"), "made on centered weights, and llama.cpp runs the weights as they are"),
        (dict(layer=7), r"Layer 7 is outside 0\.\.2 of tiny/llama"),
        (dict(model="other"), "made on 'other' and this model is 'tiny/llama'"),
    ],
    ids=str,
)
def test_vectors_that_a_control_vector_cannot_hold_are_refused(llama, two, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        export_vectors(dataclasses.replace(two[0], **change), tmp_path / "v.gguf", model=llama)
    assert not list(tmp_path.iterdir())


def test_arguments_that_do_not_go_together_are_refused(llama, two, tmp_path):
    path = tmp_path / "v.gguf"
    for vectors, more, message in [
        (two, {}, "give model=..., the model, or model_type=..., its type"),
        (two, dict(model=llama, model_type="llama"), "both given; give one of them"),
        (two, dict(model="llama"), "model is the text 'llama'; give the model itself, or its type as model_type"),
        (two, dict(model_type="smollm2-135m"), "model_type is 'smollm2-135m', which transformers does not have"),
        ([*two, two[0]], dict(model=llama), "3 vectors are of 2 layers, .* a \\+ b"),
        ([two[0], dataclasses.replace(two[1], model="x")], dict(model_type="llama"), "give vectors of one model"),
        ([], dict(model=llama), "empty list"),
    ]:
        with pytest.raises(InputError, match=message):
            export_vectors(vectors, path, **more)
    assert not path.exists()


def test_files_of_another_kind_are_refused_by_name(llama, two, tmp_path):
    ones, good = np.ones(32, np.float32), tmp_path / "good.gguf"
    export_vectors(two, good, model=llama)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(good.read_bytes()[:-40])
    (tmp_path / "text.gguf").write_text("no GGUF at all")
    for path, message in [
        (tmp_path / "none.gguf", "no such file; check the path; expected a control vector"),
        (tmp_path / "text.gguf", "is not a GGUF file"),
        (cut, "is truncated"),
        (written(tmp_path / "model.gguf", {"direction.1": ones}, "llama"), "of 'llama' architecture, not"),
        (written(tmp_path / "half.gguf", {"direction.1": ones.astype(np.float16)}), "is F16"),
        (written(tmp_path / "flat.gguf", {"direction.1": np.ones((2, 16), np.float32)}), r"F32 \[2, 16\]"),
        (written(tmp_path / "name.gguf", {"direction.one": ones}), "tensor 'direction.one'; expected direction.N"),
        (written(tmp_path / "empty.gguf", {"other": ones}), "There is no vector in it"),
        (written(tmp_path / "long.gguf", {"direction.1": np.ones(8, np.float32)}), "8 numbers; .* has 32"),
        (written(tmp_path / "deep.gguf", {"direction.9": ones}), "Layer 9 is outside"),
        (written(tmp_path / "nan.gguf", {"direction.1": ones * np.nan}), "NaN or infinite"),
    ]:
        with pytest.raises(InputError, match=message):
            import_vectors(path, llama)


def test_numbers_that_were_changed_are_not_given_their_old_record(two, tmp_path):
    numbers = two[0].vector.numpy()
    for changed, record, message in [
        (numbers * 2, two[0].record, "numbers of direction 1 are not those that its record is of"),
        (numbers, two[1].record, "the record of direction 1 is of layer 2"),
        (numbers, {**two[0].record, "strength": "much"}, "field 'strength'"),
    ]:
        digest = hashlib.sha256(numbers.tobytes()).hexdigest()
        text = json.dumps([{"record": record, "sha256": digest}])
        path = written(tmp_path / "v.gguf", {"direction.1": changed}, **{RECORD: text})
        with pytest.raises(InputError, match=message):
            import_vectors(path)


def test_a_file_for_another_kind_of_model_is_noted(llama, two, tmp_path):
    export_vectors(two, tmp_path / "v.gguf", model_type="gpt2")
    with pytest.warns(UserWarning, match="for a model of type 'gpt2'; this one is 'llama'"):
        import_vectors(tmp_path / "v.gguf", llama)
    with pytest.raises(InputError, match="made on 'tiny/llama', and model is 'gpt2'"):
        import_vectors(tmp_path / "v.gguf", "gpt2")


# The page

PAGE = Path(__file__).parents[2] / "demos" / "other_engines.md"


def test_the_examples_of_the_page_run_one_after_the_other(llama, two, tmp_path, monkeypatch, steering_vectors):
    """On a tiny model in the place of the one that they load."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fv_lens_run").mkdir()
    two[0].save("fv_lens_run/tuned.safetensors")
    tokenizer = copy.copy(tiny.tokenizer())
    tokenizer.padding_side = "left"
    monkeypatch.setattr(hf.AutoModelForCausalLM, "from_pretrained", lambda name: tiny.network("llama"))
    monkeypatch.setattr(hf.AutoTokenizer, "from_pretrained", lambda name, **options: tokenizer)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) >= 5 and len(names["tokens"]) == 2 and names["vectors"]


# Steering vectors


@pytest.mark.parametrize("name", tiny.params(tiny.ARCHITECTURES, quick=("llama", "gpt2")))
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_a_steering_vector_adds_what_a_patch_does(name, side, steering_vectors):
    bridge, network, ids, mask = tiny.build(name), tiny.network(name), prompts(3), torch.ones(3, 6)
    network.set_attn_implementation("eager")
    last = [-1]
    if side:
        ids, mask, columns = padded(side)
        last = (torch.arange(6) == torch.tensor(columns)[:, None]).float() if side == "right" else last
    more = dict(attention_mask=mask) if side else {}
    if side == "left" and name == "gpt2":  # which alone counts positions from the first column
        more["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    two = [vector(bridge, layer, seed=layer) for layer in (1, 2)]
    steering = as_steering_vector(two)
    assert isinstance(steering, steering_vectors.SteeringVector)
    with torch.no_grad(), patch(bridge, two, 0.5):
        expected = bridge(ids, **more)
    with torch.no_grad(), steering.apply(network, multiplier=0.5, min_token_index=None, token_indices=last):
        steered = network(ids, **more).logits
    assert (steered - expected)[mask.bool()].abs().max() <= 1e-6 * expected.abs().max()


def test_a_steering_vector_comes_back(llama, two, steering_vectors):
    steering = as_steering_vector(two)
    for before, after in zip(two, import_vectors(steering, llama), strict=True):
        assert torch.equal(before.vector, after.vector) and (after.layer, after.method) == (before.layer, "imported")
    last = steering_vectors.SteeringVector({-1: two[0].vector})
    assert [fv.layer for fv in import_vectors(last, llama)] == [2]
    with pytest.raises(InputError, match="of layer -1, counted from the last; give model"):
        import_vectors(last)
    with pytest.raises(InputError, match="Layer 2 has 2 vectors"):
        import_vectors(steering_vectors.SteeringVector({-1: two[0].vector, 2: two[0].vector}), llama)
    with pytest.raises(InputError, match="added at 'mlp'; only one at 'decoder_block'"):
        import_vectors(steering_vectors.SteeringVector({1: two[0].vector}, "mlp"), llama)


def test_what_is_imported_acts_as_any_vector(llama, two, steering_vectors):
    vectors = import_vectors(as_steering_vector(two), llama)
    with patch(llama, vectors):
        imported = run(llama, prompts())
    with patch(llama, two):
        assert torch.equal(run(llama, prompts()), imported)


def test_a_library_that_is_missing_is_named_with_what_installs_it(two, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "steering_vectors", None)
    with pytest.raises(InputError, match="pip install --no-deps steering-vectors"):
        as_steering_vector(two)


def test_other_objects_are_refused(llama):
    with pytest.raises(InputError, match="source is dict; give the path of a .gguf file"):
        import_vectors({1: torch.ones(32)}, llama)


# Plain tensors


def test_plain_tensors_are_the_vectors_by_the_layer_they_are_added_after(llama, tmp_path):
    fvs = [vector(llama, layer) for layer in (0, 2)]
    export_vectors(fvs, tmp_path / "v.safetensors", model=llama, to="safetensors")
    with safe_open(tmp_path / "v.safetensors", "pt") as file:
        assert file.metadata() == {"model_type": "llama"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    assert tensors.keys() == {"direction.0", "direction.2"}
    assert all(tensors[f"direction.{fv.layer}"].equal(fv.vector) for fv in fvs)
    with pytest.raises(InputError, match="^to is 'onnx'; choose from gguf, safetensors"):
        export_vectors(fvs, tmp_path / "v.onnx", model=llama, to="onnx")
