"""The bundled word pairs keep the rules that fv_lens/datasets/bundled/README.md states."""

import json
import re
import unicodedata
from collections import Counter
from importlib import resources
from itertools import combinations
from pathlib import Path

import pytest

from fv_lens.datasets.relation_files import load_relation

DATA = Path(str(resources.files("fv_lens.datasets") / "bundled"))
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


def test_the_set_spans_the_kinds_of_relations():
    category = {file.stem: read(file)["category"] for file in FILES}
    families = {kind: {read(file)["family"] for file in FILES if category[file.stem] == kind} for kind in CATEGORIES}
    n = Counter(category.values())
    four = CATEGORIES - {"other"}
    assert sum(n[kind] for kind in four) >= 40
    # Families, so that each kind can be split into parts that share no kin.
    assert all(n[kind] >= 10 and len(families[kind]) >= 5 for kind in four)


def test_relations_share_few_pairs_unless_they_are_kin():
    # Turned round too: a vector for went -> go is tested on the pairs that made the one for go -> went.
    pairs = {
        file.stem: {frozenset((word, answer)) for word, answers in read_pairs(file) for answer in answers}
        for file in FILES
    }
    family = {file.stem: read(file)["family"] for file in FILES}
    shared = {(a, b): len(pairs[a] & pairs[b]) / min(len(pairs[a]), len(pairs[b])) for a, b in combinations(pairs, 2)}
    assert {
        names: share for names, share in shared.items() if share > 0.1 and family[names[0]] != family[names[1]]
    } == {}
    # Something is compared: kin that share most of their pairs are found.
    assert shared["past-base", "present-past"] > 0.9


def test_only_antonym_and_synonym_hold_a_pair_both_ways():
    both = set()
    for file in FILES:
        answers = dict(read_pairs(file))
        both |= {file.stem for word in answers for answer in answers[word] if word in answers.get(answer, [])}
    assert both == {"antonym", "synonym"}


@pytest.mark.parametrize(
    ("relation", "reversal"), [("present-past", "past-base"), ("singular-plural", "plural-singular")]
)
def test_a_relation_agrees_with_its_reversal(relation, reversal):
    there, back = load_relation(relation).answers, load_relation(reversal).answers
    shared = [(word, answer) for answer in back for word in back[answer] if word in there]
    assert len(shared) > 50
    assert [pair for pair in shared if pair[1] not in there[pair[0]]] == []


@pytest.mark.parametrize(
    ("first", "second", "whole"),
    [
        ("adjective-comparative", "comparative-superlative", "adjective-superlative"),
        ("verb-ing", "ing-past", "present-past"),
    ],
)
def test_relations_compose(first, second, whole):
    first, second, whole = (load_relation(name).answers for name in (first, second, whole))
    steps = [(word, step) for word in whole for step in first.get(word, ()) if step in second]
    assert len(steps) > 50
    assert [(word, step) for word, step in steps if not set(second[step]) & set(whole[word])] == []


def test_no_antonym_is_a_synonym():
    antonyms = {frozenset((word, answer)) for word, answers in load_relation("antonym").pairs for answer in answers}
    for name in ("synonym", "intensity"):
        pairs = {frozenset((word, answer)) for word, answers in load_relation(name).pairs for answer in answers}
        assert antonyms & pairs == set()


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
    # A word of the list can be read from a vector because the prompts said it.
    assert not {word for word, _ in content["pairs"]} & set(names)


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
