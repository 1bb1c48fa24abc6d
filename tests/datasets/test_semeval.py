"""SemEval's rated relations, on a made folder with the quirks of the real one."""

import pytest

from fv_lens.datasets.semeval import RatedRelation, halves, load_semeval
from fv_lens.ground.errors import InputError

DEFINITIONS = """1, a, CLASS-INCLUSION, Taxonomic, Y is a kind/type/instance of X
2, b, PART-WHOLE, Member:Collection, X is a member of Y, mostly
"""
REVERSALS = "# subcategory: original:pair --> reversed:pair\n#\nreversal in 1a: tree:oak --> oak:tree\n#\n"
RATED = [
    ("tree", "elm", 50.0), ("oak", "tree", -60.0), ("tree", "ash", 40.0), ("dog", "poodle", 30.0),
    ("cat", "tabby", 20.0), ("bird", "wren", 10.0), ("fish", "cod", 5.0), ("stone", "water", -20.0),
    ("metal", "iron", 4.0), ("car", "jeep", 3.0),
]  # fmt: skip


def ratings(rated=RATED):
    return "#   Score  = Most - Least\n#\n" + "\n".join(f' {score} "{a}:{b}"' for a, b, score in rated) + "\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "Testing" / "GoldRatings").mkdir(parents=True)
    (tmp_path / "subcategories-definitions.txt").write_text(DEFINITIONS)
    (tmp_path / "reversals.txt").write_text(REVERSALS)
    (tmp_path / "Testing" / "GoldRatings" / "GoldRatings-1a.txt").write_text(ratings())
    return tmp_path


def test_pairs_and_ratings_are_those_of_the_file_without_the_reversed(folder):
    relations = load_semeval(folder)
    assert list(relations) == ["1a"]
    one = relations["1a"]
    assert (one.name, one.category, one.n_reversed) == ("Taxonomic", "CLASS-INCLUSION", 1)
    assert dict(zip(one.pairs, one.ratings)) == {(a, b): r for a, b, r in RATED if a != "oak"}
    assert one.definition == "Y is a kind/type/instance of X"


def test_instances_are_rated_above_zero(folder):
    assert ("stone", "water") not in load_semeval(folder)["1a"].instances


def test_the_relation_is_dealt_by_first_word_and_joins_answers(folder):
    one = load_semeval(folder)["1a"]
    relation = one.relation()
    assert relation.answers["tree"] == ("elm", "ash")
    train, validation = set(relation.parts.train.words), set(relation.parts.validation.words)
    assert train | validation == {a for a, _ in one.instances} and not train & validation
    assert len(train) > len(validation) > 0
    assert relation.parts == one.relation().parts and one.relation(seed=1).parts != relation.parts


def test_halves_keep_first_words_together_and_what_is_left_out_is_not_tuned_on(folder):
    one = load_semeval(folder)["1a"]
    placed = halves({"1a": one})["1a"]
    assert set(one.pairs) < set(placed) and set(placed.values()) == {0, 1}
    assert placed["tree", "elm"] == placed["tree", "ash"]
    left_out = {pair for pair, half in placed.items() if half == 0}
    words = one.relation(left_out).words
    assert words and not set(words) & {a for a, _ in left_out}


def rated(code, *pairs):
    return RatedRelation(code, code, "CLASS", "X and Y", pairs, (1.0,) * len(pairs))


@pytest.mark.parametrize("seed", range(20))
def test_a_pair_and_its_reversal_have_one_half_in_all_relations(seed):
    fill = [[(f"{code}{i}", f"to{i}") for i in range(12)] for code in "abc"]
    relations = {
        "1a": rated("1a", ("sofa", "couch"), ("couch", "sofa"), *fill[0]),
        "2a": rated("2a", ("wheel", "car"), ("couch", "sofa"), *fill[1]),
        "3a": rated("3a", ("car", "wheel"), ("car", "road"), *fill[2]),
    }
    placed = halves(relations, seed)
    assert placed["1a"]["sofa", "couch"] == placed["1a"]["couch", "sofa"] == placed["2a"]["couch", "sofa"]
    assert placed["2a"]["wheel", "car"] == placed["3a"]["car", "wheel"] == placed["3a"]["car", "road"]
    assert placed["1a"]["to3", "a3"] == placed["1a"]["a3", "to3"]  # one that the makers turned round
    for code, one in relations.items():
        first = sum(placed[code][pair] for pair in one.pairs)
        assert abs(2 * first - len(one.pairs)) <= 2


def test_halves_do_not_depend_on_the_order_and_change_with_the_seed():
    pairs = [(f"w{i}", f"to{i}") for i in range(20)]
    one, two = rated("1a", *pairs), rated("2a", *pairs[5:], ("x", "y"))
    placed = halves({"1a": one, "2a": two})
    assert placed == halves({"2a": rated("2a", *two.pairs[::-1]), "1a": rated("1a", *pairs[::-1])})
    assert placed != halves({"1a": one, "2a": two}, seed=1)


def test_too_few_words_to_tune_on(folder):
    one = load_semeval(folder)["1a"]
    with pytest.raises(InputError, match="Relation 1a has 2 first words left to tune on; it takes 3 or more"):
        one.relation([pair for pair in one.pairs if pair[0] not in ("tree", "dog")])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("reversals.txt", None, "has no reversals.txt"),
        ("subcategories-definitions.txt", None, "has no subcategories-definitions.txt"),
        ("subcategories-definitions.txt", "1, a, CLASS\n", "line 1 is '1, a, CLASS'; expected number, letter, class"),
        (
            "subcategories-definitions.txt",
            "2, b, PART, Name, phrase\n",
            "has no line for relation 1a, which has ratings",
        ),
        ("reversals.txt", "1a: a:b\n", "line 1 is '1a: a:b'; expected 'reversal in"),
        ("Testing/GoldRatings/GoldRatings-1a.txt", '# x\n72.0 "a;b"\n', "line 2 is '72.0 \"a;b\"'; expected a rating"),
        ("Testing/GoldRatings/GoldRatings-1a.txt", "# x\n", "has no ratings"),
        ("Testing/GoldRatings/GoldRatings-1a.txt", None, "has no ratings; looked in it"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(folder, file, text, message):
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    with pytest.raises(InputError, match=message):
        load_semeval(folder)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        load_semeval(tmp_path / "nowhere")
