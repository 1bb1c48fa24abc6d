from dataclasses import replace

import torch

from fv_lens.analogies.unseen import unseen
from fv_lens.datasets.questions import Question
from fv_lens.datasets.relation_files import load_relation
from fv_lens.datasets.relations import Relation
from fv_lens.vectors.function_vector import FunctionVector


def asked(a, b, c, *answers, relation=None):
    return Question((a, b), target=c, answers=answers, relation=relation)


def tuned(relation, train, validation=(), **record):
    training = {"train_words": list(train), "validation_words": list(validation)}
    return FunctionVector(torch.zeros(3), layer=0, relation=relation, training=training, **record)


def test_words_of_the_own_relation_leave_out():
    # A relation that is not bundled: first words alone are known.
    vectors = [tuned("size", ["hot", "old"], ["Tall"]), tuned("other", ["wet"])]
    kept = [
        asked("new", "x", "wet", "dry", relation="size"),
        asked("hot", "cold", "big", "small", relation="other"),
        asked("new", "hot", "big", "tall", relation="size"),  # seen words, but as second ones
        asked("hot", "cold", "big", "small", relation="third"),
    ]
    out = [
        asked("hot", "new", "big", "small", relation="size"),
        asked("big", "small", "old", "x", relation="size"),
        asked("tall", "x", "big", "small", relation="size"),  # validation, in other letters
        asked("wet", "x", "big", "small"),  # relation not known: words of any vector
        Question(("big", "small"), (("old", "x"), ("new", "y")), 0),
    ]
    assert unseen([*kept, *out], vectors) == (kept, out)
    # A pair whose C is only a wrong choice is not asked.
    question = Question(("big", "small"), (("old", "x"), ("new", "y")), 1)
    assert unseen([question], vectors) == ([question], [])


def test_pairs_leave_out_under_any_relation_where_the_answers_are_known():
    antonym = load_relation("antonym")
    (word, (answer, *_)), (other, (right, *_)) = antonym.pairs[0], antonym.pairs[4]
    questions = [
        asked("x", "y", word, answer, relation="l10-antonyms"),
        asked(answer, word, "x", "y", relation="l10-antonyms"),
        asked(word, "y", "x", answer, relation="l10-antonyms"),
        asked("x", "y", other, right, relation="l10-antonyms"),
    ]
    kept, out = unseen(questions, [tuned("antonym", [word])])
    assert (kept, out) == (questions[2:], questions[:2])


def test_recorded_answers_leave_out_their_pairs_under_any_relation():
    fv = tuned("size", ["two"], ["ten"])
    fv = replace(fv, training=fv.training | {"word_answers": [["three", "III"], ["eleven"]]})
    out = [asked("x", "y", word, answer, relation="after") for word, answer in (("two", "III"), ("ELEVEN", "ten"))]
    kept = [asked("x", "y", "two", "eleven", relation="after")]
    assert unseen([*kept, *out], [fv]) == (kept, out)


def test_answers_of_other_relations_can_be_given():
    questions = [asked("x", "y", "two", "three", relation="after"), asked("x", "y", "five", "six", relation="after")]
    vectors = [tuned("successor", ["two"])]
    relation = Relation("successor", [("two", "three"), ("five", "six")])
    assert unseen(questions, vectors) == (questions, [])
    assert unseen(questions, vectors, [relation]) == (questions[1:], questions[:1])


def test_a_combined_vector_has_seen_what_its_parents_have():
    mixed = 0.5 * tuned("size", ["hot"]) + 0.5 * tuned("other", ["wet"])
    questions = [asked("hot", "cold", "x", "y", relation="size"), asked("dry", "wet", "x", "y", relation="other")]
    assert unseen(questions, [mixed]) == (questions[1:], questions[:1])


def test_a_vector_of_no_known_relation_leaves_out_under_every_relation():
    question = asked("hot", "cold", "x", "y", relation="size")
    assert unseen([question], [tuned(None, ["x"])]) == ([], [question])


def test_untuned_vectors_leave_out_nothing():
    questions = [asked("hot", "cold", "big", "small", relation="antonym"), asked("up", "down", "left", "right")]
    assert unseen(questions, [FunctionVector(torch.zeros(3), layer=0, relation="antonym")]) == (questions, [])
