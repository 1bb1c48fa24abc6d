"""The command line on a tiny model: what a run leaves behind, and one line for everything that can go wrong."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import pytest
import torch
from typer.testing import CliRunner

from fv_lens import cli, effects, evaluation, models
from fv_lens.assembly import function_vector
from fv_lens.effects import HeadEffects
from fv_lens.errors import InputError, ParityError
from fv_lens.relations import relation_names
from fv_lens.vectors import FunctionVector

from . import tiny

FILES = ["effects.safetensors", "report.html", "summary.json", "vector.safetensors"]


def call(*arguments):
    """The result of a command; an exception that is not an exit is a failure of the test."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """A tiny model's matrices are too small to share out; where the machine is busy, threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working directory, of which everything that appears is seen."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tiny_model(monkeypatch, llama):
    monkeypatch.setattr(models, "load_model", lambda name, **options: llama)
    return llama


@pytest.fixture
def no_model(monkeypatch):
    def load_model(name, **options):
        pytest.fail("the model was loaded, though the input was known to be wrong")

    monkeypatch.setattr(models, "load_model", load_model)


@pytest.fixture
def pairs(here, words):
    """A JSON file of the tiny tokenizer's words, just enough for 10 shots, outside of the working directory."""
    path = here.parent / f"{here.name}-words.json"
    path.write_text(json.dumps({"name": "successor", "pairs": words.pairs[:28]}))
    return path


@pytest.fixture
def vector(here, llama, words):
    z = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    path = here.parent / f"{here.name}-vector.safetensors"
    (50.0 * function_vector(llama, words, [(0, 1), (1, 2)], 1, z)).save(path)
    return path


# run


def test_a_run_leaves_four_files_that_agree(here, tiny_model, pairs):
    result = call("run", pairs, "--out", here / "deep" / "folder", "--prompts", 2, "--seed", 3)
    assert result.exit_code == 0, result.output
    out = here / "deep" / "folder"
    assert files(out) == FILES
    assert re.sub(r"\s", "", result.stdout).endswith("".join(str(out / name) for name in FILES))

    head_map, fv = HeadEffects.load(out / "effects.safetensors"), FunctionVector.load(out / "vector.safetensors")
    assert head_map.values.shape == (2, 3, 4) and head_map.record["seed"] == head_map.record["split_seed"] == 3
    summary = json.loads((out / "summary.json").read_text())
    assert summary["relation"] == "successor" and summary["n_prompts"] == 2 and summary["seed"] == 3
    assert summary["share_right"] == head_map.share_right and summary["versions"] == head_map.record["versions"]
    assert [tuple(head) for head in summary["vector"]["heads"]] == list(fv.heads)
    assert (summary["vector"]["layer"], summary["vector"]["strength"]) == (fv.layer, fv.strength)
    assert summary["timings_s"].keys() == {"load", "effects", "sweep", "evaluate"}
    assert summary["peak_memory_mb"] > 100
    for score in (row["accuracy"] for row in summary["scores"].values()):
        assert score["low"] <= score["value"] <= score["high"] and score["n"] == 11

    page = (out / "report.html").read_text()
    assert all(f'id="{name}"' in page for name in ("heads", "layers", "completion"))
    assert summary["command"] in page and "--seed 3" in summary["command"]


def test_a_run_ends_with_a_table_of_scores_with_intervals_and_gains(here, tiny_model, pairs):
    out = call("run", pairs, "--prompts", 2).stdout
    rows = json.loads((here / "fv_lens_run" / "summary.json").read_text())["scores"]
    for name in ("zero-shot + vector", "zero-shot", "10-shot"):
        line = next(line for line in out.splitlines() if re.match(rf"{re.escape(name)} +\d", line))
        score, gain = rows[name]["accuracy"], rows[name].get("accuracy_gain")
        assert f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]" in line
        assert gain is None or f"{gain['value']:+.2f} [{gain['low']:.2f}, {gain['high']:.2f}]" in line
    assert max(map(len, out.split("fv_lens_run")[0].splitlines())) <= 80


def test_a_second_run_replaces_the_first_and_nothing_else(here, tiny_model, pairs):
    folder = here / "fv_lens_run"
    folder.mkdir()
    for name in ("vector.safetensors", "notes.txt"):
        (folder / name).write_text("of before")
    call("run", pairs, "--prompts", 2)
    assert files(folder) == sorted([*FILES, "notes.txt"])
    assert (folder / "notes.txt").read_text() == "of before"
    FunctionVector.load(folder / "vector.safetensors")


def test_a_refused_sum_is_told_after_effects_and_map_are_saved(here, monkeypatch, pairs):
    monkeypatch.setattr(models, "load_model", lambda name, **options: tiny.build("gemma2"))
    result = call("run", pairs, "--prompts", 2)
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ") and "rescales what its heads write" in last and "Saved before that:" in last
    assert files(here / "fv_lens_run") == ["effects.safetensors", "report.html", "summary.json"]
    assert 'id="heads"' in (here / "fv_lens_run" / "report.html").read_text()


def test_an_interrupted_run_says_what_is_saved(here, monkeypatch, tiny_model, pairs):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    result = call("run", pairs, "--prompts", 2)
    assert result.exit_code == 130
    assert all(name in result.stderr.splitlines()[-1] for name in ("Interrupted. Saved before that: ", *FILES))
    assert files(here / "fv_lens_run") == FILES

    monkeypatch.setattr(effects, "indirect_effects", interrupted)
    result = call("run", pairs, "--out", "other")
    assert result.exit_code == 130 and result.stderr.splitlines()[-1] == "Interrupted. Nothing was saved."
    assert not (here / "other").exists()


def test_a_model_that_cannot_be_trusted_exits_with_1(here, monkeypatch, tiny_model, pairs):
    def distrust(*arguments, **options):
        raise ParityError("An edit changed\nnothing.")

    monkeypatch.setattr(effects, "indirect_effects", distrust)
    result = call("run", pairs)
    assert result.exit_code == 1 and result.stderr.splitlines()[-1] == "Error: An edit changed nothing."
    assert not files(here)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["antonyms"], "Error: no bundled relation is called 'antonyms'; near names are antonym"),
        (["missing.json"], "Error: missing.json: there is no such file"),
        (["--out", "FILE"], "Error: Cannot write to 'FILE': "),
        (["--out", "FILE/below/it"], "Error: Cannot write to 'FILE/below/it': "),
        (["--out", "x" * 300], "File name too long. Choose another --out."),
        (["--prompts", "0"], "Invalid value for '--prompts'"),
        (["--prompts", "many"], "Invalid value for '--prompts'"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--strength", "2"], "No such option"),
        (["antonym", "synonym"], "unexpected extra argument"),
    ],
)
def test_a_run_refuses_bad_input_before_it_loads_anything(here, no_model, arguments, message):
    file = here.parent / f"{here.name}-file"
    file.write_text("")
    result = call("run", *(text.replace("FILE", str(file)) for text in arguments))
    assert result.exit_code == 2 and not files(here) and file.read_text() == ""
    assert message.replace("FILE", str(file)) in result.stderr and "Traceback" not in result.stderr


def test_too_small_a_relation_is_told_in_one_line(here, tiny_model, no_model, monkeypatch):
    four = here.parent / f"{here.name}-four.json"
    four.write_text(json.dumps([{"input": f"w{i}", "output": f"w{i + 1}"} for i in range(4)]))
    result = call("run", four)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and "at least 5 pairs" in result.stderr

    monkeypatch.setattr(models, "load_model", lambda name, **options: tiny_model)
    four.write_text(json.dumps([{"input": f"w{i}", "output": f"w{i + 100}"} for i in range(20)]))
    result = call("run", four)
    assert result.exit_code == 2 and "10 shots need 10; ask for fewer shots or give more pairs" in result.stderr
    assert not files(here)


def test_an_unknown_model_leaves_nothing_behind(here, pairs):
    result = call("run", pairs, "--model", "./no-such-folder")
    assert result.exit_code == 2 and "Error: './no-such-folder' is no model folder" in result.stderr
    assert not files(here)


# generate


def completions(result):
    return {line.split()[0]: json.loads(line.split(maxsplit=1)[1]) for line in result.stdout.splitlines()}


def test_generate_shows_the_new_text_without_and_with_the_vector(here, tiny_model, vector):
    result = call("generate", vector, r"Q: w0\nA:", "--tokens", 3)
    assert result.exit_code == 0, result.output
    shown = completions(result)
    ids = torch.tensor([tiny_model.to_tokens("Q: w0\nA:")[0].tolist()])
    for _ in range(3):
        ids = torch.cat([ids, tiny_model(ids)[:, -1:].argmax(-1)], 1)
    assert shown["without"] == tiny_model.tokenizer.decode(ids[0, -3:])
    assert shown["with"] != shown["without"]
    assert completions(call("generate", vector, "Q: w0\nA:", "--tokens", 3)) == shown
    assert not files(here)


def test_strength_zero_changes_nothing(tiny_model, vector):
    shown = completions(call("generate", vector, r"Q: w0\nA:", "--strength", 0))
    assert shown["with"] == shown["without"]


def test_the_vectors_own_model_is_the_default_and_another_is_noted(monkeypatch, llama, vector):
    asked = []
    monkeypatch.setattr(models, "load_model", lambda name, **options: asked.append(name) or llama)
    fv = FunctionVector.load(vector)
    replace(fv, model="another").save(vector)
    assert "Note: The vector was made on 'another'" in call("generate", vector, "Q: w0").stderr
    call("generate", vector, "Q: w0", "--model", "mine")
    assert asked == ["another", "mine"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.safetensors", "Q:"], "Error: No file 'missing.safetensors'"),
        ([__file__, "Q:"], "is no whole safetensors file"),
        (["VECTOR", ""], "Error: The prompt is empty"),
        (["VECTOR", "Q:", "--tokens", "0"], "Invalid value for '--tokens'"),
        (
            ["VECTOR", "Q:", "--tokens", "127"],
            "Error: The prompt has 3 tokens and 127 are to follow; the model's context is 128",
        ),
        (["VECTOR", "Q:", "--strength", "nan"], "Error: strength is nan"),
        (["VECTOR", "Q:", "--strength", "strong"], "Invalid value for '--strength'"),
        (["VECTOR"], "Missing argument"),
    ],
)
def test_generate_refuses_bad_input(here, tiny_model, vector, arguments, message):
    result = call("generate", *(str(vector) if text == "VECTOR" else text for text in arguments))
    assert result.exit_code == 2 and message in result.stderr and not result.stdout and not files(here)
    assert "Traceback" not in result.stderr


def test_a_vector_of_an_unknown_model_asks_for_one(no_model, vector):
    replace(FunctionVector.load(vector), model="").save(vector)
    result = call("generate", vector, "Q:")
    assert result.exit_code == 2 and "pass --model" in result.stderr


def test_a_vector_whose_model_is_a_folder_elsewhere_says_how_to_name_it(monkeypatch, vector):
    def load_model(name, **options):
        raise InputError(f"{name!r} cannot be loaded.")

    monkeypatch.setattr(models, "load_model", load_model)
    replace(FunctionVector.load(vector), model="my-folder").save(vector)
    result = call("generate", vector, "Q:")
    assert result.exit_code == 2 and "'my-folder' cannot be loaded." in result.stderr and "--model" in result.stderr


# The rest


def test_relations_lists_every_bundled_relation():
    lines = call("relations").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(relation_names())
    assert re.search(r"antonym +lexicographic +opposite +255 +hot → cold", "\n".join(lines))


def test_without_a_command_help_is_shown():
    for arguments in ([], ["--help"]):
        assert all(name in call(*arguments).output for name in ("run", "relations", "generate"))
    assert call("--version").stdout == f"fv-lens {metadata.version('fv-lens')}\n"
    assert call("relation").exit_code == 2


def test_help_and_relations_come_without_torch():
    code = (
        "import sys; from fv_lens import cli; cli.app([{!r}], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    for argument in ("--help", "relations"):
        subprocess.run([sys.executable, "-c", code.format(argument)], check=True, capture_output=True)
