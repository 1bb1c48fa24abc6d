"""`fv-lens reproduce`: it goes on where it stopped, and says in one line what it leaves out or refuses."""

import re
from functools import partial
from pathlib import Path

import pytest

from fv_lens.models import load
from fv_lens.studies import names
from fv_lens.studies.reproduce import command, steps

from .. import commands
from ..commands import interrupted, write
from ..left import FILES, summary
from ..small import made, relations

call = partial(commands.call, "reproduce")


@pytest.mark.slow
def test_the_command_leaves_out_what_is_too_small_and_goes_on_where_it_stopped(here, without_page):
    good, small = [write(relation) for relation in relations()[:2]], write(made("small", n=15))
    given = ["--relations", ",".join([good[0], small, *good[1:]]), "--out", "deep/out", "--seeds", 1]
    first = call(*given)
    assert first.exit_code == 0, first.output
    assert first.stderr.count("Note: small is left out: relation 'small' has 15 pairs") == 1
    notes = first.stderr.splitlines()
    loading = next(i for i, line in enumerate(notes) if line.startswith("Loading the libraries"))
    assert any("small is left out" in line for line in notes[:loading])
    assert "Mean over 2 relations" in first.stdout and "FFV from zero" in first.stdout
    out = here / "deep" / "out"
    assert [path.name for path in sorted(out.iterdir())] == FILES and "has 15 pairs" in summary(out)["left_out"][
        "small"
    ]
    before = (out / "results.csv").read_bytes()
    again = call(*given)
    assert again.exit_code == 0 and (out / "results.csv").read_bytes() == before
    assert again.stdout == first.stdout
    other = call(*given[:-1], 2)
    assert other.exit_code == 2 and "What differs: settings (seeds: 1 there, 2 here)." in other.stderr
    assert "Saved before that" not in other.stderr, "this start has saved nothing"
    assert "Traceback" not in other.stderr and (out / "results.csv").read_bytes() == before


@pytest.mark.slow
def test_an_interrupted_command_says_that_it_goes_on(here, monkeypatch, without_page):
    given = ["--relations", write(relations()[0]), "--seeds", 1]
    with monkeypatch.context() as patched:
        patched.setattr(steps, "heads", interrupted)
        first = call(*given)
        assert first.exit_code == 130 and first.stderr.splitlines()[-1] == "Interrupted. Nothing was saved."
    monkeypatch.setattr(steps, "curve", interrupted)
    for there in (None, "8 stages were there already"):
        result = call(*given)
        assert result.exit_code == 130 and (there in result.stderr if there else "already" not in result.stderr)
        saved = f"Saved before that: {Path('fv_lens_study') / 'stages'}."
        assert result.stderr.splitlines()[-1] == f"Interrupted. {saved} The same command goes on from there."


@pytest.mark.slow
def test_a_study_interrupted_while_it_loads_says_what_is_there(here, monkeypatch, without_page):
    given = ["--relations", write(relations()[0]), "--seeds", 1]
    with monkeypatch.context() as patched:
        patched.setattr(steps, "sums", interrupted)
        assert call(*given).exit_code == 130
    monkeypatch.setattr(load, "load_model", interrupted)
    result, stages_there = call(*given), Path("fv_lens_study") / "stages"
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        f"Interrupted. Saved before that: {stages_there}. The same command goes on from there."
    )
    other = call(*given, "--out", "other")
    assert other.stderr.splitlines()[-1] == "Interrupted. Nothing was saved." and not Path("other").exists()


@pytest.mark.slow
def test_one_relation_is_shown_without_intervals(here, without_page):
    result = call("--relations", write(relations()[0]), "--seeds", 1)
    assert result.exit_code == 0 and result.stdout.splitlines()[0].rstrip() == "Mean over 1 relation"
    assert "nan" not in result.stdout and re.search(r"FFV from zero +\d\.\d\d +\d\.\d\d +-\d", result.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--relations", "antonim"], "there is no bundled relation 'antonim'; did you mean antonym"),
        (["--relations", "antonym,zzzz"], "no bundled relation 'zzzz'; `fv-lens relations` lists all"),
        (["--relations", "antonym, none.json"], "none.json: there is no such file"),
        (["--bats", "missing"], "'missing' is not a folder; give the path of the folder BATS_3.0"),
        (["--bats", "."], "'.' has no BATS files"),
        (["--seeds", "0"], "Invalid value for '--seeds'"),
        (["--seeds", str(10**6)], "Invalid value for '--seeds'"),
        (["--dtype", "float8"], "--dtype is 'float8'; give one of float32, bfloat16, float16"),
        (["--relations", " ,"], "--relations is ' ,'; give comma-separated names or files"),
        (["--relations", ""], "--relations is ''; give comma-separated names or files"),
        (["--relations", "antonym", "--out", "file/below"], "Cannot write to 'file/below'"),
    ],
    ids=str,
)
def test_bad_input_is_told_before_the_model_is_loaded(here, monkeypatch, arguments, message):
    monkeypatch.setattr(load, "load_model", lambda name, **options: pytest.fail("the model was loaded"))
    (here / "file").write_text("")
    result = call(*arguments)
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert [path.name for path in here.iterdir()] == ["file"]


def test_a_bats_folder_without_the_relation_asked_for_lists_what_it_has(here):
    folder = here / "BATS_3.0" / "4_Lexicographic_semantics"
    folder.mkdir(parents=True)
    (folder / "L01 [hypernyms - animals].txt").write_text("w1\tw2/w3\n" * 3)
    result = call("--bats", "BATS_3.0", "--relations", "l02")
    assert result.exit_code == 2 and "has no relation 'l02'; it has l01-hypernyms-animals" in result.stderr


def test_only_small_relations_are_told_with_their_reasons_before_the_model_is_loaded(here, monkeypatch):
    monkeypatch.setattr(load, "load_model", lambda name, **options: pytest.fail("the model was loaded"))
    result = call("--relations", write(made("small", n=15)))
    assert result.exit_code == 2 and "has 15 pairs, too few to tune on: give 18 or more" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not (here / "fv_lens_study").exists()


@pytest.mark.slow
def test_smaller_parts_are_noted_once_with_what_would_be_enough(here, without_page):
    result = call("--relations", write(made("few", n=18)), "--seeds", 1)
    assert result.exit_code == 0, result.output
    note = "Note: 'few' is tuned with 8 train and 3 validation pairs, not 8 and 5; 25 pairs would be enough."
    assert result.stderr.splitlines()[0] == note and result.stderr.count("is tuned with") == 1


def test_a_comma_at_the_end_is_no_relation():
    assert [r.name for r in command._chosen_relations("antonym, synonym,", None)] == ["antonym", "synonym"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("my,own, list.json", ["my,own, list.json"]),
        ("antonym,my,own, list.json,b.json", ["antonym", "my,own, list.json", "b.json"]),
        ("folder,1/a.json, synonym", ["folder,1/a.json", "synonym"]),
        ("a,b.json", ["a", "b.json"]),
        ("my,own.json", ["my", "own.json"]),
        (",,", []),
    ],
)
def test_a_path_may_have_commas_where_there_is_such_a_file(tmp_path, monkeypatch, given, names):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder,1").mkdir()
    for file in ("my,own, list.json", "folder,1/a.json", "b.json"):
        (tmp_path / file).write_text("")
    assert command.split_names(given) == names


def test_the_dtypes_of_commands_are_those_that_can_be_loaded():
    assert set(names.DTYPES) == set(load.DTYPES)
