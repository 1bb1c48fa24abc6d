"""`fv-lens analogies`: what it answers, tunes, keeps and refuses."""

import json
import re
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
from typer.testing import CliRunner

from fv_lens.datasets import question_files
from fv_lens.ground import storage
from fv_lens.ground.errors import InputError
from fv_lens.ground.measures import MEASURES
from fv_lens.models import load
from fv_lens.studies import cli
from fv_lens.studies.analogies import library as of_study
from fv_lens.studies.analogies import study
from fv_lens.vectors.library import Library
from fv_lens.vectors.sharing.files import library_files

from ...analogies.made import TRAIN, vectors_of
from .. import commands
from ..commands import files, interrupted
from ..pages import rows_of
from .made import BUNDLED, CHOOSE_ON, FILES, asked, summary, summed_of

pytestmark = pytest.mark.usefixtures("fits")

call = partial(commands.call, "analogies")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory, of which everything that appears is seen."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def bundled(monkeypatch):
    """Few bundled questions, over the tiny tokenizer's words."""
    load, questions = question_files.load_questions, [*TRAIN, *CHOOSE_ON]
    monkeypatch.setattr(question_files, "load_questions", lambda path=None: questions if path is None else load(path))
    return questions


@pytest.fixture
def command(here, bundled, monkeypatch, model, tmp_path):
    """The command on the tiny model: a function of its arguments, with a folder of vectors among them."""
    monkeypatch.setattr(load, "load_model", lambda name, **options: model)
    folder = tmp_path / "vectors"
    (folder / "summed").mkdir(parents=True)
    for name, fv in vectors_of(model).items():
        fv.save(folder / f"{name}.safetensors")
        summed_of(model)[name].save(folder / "summed" / f"{name}.safetensors")
    return partial(call, "--vectors", folder)


def written(path, questions) -> str:
    lines = [
        json.dumps({"stem": q.source, "choice": q.pairs, "answer": q.right, "prefix": "grade4"})
        if q.pairs else json.dumps({"source": q.source, "target": q.target, "answers": q.answers})
        for q in questions
    ]  # fmt: skip
    path.write_text("\n".join(lines))
    return str(path)


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


@pytest.mark.slow
def test_the_command_answers_the_bundled_test_questions(here, command, fits):
    result = command()
    assert result.exit_code == 0, result.output
    out = here / "fv_lens_analogies"
    assert files(out) == FILES and files(here) == ["fv_lens_analogies"] and len(fits) == 1
    told, table = summary(out), pd.read_csv(out / "results.csv", keep_default_na=False)
    n = told["questions"]
    assert min(n["train"], n["validation"], n["test"]) > 0
    assert n["train"] + n["validation"] + n["test"] == len(TRAIN) + len(CHOOSE_ON)
    assert told["command"].startswith("fv-lens analogies --vectors ") and told["command"].endswith("--seed 0")
    assert not (table.measure == "choice").any() and "Right choices" not in result.stdout
    assert f"Whole answers right, {n['test']} analogies; 95 % intervals" in result.stdout
    assert "summed vectors, posterior" in set(table.method)
    last = [f"fv_lens_analogies/{name}" for name in ("report.html", "results.csv", "summary.json")]
    assert squeezed(result.stdout).endswith("".join(last))
    assert "Composites fitted on" in result.stderr and "test analogies, by every method" in result.stderr


@pytest.mark.slow
def test_the_command_answers_a_file_and_chooses_on_others(here, command, tmp_path):
    file = written(tmp_path / "test.jsonl", [asked(i, None, 3, pairs=True) for i in range(6)])
    parts = {"one": range(6, 9), "two": range(10, 13)}
    others = [
        written(tmp_path / f"{name}.jsonl", [asked(i, None, 4, pairs=True) for i in part])
        for name, part in parts.items()
    ]
    result = command(file, "--validation", others[0], "--validation", others[1], "--out", "mine", "--seed", 3)
    assert result.exit_code == 0, result.output
    told = summary(here / "mine")
    assert told["questions"]["test"] == 6 and told["chance"] == pytest.approx(1 / 3) and told["seed"] == 3
    chosen = told["chosen on validation questions"]
    said, title = " ".join(result.stdout.split()), MEASURES[chosen["measure"]].heading.lower()
    assert f"Chosen on validation: {chosen['row']} ({title}): " in said
    assert "Over the best prompt alone there, " in said and "Right choices; chance 0.33" in result.stdout
    assert "6 validation questions, by every method" in result.stderr
    words = told["command"].split()
    assert words[:3] == ["fv-lens", "analogies", file] and words.count("--validation") == 2
    assert all(other in words for other in others)
    again = call(*words[2:])
    assert again.exit_code == 0 and again.stdout == result.stdout


@pytest.mark.slow
def test_a_file_of_questions_without_choices_is_completed(here, command, tmp_path):
    file = written(tmp_path / "test.jsonl", [asked(i, None) for i in range(4)])
    result = command(file)
    assert result.exit_code == 0 and summary(here / "fv_lens_analogies")["chance"] is None
    assert "Whole answers right, 4 analogies" in result.stdout


@pytest.mark.parametrize("models", [["--model", "some"], ["--models", "some,other"]], ids=str)
def test_the_models_are_loaded_in_the_dtype_that_is_asked_for(here, command, monkeypatch, models):
    asked_for = []

    def load_model(name, *, dtype):
        asked_for.append((name, dtype))
        raise InputError("no such model")

    monkeypatch.setattr(load, "load_model", load_model)
    result = (command if "--model" in models else call)(*models, "--dtype", "bfloat16")
    assert result.exit_code == 2 and asked_for == [(name, "bfloat16") for name in models[1].split(",")]


@pytest.mark.slow
def test_a_second_start_of_the_command_fits_nothing_again(here, command, fits):
    first = command()
    again = command()
    assert len(fits) == 1 and again.exit_code == 0 and again.stdout == first.stdout


@pytest.mark.slow
def test_other_questions_are_answered_with_the_composites_of_an_earlier_run(here, command, fits, tmp_path):
    file = written(tmp_path / "test.jsonl", [asked(i, None, 3, pairs=True) for i in range(6)])
    assert command().exit_code == command(file, "--out", "anew").exit_code == 0 and len(fits) == 2
    result = command(file, "--composites", "fv_lens_analogies", "--out", "taken")
    assert result.exit_code == 0 and len(fits) == 2 and "Composites fitted" not in result.stderr
    for name in ("results.csv", "by_question.csv"):
        assert (here / "taken" / name).read_bytes() == (here / "anew" / name).read_bytes()
    assert files(here / "taken" / "composites") == files(here / "anew" / "composites")
    assert "--composites fv_lens_analogies" in summary(here / "taken")["command"]
    assert summary(here / "taken")["fitted"] == summary(here / "anew")["fitted"]
    chained = command(file, "--composites", "taken", "--out", "chained")
    assert chained.exit_code == 0 and len(fits) == 2
    assert (here / "chained" / "results.csv").read_bytes() == (here / "anew" / "results.csv").read_bytes()


@pytest.mark.slow
def test_composites_of_another_run_or_of_none_are_refused_in_one_line(here, command, tmp_path, model, monkeypatch):
    assert command().exit_code == 0
    other = tmp_path / "other"
    other.mkdir()
    for name, fv in vectors_of(model).items():
        replace(fv, vector=2 * fv.vector).save(other / f"{name}.safetensors")
    (here / "empty").mkdir()
    for options, message in (
        (["--seed", 1], "The composites in 'fv_lens_analogies' are not those that would be fitted here"),
        (["--vectors", other], "The composites in 'fv_lens_analogies' are not those that would be fitted here"),
        (["--composites", "empty"], "'empty' has no fitted composites; give the --out of a `fv-lens analogies`"),
    ):
        base = [] if "--composites" in options else ["--composites", "fv_lens_analogies"]
        run = call if "--vectors" in options else command
        result = run(*base, *options, "--out", "two")
        assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.stderr
        assert not (here / "two").exists()
    with monkeypatch.context() as patched:
        patched.setattr(storage, "versions", lambda: {"torch": "0.1"})
        result = command("--composites", "fv_lens_analogies", "--out", "two")
    assert result.exit_code == 2 and "or the versions of libraries are others" in " ".join(result.stderr.split())
    damaged = here / "fv_lens_analogies" / "stages" / "affine.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    result = command("--composites", "fv_lens_analogies", "--out", "two")
    assert result.exit_code == 2 and "stages/affine.safetensors' is not a complete" in result.stderr
    assert not (here / "two").exists()


@pytest.mark.slow
def test_without_vectors_the_bundled_relations_are_tuned_and_kept(here, command, tunes):
    for _ in range(2):
        result = call()
        assert result.exit_code == 0, result.output
        assert tunes == [BUNDLED] and files(here) == ["fv_lens_analogies"]
    assert files(here / "fv_lens_analogies") == sorted([*FILES, "vectors"])
    assert set(files(here / "fv_lens_analogies" / "vectors")) == library_files(BUNDLED)


@pytest.mark.slow
def test_another_run_is_refused_before_the_library_is_tuned(here, command, tunes):
    assert call().exit_code == 0
    for file in (here / "fv_lens_analogies" / "vectors").iterdir():
        file.unlink()
    result = call("--seed", 1)
    assert result.exit_code == 2 and tunes == [BUNDLED]
    assert "holds another run. What differs: questions, SHA-256; seed: 0 there, 1 here." in result.stderr
    assert call().exit_code == 0 and tunes == [BUNDLED, BUNDLED]


@pytest.mark.slow
def test_tuned_vectors_outlive_an_interruption(here, command, tunes, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(study, "fit_compositions", interrupted)
        result = call()
    assert result.exit_code == 130 and result.stderr.splitlines()[-1] == (
        "Interrupted. Saved before that: fv_lens_analogies/vectors. The same command goes on from there."
    )
    assert set(files(here / "fv_lens_analogies" / "vectors")) == library_files(BUNDLED)
    assert call().exit_code == 0 and tunes == [BUNDLED]


@pytest.mark.slow
def test_a_larger_library_is_tuned_once_and_kept(here, command, tunes):
    lines = [{"source": [f"c{i}", f"d{i}"], "target": f"e{i}", "answers": [f"g{i}"], "relation": "is/was"}
             for i in range(20)]  # fmt: skip
    (here / "more.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = call("--library", "more.jsonl")
    assert result.exit_code == 0, result.output
    out = here / "fv_lens_analogies"
    assert set(files(out / "vectors")) == library_files([*BUNDLED, "is-was"])
    assert "Tuning the library from zero: 5 relations" in result.stderr
    assert "--library more.jsonl" in summary(out)["command"] and summary(out)["library"][0][0] == "more"
    assert call("--library", "more.jsonl").exit_code == 0 and tunes == [(*BUNDLED, "is/was")]
    other = call()
    assert other.exit_code == 2 and "holds another run" in other.stderr


def test_a_library_is_tuned_or_given(here, command):
    (here / "more.jsonl").write_text(json.dumps({"source": ["a", "b"], "target": "c", "answers": ["d"]}))
    result = command("--library", "more.jsonl")
    assert result.exit_code == 2 and "beside --vectors; give one of them" in result.stderr
    result = call("--library", "more.jsonl")
    assert result.exit_code == 2 and "None of the questions names its relation" in result.stderr


def test_as_many_analogies_of_a_set_are_taught_as_asked_for(here, monkeypatch):
    asked = {}

    def generate(relations, n, seed, part):
        asked[part] = n
        if part == "test":
            raise InputError("enough")

    (here / "abstractive").mkdir()
    pairs = [{"input": f"w{i}", "output": f"w{i + 60}"} for i in range(50)]
    (here / "abstractive" / "antonym.json").write_text(json.dumps(pairs))
    monkeypatch.setattr("fv_lens.datasets.question_generator.generate", generate)
    assert call("--todd", "abstractive", "--taught", "4", "--each", "7").exit_code == 2
    assert asked == {"train": 4, "validation": 4, "test": 7}


@pytest.mark.slow
def test_an_interruption_while_the_library_is_tuned_leaves_nothing(here, command, tunes, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(of_study, "finetune_all", interrupted)
        result = call()
    assert result.exit_code == 130 and result.stderr.splitlines()[-1] == "Interrupted. Nothing was saved."
    assert not files(here)


@pytest.mark.slow
def test_what_was_fitted_to_other_tuned_vectors_is_refused(here, command, tunes, model):
    assert call().exit_code == 0
    folder = here / "fv_lens_analogies" / "vectors"
    library = Library.load(folder)
    fv = library[BUNDLED[0]]
    (library | {BUNDLED[0]: replace(fv, vector=2 * fv.vector)}).save(folder)
    result = call()
    assert result.exit_code == 2 and ".safetensors' belongs to another plan" in result.stderr


@pytest.mark.slow
def test_the_vectors_of_a_study_are_the_default(here, command, model):
    folder = here / "fv_lens_study" / "vectors"
    folder.mkdir(parents=True)
    for name, fv in vectors_of(model, "ac").items():
        fv.save(folder / f"{name}.safetensors")
    assert call().exit_code == 0 and summary(here / "fv_lens_analogies")["vectors"] == ["a", "c"]


@pytest.mark.slow
def test_several_folders_are_one_library_and_the_record_names_them(here, command, model, tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder, names in zip(folders, ("ac", "d")):
        folder.mkdir()
        for name, fv in vectors_of(model, names).items():
            fv.save(folder / f"{name}.safetensors")
    given = [part for folder in folders for part in ("--vectors", folder)]
    result = call(*given, "--out", "mine")
    assert result.exit_code == 0, result.output
    told = summary(here / "mine")
    assert told["vectors"] == ["a", "c", "d"]
    assert all(f"--vectors {folder} " in told["command"] for folder in folders)
    again = call(*given, "--vectors", tmp_path / "vectors", "--out", "other")
    last = again.stderr.splitlines()[-1]
    assert again.exit_code == 2 and not (here / "other").exists()
    assert last.startswith(f"Error: '{folders[0]}' and '{tmp_path / 'vectors'}' both have a vector of 'a'; ")


@pytest.mark.slow
def test_near_and_far_questions_of_a_file_are_shown_apart(here, command, tmp_path):
    lines = [",".join([*q.source, q.target, "/".join(q.answers), ("0.2", "0.9")[i % 2]])
             for i, q in enumerate(asked(i, None) for i in range(6))]  # fmt: skip
    file = tmp_path / "test.csv"
    file.write_text("\n".join(["a,b,c,d,distance", *lines]))
    result = command(file)
    assert result.exit_code == 0, result.output
    out = here / "fv_lens_analogies"
    table = pd.read_csv(out / "results.csv", keep_default_na=False)
    groups = ["0.55 or less", "more than 0.55"]
    assert list(dict.fromkeys(table.group)) == ["all", *groups]
    assert "in groups of analogies, full library" in result.stdout
    answers = pd.read_csv(out / "by_question.csv", keep_default_na=False)
    shown = rows_of((out / "report.html").read_text(encoding="utf-8"), "Groups: full")
    for line in table[(table.part == "score of a group") & (table.measure == "accuracy")].itertuples():
        own = answers[answers.distance == (0.9 if line.group == groups[1] else 0.2)]
        values = own[" | ".join([line.method, line.library, line.prompt, "accuracy"])]
        assert line.n == 3 and line.value == pytest.approx(values.mean(), rel=1e-5)
        cells = dict(shown)[f"{line.method}, {line.prompt}"]
        assert cells[line.group == groups[1]].startswith(f"{line.value:.2f} ")


def test_distances_that_are_numbers_and_words_are_refused_before_a_model_is_loaded(here, bundled, no_model, tmp_path):
    file = tmp_path / "test.csv"
    file.write_text("a,b,c,d,distance\nw1,w2,w3,w4,near\nw5,w6,w7,w8,0.5\n")
    result = call(file)
    assert result.exit_code == 2 and not files(here)
    assert "number in some questions ('0.5') and a word in others ('near')" in result.stderr


@pytest.mark.slow
def test_an_interrupted_command_says_that_it_goes_on(here, command, monkeypatch):
    monkeypatch.setattr(study, "evaluate_analogies", interrupted)
    result = command()
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        "Interrupted. Saved before that: fv_lens_analogies/stages. The same command goes on from there."
    )


@pytest.mark.slow
def test_a_folder_of_other_questions_is_told_in_one_line(here, command, tmp_path):
    command()
    result = command(written(tmp_path / "test.jsonl", [asked(i, None) for i in range(3)]))
    assert result.exit_code == 2
    assert (
        "holds another run. What differs: questions, SHA-256. Give another --out, or delete this folder."
        in result.stderr.splitlines()[-1]
    )


@pytest.mark.slow
def test_help_says_what_may_be_given():
    result = call("--help")
    text = " ".join(result.output.split())
    assert result.exit_code == 0
    assert all(option in text for option in ("--validation", "--choices", "--vectors", "--model", "--out", "--seed"))
    assert "Solve analogies A:B :: C:?" in text and "analogies" in CliRunner().invoke(cli.app, ["--help"]).output


def test_questions_without_choices_cannot_be_chosen_among(here, bundled, no_model, tmp_path):
    file = written(tmp_path / "test.jsonl", [asked(i, None) for i in range(3)])
    with_choices = written(tmp_path / "other.jsonl", [asked(0, None, 3, pairs=True)])
    for arguments in (["--choices"], ["--validation", with_choices]):
        result = call(file, *arguments)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and not files(here)
        assert result.stderr.startswith(f"Error: '{file}' gives no choices; leave ")


def test_questions_to_choose_on_without_choices_are_told_in_one_line(here, command, tmp_path):
    file = written(tmp_path / "test.jsonl", [asked(i, None, 3, pairs=True) for i in range(3)])
    other = written(tmp_path / "other.jsonl", [asked(9, None), asked(8, None)])
    result = command(file, "--validation", other)
    assert result.exit_code == 2 and "choices" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.jsonl"], "Error: missing.jsonl: there is no such file"),
        (["--validation", "missing.jsonl"], "Error: missing.jsonl: there is no such file"),
        (["--out", "FILE"], "Error: Cannot write to 'FILE': "),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--each", str(10**9)], "Invalid value for '--each'"),
        (["NOTHING"], "scan.csv' has no questions: no two of its lines make an analogy"),
        (["--validation", "NOTHING"], "scan.csv' has no questions"),
        (["--n-folds", "2"], "No such option"),
        (["--dtype", "float8"], "--dtype is 'float8'; give one of float32, bfloat16, float16"),
        (["--composites", "some"], "--composites is 'some' without the vectors that it mixes"),
        (["one.jsonl", "two.jsonl"], "unexpected extra argument"),
    ],
)
def test_the_command_refuses_bad_input_before_it_loads_anything(here, bundled, no_model, tmp_path, arguments, message):
    file, nothing = tmp_path / "file", tmp_path / "scan.csv"
    file.write_text("")
    nothing.write_text("target,source,targ_word,src_word,analogy_type\natom,solar system,nucleus,sun,science\n")
    result = call(*(text.replace("FILE", str(file)).replace("NOTHING", str(nothing)) for text in arguments))
    assert result.exit_code == 2 and not files(here) and "Traceback" not in result.stderr
    assert message.replace("FILE", str(file)) in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True], ids=["missing", "empty"])
def test_a_folder_without_vectors_is_told_in_one_line(here, command, tmp_path, there):
    folder = tmp_path / "others"
    if there:
        folder.mkdir()
    result = call("--vectors", folder)
    assert result.exit_code == 2 and not files(here)
    last = result.stderr.splitlines()[-1]
    assert last == f"Error: '{folder}' has no vectors (*.safetensors); give the `vectors` folder of a study."


@pytest.mark.slow
def test_vectors_of_two_layers_are_told_in_one_line(here, command, model, tmp_path):
    vectors_of(model, "b", 2)["b"].save(tmp_path / "vectors" / "b.safetensors")
    result = command()
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: The library mixes vectors of layer 1 ('a') and 2 ('b'); ")
