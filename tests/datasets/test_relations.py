import hashlib
import json
import math
import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fv_lens.datasets.relation_files import FORMAT, OPTIONAL, load_relation, relation_names
from fv_lens.datasets.relations import Relation, Split, pairs_for
from fv_lens.ground.errors import InputError, ParityError, whole_number


def successor(n: int) -> Relation:
    return Relation("successor", [(str(i), str(i + 1)) for i in range(n)])


def cliques(sizes: list[int]) -> Relation:
    """Words in groups of the given sizes; within a group, each word's answers are all the others."""
    groups = [[f"w{g}.{i}" for i in range(size)] for g, size in enumerate(sizes)]
    return Relation("synonym", [(w, [v for v in group if v != w] or ["other"]) for group in groups for w in group])


# Relation


def test_pairs_keep_one_form():
    relation = Relation("antonym", [("hot", "cold"), ["big", ["small", "little"]]], names=["opposite"])
    assert relation.pairs == (("hot", ("cold",)), ("big", ("small", "little")))
    assert relation.words == ("hot", "big")
    assert relation.answers == {"hot": ("cold",), "big": ("small", "little")}
    assert relation.names == ("opposite",)
    assert len(relation) == 2
    assert repr(relation) == "Relation('antonym', 2 pairs)"


def test_equal_relations_are_equal_and_hashable():
    assert {successor(5), successor(5)} == {successor(5)}


def test_hash_tells_data_apart():
    pairs = [("hot", "cold"), ("big", "small")]
    digest = Relation("antonym", pairs).hash
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert Relation("antonym", [("hot", ["cold"]), ("big", "small")], names=["opposite"]).hash == digest
    assert Relation("opposite", pairs).hash != digest
    assert Relation("antonym", pairs[::-1]).hash != digest


def test_a_word_may_be_its_own_answer():
    assert Relation("present-past", [("hit", "hit")]).answers == {"hit": ("hit",)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", [("a", "b")]), "the name of a relation is ''; give a string"),
        (("r", []), r"'r' has pairs \[\]; give a list"),
        (("r", "ab"), "'r' has pairs 'ab'; give a list"),
        (("r", ["ab"]), "pair 1 of relation 'r' is 'ab'; give"),
        (("r", [("a", "b"), ("c", "d", "e")]), r"pair 2 of relation 'r' is \('c', 'd', 'e'\); give"),
        (("r", [("a", [])]), r"pair 1 of relation 'r', \('a', \[\]\), has no answer"),
        (("r", [("a", 3)]), r"a word of pair 1 of relation 'r', \('a', 3\), is 3; give a string"),
        (("r", [(None, "b")]), "is None; give a string"),
        (("r", [("a", ["b", ""])]), "is ''; give a string"),
        (("r", [(" ", "b")]), "is ' '; give a string"),
        (("r", [("a", "b\n")]), "is 'b.n'; .* without whitespace at its ends"),
        (("r", [("a", "\ud800")]), "valid Unicode"),
        (
            ("r", [("a", "b"), ("c", "d"), ("a", "e")]),
            "pairs 1 and 3 of relation 'r' are both for 'a'; give the word once",
        ),
        (("r", [("a", ["b", "c", "b"])]), "pair 1 of relation 'r', 'a', lists an answer twice"),
        (("r", [("a", "b")], "opposite"), "has names 'opposite'; give a list"),
        (("r", [("a", "b")], [""]), "a name, category or family of relation 'r' is ''"),
        (("r", [("a", "b")], (), " x"), "a name, category or family of relation 'r' is ' x'"),
    ],
)
def test_bad_relations_say_what_is_wrong(arguments, message):
    with pytest.raises(InputError, match=message):
        Relation(*arguments)


# Splits


@pytest.mark.slow
@given(n=st.integers(5, 300), seed=st.integers(0, 10**6))
def test_split_sizes_are_exact_and_parts_disjoint(n, seed):
    relation = successor(n)
    train, validation, test = parts = relation.split(seed)
    assert (len(train), len(validation)) == (math.ceil(2 * n / 5), n // 5)
    assert sorted(pair for part in parts for pair in part.pairs) == sorted(relation.pairs)


@given(order=st.permutations(range(30)), seed=st.integers(0, 100))
def test_split_does_not_depend_on_the_order_of_pairs(order, seed):
    relation = cliques([1] * 10 + [2] * 10)
    shuffled = Relation(relation.name, [relation.pairs[i] for i in order])
    assert shuffled.split(seed) == relation.split(seed)


def test_split_is_the_same_on_every_machine():
    order = sorted(successor(10).words, key=lambda word: hashlib.sha256(f"7:{word}".encode()).hexdigest())
    train, validation, test = successor(10).split(seed=7)
    assert [*train.words, *validation.words, *test.words] == order
    assert train.words == ("4", "7", "3", "8")


def test_seeds_give_different_splits():
    assert len({successor(20).split(seed).test for seed in range(10)}) == 10


def test_parts_keep_what_the_relation_is():
    relation = Relation("antonym", successor(5).pairs, ["opposite"], "lexicographic", "opposites")
    for part in relation.split():
        kept = (part.name, part.names, part.category, part.family)
        assert kept == ("antonym", ("opposite",), "lexicographic", "opposites")


def smallest_misfit(groups: list[int]) -> int:
    """The fewest words by which any split into three full parts misses the sizes, by trying all."""
    n = sum(groups)
    sizes = (math.ceil(2 * n / 5), n // 5)
    reached = {(0, 0, 0)}
    for g in groups:
        reached = {(a + g * (i == 0), b + g * (i == 1), c + g * (i == 2)) for a, b, c in reached for i in range(3)}
    wanted = (*sizes, n - sum(sizes))
    return min(sum(abs(x - y) for x, y in zip(parts, wanted)) for parts in reached if all(parts))


@pytest.mark.slow
@given(
    groups=st.lists(st.sampled_from([1, 1, 1, 2, 2, 3, 4]), min_size=3, max_size=14).filter(lambda g: sum(g) >= 5),
    seed=st.integers(0, 100),
)
def test_reversals_share_a_part_and_sizes_are_exact_where_groups_allow(groups, seed):
    relation = cliques(groups)
    parts = relation.split(seed)
    assert all(parts)
    part_of = {word: i for i, part in enumerate(parts) for word in part.words}
    assert part_of.keys() == relation.answers.keys()
    for word, answers in relation.pairs:
        assert all(part_of[answer] == part_of[word] for answer in answers if answer in part_of)
    n = len(relation)
    sizes = (math.ceil(2 * n / 5), n // 5, n - math.ceil(2 * n / 5) - n // 5)
    misfit = sum(abs(len(part) - size) for part, size in zip(parts, sizes))
    best = smallest_misfit(groups)
    assert misfit <= best + 2 and (misfit == 0) == (best == 0)


@pytest.mark.parametrize("n_train", [1, 2, 3, 8, 10, 11, 20, 21])
def test_pairs_for_is_the_smallest_number_that_gives_the_train_part(n_train):
    enough = pairs_for(n_train)
    assert math.ceil(2 * enough / 5) == n_train and math.ceil(2 * (enough - 1) / 5) < n_train
    if enough >= 6:
        assert len(successor(enough).split().train) == n_train > len(successor(enough - 1).split().train)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [[200, 1, 1], [1, 1, 3], [1, 1, 1, 90, 90]])
def test_no_part_is_ever_empty(groups):
    assert all(len(part) for seed in range(5) for part in cliques(groups).split(seed))


# Splits of other seeds


@given(n=st.integers(5, 120), seed=st.integers(0, 100))
def test_a_relation_is_dealt_by_its_own_seed_unless_another_is_given(n, seed):
    relation = successor(n)
    dealt = relation.with_split(seed)
    assert dealt.split_seed == seed and dealt.split() == relation.split(seed) and dealt.split(0) == relation.split()
    assert dealt.hash == relation.hash and dealt.with_pairs(relation.pairs).split() == dealt.split()


def test_a_relation_that_was_cut_is_not_split_again():
    few = successor(40).with_split(2).limited(4, 2, 3)
    assert few.with_split(2) == few
    with pytest.raises(
        InputError, match="is cut to parts of split 2 and cannot be split with seed 1; call with_split on the whole"
    ):
        few.with_split(1)


# Splits that are given


@pytest.mark.slow
@given(n=st.integers(5, 120), sizes=st.tuples(*[st.integers(1, 60)] * 3), seed=st.integers(0, 100))
def test_limited_parts_are_the_first_of_each_part_and_the_only_split(n, sizes, seed):
    relation = successor(n)
    few = relation.with_split(seed).limited(*sizes)
    for part, whole, size in zip(few.split(), relation.split(seed), sizes):
        assert part.pairs == whole.pairs[:size] and len(part) == min(size, len(whole))
    assert few.pairs == tuple(pair for part in few.split() for pair in part.pairs)
    assert few.split(seed + 1) == few.split()


def test_limited_keeps_what_the_relation_is_and_leaves_it_as_it_was():
    relation = Relation("antonym", successor(40).pairs, ["opposite"], "lexicographic", "opposites")
    before = relation.split()
    few = relation.limited(4, 2, 3)
    assert (few.name, few.names, few.category, few.family) == (
        relation.name,
        ("opposite",),
        "lexicographic",
        "opposites",
    )
    assert relation.split() == before and len(few) == 9
    assert few.hash == few.limited(2, 1, 1).hash == relation.hash, "its parts are those of the whole relation's split"
    assert few == relation.limited(4, 2, 3) and hash(few) == hash(relation.limited(4, 2, 3))


def test_limits_of_limits_are_nested_and_larger_ones_change_nothing():
    few = successor(40).limited(8, 4, 6)
    assert few.limited(99, 99, 99) == few and few.limited(99, 99, 99).split() == few.split()
    assert [len(part) for part in few.limited(3, 9, 1).split()] == [3, 4, 1]
    assert few.limited(3, 9, 1).split().train.pairs == few.split().train.pairs[:3]


def test_given_parts_are_the_split_whatever_the_pairs():
    parts = Split(
        *(Relation("r", [(f"{part}{i}", "x") for i in range(n)]) for part, n in (("a", 1), ("b", 1), ("c", 1)))
    )
    relation = Relation("r", [pair for part in parts for pair in part.pairs], parts=parts)
    assert relation.split() is parts and relation.split(5) is parts
    assert relation.limited(1, 1, 1).split() == parts


def test_other_pairs_are_dealt_anew():
    few = successor(40).limited(8, 4, 6)
    other = few.with_pairs(successor(10).pairs)
    assert other.parts is None and other == successor(10) and other.split() == successor(10).split()


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, -1, 1), (1, 1, 0)])
def test_a_part_of_no_size_is_refused(sizes):
    with pytest.raises(InputError, match="a part's size is .*; give a whole number of at least 1"):
        successor(40).limited(*sizes)


def test_what_cannot_be_split_cannot_be_limited():
    with pytest.raises(InputError, match="'successor' cannot be split"):
        successor(4).limited(1, 1, 1)


def test_an_overlap_in_one_direction_does_not_join():
    chain = successor(50)  # 3: 4 and 4: 5, but no word's answer leads back
    assert len(chain.split().train) == 20
    # In one group, a chain of 50 words could not be split at all.


@pytest.mark.parametrize("relation", [successor(4), cliques([6]), cliques([4, 4])])
def test_a_relation_too_small_to_split_is_named(relation):
    with pytest.raises(InputError, match=f"'{relation.name}' cannot be split .* it has {len(relation)} pairs"):
        relation.split()


def test_a_bad_seed_is_quoted():
    with pytest.raises(InputError, match="seed is -1; give a whole number of at least 0"):
        successor(10).split(seed=-1)


# Files


def write(path, content) -> str:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_load_own_format(tmp_path):
    content = {
        "name": "antonym",
        "names": ["opposite"],
        "category": "lexicographic",
        "family": None,
        "pairs": [[" hot", "cold\n"], ["big", ["small", " little"]], ["hot", ["cool", "cold"]]],
        "source": "written by hand",
    }
    relation = load_relation(write(tmp_path / "any.json", content))
    pairs = [("hot", ["cold", "cool"]), ("big", ["small", "little"])]
    assert relation == Relation("antonym", pairs, ["opposite"], "lexicographic")


def test_load_todd_format(tmp_path):
    content = [
        {"output": "stumm", "input": "mute"},
        {"input": "j", "output": ["k", "jj"]},
        {"input": "mute ", "output": "leise\n"},
        {"input": "hit", "output": "hit"},
        {"input": "mute", "output": "stumm"},
    ]
    relation = load_relation(write(tmp_path / "english-german.json", content))
    assert relation == Relation("english-german", [("mute", ["stumm", "leise"]), ("j", ["k", "jj"]), ("hit", "hit")])


def test_load_takes_a_relation_a_string_and_utf8_with_a_mark(tmp_path):
    assert load_relation(successor(3)) == successor(3)
    content = b"\xef\xbb\xbf" + '[{"input": "été", "output": "summer"}]'.encode()
    assert load_relation(str(write(tmp_path / "season.json", content))).words == ("été",)


def test_a_plain_file_without_suffix_is_a_path_unless_bundled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine", [{"input": "a", "output": "b"}])
    write(tmp_path / "antonym", b"not this")
    assert load_relation("mine") == Relation("mine", [("a", "b")])
    assert load_relation("antonym").name == "antonym"


@pytest.mark.parametrize("suffix, between", [("csv", ","), ("tsv", "\t"), ("CSV", ",")])
@pytest.mark.parametrize("header", ["", "word,answer\n", "Input, Output\n"])
def test_load_a_table_of_two_columns(tmp_path, suffix, between, header):
    rows = 'hot,cold\n\nbig , small\r\n,\n"hot",cool\nbig,small\nword,answer\n'
    if between != ",":
        header, rows = header.replace(",", between), rows.replace(",", between)
    relation = load_relation(write(tmp_path / f"my.opposites.{suffix}", b"\xef\xbb\xbf" + (header + rows).encode()))
    assert relation == Relation("my.opposites", [("hot", ["cold", "cool"]), ("big", "small"), ("word", "answer")])


@pytest.mark.parametrize(
    "name, rows, warned",
    [
        ("mine", "country,demonym\nFrance,French\nSpain,Spanish\n", True),
        ("animal-young", "animal,young\ncat,kitten\ndog,puppy\n", True),
        ("mine", "hot,cold\nbig,small\n", False),
        ("mine", "France,French\nSpain,Spanish\n", False),
        ("mine", "mug,Mug\nFrance,french\nSpain,spanish\n", True),
        ("mine", "hot,cold\n", False),
    ],
)
def test_a_first_line_that_looks_like_a_header_is_told(tmp_path, name, rows, warned):
    path = write(tmp_path / f"{name}.csv", rows.encode())
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        relation = load_relation(path)
    assert relation.words[0] == rows.split(",")[0]
    assert [rows.split("\n")[0] in str(warning.message) for warning in found] == [True] * warned


def test_a_cell_in_quotes_may_hold_the_mark_between_cells(tmp_path):
    assert load_relation(write(tmp_path / "r.csv", b'"Paris, France",city\n')).words == ("Paris, France",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", b"hot,cold\n\nbig;small\n", r"r\.csv: line 3 is \['big;small'\]; give a word and an answer, a comma"),
        ("r.csv", b"hot,cold,cool\n", r"line 1 is \['hot', 'cold', 'cool'\]; give a word"),
        ("r.tsv", b"hot,cold\n", r"line 1 is \['hot,cold'\]; give a word and an answer, a tab between"),
        ("r.csv", b"hot,cold\nbig,\n", r"a word of line 2, \['big', ''\], is ''"),
        ("r.csv", b"word,answer\n", r"r\.csv: relation 'r' has pairs \[\]"),
        ("r.csv", b"hot," + b"x" * 200_000, "line 1 is not a row of a table: field larger than"),
        ("r.txt", b"hot,cold\n", r'r\.txt: this file is not JSON: .*; give a JSON file such as \{"name": "antonym"'),
    ],
)
def test_malformed_tables_say_where(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        load_relation(write(tmp_path / name, content))


def test_the_format_that_is_shown_can_be_read(tmp_path):
    content = json.loads(FORMAT[:-1] + ", " + OPTIONAL + "}")
    relation = load_relation(write(tmp_path / "r.json", content))
    assert relation.pairs == (("hot", ("cold",)), ("big", ("small", "little")))
    assert (relation.names, relation.category, relation.family) == (("opposite",), "lexicographic", "opposite")
    assert all(part in load_relation.__doc__ for part in (FORMAT[:-1], OPTIONAL))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"name": "r",\n "pairs": [}', r"r\.json: this file is not JSON: .*line 2 column 12"),
        (b"", "this file is not JSON"),
        (b"[" * 100_000, "this file is not JSON"),
        (b"[" + b"9" * 5000 + b"]", "this file is not JSON"),
        (b'[{"input": "\xe9"}]', r"this file is not UTF-8 \(byte 12: "),
        (3, r"the file should hold \{"),
        ({"name": "r"}, r"the file should hold \{"),
        ({"pairs": []}, r"the file should hold \{"),
        ({"name": 3, "pairs": []}, '"name" is 3; it should be a string'),
        ({"name": "r", "pairs": {"a": "b"}}, '"pairs" is .*; it should be a list'),
        ({"name": "r", "pairs": [["a", "b"]], "names": "x"}, '"names" is .x.; it should be a list'),
        ({"name": "r", "pairs": []}, r"r\.json: relation 'r' has pairs \[\]"),
        ({"name": "r", "pairs": [["a", "b"], ["a"]]}, r"r\.json: pair 2 is \['a'\]; give"),
        ({"name": "r", "pairs": [["a", "b"], ["a", 1]]}, r"a word of pair 2, \['a', 1\], is 1"),
        ({"name": "r", "pairs": [["a", ["b", "  "]]]}, "a word of pair 1, .* is ''"),
        ({"name": "r", "pairs": [["a", "\ud800"]]}, "valid Unicode"),
        ([], r"relation 'r' has pairs \[\]"),
        ([{"input": "a", "output": "b"}, {"input": "a"}], r"r\.json: item 2 is \{'input': 'a'\}; it should be"),
        ([["a", "b"]], r"item 1 is \['a', 'b'\]; it should be"),
        ([{"input": "a", "output": None}], "is None; give a string"),
    ],
)
def test_malformed_files_say_where(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        load_relation(write(tmp_path / "r.json", content))


def test_missing_files_and_folders(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: this is a folder"):
        load_relation(tmp_path / "folder")
    for path in (tmp_path / "none.json", "./antonym", "antonym.json"):
        with pytest.raises(InputError, match="there is no such file; check the path"):
            load_relation(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_relation(tmp_path / ("x" * 5000))


@pytest.mark.parametrize(
    ("name", "near"),
    [("opposits", "antonym"), ("Opposite", "antonym"), ("plurals", "singular-plural"), ("Antonym", "antonym")],
)
def test_a_word_for_a_relation_leads_to_it(name, near):
    with pytest.raises(
        InputError, match=rf"no bundled relation '{name}'; did you mean [^?]*\b{near}\b[^?]*\? `fv-lens"
    ):
        load_relation(name)


def test_unknown_names_give_near_ones():
    with pytest.raises(InputError, match=r"no bundled relation 'antonim'; did you mean .*antonym.*\? `fv-lens"):
        load_relation("antonim")
    for name in ("", "zzzzzz", "x" * 5000):
        with pytest.raises(InputError, match=f"no bundled relation '{name}'; `fv-lens relations` lists all"):
            load_relation(name)


@pytest.mark.parametrize("source", [3, None, b"antonym", [("a", "b")]])
def test_what_is_no_relation_is_quoted(source):
    with pytest.raises(InputError, match=re.escape(f"{source!r} is not a relation")):
        load_relation(source)


def test_bundled_relations_load_and_split():
    assert "antonym" in relation_names() and list(relation_names()) == sorted(relation_names())
    antonym = load_relation("antonym")
    assert antonym.name == "antonym" and antonym.answers["hot"][0] == "cold"
    assert [len(part) for part in antonym.split()][0] == math.ceil(2 * len(antonym) / 5)


# Errors


def test_errors_are_of_their_kinds():
    assert issubclass(InputError, ValueError) and issubclass(ParityError, RuntimeError)


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", None, True])
def test_whole_number_quotes_what_it_refuses(value):
    with pytest.raises(InputError, match=re.escape(f"n_prompts is {value!r}; give a whole number of at least 1")):
        whole_number("n_prompts", value, least=1)
