"""The bundled analogies keep the rules that fv_lens/datasets/bundled/README.md states."""

import json
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from fv_lens.datasets.relation_files import load_relation, relation_names

FOLDER = Path(str(resources.files("fv_lens.datasets") / "bundled" / "analogies"))
ITEMS = [json.loads(line) for file in sorted(FOLDER.glob("*.jsonl")) for line in file.read_text("utf-8").splitlines()]
NAMES = [f"{item['source'][0]}-{item['target']}" for item in ITEMS]

each_item = pytest.mark.parametrize("item", ITEMS, ids=NAMES)


def test_the_set_is_large_and_spans_near_and_far():
    relations = Counter(item["relation"] for item in ITEMS)
    assert len(ITEMS) >= 300 and len(relations) >= 20 and min(relations.values()) >= 8
    distances = Counter(item["distance"] for item in ITEMS)
    assert set(distances) == {"near", "far"} and min(distances.values()) >= 100
    bundled = set(relation_names())
    assert len(bundled & set(relations)) >= 20 and len(set(relations) - bundled) >= 10


@each_item
def test_the_words_of_an_item_are_all_different_single_words(item):
    words = [*item["source"], item["target"], *item["answers"], *(foil["word"] for foil in item["foils"])]
    assert len(item["source"]) == 2 and item["answers"]
    assert len({word.casefold() for word in words}) == len(words)
    assert all(word.isalpha() for word in words)


@each_item
def test_foils_are_three_or_more_and_of_several_kinds(item):
    kinds = Counter(foil["kind"] for foil in item["foils"])
    assert sum(kinds.values()) >= 3 and kinds["associate"] and kinds["other"]
    assert set(kinds) <= {"associate", "other", "reversed"}


def test_no_pair_stands_in_two_items():
    pairs = Counter()
    for item in ITEMS:
        pairs.update({frozenset(item["source"]), *(frozenset((item["target"], answer)) for answer in item["answers"])})
    assert [set(pair) for pair, n in pairs.items() if n > 1] == []


@pytest.mark.parametrize("relation", sorted({item["relation"] for item in ITEMS} & set(relation_names())))
def test_no_first_word_is_in_the_list_of_its_relation(relation):
    listed = load_relation(relation)
    mine = [item for item in ITEMS if item["relation"] == relation]
    assert not {word for item in mine for word in (item["source"][0], item["target"])} & set(listed.words)
    assert {item["family"] for item in mine} == {listed.family}
