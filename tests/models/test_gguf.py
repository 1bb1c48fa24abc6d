"""A GGUF file becomes the model it holds, once, or is refused with what to do."""

import copy
import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors import SafetensorError, safe_open

from fv_lens.ground.errors import InputError
from fv_lens.models import gguf_model
from fv_lens.models.gguf_checks import readable_architectures
from fv_lens.models.gguf_config import LLAMA3
from fv_lens.models.gguf_header import read_header
from fv_lens.models.load import load_model
from fv_lens.models.tokens import token_ids

from .. import tiny
from . import ggufs
from .made import left, scratch

TEXTS = ["hot", " hot", "a hot  day", "\nhot", "<s>hot</s>", "ho t"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FV_LENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path, cache):
    return ggufs.write(tmp_path / "here" / "tiny.gguf", ggufs.network())


def ids() -> torch.Tensor:
    return torch.randint(0, 100, (2, 12), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model) -> torch.Tensor:
    out = model(ids())
    return getattr(out, "logits", out)


def as_transformers(file: Path, kind=transformers.AutoModelForCausalLM, **settings):
    """Straight from the file."""
    return kind.from_pretrained(file.parent, gguf_file=file.name, **settings)


def record(cache: Path) -> dict:
    (folder,) = (cache / name for name in left(cache))
    return json.loads((folder / "fv_lens.json").read_text())


# The model that a file holds


@pytest.mark.slow(but=2)
@pytest.mark.parametrize("name", ggufs.NETWORKS)
def test_the_network_is_the_one_that_was_written(name, tmp_path, cache):
    """Sizes, rotary positions and all, though no two fields of a class are at their defaults here."""
    network = ggufs.network(name)
    folder = gguf_model.converted(ggufs.write(tmp_path / "x.gguf", network, name))
    again = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert (logits(again) - logits(network)).abs().max() < 1e-5


@pytest.mark.slow(but=2)
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_of_a_file_computes_what_transformers_does(tmp_path, cache, quantized, tied):
    file = ggufs.write(tmp_path / "tiny.Q8_0.gguf", ggufs.network(tied=tied), quantized=quantized)
    model = load_model(file)
    assert model.cfg.model_name == "tiny.Q8_0"
    config = transformers.AutoConfig.from_pretrained(file.parent, gguf_file=file.name, vocab_size=256)
    straight = as_transformers(file, config=config, dtype=torch.float32)
    assert next(model.parameters()).dtype == torch.float32
    assert (logits(model) - logits(straight)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["llama", pytest.param("lfm2", marks=pytest.mark.slow)])
def test_weights_are_dequantised_to_float32(name, tmp_path, cache):
    network = ggufs.network(name)
    folder = gguf_model.converted(ggufs.write(tmp_path / "x.gguf", network, name, quantized=True))
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    with safe_open(folder / "model.safetensors", "pt") as tensors:
        assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} == {"F32"}
    again = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert 0 < (logits(again) - logits(network)).abs().max() < 0.5  # of eight bits


@pytest.mark.skipif(not tiny.HOOKED_INSTALLED, reason="TransformerLens 4 has no HookedTransformer")
def test_both_model_classes_take_a_llama(file):
    assert (logits(load_model(file, cls="hooked")) - logits(load_model(file))).abs().max() < 1e-4


def test_a_file_is_converted_once_under_whatever_name(file, cache, monkeypatch):
    model = load_model(file)
    (folder,) = left(cache)
    sha256 = record(cache)["source"]["tiny.gguf"]
    assert folder == f"gguf-{gguf_model.CONVERSION}-{sha256}"
    monkeypatch.setattr(gguf_model, "convert", lambda *args, **facts: pytest.fail("converted twice"))
    moved = file.rename(file.with_name("moved.gguf"))
    monkeypatch.chdir(moved.parent)
    for name in (moved, str(moved), "moved.gguf", moved.parent, f"./{moved.name}"):
        again = load_model(name)
        assert again.cfg.model_name == "moved" and torch.equal(logits(again), logits(model))


def test_a_file_is_converted_again_once_the_conversion_has_changed(file, cache, monkeypatch):
    first = gguf_model.converted(file)
    monkeypatch.setattr(gguf_model, "CONVERSION", gguf_model.CONVERSION + 1)
    second = gguf_model.converted(file)
    versions = [json.loads((folder / "fv_lens.json").read_text())["conversion"] for folder in (first, second)]
    assert first != second and versions == [gguf_model.CONVERSION - 1, gguf_model.CONVERSION]


def test_another_file_of_that_name_in_the_current_folder_is_not_taken(file, tmp_path, monkeypatch):
    network = ggufs.network()
    network.model.norm.weight.data *= 3
    ggufs.write(tmp_path / "current" / file.name, network)
    monkeypatch.chdir(tmp_path / "current")
    assert (logits(load_model(file)) - logits(ggufs.network())).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("file_type", "quantization"),
    [
        (15, "Q4_K_M"),
        (None, "Q8_0"),
        (999, "Q8_0"),
    ],
)
def test_quantisation_and_hash_are_on_record(tmp_path, cache, file_type, quantization):
    network = ggufs.network()
    file = ggufs.write(tmp_path / "x.gguf", network, quantized=True, general__file_type=file_type)
    gguf_model.converted(file)
    manifest = record(cache)
    assert (manifest["architecture"], manifest["quantization"]) == ("llama", quantization)
    assert manifest["tensors"]["Q8_0"] > 0 and sum(manifest["tensors"].values()) == len(read_header(file).tensors)
    assert list(manifest["source"]) == ["x.gguf"] and len(manifest["source"]["x.gguf"]) == 64


# Text and tokens


@pytest.mark.parametrize("spelling", ["gpt2", "llama"])
@pytest.mark.parametrize("bos", [True, False, None], ids=["with a BOS", "without", "not said"])
def test_ids_are_those_of_the_file(tmp_path, cache, spelling, bos):
    changes = {"tokenizer__ggml__add_bos_token": bos}
    file = ggufs.write(tmp_path / "x.gguf", ggufs.network(), spelling=spelling, **changes)
    straight = as_transformers(file, transformers.AutoTokenizer)
    saved = transformers.AutoTokenizer.from_pretrained(gguf_model.converted(file))
    expected = [straight(text)["input_ids"] for text in TEXTS]
    assert [saved(text)["input_ids"] for text in TEXTS] == expected
    model = load_model(file)
    assert [token_ids(model, text) for text in TEXTS if "<" not in text] == [
        ids for text, ids in zip(TEXTS, expected) if "<" not in text
    ]
    has_bos = spelling == "llama" if bos is None else bos  # as llama.cpp has it where the header says nothing
    assert model.cfg.default_prepend_bos is has_bos
    assert [ids[:1] == [1] for ids in expected if ids] == [has_bos or text.startswith("<s>") for text in TEXTS]


# Rotary positions


def test_a_saved_tokenizer_does_not_say_that_the_model_is_of_another_kind(tmp_path):
    made = copy.deepcopy(tiny.tokenizer())
    made.init_kwargs["model_type"] = "bert"
    gguf_model._save_tokenizer(made, tmp_path)
    assert "model_type" not in json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again("w1 w2")["input_ids"] == made("w1 w2")["input_ids"]


def test_llama_3_scaling_is_told_from_the_divisors_of_its_frequencies(tmp_path, cache):
    network = ggufs.network()
    scaled = {**network.config.rope_parameters, "rope_type": "llama3", "factor": 32.0, **LLAMA3}
    config = transformers.LlamaConfig(**network.config.to_dict() | {"rope_parameters": scaled})
    expected = transformers.LlamaForCausalLM(config).eval()
    expected.load_state_dict(network.state_dict())
    plain, divided = (model.model.rotary_emb.inv_freq for model in (network, expected))
    assert not torch.equal(plain, divided)
    file = ggufs.write(tmp_path / "x.gguf", network, tensors={"rope_freqs.weight": (plain / divided).numpy()})
    again = transformers.AutoModelForCausalLM.from_pretrained(gguf_model.converted(file))
    assert torch.allclose(again.model.rotary_emb.inv_freq, divided, rtol=1e-5)
    assert (logits(again) - logits(expected)).abs().max() < 1e-4


def test_linear_scaling_is_taken_from_the_header(tmp_path, cache):
    network = ggufs.network()
    changes = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 8.0}
    file = ggufs.write(tmp_path / "x.gguf", network, **changes)
    again = transformers.AutoModelForCausalLM.from_pretrained(gguf_model.converted(file))
    assert torch.allclose(8 * again.model.rotary_emb.inv_freq, network.model.rotary_emb.inv_freq)


def test_layers_with_a_window_are_not_scaled(tmp_path, cache):
    """As Gemma 3 has it, in which they also have a rotary base of their own."""
    network = ggufs.network("gemma3")
    changes = {"gemma3__rope__scaling__type": "linear", "gemma3__rope__scaling__factor": 8.0}
    folder = gguf_model.converted(ggufs.write(tmp_path / "x.gguf", network, "gemma3", **changes))
    there, here = (
        model.model.rotary_emb for model in (network, transformers.AutoModelForCausalLM.from_pretrained(folder))
    )
    assert torch.allclose(8 * here.full_attention_inv_freq, there.full_attention_inv_freq)
    assert torch.equal(here.sliding_attention_inv_freq, there.sliding_attention_inv_freq)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama__rope__scaling__type": "yarn"}, "says rope.scaling.type = 'yarn'"),
        ({"tensors": {"rope_freqs.weight": np.float32([1, 2, 1, 5])}}, "holds rope_freqs.weight"),
    ],
)
def test_other_scaling_is_refused(tmp_path, cache, changes, message):
    file = ggufs.write(tmp_path / "x.gguf", ggufs.network(), **changes)
    with pytest.raises(InputError, match=rf"x.gguf' scales rotary positions .*\(it {message}\); give the folder"):
        load_model(file)
    assert not left(cache)


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split__count": 3}, "is one of 3 parts of a model, .* llama-gguf-split --merge"),
        (
            {"general__type": "mmproj"},
            "does not hold a language model: its general.type is 'mmproj'; give the model's own",
        ),
        (
            {"general__architecture": "rwkv7"},
            "holds a model of architecture 'rwkv7', .*expected one of .*llama, .*qwen3",
        ),
        ({"general__architecture": "t5"}, "holds a model of architecture 't5', whose"),
        ({"general__architecture": "general"}, "holds a model of architecture 'general', whose"),
        ({"tokenizer__ggml__tokens": None}, "holds no tokenizer .*'tokenizer.ggml.tokens' is missing"),
        ({"tokenizer__ggml__model": "bert"}, "cannot be loaded: .*'bert'.* Give another GGUF file"),
        ({"tensors": {"blk.0.ffn_gate_inp.weight": np.ones((4, 32), "f4")}}, "holds .* weights, and the llama .* has"),
        ({"tensors": {"blk.0.attn_norm.weight": np.ones(31, "f4")}}, "holds other weights .*32.* is expected"),
        ({"llama__block_count": 4}, "holds other weights .*: model.layers.3.* is missing; give another"),
    ],
)
def test_a_file_of_another_kind(tmp_path, cache, changes, message):
    architecture = changes.pop("general__architecture", None)
    file = ggufs.write(tmp_path / "x.gguf", ggufs.network(), **changes)
    if architecture:
        renamed(file, architecture)
    with pytest.raises(InputError, match=f"x.gguf' {message}"):
        load_model(file)
    assert not cache.exists() or not left(cache)


def renamed(file: Path, architecture: str) -> None:
    old, new = (struct.pack("<Q", len(name)) + name.encode() for name in ("llama", architecture))
    content = file.read_bytes()
    key = b"general.architecture" + struct.pack("<I", 8)
    assert content.count(key + old) == 1
    file.write_bytes(content.replace(key + old, key + new))


def test_a_vocabulary_alone(tmp_path, cache):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    for name, value in ggufs.spelling().items():
        ggufs.add(writer, name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="x.gguf' holds no weights, only a vocabulary; expected a whole"):
        load_model(tmp_path / "x.gguf")


def test_more_tokens_than_embeddings(tmp_path, cache):
    tokens = [f"t{i}" for i in range(300)]
    changes = {"tokenizer__ggml__tokens": tokens, "tokenizer__ggml__token_type": [1] * 300}
    file = ggufs.write(tmp_path / "x.gguf", ggufs.network(), **changes)
    with pytest.raises(InputError, match="x.gguf' disagrees with .*: it has 300 tokens, and the embedding has 256"):
        load_model(file)


def test_a_part_is_known_by_its_name(file, cache):
    part = file.rename(file.with_name("tiny-00002-of-00004.gguf"))
    for name in (part, part.parent):
        with pytest.raises(InputError, match="tiny-00002-of-00004.gguf' is one of 4 parts"):
            load_model(name)
    ggufs.write(part.with_name("tiny-00003-of-00004.gguf"), ggufs.network())
    with pytest.raises(InputError, match="is one of 4 parts"):
        load_model(part.parent)


def test_a_model_that_is_one_part_of_one_is_whole(file, cache):
    assert load_model(file.rename(file.with_name("tiny-00001-of-00001.gguf"))).cfg.n_layers == 3


def test_a_folder_with_several_files_lists_them(file):
    ggufs.write(file.with_name("other.GGUF"), ggufs.network())
    with pytest.raises(InputError, match=r"' holds 2 GGUF files \(other.GGUF, tiny.gguf\).* give the path"):
        load_model(file.parent)


def test_a_folder_of_hugging_face_with_a_gguf_beside_is_a_folder(folder, file):
    file.rename(folder / "tiny.gguf")
    assert load_model(folder).cfg.model_name == folder.name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a GGUF file: it begins with b''"),
        (b"PK\3\4 a zip", r"is not a GGUF file: it begins with b'PK\\x03\\x04', and a GGUF file with b'GGUF'"),
        (b"GGUF", "ends within its header, after 4 bytes: it is truncated"),
        (b"GGUF" + struct.pack("<I", 1), "is a GGUF file of version 1; expected version 2 or 3"),
        (b"GGUF" + struct.pack(">I", 3), "is a GGUF file of a big-endian machine"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60), "ends within its header"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), "ends within its header"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2) + b"\xff\xfe" + bytes(20), "is damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<I", 77), "is damaged"),
    ],
)
def test_what_is_not_a_whole_header(tmp_path, cache, content, message):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(InputError, match=f"^(the header of )?'[^']*x.gguf' {message}"):
        load_model(tmp_path / "x.gguf")


def test_a_file_that_may_not_be_read(file, monkeypatch):
    def no(*args, **settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", no)
    with pytest.raises(InputError, match="tiny.gguf' cannot be read: Permission denied; check the file"):
        read_header(file)


def test_any_file_is_a_gguf_by_what_it_holds(file, tmp_path):
    """As Ollama keeps them, under their hash."""
    blob = file.rename(tmp_path / "sha256-0123")
    assert (logits(load_model(blob)) - logits(ggufs.network())).abs().max() < 1e-4
    (tmp_path / "notes.txt").write_text("Dear diary")
    with pytest.raises(InputError, match="notes.txt' is not a GGUF file: it begins with b'Dear', .* or the folder"):
        load_model(tmp_path / "notes.txt")


@pytest.mark.slow(but=3)
@pytest.mark.parametrize("share", [0.999, 0.5, 0.1, 0.03, 0.002])
def test_a_truncated_file(file, cache, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="tiny.gguf' .*it is truncated; copy or download it again"):
        load_model(file)


def test_known_architectures_are_those_of_language_models():
    known = readable_architectures()
    assert {"llama", "gemma3", "qwen3", "phi3", "gpt2"} <= set(known)
    assert not {"general", "tokenizer", "t5", "clip"} & set(known)


# Conversions that are killed, or cannot write

KILLED = """
import sys
from fv_lens.models import gguf_model
from safetensors.torch import save_file

def save(tensors, file, **more):
    save_file(dict(list(tensors.items())[:3]), file, **more)
    print("begun", flush=True)
    import time; time.sleep(60)

gguf_model.save_file = save
gguf_model.converted(__import__("pathlib").Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_conversion_leaves_nothing_that_looks_like_a_model(file, cache):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, file], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"begun\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(scratch(cache)) == 1 and left(cache) == scratch(cache)
    assert (logits(load_model(file)) - logits(ggufs.network())).abs().max() < 1e-4
    assert len(left(cache)) == 1 and not scratch(cache)


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
        (OSError(28, "No space left on device"), InputError, "tiny.gguf cannot be made in .*No space.*FV_LENS_CACHE"),
        (OSError(30, "Read-only file system"), InputError, "tiny.gguf cannot be made in .*Read-only.*FV_LENS_CACHE"),
        ("safetensors", InputError, "tiny.gguf cannot be made in .*No space left.* GB there"),
    ],
)
def test_an_interrupted_conversion_leaves_nothing(file, cache, monkeypatch, error, raised, message):
    if error == "safetensors":
        error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def save(tensors, name, **more):
        Path(name).write_bytes(b"half")
        raise error

    monkeypatch.setattr(gguf_model, "save_file", save)
    with pytest.raises(raised, match=message):
        load_model(file)
    assert not left(cache)


def test_a_damaged_conversion_is_refused(file, cache):
    load_model(file)
    (folder,) = (cache / name for name in left(cache))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="tokenizer.json has 2 bytes, .*delete the folder"):
        load_model(file)
