"""BATS files as they come, in all their quirks; the words here are our own."""

import json
import re
import subprocess
import sys
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fv_lens.datasets.bats import load_bats
from fv_lens.datasets.relation_files import load_relation
from fv_lens.datasets.relations import Relation
from fv_lens.ground.errors import InputError

FOLDERS = {
    "I": "1_Inflectional_morphology",
    "D": "2_Derivational_morphology",
    "E": "3_Encyclopedic_semantics",
    "L": "4_Lexicographic_semantics",
}
CODES = [f"{letter}{number:02}" for letter in "IDEL" for number in range(1, 11)]
DESCRIBED = json.loads((resources.files("fv_lens.datasets") / "bundled" / "bats.json").read_text(encoding="utf-8"))


def write(folder, name, content):
    """Write a BATS file, given as text or bytes, in the sub-folder of its letter."""
    file = folder / FOLDERS[name[0]] / f"{name}.txt"
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def pairs_of(tmp_path, content, name="L08 [synonyms - exact]", **options):
    write(tmp_path, name, content)
    (relation,) = load_bats(tmp_path, **options).values()
    return relation.pairs


# What a relation is


def test_all_forty_come_in_the_order_of_their_codes(tmp_path):
    # In the folder itself, where sorted paths have D before I.
    for code in reversed(CODES):
        (tmp_path / f"{code} [some - label].txt").write_text("oak\ttree\n")
    relations = load_bats(tmp_path)
    assert list(relations) == [f"{code.lower()}-some-label" for code in CODES]
    assert all(relation.name == name for name, relation in relations.items())


@pytest.mark.parametrize(
    ("file_name", "name", "category"),
    [
        ("I01 [noun - plural_reg]", "i01-noun-plural-reg", "inflection"),
        ("D02 [un+adj_reg]", "d02-un-adj-reg", "derivation"),
        ("E03 [UK_city - county]", "e03-uk-city-county", "encyclopedic"),
        ("L10 [antonyms - binary]", "l10-antonyms-binary", "lexicographic"),
    ],
)
def test_a_relation_is_named_after_its_file_and_described_by_its_code(tmp_path, file_name, name, category):
    write(tmp_path, file_name, "spoon\tspoons\nfork\tforks\n")
    described = DESCRIBED[file_name[:3]]
    expected = Relation(
        name, [("spoon", "spoons"), ("fork", "forks")], described["names"], category, described["family"]
    )
    assert load_bats(str(tmp_path)) == {name: expected}


def test_files_may_lie_in_the_folder_itself_and_others_are_ignored(tmp_path):
    (tmp_path / "E05 [name - occupation].txt").write_text("curie\tphysicist/chemist\n")
    for name in (
        "SOURCE.md",
        "notes.txt",
        "._E05 [name - occupation].txt",
        "E11 [name - pet].txt",
        "E00 [none].txt",
        "X01 [a - b].txt",
        "E06 animal - young.txt",
        "E07 [animal - sound].txt.bak",
    ):
        (tmp_path / name).write_bytes(b"no tab \xff")
    assert list(load_bats(tmp_path)) == ["e05-name-occupation"]


# Lines


def test_line_ends_empty_answers_repeats_and_underscores(tmp_path):
    content = "sofa\tcouch/settee/\r\nice_cream\tfrozen_dessert//sweet/frozen dessert\r\n\r\nlamp\tlight"
    assert pairs_of(tmp_path, content) == (
        ("sofa", ("couch", "settee")),
        ("ice cream", ("frozen dessert", "sweet")),
        ("lamp", ("light",)),
    )


def test_a_word_is_not_its_own_answer_and_needs_another(tmp_path):
    assert pairs_of(tmp_path, "deer\tdeer\nfish\tfishes/fish\nmoose\t/\nelk\t\nox\toxen\nicy_road\ticy road\n") == (
        ("fish", ("fishes",)),
        ("ox", ("oxen",)),
    )


def test_a_word_that_comes_twice_gets_all_its_answers(tmp_path):
    assert pairs_of(tmp_path, "cup\tmug\nbag\tsack\ncup\tbeaker/mug\n") == (
        ("cup", ("mug", "beaker")),
        ("bag", ("sack",)),
    )


def test_text_is_utf8_with_or_without_a_mark(tmp_path):
    assert pairs_of(tmp_path, b"\xef\xbb\xbf" + "fête\tfiesta/føde\n".encode()) == (("fête", ("fiesta", "føde")),)


def test_at_most_the_first_answers_are_kept(tmp_path):
    listed = [f"kind{n}" for n in range(268)]
    # Counted once repeats, empty answers and the word itself are gone.
    content = "tool\ttool//kind0/" + "/".join(listed) + "\ntoy\tball/doll\n"
    assert pairs_of(tmp_path, content) == (("tool", tuple(listed[:20])), ("toy", ("ball", "doll")))
    assert pairs_of(tmp_path, content, max_answers=1) == (("tool", ("kind0",)), ("toy", ("ball",)))
    assert pairs_of(tmp_path, content, max_answers=300) == (("tool", tuple(listed)), ("toy", ("ball", "doll")))


WORDS = st.sampled_from(["a", "b", "c", "d_e", "f"])


@given(st.lists(st.tuples(WORDS, st.lists(WORDS | st.just(""), max_size=6)), max_size=8), st.integers(1, 4))
def test_pairs_are_those_of_a_walk_over_the_lines(tmp_path_factory, lines, max_answers):
    lines = [("z", ["y"]), *lines]
    expected = {}
    for word, answers in lines:
        for answer in answers:
            if answer and answer != word:
                known = expected.setdefault(word.replace("_", " "), [])
                if answer.replace("_", " ") not in known:
                    known.append(answer.replace("_", " "))
    content = "".join(f"{word}\t{'/'.join(answers)}\r\n" for word, answers in lines)
    pairs = pairs_of(tmp_path_factory.mktemp("bats"), content, max_answers=max_answers)
    assert pairs == tuple((word, tuple(answers[:max_answers])) for word, answers in expected.items())


def test_capitals_are_turned_round_to_country_and_capital(tmp_path):
    content = "harbourtown\toldland/newland\nhilltown\tmidland\nseatown\tmidland\nmonaco\tmonaco\n"
    pairs = pairs_of(tmp_path, content, "E01 [country - capital]")
    assert pairs == (("oldland", ("harbourtown",)), ("midland", ("hilltown", "seatown")))
    (tmp_path / FOLDERS["E"] / "E01 [country - capital].txt").unlink()
    # E01 alone.
    assert pairs_of(tmp_path, "norland\tnorse\n", "E02 [country - language]") == (("norland", ("norse",)),)


# What it does not take


def test_a_missing_folder_is_named(tmp_path):
    file = write(tmp_path, "L08 [synonyms - exact]", "cup\tmug\n")
    for path in (tmp_path / "BATS", file):
        with pytest.raises(InputError, match=re.escape(f"{str(path)!r} is not a folder; give")):
            load_bats(path)


def test_a_folder_without_bats_files_says_what_was_looked_for(tmp_path):
    for name in ("words.txt", "E11 [name - pet].txt"):
        (tmp_path / name).write_text("cup\tmug\n")
    with pytest.raises(InputError, match=r"has no BATS files; .* its sub-folders, .* 'E05 \[name - occupation\]\.txt'"):
        load_bats(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cup\tmug\n\xe9t\xe9\tsummer\n", r"this file is not UTF-8 \(byte 8: "),
        ("cup\tmug\r\n\r\nbag sack\r\n", "line 3 is 'bag sack'; give a word, a tab and answers"),
        ("cup\tmug\n\tsack\n", r"line 2 is '\\tsack'; give"),
        ("cup\tmug\tbeaker\n", r"line 1 is 'cup\\tmug\\tbeaker'; give"),
        ("cup\tmug\x85beaker\nbag sack\n", "line 2 is .bag sack.; give"),
        ("", r"relation 'l08-synonyms-exact' has pairs \[\]"),
        ("deer\tdeer\n", r"relation 'l08-synonyms-exact' has pairs \[\]"),
    ],
)
def test_malformed_files_say_where(tmp_path, content, message):
    file = write(tmp_path, "L08 [synonyms - exact]", content)
    with pytest.raises(InputError, match=re.escape(f"{file}: ") + message):
        load_bats(tmp_path)


def test_two_files_of_one_code_are_both_named(tmp_path):
    first = write(tmp_path, "L08 [synonyms - exact]", "cup\tmug\n")
    second = tmp_path / "L08 [synonyms - exact].txt"
    second.write_text("cup\tmug\n")
    with pytest.raises(InputError, match="are both for L08; keep one") as error:
        load_bats(tmp_path)
    assert str(first) in str(error.value) and str(second) in str(error.value)


@pytest.mark.parametrize("max_answers", [0, -1])
def test_a_cap_below_one_is_quoted(tmp_path, max_answers):
    with pytest.raises(InputError, match=f"max_answers is {max_answers}; give a whole number of at least 1"):
        load_bats(tmp_path, max_answers=max_answers)


# Names and families


def test_each_code_has_names_and_a_family():
    assert list(DESCRIBED) == CODES
    for description in DESCRIBED.values():
        names = description["names"]
        assert list(description) == ["names", "family"]
        assert 2 <= len(names) <= 5 and len(set(names)) == len(names)
        assert all(name.isalpha() and name == name.lower() for name in names)
        assert re.fullmatch("[a-z]+", description["family"])


@pytest.mark.parametrize(
    ("bundled", "codes"),
    [
        ("singular-plural", "I01 I02"),
        ("adjective-comparative", "I03 I04"),
        ("verb-ing", "I06"),
        ("present-past", "I07 I09 I10"),
        ("adjective-adverb", "D03"),
        ("verb-person", "D08"),
        ("country-capital", "E01"),
        ("country-language", "E02 E04"),
        ("animal-young", "E06"),
        ("male-female", "E10"),
        ("hypernym", "L01 L02 L03"),
        ("synonym", "L07 L08"),
        ("antonym", "D02 L09 L10"),
        (None, "I05 I08"),
        (None, "D05 D09 D10"),
        (None, "L04 L05 L06"),
    ],
)
def test_kin_share_a_family_with_each_other_and_with_the_bundled_and_no_one_else(bundled, codes):
    families = {DESCRIBED[code]["family"] for code in codes.split()}
    assert families == ({load_relation(bundled).family} if bundled else families) and len(families) == 1
    assert [code for code in CODES if DESCRIBED[code]["family"] in families] == codes.split()


def test_load_bats_is_public_and_imports_no_torch():
    code = "import sys, fv_lens; fv_lens.load_bats; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
