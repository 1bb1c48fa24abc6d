"""LRE files as they come: several objects of one subject, copies, four kinds; the words here are our own."""

import json
import re
import subprocess
import sys

import pytest

from fv_lens.datasets.lre import KINDS, load_lre
from fv_lens.datasets.relations import Relation
from fv_lens.ground.errors import InputError


def write(folder, path, content):
    """An LRE file of (subject, object) pairs; text is written as it is."""
    file = folder / f"{path}.json"
    file.parent.mkdir(exist_ok=True, parents=True)
    if isinstance(content, list):
        samples = [{"subject": subject, "object": answer} for subject, answer in content]
        content = {
            "name": "a name", "prompt_templates": ["{} is"], "prompt_templates_zs": [],
            "properties": {"relation_type": "factual", "symmetric": False}, "samples": samples,
        }  # fmt: skip
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file


def pairs_of(folder, samples):
    write(folder, "factual/some_relation", samples)
    return load_lre(folder)["some-relation"].pairs


def test_a_relation_has_its_kind_as_category_and_family_and_the_words_that_name_it(tmp_path):
    write(tmp_path, "factual/country_capital_city", [("Oldland", "Harbourtown")])
    write(tmp_path, "bias/of_our_own", [("oaks", "women")])
    assert load_lre(str(tmp_path)) == {
        "country-capital-city": Relation(
            "country-capital-city", [("Oldland", "Harbourtown")], ["capital", "capitals"], "factual", "factual"
        ),
        "of-our-own": Relation("of-our-own", [("oaks", "women")], [], "bias", "bias"),
    }


@pytest.mark.parametrize("above", [".", "data"])
def test_the_four_kinds_are_found_below_the_folder_in_their_order(tmp_path, above):
    for kind in sorted(KINDS):
        for name in ("b", "a"):
            write(tmp_path / above, f"{kind}/{kind}_{name}", [("oak", "tree")])
    expected = [f"{kind}-{name}" for kind in KINDS for name in "ab"]
    assert list(load_lre(tmp_path)) == expected
    (tmp_path / above / "SOURCE.md").write_text("not a relation")
    write(tmp_path, "other/config", {"samples": 3})
    write(tmp_path / above, "factual/._factual_a", b"\xff")
    assert list(load_lre(tmp_path)) == expected


def test_the_folder_of_one_kind_is_enough_by_whatever_path(tmp_path, monkeypatch):
    write(tmp_path, "factual/a_b", [("oak", "tree")])
    write(tmp_path, "bias/c", [("oak", "tree")])
    monkeypatch.chdir(tmp_path / "factual")
    for path in (tmp_path / "factual", "."):
        assert [(r.name, r.family) for r in load_lre(path).values()] == [("a-b", "factual")]


def test_objects_of_one_subject_are_alternatives_each_once_in_their_order(tmp_path):
    samples = [
        ("cup", "mug"),
        ("bag", "sack"),
        ("cup", "beaker"),
        ("cup", "mug "),
        (" bag", "sack\n"),
        ("cup", "glass"),
    ]
    assert pairs_of(tmp_path, samples) == (("cup", ("mug", "beaker", "glass")), ("bag", ("sack",)))


def test_a_copy_of_the_subject_is_not_an_answer(tmp_path):
    samples = [("John", "John"), ("hit", "hit"), ("hit", "struck"), ("Ann", "ann")]
    assert pairs_of(tmp_path, samples) == (("hit", ("struck",)), ("Ann", ("ann",)))


def test_both_directions_of_a_pair_stay_in_one_part(tmp_path):
    samples = [pair for n in range(30) for pair in ((f"up{n}", f"down{n}"), (f"down{n}", f"up{n}"))]
    write(tmp_path, "linguistic/adj_antonym", [*samples, ("up0", "low0"), ("low0", "up0")])
    for seed in range(5):
        parts = load_lre(tmp_path)["adj-antonym"].split(seed)
        part_of = {word: i for i, part in enumerate(parts) for word in part.words}
        assert all(
            part_of[word] == part_of[answer] for part in parts for word, listed in part.pairs for answer in listed
        )
        assert len({part_of["up0"], part_of["down0"], part_of["low0"]}) == 1 and len(set(part_of.values())) == 3


# What it does not take


def test_a_folder_that_is_none_or_without_such_files_says_what_was_looked_for(tmp_path):
    file = write(tmp_path, "other/a", [("oak", "tree")])
    for path in (tmp_path / "missing", file):
        with pytest.raises(InputError, match=re.escape(f"{str(path)!r} is not a folder; give the path of the folder")):
            load_lre(path)
    with pytest.raises(InputError, match="has no LRE files; looked for .json files in folders named linguistic, com"):
        load_lre(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"samples": [', "this file is not JSON: "),
        (b"\xff", "this file is not UTF-8"),
        (b'{"samples": [], "samples": []}', "the key 'samples' occurs twice"),
        ([], r"relation 'r' has pairs \[\]"),
        ([("same", "same")], r"relation 'r' has pairs \[\]"),
        ({"pairs": []}, 'this file has no list of samples; an LRE file holds {"samples": '),
        ("text", "this file has no list of samples"),
        ({"samples": {"a": "b"}}, "this file has no list of samples"),
        (
            {"samples": [{"subject": "a", "object": "b"}, {"subject": "c"}]},
            "sample 2 is {'subject': 'c'}; it should be",
        ),
        ({"samples": ["a b"]}, "sample 1 is 'a b'; it should be"),
        ([("a", "b"), ("c", 3)], r"a word of sample 2, \('c', 3\), is 3"),
        ([("a", "b"), ("", "c")], r"a word of sample 2, \('', 'c'\), is ''"),
        ([("a", "b\u200b")], "which cannot be seen"),
    ],
    ids=str,
)
def test_a_damaged_file_is_named_with_the_place(tmp_path, content, message):
    write(tmp_path, "factual/good", [("oak", "tree")])
    file = write(tmp_path, "factual/r", content)
    with pytest.raises(InputError, match=re.escape(f"{file}: ") + ".*" + message):
        load_lre(tmp_path)


def test_two_files_of_one_name_are_both_named(tmp_path):
    first, second = (write(tmp_path, f"{kind}/a_b", [("oak", "tree")]) for kind in ("factual", "bias"))
    with pytest.raises(InputError, match="are both for a-b; keep one") as error:
        load_lre(tmp_path)
    assert str(first) in str(error.value) and str(second) in str(error.value)


def test_the_loaders_are_public_and_import_no_torch():
    code = "import sys, fv_lens; fv_lens.load_lre, fv_lens.load_todd; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
