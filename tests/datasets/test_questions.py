from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fv_lens.datasets.question_split import seen, split_questions
from fv_lens.datasets.questions import Question
from fv_lens.ground.errors import InputError

HOT = ("hot", "cold")
WORDS = Question(
    HOT, (("big", "huge"), ("big", "small"), ("big", "bigger")), 1, "big", ("small", "little"),
    "antonym", "opposite", ("associate", "right", "other"), "near",
)  # fmt: skip
PAIRS = Question(HOT, (("up", "down"), ("cup", "tea"), ("sky", "blue"), ("bee", "hive")), 0)


def asked(a, b, c, *answers, relation=None):
    return Question((a, b), target=c, answers=answers, relation=relation)


# What a question is


def test_a_question_of_words():
    assert WORDS.completion == ("big", ("small", "little"))
    assert WORDS.choices == ("huge", "small", "bigger")
    assert WORDS.choices[WORDS.right] == "small"
    assert WORDS.chance == 1 / 3


def test_a_question_of_pairs_is_completed_by_its_right_pair():
    assert (PAIRS.target, PAIRS.completion, PAIRS.chance) == (None, ("up", ("down",)), 0.25)
    assert PAIRS.choices == PAIRS.pairs


def test_a_question_without_choices():
    question = asked(*HOT, "big", "small")
    assert (question.completion, question.choices, question.chance) == (("big", ("small",)), (), None)
    assert question.right is None
    assert question.shuffled(3) == question


def test_lists_become_tuples_and_a_shared_target_is_found():
    question = Question(["hot", "cold"], [["big", "huge"], ["big", "small"]], 1)
    assert question == Question(HOT, (("big", "huge"), ("big", "small")), 1, "big", ("small",))
    assert len({question, question}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(source="hot"), "The source of a question is 'hot'; give two words"),
        (dict(source=("hot",)), r"is \('hot',\); give two words"),
        (dict(source=("hot", "cold", "warm")), "give two words"),
        (dict(source=("hot", "")), "The source of a question has the word ''; give a string"),
        (dict(source=("hot", None)), "has the word None; give a string"),
        (
            dict(source=("hot", "cold ")),
            "'cold '; give a string of valid Unicode, not empty, without whitespace at",
        ),
        (dict(source=("hot", "\ud800")), "has the word"),
        (
            dict(pairs=(("big", "small"),), right=0),
            r"question hot:cold has one choice, \('big', 'small'\); give at least",
        ),
        (
            dict(pairs=(("big", "small"), ("cup",)), right=0),
            r"A choice of the question hot:cold is \('cup',\); give two",
        ),
        (dict(pairs=(("big", "small"), ("cup", " ")), right=0), "A choice of the question hot:cold has the word ' '"),
        (dict(pairs=(("a", "b"), ("c", "d")), right=2), "right = 2; with 2 choices give 0 to 1"),
        (dict(pairs=(("a", "b"), ("c", "d")), right=-1), "right is -1; give a whole number"),
        (dict(pairs=(("a", "b"), ("c", "d")), right=True), "right is True; give a whole number"),
        (dict(pairs=(("a", "b"), ("c", "d"))), "2 choices and right = None; give both or neither"),
        (dict(right=0, target="big", answers=("small",)), "0 choices and right = 0; give both or neither"),
        (dict(target="big"), "has target 'big' and no answer or choices; give C and its answers"),
        (dict(answers=("small",)), "has target None and no answer or choices"),
        (dict(target="big", answers=("small", "")), "question hot:cold has the word ''"),
        (dict(target="", answers=("small",)), "question hot:cold has the word ''"),
        (dict(target="big", answers="small"), "not lists; give a list of each"),
        (dict(pairs=(("a", "b"), ("c", "d")), right=0, target="a"), r"target 'a' and choices for \['a', 'c'\]"),
        (dict(pairs=(("a", "b"), ("a", "d")), right=0, answers=("x",)), "right choice a:b and the answers"),
        (dict(pairs=(("a", "b"), ("c", "d"), ("a", "b")), right=0), "has a:b, a right answer, among its wrong choices"),
        (
            dict(pairs=(("a", "b"), ("a", "d")), right=0, answers=("b", "d")),
            "has a:d, a right answer, among its wrong choices; remove it",
        ),
        (
            dict(pairs=(("a", "b"), ("c", "d")), right=0, kinds=("right",)),
            "1 kinds and 2 choices; give one kind per choice",
        ),
        (dict(pairs=(("a", "b"), ("c", "d")), right=0, kinds=("right", 1)), "has kinds \('right', 1\); give text"),
        (dict(target="big", answers=("small",), relation=""), "has the relation ''"),
        (dict(target="big", answers=("small",), family=" x"), "has the family ' x'"),
    ],
)
def test_bad_questions_say_what_is_wrong(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        Question(**{"source": HOT} | arguments)
    assert "\n" not in str(caught.value)


# Choices in another order, turned round, as pairs


@pytest.mark.parametrize("question", [WORDS, PAIRS], ids=["words", "pairs"])
def test_shuffling_moves_right_and_kinds_with_their_choices(question):
    orders = set()
    for seed in range(30):
        shuffled = question.shuffled(seed)
        assert shuffled == question.shuffled(seed)
        assert shuffled.pairs[shuffled.right] == question.pairs[question.right]
        assert sorted(zip(shuffled.pairs, shuffled.kinds)) == sorted(zip(question.pairs, question.kinds))
        assert sorted(shuffled.pairs) == sorted(question.pairs)
        assert (shuffled.completion, shuffled.label) == (question.completion, question.label)
        orders.add(shuffled.pairs)
    assert len(orders) > 4


def test_shuffling_does_not_depend_on_the_order_that_was_given():
    # Where the right answer stood in the file must not be readable from where it stands afterwards.
    given_orders = [
        Question(HOT, order, order.index(("up", "down"))).shuffled(5) for order in permutations(PAIRS.pairs)
    ]
    assert len(set(given_orders)) == 1


@pytest.mark.slow
def test_shuffling_spreads_right_answers_over_all_places():
    # Choices whose right one always comes first, as in the bundled set.
    questions = [Question((f"a{i}", "b"), tuple((f"c{i}", f"d{j}") for j in range(4)), 0) for i in range(400)]
    n = Counter(question.shuffled(0).right for question in questions)
    assert set(n) == {0, 1, 2, 3} and all(70 <= count <= 130 for count in n.values())
    assert Counter(question.shuffled(1).right for question in questions) != n


def test_questions_with_the_same_choices_have_orders_of_their_own():
    questions = [Question((f"a{i}", "b"), PAIRS.pairs, 0) for i in range(10)]
    assert len({question.shuffled(0).pairs for question in questions}) > 2


def test_choices_listed_twice_can_be_shuffled():
    question = Question(HOT, (("cup", "tea"), ("up", "down"), ("cup", "tea")), 1)
    assert Counter(question.shuffled(0).pairs) == Counter(question.pairs)


def test_reversed_asks_back():
    back = PAIRS.reversed()
    assert back.source == ("cold", "hot")
    assert back.pairs == (("down", "up"), ("tea", "cup"), ("blue", "sky"), ("hive", "bee"))
    assert (back.right, back.completion) == (0, ("down", ("up",)))
    assert back.reversed() == PAIRS


def test_reversed_words_become_pairs_with_the_usual_answer_as_target():
    back = WORDS.reversed()
    assert back.pairs == (("huge", "big"), ("small", "big"), ("bigger", "big"))
    assert (back.target, back.completion, back.kinds) == (None, ("small", ("big",)), WORDS.kinds)
    assert asked(*HOT, "big", "small", "little").reversed() == asked("cold", "hot", "small", "big")


def test_as_pairs_adds_the_reversed_pair():
    question = Question(
        ("finger", "hand"), (("toe", "foot"), ("toe", "shoe")), 0, answers=("foot", "feet"), relation="part-whole",
        kinds=("right", "associate"),
    ).as_pairs()  # fmt: skip
    assert question.choices == (("toe", "foot"), ("toe", "shoe"), ("foot", "toe"))
    assert (question.right, question.kinds) == (0, ("right", "associate", "reversed"))
    assert (question.completion, question.chance) == (("toe", ("foot", "feet")), 1 / 3)
    assert question.as_pairs() == question
    assert PAIRS.as_pairs().kinds == ("right", "", "", "", "reversed")


def test_as_pairs_leaves_out_a_reversed_pair_that_is_right_too():
    # small:big is as good an antonym as big:small.
    assert WORDS.as_pairs() == WORDS
    assert Question(HOT, WORDS.pairs, 1, relation="hypernym").as_pairs().pairs[-1] == ("small", "big")


def test_as_pairs_needs_choices():
    with pytest.raises(InputError, match="The question hot:cold has no choices; use a question that has some"):
        asked(*HOT, "big", "small").as_pairs()


# Parts


def loose(n, relation=None):
    """Questions that share no pair."""
    name = relation or "none"
    return [asked(f"{name}a{i}", f"{name}b{i}", f"{name}c{i}", f"{name}d{i}", relation=relation) for i in range(n)]


@pytest.mark.parametrize("relation", [None, "antonym"])
@pytest.mark.parametrize(("n", "sizes"), [(5, (2, 1, 2)), (10, (4, 2, 4)), (400, (160, 80, 160))])
def test_split_sizes(relation, n, sizes):
    assert tuple(map(len, split_questions(loose(n, relation)))) == sizes


def test_split_is_within_relations():
    # The second relation is as even as the first, and parts of one question each add up to 2 : 1 : 2.
    many = [question for i in range(8) for question in loose(12, f"r{i}")]
    parts = split_questions(many)
    for i in range(8):
        n = [sum(question.relation == f"r{i}" for question in part) for part in parts]
        assert all(abs(found - wanted) <= 2 for found, wanted in zip(n, (4.8, 2.4, 4.8)))
    single = split_questions([question for i in range(50) for question in loose(1, f"r{i}")])
    assert all(abs(len(part) - n) <= 1 for part, n in zip(single, (20, 10, 20)))


def test_a_relation_that_cannot_be_parted_does_not_spoil_the_next():
    chain = [asked("a0", "b0", f"c{i}", f"d{i}", relation="first") for i in range(20)]
    parts = split_questions([*chain, *loose(10, "second")])
    n = [sum(question.relation == "second" for question in part) for part in parts]
    assert all(abs(found - wanted) <= 1 for found, wanted in zip(n, (4, 2, 4)))


words_of_few = st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h"])
questions_of_few = st.builds(
    lambda four, extra, relation: asked(*four, *([extra] if extra != four[3] else []), relation=relation),
    st.lists(words_of_few, min_size=4, max_size=4), words_of_few, st.sampled_from([None, "r", "s"]),
)  # fmt: skip


@pytest.mark.slow
@given(st.lists(questions_of_few, max_size=12), st.integers(0, 5), st.randoms())
@settings(deadline=None)
def test_no_pair_is_in_two_parts_and_the_order_changes_nothing(questions, seed, random):
    parts = split_questions(questions, seed)
    assert Counter(q for part in parts for q in part) == Counter(questions)

    def pairs(part):
        return {frozenset(pair) for q in part for pair in [q.source, *((q.completion[0], d) for d in q.completion[1])]}

    found = [pairs(part) for part in parts]
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
    order = list(questions)
    random.shuffle(order)
    assert [Counter(part) for part in split_questions(order, seed)] == [Counter(part) for part in parts]


def test_a_chain_of_shared_pairs_stays_together():
    # Each shares a pair with the next alone: as source, turned round, as another answer, in other letters.
    chain = [
        asked("a", "b", "c", "d"), asked("d", "c", "e", "f"), asked("g", "h", "f", "x", "e"),
        asked("H", "G", "i", "j"), asked("I", "J", "k", "l", relation="r"),
    ]  # fmt: skip
    for seed in range(10):
        parts = split_questions([*loose(20), *chain], seed)
        assert [len(set(part) & set(chain)) for part in parts].count(0) == 2


def test_seeds_give_different_parts_and_keep_the_order_given():
    questions = loose(30)
    assert len({tuple(split_questions(questions, seed).test) for seed in range(8)}) == 8
    for part in split_questions(questions, 3):
        assert part == [question for question in questions if question in part]


def test_a_bad_seed():
    with pytest.raises(InputError, match="seed is -1"):
        split_questions(loose(3), -1)


# What vectors have seen


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (("hot", "cold"), True),
        (("cold", "hot"), True),
        (("big", "small"), True),
        (("little", "Big"), True),
        (("big", "huge"), False),  # a wrong choice
        (("hot", "small"), False),
        (("big", "cold"), False),
    ],
)
def test_seen_looks_at_both_pairs_in_both_directions(pair, expected):
    assert seen(WORDS, [("x", "y"), pair]) is expected
