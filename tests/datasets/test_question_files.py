"""Question files as they come, in all their formats and quirks; the questions here are our own."""

import json
from importlib import resources

import pytest

from fv_lens.datasets.bats import load_bats
from fv_lens.datasets.question_files import load_questions
from fv_lens.datasets.question_split import split_questions
from fv_lens.datasets.questions import Question
from fv_lens.datasets.relation_files import load_relation, relation_names
from fv_lens.ground.errors import InputError

OWN = {
    "relation": "antonym", "family": "opposite", "source": ["hot", "cold"], "target": "big",
    "answers": ["small", "little"], "distance": "near",
    "foils": [{"word": "huge", "kind": "associate"}, {"word": "short", "kind": "other"}],
}  # fmt: skip
PUBLISHED = {"stem": ["hen", "egg"], "choice": [["cow", "barn"], ["cow", "milk"], ["bee", "hive"]], "answer": 1}
SCAN_HEADER = "target,source,targ_word,src_word,alternatives,analogy_type\n"


def load(tmp_path, content, name="questions"):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_questions(file)


def json_lines(*items):
    return "\n".join(item if isinstance(item, str) else json.dumps(item) for item in items)


# JSON lines


def test_our_own_format(tmp_path):
    assert load(tmp_path, json_lines(OWN)) == [
        Question(
            ("hot", "cold"), (("big", "small"), ("big", "huge"), ("big", "short")), 0, "big", ("small", "little"),
            "antonym", "opposite", ("right", "associate", "other"), "near",
        )
    ]  # fmt: skip


def test_our_own_format_at_its_shortest(tmp_path):
    item = {"source": ["hot", "cold"], "target": "big", "answers": ["small"]}
    assert load(tmp_path, json_lines(item)) == [Question(("hot", "cold"), target="big", answers=("small",))]


@pytest.mark.parametrize(
    ("distance", "label"), [("far", "far"), (" far ", "far"), (0.25, "0.25"), (3, "3"), ("7", "7")]
)
def test_a_distance_is_a_word_or_a_number(tmp_path, distance, label):
    (question,) = load(tmp_path, json_lines(OWN | {"distance": distance}))
    assert question.label == label


def test_a_table_may_have_a_column_of_distances(tmp_path):
    rows = "a,b,c,d,Distance\nhot,cold,big,small,near\nlungs,air,engine,fuel, 0.75 \nhen,egg,cow,milk\n"
    assert [question.label for question in load(tmp_path, rows)] == ["near", "0.75", ""]


@pytest.mark.parametrize("prefix", ["grade4", "high-intermediate", "low-advanced", "190 FROM THE TESTS"])
def test_published_questions_with_a_level(tmp_path, prefix):
    (question,) = load(tmp_path, json_lines(PUBLISHED | {"prefix": prefix}))
    pairs = (("cow", "barn"), ("cow", "milk"), ("bee", "hive"))
    assert question == Question(("hen", "egg"), pairs, 1, label=prefix)
    assert question.completion == ("cow", ("milk",))


@pytest.mark.parametrize(
    ("prefix", "relation", "family"),
    [
        ("./cache/BATS_3.0/3_Encyclopedic_semantics/E06 [animal - young].txt", "e06-animal-young", "young"),
        ("cache\\D02 [un+adj_reg].txt", "d02-un-adj-reg", "opposite"),
        ("gram3-comparative", "gram3-comparative", None),
        ("family", "family", None),
        ("country-capital", "country-capital", "capital"),
        ("e99-made-up", "e99-made-up", None),
        ("", None, None),
    ],
)
def test_published_questions_with_a_relation(tmp_path, prefix, relation, family):
    (question,) = load(tmp_path, json_lines(PUBLISHED | {"prefix": prefix}))
    assert (question.relation, question.family, question.label) == (relation, family, "")


def test_the_relation_of_a_question_is_that_of_the_bats_folder(tmp_path):
    # Else leaving out the question's own relation, or its seen pairs, would leave out nothing.
    name = "I01 [noun - plural_reg].txt"
    (tmp_path / name).write_text("spoon\tspoons\n")
    (relation,) = load_bats(tmp_path).values()
    (question,) = load(tmp_path, json_lines(PUBLISHED | {"prefix": f"./{name}"}))
    assert (question.relation, question.family) == (relation.name, relation.family)


def test_without_prefix_and_with_a_shared_word(tmp_path):
    (question,) = load(tmp_path, json_lines(PUBLISHED | {"choice": PUBLISHED["choice"][:2]}))
    assert (question.relation, question.choices, question.target) == (None, ("barn", "milk"), "cow")


def test_blank_lines_line_ends_byte_order_marks_and_rare_separators(tmp_path):
    item = json.dumps(OWN | {"target": "a\u2028b"}, ensure_ascii=False)
    content = b"\xef\xbb\xbf\r\n" + f"{item}\r\n\r\n{json.dumps(PUBLISHED)}".encode()
    first, second = load(tmp_path, content)
    assert (first.target, second.source) == ("a\u2028b", ("hen", "egg"))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("{not json", "this is not JSON"),
        ("[1, 2]", r"this is '\[1, 2\]'; give an object with source, target, answers or stem, choice, answer"),
        ({"stem": ["a", "b"], "choice": [["a", "b"]]}, "give an object with"),
        (PUBLISHED | {"answer": 3}, '"answer" is 3; with 3 choices give 0 to 2'),
        (PUBLISHED | {"answer": -1}, '"answer" is -1; with 3 choices give 0 to 2'),
        (PUBLISHED | {"answer": True}, '"answer" is True; with 3 choices'),
        (PUBLISHED | {"answer": None}, '"answer" is None; with 3 choices'),
        (PUBLISHED | {"answer": "1"}, "\"answer\" is '1'; with 3 choices"),
        (PUBLISHED | {"choice": [["cow", "milk"]], "answer": 0}, "question hen:egg has one choice"),
        (PUBLISHED | {"choice": []}, '"choice" is empty'),
        (PUBLISHED | {"choice": "cow"}, "\"choice\" is 'cow'; give a list"),
        (PUBLISHED | {"choice": [["cow", "milk"], ["bee"]]}, r"choice of the question hen:egg is \['bee'\]; give two"),
        (PUBLISHED | {"choice": [["cow", "milk"], 3]}, "choice of the question hen:egg is 3; give two words"),
        (PUBLISHED | {"choice": [["cow", "barn"], ["cow", ""], ["a", "b"]]}, "has the word ''"),
        (PUBLISHED | {"choice": [["cow", "milk"], ["cow", "milk"]]}, "a right answer, among its wrong choices"),
        (PUBLISHED | {"stem": ["hen"]}, r"source of a question is \['hen'\]; give two words"),
        (PUBLISHED | {"stem": "hen"}, "\"stem\" is 'hen'; give a list"),
        (PUBLISHED | {"prefix": 4}, '"prefix" is 4; give a string'),
        (OWN | {"foils": [{"word": "small"}]}, "has big:small, a right answer, among its wrong choices"),
        (OWN | {"foils": [{"word": "little"}]}, "has big:little, a right answer, among its wrong choices"),
        (OWN | {"foils": ["huge"]}, r"\"foils\" is \['huge'\]; give a list of"),
        (OWN | {"foils": [{"kind": "other"}]}, '"foils" is .*; give a list of'),
        (OWN | {"foils": [{"word": ""}]}, "has the word ''"),
        (OWN | {"foils": [{"word": "huge", "kind": 1}]}, "has kinds .*; give text"),
        (OWN | {"answers": []}, '"answers" is empty'),
        (OWN | {"answers": "small"}, "\"answers\" is 'small'; give a list"),
        (OWN | {"answers": [["small"]]}, "has the word"),
        (OWN | {"target": None}, '"target" is None; give a string'),
        (OWN | {"target": " big"}, "' big'; give a string of valid Unicode, not empty"),
        (OWN | {"distance": ["near"]}, r"""distance" is \['near'\]; give a word, such as "near", or a number"""),
        (OWN | {"distance": True}, '"distance" is True; give a word'),
        (json.dumps(OWN | {"distance": 0}).replace(": 0", ": 1e999"), '"distance" is inf; give a word'),
        (OWN | {"relation": ["antonym"]}, '"relation" is .*; give a string'),
        (OWN | {"relation": ""}, "has the relation ''"),
    ],
)
def test_bad_json_lines_name_file_and_line(tmp_path, item, message):
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, json_lines(OWN, "", item, PUBLISHED))
    assert str(caught.value).startswith(f"{tmp_path / 'questions'}: line 3: ") and "\n" not in str(caught.value)


# Tables


def test_a_csv_of_four_words(tmp_path):
    content = "C,d, A ,B\nbig,small / little/small,hot,cold\n\n cup,tea,vase, flower\n"
    assert load(tmp_path, content) == [
        Question(("hot", "cold"), target="big", answers=("small", "little")),
        Question(("vase", "flower"), target="cup", answers=("tea",)),
    ]


def test_a_csv_with_foils_relation_and_family(tmp_path):
    content = (
        "a,b,c,d,Foil 1,foil2,relation,family,note\nhot,cold,big,small/little,huge,,antonym,,seen\n"
        'vase,flower,cup,tea,"saucer",lip,holds,held\nhot,cold,old,new\n'
    )
    first, second, third = load(tmp_path, content)
    assert first == Question(
        ("hot", "cold"), (("big", "small"), ("big", "huge")), 0, "big", ("small", "little"), "antonym", "opposite"
    )
    assert (second.choices, second.right) == (("tea", "saucer", "lip"), 0)
    assert (second.relation, second.family) == ("holds", "held")
    assert (third.pairs, third.relation) == ((), None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a,b,c\nhot,cold,big\n",
            "line 1, the header 'a,b,c', lacks d; give JSON lines, or a CSV whose header has a, b, c, d",
        ),
        ("hot cold big small\n", "this file has a header and no rows"),
        ("hot cold\nbig small\n", "line 1, the header 'hot cold', lacks a, b, c, d; give"),
        ("a,b,c,d,A\nhot,cold,big,small,x\n", "line 1, the header, has 'a' twice"),
        ("a,b,c,d\n\nhot,cold,,small\n", "line 3: column c is empty"),
        ("a,b,c,d\nhot,cold,big\n", "line 2: column d is empty"),
        ("a,b,c,d\nhot,cold,big,/\n", "line 2: column d holds no answer"),
        ("a,b,c,d\nhot,cold,big,small\nhot,cold,big,small,little\n", "line 3 has 5 cells, but the header has 4; quote"),
        ("a,b,c,d,foil\nhot,cold,big,small/tiny,tiny\n", "line 2: The question hot:cold has big:tiny, a right answer"),
        ('a,b,c,d\nhot,"cold,big,small\n', "line 2: .* has a quote that is never closed"),
        (
            SCAN_HEADER + "atom,sun system,core,sun,,science\natom,sun system,, planet,,science\n",
            "line 3: column targ_",
        ),
        ("", "this file is empty; give JSON lines, or a CSV"),
        (" \n\n", "this file is empty"),
        (b"a,b,c,d\nh\xf6t,cold,big,small\n", "not UTF-8"),
    ],
)
def test_bad_tables_name_file_and_line(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, content, "table.csv")
    assert str(caught.value).startswith(f"{tmp_path / 'table.csv'}: ") and "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(InputError, match="gone.jsonl: there is no such file"):
        load_questions(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match="this is a folder"):
        load_questions(str(tmp_path))


# SCAN


def scan(tmp_path, *rows):
    return load(tmp_path, SCAN_HEADER + "".join(f"{row}\n" for row in rows))


def test_every_two_rows_of_one_domain_pair_make_a_question_each_way(tmp_path):
    questions = scan(
        tmp_path, "orchestra,kitchen,conductor,chef,,metaphor", "orchestra,kitchen,score ,recipe,,metaphor",
        'orchestra,kitchen,violin,knife,"pan, spoon",metaphor', "memory,attic,box,thought,,science",
    )  # fmt: skip
    shown = [(*q.source, *q.completion) for q in questions]
    assert sorted(shown) == [
        ("chef", "knife", "conductor", ("violin",)),
        ("chef", "recipe", "conductor", ("score",)),
        ("knife", "chef", "violin", ("conductor",)),
        ("knife", "recipe", "violin", ("score",)),
        ("recipe", "chef", "score", ("conductor",)),
        ("recipe", "knife", "score", ("violin",)),
    ]
    assert {(q.relation, q.family, q.label, q.pairs) for q in questions} == {(None, None, "metaphor", ())}


def test_domains_and_kinds_are_not_mixed(tmp_path):
    rows = ["a,b,t1,s1,,science", "b,a,t2,s2,,science", "a,b,t3,s3,,metaphor"]
    assert scan(tmp_path, *rows) == []
    assert len(scan(tmp_path, *rows, "a,b,t4,s4,,metaphor")) == 2


def test_questions_whose_words_coincide_are_dropped(tmp_path):
    assert scan(tmp_path, "a,b,gravity,Gravity,,science", "a,b,t2,s2,,science") == []
    assert scan(tmp_path, "a,b,t1,s1,,science", "a,b,s1,s2,,science") == []
    assert scan(tmp_path, "a,b,t1,s1,,science", "a,b,t2,s1,,science") == []


def test_rows_of_one_source_word_are_answers_of_one_question(tmp_path):
    questions = scan(tmp_path, "a,b,t1,s1,,science", "a,b,t2,s2,,science", "a,b,t3,s2,,science")
    assert [(*q.source, *q.completion) for q in questions] == [
        ("s1", "s2", "t1", ("t2", "t3")), ("s2", "s1", "t2", ("t1",)), ("s2", "s1", "t3", ("t1",)),
    ]  # fmt: skip


# The bundled set


def bundled_items():
    folder = resources.files("fv_lens.datasets") / "bundled" / "analogies"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".jsonl")), key=lambda file: file.name)
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_bundled_set_is_read_whole():
    items, questions = bundled_items(), load_questions()
    assert len(questions) == len(items)
    for item, question in zip(items, questions):
        assert question.source == tuple(item["source"])
        assert question.completion == (item["target"], tuple(item["answers"]))
        assert question.choices == (item["answers"][0], *(foil["word"] for foil in item["foils"]))
        assert (question.right, question.relation, question.family) == (0, item["relation"], item["family"])
        assert question.label == item["distance"]


@pytest.mark.slow
def test_the_bundled_set_can_be_split_without_a_shared_pair():
    questions = load_questions()
    parts = split_questions(questions)
    for part, share in zip(parts, (0.4, 0.2, 0.4)):
        assert abs(len(part) - share * len(questions)) <= 0.03 * len(questions)


@pytest.mark.slow
def test_families_of_bundled_relations_agree_with_the_questions():
    stated = {(question.relation, question.family) for question in load_questions()}
    bundled = {name: load_relation(name).family for name in relation_names()}
    assert [(name, family) for name, family in stated if bundled.get(name, family) != family] == []
