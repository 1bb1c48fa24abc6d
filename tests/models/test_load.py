"""What names a model, and what is said of that which names none."""

import socket
from pathlib import Path

import pytest
import torch
import transformers

from fv_lens.ground.errors import InputError
from fv_lens.models import load
from fv_lens.models.load import load_model

from .made import logits


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", torch.bfloat16])
def test_folder_loads_as_its_own_network(folder, dtype, monkeypatch, capfd):
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("a network call"))
    verbosity = transformers.utils.logging.get_verbosity()
    model = load_model(folder, dtype=dtype)
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.get_verbosity() == verbosity
    assert model.cfg.model_name == "tiny-llama"
    assert model.cfg.dtype == next(model.parameters()).dtype == load.DTYPES.get(dtype, dtype)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=model.cfg.dtype).eval()
    assert (logits(model) - logits(lambda ids: network(ids).logits)).abs().max() < (1e-4 if dtype == "float32" else 0.1)


def test_path_may_be_a_string(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    paths = [folder, str(folder), "./tiny-llama", "tiny-llama"]
    assert {load_model(path).cfg.model_name for path in paths} == {"tiny-llama"}


@pytest.mark.parametrize("path", ["./missing", "/missing/model", "~/missing", Path("missing"), "path/to/missing"])
def test_missing_folder(path):
    with pytest.raises(InputError, match="is not a model folder: there is no such folder; expected"):
        load_model(path)


def test_folder_without_config(tmp_path):
    with pytest.raises(InputError, match="' is not a model folder: it has no config.json and no .gguf file; expected"):
        load_model(str(tmp_path))


def test_damaged_folder_quotes_the_cause(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="tiny-llama' cannot be loaded: .*JSON.* Give 'smollm2-135m', .* the path"):
        load_model(folder)


def test_unknown_name_quotes_the_cause():
    with pytest.raises(InputError, match="'nobody/nothing' cannot be loaded: .* Give 'smollm2-135m', .* the path"):
        load_model("nobody/nothing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": 3}, "3 is not a model; give 'smollm2-135m', 'gemma-3-270m', the path"),
        ({"cls": "HookedTransformer"}, 'cls is \'HookedTransformer\'; give "bridge" or "hooked"'),
        ({"dtype": "int8"}, "dtype is 'int8'; give one of float32, bfloat16, float16"),
        ({"dtype": torch.int64}, "dtype is torch.int64; give"),
        ({"dtype": []}, r"dtype is \[\]; give"),
        ({"device": "toaster"}, "device 'toaster' cannot be used here .*; try 'cpu'"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ({"device": "meta"}, "device 'meta' cannot be used here"),
    ],
)
def test_wrong_argument(arguments, message):
    with pytest.raises(InputError, match=message):
        load_model(**arguments)


@pytest.mark.parametrize("name", ["x.gguf", "./lists/x.gguf", "~/x.GGUF", Path("/models/x.gguf")], ids=str)
def test_a_missing_gguf_file(name):
    with pytest.raises(InputError, match="' is not a GGUF file: there is no such file; check the path"):
        load_model(name)


@pytest.mark.slow
def test_a_tilde_is_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_model(f"~/{folder.name}").cfg.model_name == load_model(Path("~") / folder.name).cfg.model_name
