"""The bundled word pairs keep the rules that fv_lens/data/README.md states."""

import json
import re
import unicodedata
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

DATA = Path(str(resources.files("fv_lens") / "data"))
FILES = sorted((DATA / "relations").glob("*.json"))
CATEGORIES = {"inflection", "derivation", "encyclopedic", "lexicographic", "other"}
# The most that one answer may be the first of; a model that always says it would look as if it knew the relation.
FIRST_ANSWER_LIMIT = {"animal-young": 0.20, "country-language": 0.15, "hypernym": 0.12}
# The relation whose answers differ from their words in letter case alone.
CASE_ONLY = "capitalize"

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def read_pairs(file):
    return [(word, [answers] if isinstance(answers, str) else answers) for word, answers in read(file)["pairs"]]


def test_every_relation_is_bundled():
    assert [file.stem for file in FILES] == [
        "adjective-adverb",
        "adjective-comparative",
        "animal-young",
        "antonym",
        "capitalize",
        "country-capital",
        "country-language",
        "english-french",
        "english-german",
        "hypernym",
        "male-female",
        "present-past",
        "singular-plural",
        "synonym",
        "verb-ing",
        "verb-person",
    ]


@each_file
def test_header(file):
    content = read(file)
    assert list(content) == ["name", "names", "category", "family", "pairs"]
    assert content["name"] == file.stem
    assert content["category"] in CATEGORIES
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", content["family"])
    names = content["names"]
    assert 2 <= len(names) <= 5 and len(set(names)) == len(names)
    assert all(name.isalpha() and name == name.lower() for name in names)


@each_file
def test_file_is_normal_and_has_one_pair_per_line(file):
    # As bytes: reading text would hide the line ends of another system.
    text = file.read_bytes().decode("utf-8")
    assert unicodedata.is_normalized("NFC", text)
    assert text.endswith("}\n") and not text.endswith("\n\n")
    assert "\ufeff" not in text and "\\u" not in text
    lines = [line.strip().removesuffix(",") for line in text.splitlines()]
    start = lines.index('"pairs": [') + 1
    assert [json.loads(line) for line in lines[start:-2]] == read(file)["pairs"]


@each_file
def test_pairs_are_words_and_answers(file):
    pairs = read(file)["pairs"]
    assert len(pairs) >= 50
    for pair in pairs:
        assert isinstance(pair, list) and len(pair) == 2
        word, answers = pair
        # A single answer is written as a string, so that a pair has one spelling.
        assert isinstance(answers, str) or (isinstance(answers, list) and len(answers) > 1)
        for text in [word, *([answers] if isinstance(answers, str) else answers)]:
            assert isinstance(text, str) and text and text == " ".join(text.split())


@each_file
def test_no_word_comes_twice(file):
    assert [word for word, n in Counter(word for word, _ in read_pairs(file)).items() if n > 1] == []


@each_file
def test_no_answer_is_listed_twice(file):
    assert [word for word, answers in read_pairs(file) if len({a.casefold() for a in answers}) < len(answers)] == []


@each_file
def test_no_word_is_its_own_answer(file):
    same = str if file.stem == CASE_ONLY else str.casefold
    assert [word for word, answers in read_pairs(file) if same(word) in map(same, answers)] == []


@each_file
def test_no_answer_serves_most_words(file):
    pairs = read_pairs(file)
    answer, n = Counter(answers[0] for _, answers in pairs).most_common(1)[0]
    assert n <= FIRST_ANSWER_LIMIT.get(file.stem, 0.25) * len(pairs), answer


def test_capitalize_changes_the_first_letter_alone():
    assert all(answers == [word.capitalize()] for word, answers in read_pairs(DATA / "relations" / "capitalize.json"))


@each_file
def test_readme_has_the_row_of_the_relation(file):
    content = read(file)
    word, answers = read_pairs(file)[0]
    example = f"{word}: {', '.join(answers)}"
    row = f"| {file.stem} | {content['category']} | {content['family']} | {len(content['pairs'])} | {example} |"
    assert row in (DATA / "README.md").read_text(encoding="utf-8").splitlines()
