"""Published sets by the folder: one way for every option and command."""

import json

import pytest

from fv_lens.models import load
from fv_lens.studies.reproduce import command as reproduce
from fv_lens.studies.sources import LOADERS, PublishedSet, published_set

from .commands import call
from .small import made, relations


def lre(folder, given):
    for relation in given:
        file = folder / "factual" / f"{relation.name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        samples = [{"subject": word, "object": answer} for word, listed in relation.pairs for answer in listed]
        file.write_text(json.dumps({"samples": samples}))


def todd(folder, given):
    folder.mkdir(parents=True)
    for name, relation in zip(("antonym", "next_item", "word_length"), given):
        items = [{"input": word, "output": answer} for word, listed in relation.pairs for answer in listed]
        (folder / f"{name}.json").write_text(json.dumps(items))


def bats(folder, given):
    folder.mkdir(parents=True)
    for code, relation in zip(("E05", "E06", "E07"), given):
        lines = [f"{word}\t{'/'.join(listed)}\n" for word, listed in relation.pairs]
        (folder / f"{code} [{relation.name}].txt").write_text("".join(lines))


WRITERS = {"--bats": bats, "--lre": lre, "--todd": todd}


@pytest.mark.parametrize("option", LOADERS)
def test_a_set_gives_its_relations_or_those_asked_for(tmp_path, option):
    WRITERS[option](tmp_path / "set", relations()[:3])
    folders = [tmp_path / "set" if each == option else None for each in LOADERS]
    source = published_set(*folders)
    assert source == PublishedSet(option, tmp_path / "set")
    chosen = reproduce._chosen_relations(None, source)
    assert [relation.pairs for relation in chosen] == [relation.pairs for relation in relations()[:3]]
    last = chosen[-1].name
    assert [relation.name for relation in reproduce._chosen_relations(f"{last},", source)] == [last]


def test_no_set_is_none_and_two_are_refused(here, no_model):
    assert published_set(None, None, None) is None
    for name in ("reproduce", "analogies"):
        result = call(name, "--todd", "a", "--bats", "b")
        assert result.exit_code == 2 and "--bats is 'b' and --todd 'a'; give one of them." in result.stderr


@pytest.mark.parametrize("option", LOADERS)
@pytest.mark.parametrize("name", ["reproduce", "analogies"])
def test_a_folder_that_is_none_or_empty_is_told_before_the_model_is_loaded(here, no_model, option, name):
    (here / "empty").mkdir()
    for folder, message in (("missing", "'missing' is not a folder; give the path"), ("empty", "'empty' has no")):
        result = call(name, option, folder)
        assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("option", LOADERS)
def test_a_relation_that_a_set_lacks_is_quoted_and_a_file_beside_a_set_refused(here, no_model, option):
    WRITERS[option](here / "set", relations()[:1])
    result = call("reproduce", option, "set", "--relations", "zzz")
    assert result.exit_code == 2 and "'set' has no relation 'zzz'; it has " in result.stderr
    result = call("analogies", "my.jsonl", option, "set")
    assert result.exit_code == 2 and f"FILE is 'my.jsonl' and {option} 'set'; give one of them." in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--lre", "--todd"])
def test_a_study_of_a_set_names_what_is_too_small_and_says_how_it_was_made(here, without_page, option):
    WRITERS[option](here / "set", [*relations()[:2], made("small", n=15)])
    result = call("reproduce", option, "set", "--seeds", 1, "--out", "out")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("is left out: relation ") == 1 and "has 15 pairs" in result.stderr
    summary = json.loads((here / "out" / "summary.json").read_text())
    assert f"{option} set" in summary["command"] and len(summary["relations"]) == 2
    again = call(*summary["command"].split()[1:])
    assert again.exit_code == 0 and "stages were there already" in again.stderr


@pytest.mark.slow
def test_analogies_are_made_of_a_set(here, monkeypatch):
    lre(here / "set", relations()[:2])
    from fv_lens.studies.analogies import study

    seen = []
    monkeypatch.setattr(study, "solve_all", lambda model, library, asked, *args, **more: seen.append(asked) or 1 / 0)
    monkeypatch.setattr(load, "load_model", lambda name, **options: None)
    with pytest.raises(ZeroDivisionError):
        call("analogies", "--lre", "set", "--each", 3)
    assert {question.relation for question in seen[0].test} == {"a", "b"} and len(seen[0].test) == 6
