from collections import Counter

import pytest

from fv_lens.datasets.bats import load_bats
from fv_lens.datasets.question_generator import generate
from fv_lens.datasets.relation_files import load_relation
from fv_lens.datasets.relations import Relation
from fv_lens.ground.errors import InputError

NAMES = ["antonym", "un-adjective", "country-capital", "present-past", "hypernym"]


def lowered(words):
    return [word.lower() for word in words]


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("seed", [0, 3])
def test_both_pairs_are_of_the_part_and_share_no_word(part, seed):
    questions = generate(NAMES, n_each=7, seed=seed, part=part)
    assert Counter(question.relation for question in questions) == dict.fromkeys(NAMES, 7)
    assert len(set(questions)) == len(questions)
    for question in questions:
        relation = load_relation(question.relation)
        known = getattr(relation.split(seed), part).answers
        (a, b), (c, answers) = question.source, question.completion
        assert (known[a][0], known[c]) == (b, answers)
        assert len({a, b, c, *answers}) == 3 + len(answers)
        assert (question.family, question.pairs, question.right) == (relation.family, (), None)


@pytest.mark.slow
def test_the_same_for_a_seed_and_others_for_another():
    assert generate(NAMES, seed=1) == generate(NAMES, seed=1)
    # The part of one seed is kept, so that only which pairs meet can differ.
    limited = [load_relation("antonym").limited(20, 10, 20)]
    assert set(generate(limited, seed=1)) != set(generate(limited, seed=2))


def test_relations_come_as_a_mapping_or_a_list_and_a_family_may_be_missing():
    relation = Relation("successor", [(f"a{i}", f"b{i}") for i in range(20)])
    assert generate({"any": relation}, n_each=3) == generate([relation], n_each=3)
    assert {question.family for question in generate([relation], n_each=3)} == {"successor"}


def test_every_question_there_is_can_be_asked_for(tmp_path):
    # 2 of 5 pairs are in the test part: two questions.
    relation = Relation("successor", [(f"a{i}", f"b{i}") for i in range(5)])
    first, second = generate([relation], n_each=2)
    assert (first.source[0], second.source[0]) == (second.target, first.target)
    with pytest.raises(InputError, match="test part of relation 'successor' gives 2 questions .* of 3 asked for"):
        generate([relation], n_each=3)


def test_bats_relations_make_questions(tmp_path):
    (tmp_path / "E06 [animal - young].txt").write_text("".join(f"animal{i}\tyoung{i}/pup{i}\n" for i in range(10)))
    questions = generate(load_bats(tmp_path), n_each=4)
    assert {(question.relation, question.family) for question in questions} == {("e06-animal-young", "young")}


@pytest.mark.slow
@pytest.mark.parametrize("n_choices", [2, 3, 4, 5])
def test_wrong_choices_are_wrong_and_of_three_kinds(n_choices):
    relations = {name: load_relation(name) for name in NAMES}
    questions = generate(relations, n_each=8, n_choices=n_choices)
    plain = generate(relations, n_each=8)
    assert [q.source + q.completion for q in questions] == [q.source + q.completion for q in plain]
    for question in questions:
        c, answers = question.completion
        assert len(set(lowered(question.choices))) == len(question.choices) == n_choices
        assert question.choices[question.right] == answers[0]
        kin = [relation for relation in relations.values() if relation.family == question.family]
        others = [relation for relation in relations.values() if relation.family != question.family]
        for i, (word, kind) in enumerate(zip(question.choices, question.kinds)):
            assert (i == question.right) == (kind == "right")
            if kind == "right":
                continue
            assert word not in question.source + (c,)
            assert not any(word in relation.answers.get(c, ()) for relation in kin)
            paired = [r for r in others if word in r.answers.get(c, ()) or c in r.answers.get(word, ())]
            assert kind != "associate" or paired
            assert kind != "other" or word in [d for ds in relations[question.relation].answers.values() for d in ds]
            assert kind != "unrelated" or any(word in ds for r in others for ds in r.answers.values())
    n = Counter(kind for question in questions for kind in question.kinds)
    assert n["right"] == len(questions)
    assert n["other"] == len(questions) * (n_choices // 2)


def test_associates_come_before_unrelated_words():
    relations = [
        Relation("one", [(f"c{i}", f"d{i}") for i in range(10)]),
        Relation("two", [(f"c{i}", f"e{i}") for i in range(10)]),
    ]
    for question in generate(relations, n_each=3, n_choices=4):
        assert sorted(question.kinds) == ["associate", "other", "other", "right"]
        letter = {"one": "e", "two": "d"}[question.relation]
        assert question.choices[question.kinds.index("associate")] == letter + question.target[1:]


def test_a_sister_relations_answer_is_no_wrong_choice():
    # big's antonym is small; the other list of the family gives tiny, which is right as well.
    relations = [
        Relation("one", [(f"c{i}", f"d{i}") for i in range(20)], family="opposite"),
        Relation("two", [(f"c{i}", [f"d{(i + 1) % 20}", f"e{i}"]) for i in range(20)], family="opposite"),
    ]
    for question in generate(relations, n_each=20, n_choices=4):
        wrong = {word for i, word in enumerate(question.choices) if i != question.right}
        right = {word for relation in relations for word in relation.answers[question.target]}
        assert question.kinds.count("other") == 3 and not wrong & right


@pytest.mark.slow
def test_right_answers_do_not_come_first_always():
    assert set(Counter(question.right for question in generate(NAMES, n_choices=4))) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(relations=[]), "There are no relations to make questions from; give at least one"),
        (dict(n_each=0), "n_each is 0"),
        (dict(seed=-1), "seed is -1"),
        (dict(part="exam"), "part is 'exam'; choose from train, validation, test"),
        (dict(n_choices=1), "n_choices is 1; give a whole number of at least 2"),
        (dict(relations=["antonim"]), "there is no bundled relation 'antonim'"),
        (
            dict(relations=[Relation("r", [(f"a{i}", f"b{i}") for i in range(5)])], n_each=1, n_choices=4),
            "leave 0 wrong choices for 'a[0-4]' of 'r', of 3 asked for",
        ),
    ],
)
def test_bad_requests_say_what_is_wrong(arguments, message):
    with pytest.raises(InputError, match=message):
        generate(**{"relations": NAMES} | arguments)
