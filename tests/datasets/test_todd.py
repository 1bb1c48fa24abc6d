"""The word lists of Todd et al. as they come: copies, repeats, both directions; the words here are our own."""

import json
import re
from importlib import resources

import pytest

from fv_lens.datasets.relation_files import load_relation, relation_names
from fv_lens.datasets.relations import Relation
from fv_lens.datasets.todd import load_todd
from fv_lens.ground.errors import InputError

DESCRIBED = json.loads((resources.files("fv_lens.datasets") / "bundled" / "todd.json").read_text(encoding="utf-8"))


def write(folder, name, content):
    """A list of (input, output) pairs; bytes are written as they are."""
    folder.mkdir(exist_ok=True, parents=True)
    file = folder / f"{name}.json"
    if not isinstance(content, bytes):
        content = json.dumps([{"output": answer, "input": word} for word, answer in content]).encode()
    file.write_bytes(content)
    return file


def pairs_of(folder, pairs, name="synonym"):
    write(folder, name, pairs)
    (relation,) = load_todd(folder).values()
    return relation.pairs


def test_a_list_is_named_after_its_file_and_described_by_it(tmp_path):
    write(tmp_path, "word_length", [("spoon", "5")])
    expected = Relation("word-length", [("spoon", "5")], ["length", "letters", "number", "count"], "other", "length")
    assert load_todd(str(tmp_path)) == {"word-length": expected}


def test_the_lists_of_words_are_found_in_the_folder_or_below_and_others_are_ignored(tmp_path):
    for name in reversed(DESCRIBED):
        write(tmp_path / "abstractive", name, [("oak", "tree")])
    for name in ("ag_news", "sentiment", "commonsense_qa", "adjective_v_verb_3", "config", "._antonym"):
        write(tmp_path / "extractive", name, b"\xff")
    assert list(load_todd(tmp_path)) == list(load_todd(tmp_path / "abstractive"))
    assert list(load_todd(tmp_path)) == [name.replace("_", "-") for name in sorted(DESCRIBED)]
    assert len(DESCRIBED) == 26


def test_repeats_are_merged_copies_dropped_and_whitespace_stripped(tmp_path):
    pairs = [
        ("moderate", "mässig\n"), ("i", "j"), ("hit", "hit"), ("i", "ii"), ("i", "j"), ("bag", "sack"), ("bag", "bag"),
    ]  # fmt: skip
    assert pairs_of(tmp_path, pairs) == (("moderate", ("mässig",)), ("i", ("j", "ii")), ("bag", ("sack",)))


def test_escaped_and_raw_letters_are_the_same(tmp_path):
    raw = '[{"input": "dependent", "output": "dépendant"}]'.encode()
    assert pairs_of(tmp_path, [("dependent", "dépendant")]) == pairs_of(tmp_path, raw)


def test_both_directions_of_a_pair_stay_in_one_part(tmp_path):
    pairs = [pair for n in range(40) for pair in ((f"up{n}", f"down{n}"), (f"down{n}", f"up{n}\n"))]
    write(tmp_path, "antonym", [*pairs, *((f"alone{n}", f"other{n}") for n in range(20))])
    for seed in range(5):
        for part in load_todd(tmp_path)["antonym"].split(seed):
            assert all(f"down{word[2:]}" in part.words for word in part.words if word.startswith("up"))


def test_kin_of_bundled_relations_are_in_their_families():
    bundled = {name: load_relation(name) for name in relation_names()}
    for stem, described in DESCRIBED.items():
        assert list(described) == ["names", "category", "family"] and len(set(described["names"])) > 1
        if stem in bundled:
            assert (described["category"], described["family"]) == (bundled[stem].category, bundled[stem].family)
    assert {"antonym", "synonym", "present-past", "singular-plural", "country-capital"} <= DESCRIBED.keys() & bundled


def test_a_folder_that_is_none_or_without_such_lists_says_what_was_looked_for(tmp_path):
    file = write(tmp_path, "ag_news", [("oak", "tree")])
    for path in (tmp_path / "missing", file):
        with pytest.raises(InputError, match=re.escape(f"{str(path)!r} is not a folder; give the path of the word li")):
            load_todd(path)
    with pytest.raises(InputError, match="has none of the word lists of Todd et al.; .* for antonym, capitalize, "):
        load_todd(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"input": ', "this file is not JSON: "),
        (b"\xff", "this file is not UTF-8"),
        (b'[{"input": "a"}]', r"item 1 is {'input': 'a'}; it should be"),
        (b"[]", r"relation 'synonym' has pairs \[\]"),
        ([("same", "same")], r"relation 'synonym' has pairs \[\]"),
        ([("a", "b"), ("c", 3)], r"a word of item 2, \['c', 3\], is 3"),
        (b'"text"', "the file should hold"),
    ],
    ids=str,
)
def test_a_damaged_file_is_named_once_with_the_place(tmp_path, content, message):
    file = write(tmp_path, "synonym", content)
    with pytest.raises(InputError, match=re.escape(f"{file}: ") + ".*" + message) as error:
        load_todd(tmp_path)
    assert str(error.value).count(str(file)) == 1


def test_two_files_of_one_name_are_both_named(tmp_path):
    first, second = (write(tmp_path / folder, "antonym", [("oak", "tree")]) for folder in ("a", "b"))
    with pytest.raises(InputError, match="are both for antonym; keep one") as error:
        load_todd(tmp_path)
    assert str(first) in str(error.value) and str(second) in str(error.value)
