"""Sets of relations by their folder: each is recognised, and read as its own loader reads it."""

import json

import pytest

from fv_lens.datasets.published import load_published, relations_of
from fv_lens.datasets.questions import Question
from fv_lens.ground.errors import InputError

PAIRS = [(f"word{i}", f"answer{i}") for i in range(30)]


@pytest.fixture
def bats(tmp_path):
    folder = tmp_path / "BATS_3.0" / "1_Inflectional_morphology"
    folder.mkdir(parents=True)
    (folder / "I01 [noun - plural_reg].txt").write_text("\n".join(f"{a}\t{b}" for a, b in PAIRS))
    return folder.parent


@pytest.fixture
def lre(tmp_path):
    (tmp_path / "data" / "factual").mkdir(parents=True)
    samples = [{"subject": a, "object": b} for a, b in PAIRS]
    (tmp_path / "data" / "factual" / "country_capital_city.json").write_text(json.dumps({"samples": samples}))
    return tmp_path / "data"


@pytest.fixture
def todd(tmp_path):
    folder = tmp_path / "abstractive"
    folder.mkdir()
    (folder / "antonym.json").write_text(json.dumps([{"input": a, "output": b} for a, b in PAIRS]))
    return folder


@pytest.fixture
def semeval(tmp_path):
    folder = tmp_path / "semeval"
    folder.mkdir()
    (folder / "subcategories-definitions.txt").write_text("1, a, CLASS-INCLUSION, Taxonomic, Y is a kind of X\n")
    (folder / "reversals.txt").write_text("# none\n")
    rated = [f'{50 - 5 * i} "{a}:{b}"' for i, (a, b) in enumerate(PAIRS[:20])]
    (folder / "GoldRatings-1a.txt").write_text("\n".join(rated))
    return folder


@pytest.fixture
def google(tmp_path):
    folder = tmp_path / "google"
    folder.mkdir()
    for part, (a, b, c) in {"valid": (0, 1, 2), "test": (1, 3, 2)}.items():
        line = {"stem": PAIRS[a], "choice": [PAIRS[b], PAIRS[c]], "answer": 0, "prefix": "gram8-plural"}
        (folder / f"{part}.jsonl").write_text(json.dumps(line))
    return folder


@pytest.mark.parametrize(
    ("given", "name", "relation", "family", "n"),
    [
        ("bats", "BATS", "i01-noun-plural-reg", None, 30),
        ("lre", "LRE", "country-capital-city", "country-capital-city", 30),
        ("todd", "Todd", "antonym", None, 30),
        ("semeval", "SemEval", "1a", "CLASS-INCLUSION", 10),
        ("google", "google", "gram8-plural", None, 3),
    ],
)
def test_each_set_is_recognised(request, given, name, relation, family, n):
    of_set = load_published(request.getfixturevalue(given))
    (found,) = of_set.relations
    assert (of_set.name, found.name, len(found)) == (name, relation, n)
    assert family is None or found.family == family


def test_relations_of_semeval_are_tuned_on_all_their_pairs(semeval):
    (found,) = load_published(semeval).relations
    train, validation, _ = found.split()
    assert len(train) + len(validation) == 10 and len(train) == 7


def test_a_file_of_questions_gives_the_pairs_of_each_relation_once():
    asked = [
        Question(("hot", "cold"), target="big", answers=("small", "little"), relation="antonym", family="opposite"),
        Question(("big", "small"), target="hot", answers=("cold",), relation="antonym", family="opposite"),
        Question(("France", "Paris"), target="Peru", answers=("Lima",), relation="capital"),
        Question(("a", "b"), target="c", answers=("d",)),
    ]
    antonym, capital = relations_of(asked)
    assert antonym.pairs == (("hot", ("cold",)), ("big", ("small", "little"))) and antonym.family == "opposite"
    assert capital.pairs == (("France", ("Paris",)), ("Peru", ("Lima",))) and capital.family is None
    with pytest.raises(InputError, match="names its relation"):
        relations_of(asked[3:])


def test_a_single_file_is_a_set_of_its_name(google):
    assert load_published(google / "test.jsonl").name == "test"


def test_a_part_of_lre_and_a_folder_with_something_beside_the_questions_are_recognised(lre, google):
    assert load_published(lre / "factual").name == "LRE"
    (google / "about.json").write_text("{}")
    assert load_published(google).name == "google"


def test_what_is_no_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="no files of BATS"):
        load_published(tmp_path)
    with pytest.raises(InputError, match="is not there"):
        load_published(tmp_path / "none")
