"""The commands that take saved vectors to other engines and back, on a tiny model."""

import gguf
import numpy as np
import pytest
import torch

from fv_lens.vectors.formats.exchange import export_vectors
from fv_lens.vectors.function_vector import FunctionVector

from ...vectors.patched import vector
from ..commands import call


@pytest.fixture
def saved(here, small_model):
    """Two saved vectors, of layers 1 and 2."""
    for layer in (1, 2):
        vector(small_model, layer, seed=layer).save(f"v{layer}.safetensors")
    return here


def numbers(path) -> dict[str, np.ndarray]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


def test_a_vector_goes_out_and_comes_back(saved):
    before = FunctionVector.load("v1.safetensors")
    result = call("export", "v1.safetensors", "--out", "v.gguf")
    assert result.exit_code == 0 and result.stdout == "v.gguf\n" and "at every token" in result.stderr
    assert list(numbers("v.gguf")) == ["direction.1"]
    result = call("import", "v.gguf", "--out", "again.safetensors")
    assert result.exit_code == 0 and result.stdout.startswith("again.safetensors  sum, layer 1, norm ")
    after = FunctionVector.load("again.safetensors")
    assert after.record == before.record and torch.equal(after.vector, before.vector)


def test_vectors_of_several_layers_are_one_file_and_several_again(saved, small_model):
    vectors = [FunctionVector.load(f"v{layer}.safetensors") for layer in (1, 2)]
    assert call("export", "v2.safetensors", "v1.safetensors", "--out", "both.gguf").exit_code == 0
    export_vectors(vectors, "expected.gguf", model=small_model)
    assert (saved / "both.gguf").read_bytes() == (saved / "expected.gguf").read_bytes()
    assert call("import", "both.gguf", "--model", "any").exit_code == 0
    for fv in vectors:
        assert torch.equal(FunctionVector.load(f"both-layer{fv.layer}.safetensors").vector, fv.vector)


def test_a_model_type_takes_the_place_of_the_model(saved, no_model):
    assert call("export", "v1.safetensors", "--out", "v.gguf", "--model-type", "mistral").exit_code == 0
    assert gguf.GGUFReader("v.gguf").get_field("controlvector.model_hint").contents() == "mistral"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "none.safetensors", "--out", "v.gguf"], "No file 'none.safetensors'"),
        (["export", "v1.safetensors", "--out", "v.gguf", "--model", "a", "--model-type", "b"], "give one of them"),
        (["export", "v1.safetensors", "--out", "v.gguf", "--model-type", "gpt"], "model_type is 'gpt', which transfor"),
        (["export", "v1.safetensors", "v1.safetensors", "--out", "v.gguf"], "2 vectors are of 1 layers"),
        (["export", "v1.safetensors", "--out", "none/v.gguf"], "Cannot write"),
        (["import", "v1.safetensors"], "is not a GGUF file"),
        (["import", "other.gguf"], "does not say which model it is for; pass --model"),
        (["import", "other.gguf", "--model", "any"], "8 numbers; the residual stream"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(saved, arguments, message):
    writer = gguf.GGUFWriter("other.gguf", "controlvector")
    writer.add_tensor("direction.1", np.ones(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    result = call(*arguments)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1
    assert not list(saved.glob("v.gguf")) and not list(saved.glob("other*.safetensors"))
