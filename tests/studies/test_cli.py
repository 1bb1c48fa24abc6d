"""The command line on a tiny model: what a run leaves behind, and one line for everything that can go wrong."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import pytest
import torch

from fv_lens.datasets.relation_files import FORMAT, OPTIONAL, relation_names
from fv_lens.evaluation import evaluate
from fv_lens.evaluation.decoding import decode
from fv_lens.evaluation.readings import log_probs
from fv_lens.ground.errors import InputError, ParityError
from fv_lens.models import load
from fv_lens.models.lens import lens_of
from fv_lens.vectors import mediation, tuning_pairs
from fv_lens.vectors.effects import HeadEffects
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.summed import function_vector

from .. import tiny
from .commands import call, files, interrupted

FILES = ["effects.safetensors", "report.html", "summary.json", "vector.safetensors"]  # in the order of their making
TUNED = "tuned.safetensors"


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
    monkeypatch.setattr(load, "load_model", lambda name, **options: llama)
    return llama


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


@pytest.mark.slow
def test_a_run_leaves_five_files_that_agree(here, tiny_model, pairs):
    result = call("run", pairs, "--out", here / "deep" / "folder", "--prompts", 2, "--seed", 3)
    assert result.exit_code == 0, result.output
    out = here / "deep" / "folder"
    assert files(out) == sorted([*FILES, TUNED])
    named = re.sub(r"\s", "", result.stdout.replace("<- open this first", ""))
    assert named.endswith("".join(str(out / name) for name in [*FILES, TUNED]))

    head_map, fv = HeadEffects.load(out / "effects.safetensors"), FunctionVector.load(out / "vector.safetensors")
    assert head_map.values.shape == (2, 3, 4) and head_map.record["seed"] == head_map.record["split_seed"] == 3
    summary = json.loads((out / "summary.json").read_text())
    assert summary["relation"] == "successor" and summary["n_prompts"] == 2 and summary["seed"] == 3
    assert summary["share_right"] == head_map.share_right and summary["versions"] == head_map.record["versions"]
    assert [tuple(head) for head in summary["vector"]["heads"]] == list(fv.heads)
    assert (summary["vector"]["layer"], summary["vector"]["strength"]) == (fv.layer, fv.strength)
    assert list(summary["timings_s"]) == [
        "load",
        "effects",
        "head words",
        "sweep",
        "tune",
        "evaluate",
        "decode",
    ]
    assert summary["peak_memory_mb"] > 100
    for score in (row["accuracy"] for row in summary["scores"].values()):
        assert score["low"] <= score["value"] <= score["high"] and score["n"] == 11

    page = (out / "report.html").read_text()
    parts = ("heads", "layers", "completion", "tuned", "training", "words")
    assert all(f'id="{name}"' in page for name in parts)
    assert summary["command"] in page and "--seed 3" in summary["command"]


@pytest.mark.slow
def test_a_run_ends_with_a_table_of_scores_with_intervals_and_gains(here, tiny_model, pairs):
    out = call("run", pairs, "--prompts", 2).stdout
    rows = json.loads((here / "fv_lens_run" / "summary.json").read_text())["scores"]
    for name in ("zero-shot + vector", "zero-shot", "10-shot"):
        line = next(line for line in out.splitlines() if re.match(rf"{re.escape(name)} +\d", line))
        score, gain = rows[name]["accuracy"], rows[name].get("accuracy_gain")
        assert f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]" in line
        assert gain is None or f"{gain['value']:+.2f} [{gain['low']:.2f}, {gain['high']:.2f}]" in line
    assert max(map(len, out.split("fv_lens_run")[0].splitlines())) <= 80


@pytest.mark.slow
def test_a_second_run_of_the_same_plan_replaces_the_first_and_nothing_else(here, tiny_model, pairs):
    folder = here / "fv_lens_run"
    assert "a run of the same plan" not in call("run", pairs, "--prompts", 2).stderr
    first = FunctionVector.load(folder / "vector.safetensors")
    for name in ("vector.safetensors", "notes.txt"):
        (folder / name).write_text("of before")
    again = call("run", pairs, "--prompts", 2)
    assert (
        again.exit_code == 0 and "fv_lens_run holds a run of the same plan, whose files are replaced." in again.stderr
    )
    assert files(folder) == sorted([*FILES, TUNED, "notes.txt"])
    assert (folder / "notes.txt").read_text() == "of before"
    assert torch.equal(FunctionVector.load(folder / "vector.safetensors").vector, first.vector)


@pytest.mark.slow
def test_a_run_tunes_its_vector_measures_it_beside_controls_and_reads_it(here, tiny_model, pairs):
    result = call("run", pairs, "--prompts", 2)
    out = here / "fv_lens_run"
    fv, tuned = (FunctionVector.load(out / name) for name in ("vector.safetensors", TUNED))
    summary = json.loads((out / "summary.json").read_text())
    assert tuned.method == "tuned" and tuned.training["n_pairs"] == 12
    assert torch.equal(torch.tensor(tuned.parents[0][1]["heads"]), torch.tensor(fv.heads))
    told = summary["tuned"]
    assert (told["layer"], told["method"], told["training"]) == (tuned.layer, "tuned", tuned.training)
    controls = {"FV", "FFV from zero", "FFV from random", "FFV of shuffled pairs", "zero-shot", "10-shot"}
    assert controls < summary["tuned_scores"].keys() and "FV" not in summary["scores"]
    assert summary["tuned_scores"]["FV"]["log_prob"] == pytest.approx(
        summary["scores"]["zero-shot + vector"]["log_prob"]
    )
    read = decode(tiny_model, tuned, through="model").top
    words = [line for line in summary["words"] if line["vector"] == "FFV"]
    assert [line["token"] for line in words] == [token.token for token in read]
    assert {line["vector"] for line in summary["words"]} == {"FV", "FFV"}
    told = " ".join(result.stdout.split())
    assert f"successor, the vector (FV) tuned on 12 pairs (FFV), layer {tuned.layer} 11 test words, 95 %" in told
    assert f"layer {fv.layer}, strength {fv.strength:g}: " + " ".join(f"L{at}H{head}" for at, head in fv.heads) in told
    assert "report.html <- open this first" in told and "in brackets where its interval holds 0" in told


@pytest.mark.slow
def test_a_relation_too_small_to_tune_on_is_noted_and_the_run_goes_on(here, tiny_model, pairs, monkeypatch):
    monkeypatch.setattr(tuning_pairs, "LEAST_PAIRS", 13)
    result = call("run", pairs, "--prompts", 2)
    assert result.exit_code == 0 and files(here / "fv_lens_run") == FILES
    note = " ".join(result.stderr.split())
    assert "Note: not tuned: relation 'successor' has 28 pairs, too few to tune on: give 31 or more" in note
    assert (
        not {"tuned", "tuned_scores", "words"} & json.loads((here / "fv_lens_run" / "summary.json").read_text()).keys()
    )
    assert 'id="completion"' in (here / "fv_lens_run" / "report.html").read_text()


@pytest.mark.slow
def test_pairs_that_cannot_be_shuffled_are_noted_and_the_run_goes_on(here, tiny_model, words):
    few = words.with_pairs(words.pairs[:28])
    same = few.split().validation.words
    path = here.parent / f"{here.name}-same.json"
    path.write_text(json.dumps({"name": "same", "pairs": [(w, "w199" if w in same else x) for w, x in few.pairs]}))
    result = call("run", path, "--prompts", 2)
    assert result.exit_code == 0 and files(here / "fv_lens_run") == sorted([*FILES, TUNED])
    note = " ".join(result.stderr.split())
    assert "Note: no FFV of shuffled pairs: The answers of 'same' cannot be exchanged so that each is wrong" in note
    rows = json.loads((here / "fv_lens_run" / "summary.json").read_text())["tuned_scores"]
    assert "FFV from random" in rows and "FFV of shuffled pairs" not in rows


def test_a_refused_sum_is_told_after_effects_and_map_are_saved(here, monkeypatch, pairs):
    monkeypatch.setattr(load, "load_model", lambda name, **options: tiny.bent())
    result = call("run", pairs, "--prompts", 2)
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert (
        last.startswith("Error: ")
        and "rescales what the heads of layer 0 write" in last
        and "Saved before that:" in last
    )
    assert files(here / "fv_lens_run") == ["effects.safetensors", "report.html", "summary.json"]
    assert 'id="heads"' in (here / "fv_lens_run" / "report.html").read_text()


@pytest.mark.slow
def test_an_interrupted_run_says_what_is_saved(here, monkeypatch, tiny_model, pairs):
    monkeypatch.setattr(evaluate, "evaluate_cases", interrupted)
    result = call("run", pairs, "--prompts", 2)
    assert result.exit_code == 130
    saved = sorted([*FILES, TUNED])
    assert all(name in result.stderr.splitlines()[-1] for name in ("Interrupted. Saved before that: ", *saved))
    assert files(here / "fv_lens_run") == saved

    monkeypatch.setattr(mediation, "indirect_effects", interrupted)
    result = call("run", pairs, "--out", "other")
    assert result.exit_code == 130 and result.stderr.splitlines()[-1] == "Interrupted. Nothing was saved."
    assert not (here / "other").exists()


def test_a_model_that_cannot_be_trusted_exits_with_1(here, monkeypatch, tiny_model, pairs):
    def distrust(*arguments, **options):
        raise ParityError("An edit changed\nnothing.")

    monkeypatch.setattr(mediation, "indirect_effects", distrust)
    result = call("run", pairs)
    assert result.exit_code == 1 and result.stderr.splitlines()[-1] == "Error: An edit changed nothing."
    assert not files(here)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["antonyms"], "Error: there is no bundled relation 'antonyms'; did you mean antonym"),
        (["missing.json"], "Error: missing.json: there is no such file"),
        (["--out", "FILE"], "Error: Cannot write to 'FILE': "),
        (["--out", "FILE/below/it"], "Error: Cannot write to 'FILE/below/it': "),
        (["--out", "x" * 300], "File name too long. Choose another --out."),
        (["--prompts", "0"], "Invalid value for '--prompts'"),
        (["--prompts", "many"], "Invalid value for '--prompts'"),
        (["--prompts", str(10**20)], "Invalid value for '--prompts'"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--seed", str(2**32)], "Invalid value for '--seed'"),
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


@pytest.mark.slow
def test_too_small_a_relation_is_told_in_one_line(here, tiny_model, no_model, monkeypatch):
    four = here.parent / f"{here.name}-four.json"
    four.write_text(json.dumps([{"input": f"w{i}", "output": f"w{i + 1}"} for i in range(4)]))
    for n in (4, 25):
        four.write_text(json.dumps([{"input": f"w{i}", "output": f"w{i + 100}"} for i in range(n)]))
        result = call("run", four)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and not files(here)
        assert f"has {n} pairs and `fv-lens run` needs 26 or more" in result.stderr

    monkeypatch.setattr(load, "load_model", lambda name, **options: tiny_model)
    four.write_text(json.dumps([{"input": f"w{i}", "output": f"w{i + 100}"} for i in range(26)]))
    assert call("run", four, "--prompts", 2).exit_code == 0


def test_answers_that_cannot_be_made_wrong_are_told_before_the_model_is_loaded(here, no_model):
    file = here.parent / f"{here.name}-same.json"
    file.write_text(json.dumps({"name": "same", "pairs": [(f"w{i}", "w199") for i in range(40)]}))
    result = call("run", file)
    assert result.exit_code == 2 and "'w199' serves 16 of 16 words: give pairs with other answers" in result.stderr
    assert not files(here)


def test_a_prompt_beyond_the_context_is_told_before_the_head_map(here, tiny_model, words, monkeypatch):
    monkeypatch.setattr(mediation, "indirect_effects", lambda *args, **how: pytest.fail("the head map was made"))
    few = words.with_pairs(words.pairs[:28])
    for place, word in enumerate(("train", "validation", "test")):
        last = few.split()[place].words[-1]
        pairs = [(w if w != last else " ".join(["w3"] * 200), answer) for w, answer in few.pairs]
        path = here.parent / f"{here.name}-{word}.json"
        path.write_text(json.dumps({"name": "long", "pairs": pairs}))
        result = call("run", path, "--prompts", 2)
        assert result.exit_code == 2 and not files(here)
        assert "more than the model's context of 128; give shorter words" in result.stderr.splitlines()[-1]


def test_a_named_pipe_is_refused_at_once(here, no_model):
    os.mkfifo("pairs.json")
    result = call("run", "pairs.json")
    assert (
        result.exit_code == 2
        and result.stderr
        == "Error: pairs.json: this is a pipe or a device, not a file; save what comes from it to a file first\n"
    )


@pytest.mark.slow
def test_a_tilde_is_the_home_folder_in_every_path(here, tiny_model, pairs, vector, monkeypatch):
    home = here.parent / f"{here.name}-home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / "pairs.json").write_text(pairs.read_text())
    vector.rename(home / "vector.safetensors")
    assert call("run", "~/pairs.json", "--prompts", 2, "--out=~/out").exit_code == 0
    assert call("generate", "~/vector.safetensors", "Q: w0").exit_code == 0
    assert call("decode", "~/vector.safetensors").exit_code == 0
    assert "they are of `fv-lens run`" in call("table", "~/out").stderr
    for command in (["humans", "~/none"], ["reproduce", "--bats", "~/none"], ["analogies", "--bats", "~/none"]):
        assert str(home / "none") in call(*command).stderr, command
    for command in (["analogies", "~/none.csv"], ["analogies", "--validation", "~/none.csv"]):
        assert str(home / "none.csv") in call(*command).stderr, command
    assert str(home / "none") in call("analogies", "--vectors", "~/none").stderr
    assert str(home / "none.json") in call("reproduce", "--relations", "antonym,~/none.json").stderr
    assert not files(here)


def test_an_unknown_model_leaves_nothing_behind(here, pairs):
    result = call("run", pairs, "--model", "./no-such-folder")
    assert result.exit_code == 2 and "Error: './no-such-folder' is not a model folder" in result.stderr
    assert not files(here)


def test_the_help_of_a_run_shows_the_format_of_a_file():
    shown = re.sub(r"[│\s]+", " ", call("run", "--help").stdout)
    assert FORMAT in shown and OPTIONAL in shown and "26 pairs or more" in shown and ".csv" in shown


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


@pytest.mark.slow
def test_strength_zero_changes_nothing(tiny_model, vector):
    shown = completions(call("generate", vector, r"Q: w0\nA:", "--strength", 0))
    assert shown["with"] == shown["without"]


@pytest.mark.slow
def test_the_vectors_own_model_is_the_default_and_another_is_refused(monkeypatch, llama, vector):
    asked = []
    monkeypatch.setattr(load, "load_model", lambda name, **options: asked.append(name) or llama)
    fv = FunctionVector.load(vector)
    replace(fv, model="another/llama").save(vector)
    assert "Note: The vector was made on 'another/llama'" in call("generate", vector, "Q: w0").stderr
    replace(fv, model="another").save(vector)
    result = call("generate", vector, "Q: w0", "--model", "mine")
    assert result.exit_code == 2 and "Error: The vector was made on 'another' and this model is" in result.stderr
    assert asked == ["another/llama", "mine"]


@pytest.mark.slow(but=1)
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.safetensors", "Q:"], "Error: No file 'missing.safetensors'"),
        ([__file__, "Q:"], "is not a complete safetensors file"),
        (["VECTOR", ""], "Error: The prompt is empty"),
        (["VECTOR", "Q:", "--tokens", "0"], "Invalid value for '--tokens'"),
        (
            ["VECTOR", "Q:", "--tokens", "127"],
            "Error: The prompt's 3 tokens and 127 new ones exceed the context of 128",
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

    monkeypatch.setattr(load, "load_model", load_model)
    replace(FunctionVector.load(vector), model="my-folder").save(vector)
    result = call("generate", vector, "Q:")
    assert result.exit_code == 2 and "'my-folder' cannot be loaded." in result.stderr and "--model" in result.stderr


# decode


@pytest.mark.slow
@pytest.mark.parametrize("through", ["unembed", "model"])
def test_decode_lists_the_strongest_and_weakest_tokens(here, tiny_model, vector, through):
    result = call("decode", vector, "--through", through, "-k", 3)
    assert result.exit_code == 0, result.output
    order = log_probs(tiny_model, FunctionVector.load(vector), through)[0].argsort(descending=True).tolist()
    told, part = {}, ""
    assert result.stdout.splitlines()[1].startswith("rank 0 is the strongest of 256 tokens")
    for line in result.stdout.splitlines()[2:]:
        if not line.startswith("  "):
            part, *columns = line.split()
            told[part] = []
            assert columns == ["rank", "probability", *["change"] * (through == "model")]
        else:
            told[part].append(json.loads(re.match(r'  ("(?:[^"\\\\]|\\\\.)*")', line)[1]))
    assert told["top"] == [lens_of(tiny_model).text(i) for i in order[:3]]
    assert len(told["suppressed"]) == 3 and told.keys() == {"top", "suppressed"}
    if through == "unembed":
        assert told["suppressed"] == [lens_of(tiny_model).text(i) for i in order[:-4:-1]]
    assert "layer 1 of tiny/llama" in result.stdout.splitlines()[0] and not files(here)


@pytest.mark.slow(but=1)
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.safetensors"], "Error: No file 'missing.safetensors'"),
        ([__file__], "is not a complete safetensors file"),
        (["VECTOR", "--through", "sideways"], "Error: through is 'sideways'; give 'unembed' or 'model'"),
        (["VECTOR", "-k", "0"], "Invalid value for '-k'"),
        (["VECTOR", "-k", "999"], "Error: k is 999; the vocabulary of tiny/llama has 256 tokens"),
        ([], "Missing argument"),
    ],
)
def test_decode_refuses_bad_input(here, tiny_model, vector, arguments, message):
    result = call("decode", *(str(vector) if text == "VECTOR" else text for text in arguments))
    assert result.exit_code == 2 and message in result.stderr and not result.stdout and "Traceback" not in result.stderr


# The rest


def test_relations_lists_every_bundled_relation():
    lines = call("relations").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(relation_names())
    assert re.search(r"antonym +lexicographic +opposite +255 +hot → cold", "\n".join(lines))


def test_without_a_command_help_is_shown():
    for arguments in ([], ["--help"]):
        assert all(
            name in call(*arguments).output for name in ("run", "reproduce", "table", "relations", "generate", "decode")
        )
    assert call("--version").stdout == f"fv-lens {metadata.version('fv-lens')}\n"
    assert call("relation").exit_code == 2


@pytest.mark.slow
def test_help_and_relations_come_without_torch():
    code = (
        "import sys; from fv_lens.studies import cli; "
        "cli.app([{!r}], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    for argument in ("--help", "relations"):
        subprocess.run([sys.executable, "-c", code.format(argument)], check=True, capture_output=True)
