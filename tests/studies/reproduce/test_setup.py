"""A study: relations are cut to size, parts never meet, and what cannot be studied is left out with a reason."""

from dataclasses import replace

import pytest
import torch

from fv_lens.datasets.relations import Relation
from fv_lens.engine.batches import batch
from fv_lens.ground.errors import InputError
from fv_lens.studies.reproduce import setup
from fv_lens.studies.reproduce.setup import TEST, TRAIN, VALIDATION
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.tuning_pairs import shuffled

from ..small import demonstrated, made, relations, study_of

# Parts


@pytest.mark.slow
def test_parts_are_disjoint_of_the_sizes_asked_for_and_within_the_relations_own_split(model):
    study = study_of(model, split_seed=2)
    for relation, whole in zip(study.relations, relations()):
        parts = relation.split()
        assert [len(part) for part in parts] == [8, 5, 6] and len(relation) == len(set(relation.words)) == 19
        assert all(set(few.pairs) < set(all_.pairs) for few, all_ in zip(parts, whole.split(2)))
        assert (relation.name, relation.names, relation.family) == (whole.name, whole.names, whole.family)
    assert [r.split() for r in study.relations] != [r.split() for r in study_of(model).relations]


def test_smaller_parts_are_taken_as_they_are(model):
    with pytest.warns(UserWarning, match="'a' is tuned with 12 train and 5 validation pairs, not 20 and 10; 50 pairs"):
        study = study_of(model, [made("a", n=28)], n_pairs=20, n_validation=10, n_test=25)
    assert [len(part) for part in study.relations[0].split()] == [12, 5, 11]


@pytest.mark.slow
def test_deals_of_train_and_validation_pairs_never_hold_a_test_word(model):
    for relation in (study := study_of(model)).relations:
        train, validation, test = relation.split()
        assert study.pairs(relation) == (train, validation)
        deals = [study.pairs(relation, seed) for seed in range(1, 9)]
        for some, others in deals:
            assert (len(some), len(others)) == (8, 5)
            assert {*some.pairs, *others.pairs} == {*train.pairs, *validation.pairs}
            assert not {*some.words, *others.words} & set(test.words)
        assert len({some.words for some, _ in deals}) == 8 and deals == [study.pairs(relation, s) for s in range(1, 9)]


@pytest.mark.slow
@pytest.mark.parametrize("part", [TRAIN, VALIDATION, TEST])
def test_zero_shot_prompts_are_those_of_one_part_of_every_relation(model, part):
    prompts, owners = (study := study_of(model)).zero_shot(part)
    words = [(r, word) for r, relation in enumerate(study.relations) for word in relation.split()[part].words]
    assert list(zip(owners.tolist(), prompts.words)) == words
    assert list(prompts.texts) == [f"Q: {word}\nA:" for _, word in words]


@pytest.mark.slow
@pytest.mark.parametrize(("n_shots", "validation"), [(3, False), (8, False), (13, True), (99, True)])
def test_few_shot_prompts_ask_test_words_and_show_none(model, n_shots, validation):
    asked, study = [], study_of(model, n_together=4)
    for prompts, owners in study.few_shot(n_shots, validation=validation):
        (owner,) = set(owners.tolist())
        train, more, test = study.relations[owner].split()
        allowed = {(w, listed[0]) for w, listed in train.pairs + more.pairs * validation}
        shown = demonstrated(prompts.texts[0])
        assert len(shown) == len(set(shown)) == min(n_shots, len(allowed)) and set(shown) <= allowed
        for text, word in zip(prompts.texts, prompts.words):
            assert demonstrated(text) == shown and text.endswith(f"Q: {word}\nA:") and word in test.words
        asked.append(prompts)
    assert [word for prompts in asked for word in prompts.words] == list(study.zero_shot(TEST)[0].words)
    assert [len(prompts) for prompts in asked] == [4, 2] * 5
    assert len({tuple(demonstrated(prompts.texts[0])) for prompts in asked}) == 10, "each few words have their own"


@pytest.mark.slow
def test_shuffled_demonstrations_show_no_right_answer(model):
    study = study_of(model)
    for prompts, owners in study.few_shot(8, shuffled=True):
        train = study.relations[owners[0]].split().train
        for text in prompts.texts:
            shown = demonstrated(text)
            assert {word for word, _ in shown} == set(train.words)
            assert not any(answer in train.answers[word] for word, answer in shown)


# Shuffled pairs


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("seed", range(3))
def test_shuffled_pairs_have_no_right_answer_and_the_same_answers(seed):
    for relation in relations():
        for part in relation.split(seed)[:2]:
            exchanged = shuffled(part, relation, seed)
            assert exchanged.words == part.words
            assert not any(listed[0] in relation.answers[word] for word, listed in exchanged.pairs)
            firsts = sorted(listed[0] for _, listed in part.pairs)
            assert sorted(answer for _, listed in exchanged.pairs for answer in listed) == firsts


def test_one_answer_for_all_cannot_be_exchanged():
    same = Relation("same", [(f"w{i}", "w99") for i in range(8)])
    with pytest.raises(InputError, match="The answers of 'same' cannot be exchanged so that each is wrong"):
        shuffled(same, same)


# Vectors


@pytest.mark.slow
def test_each_relations_vector_is_added_to_its_own_prompts_and_nan_is_no_vector(model):
    study, vectors = study_of(model), torch.arange(5.0)[:, None].expand(5, 32).clone()
    vectors[2] = torch.nan
    edit = study.edit(vectors, VALIDATION, 1)
    assert edit.layer == 1 and edit.value[:, 0].tolist() == [x for x in (0.0, 1.0, 0.0, 3.0, 4.0) for _ in range(5)]
    assert study.edit(vectors, VALIDATION, 1, site="hook_attn_out").site == "hook_attn_out"


@pytest.mark.slow
def test_vectors_know_the_relation_they_are_of_before_it_was_cut(model):
    study = study_of(model, split_seed=2)
    fv = FunctionVector.on(study.lens, torch.zeros(32), 1, study.relations[1], method="tuned")
    assert (fv.relation, fv.data_hash, fv.split_seed) == ("b", relations()[1].hash, 2)
    fv.check_split(relations()[1].with_split(2))
    with pytest.raises(InputError, match="made from split 2 of 'b'"):
        fv.check_split(relations()[1])


# Rivals


@pytest.mark.slow
@pytest.mark.parametrize("draws", [1, 2, 5])
def test_rivals_are_of_other_families(model, draws):
    drawn = (study := study_of(model)).rivals(draws)
    assert drawn.shape == (draws, 5) and (drawn == study.rivals(draws)).all()
    for of_draw in drawn:
        assert all(study.families[q] != family for q, family in zip(of_draw, study.families))
    if draws == 2:
        assert all(len(set(column)) == 2 for column in drawn.T), "each relation has more strangers than that"


@pytest.mark.slow
def test_relations_without_a_family_are_strangers_and_one_family_has_its_siblings(model):
    alone = [replace(relation, family=None) for relation in relations()]
    assert study_of(model, alone).families == list("abcde")
    kin = study_of(model, [replace(relation, family="f") for relation in relations()])
    assert all(q != r for of_draw in kin.rivals(3) for r, q in enumerate(of_draw))
    assert kin.others(1) == [0, 2, 3, 4] and study_of(model).others(0) == [1, 3, 4]


@pytest.mark.slow
def test_one_relation_has_no_others_and_is_no_rival_of_itself(model):
    study = study_of(model, relations()[:1])
    assert study.others(0) == []
    with pytest.raises(InputError, match="The study has one relation, 'a'; give two or more"):
        study.rivals(2)


# What is left out


def unfit() -> dict[str, tuple[Relation, str]]:
    same = [(f"w{i}", "w99") for i in range(40)]
    long = [(f"w{i}", [f"w{i + 100}", " ".join(["w7"] * 130)]) for i in range(40)]
    short = [(f"w{i}", [f"w{i + 100}", "x" * 999, " ".join(["w7"] * 50)]) for i in range(40)]  # one token has most text
    return {
        "small": (made("small", n=15), "relation 'small' has 15 pairs, too few to tune on: give 18 or more"),
        "four": (made("four", n=4), "relation 'four' has 4 pairs, too few to tune on: give 18 or more"),
        "same": (Relation("same", same), "'w99' serves 8 of 8 words"),
        "long": (Relation("long", long), "more than the model's context of 128"),
        "many tokens": (Relation("many tokens", short), "its longest answer 50, more than the model's context of 128"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", unfit())
def test_what_cannot_be_studied_is_left_out_with_the_reason_and_the_others_are_unharmed(model, name):
    relation, reason = unfit()[name]
    study = study_of(model, [*relations()[:2], relation, *relations()[2:]])
    assert list(study.left_out) == [name] and reason in study.left_out[name]
    alone = study_of(model)
    assert study.names == list("abcde") and [r.split() for r in study.relations] == [r.split() for r in alone.relations]
    assert (study.rivals(2) == alone.rivals(2)).all() and alone.left_out == {}


@pytest.mark.slow
def test_prompts_are_tried_as_they_are_asked(model, monkeypatch):
    tried, texts = [], {}
    monkeypatch.setattr(setup, "batch", lambda lens, prompts, template: (
        tried.append([template.prompt(one.word, one.demonstrations) for one in prompts]), batch(lens, prompts, template)
    )[1])  # fmt: skip
    study = study_of(model, relations()[:1], n_together=4)
    tried_first = {text for texts in tried for text in texts}
    for row, how in study.settings.prompting.items():
        texts[row] = [text for prompts, _ in study.few_shot(**how) for text in prompts.texts]
        assert set(texts[row]) <= tried_first, row
    assert list(texts) == ["3-shot", "3-shot, shuffled", "8-shot", "13-shot"]
    assert len({text for some in texts.values() for text in some}) == 4 * 6


@pytest.mark.slow
def test_a_shuffle_that_fails_for_some_words_asked_together_is_found_at_the_start(model):
    # Half of the train words have one answer; the others would give away an answer of either of two test words.
    train, _, test = study_of(model, relations()[:1]).relations[0].split()
    same, others = train.words[:4], train.words[4:]
    more = {test.words[0]: others[:2], test.words[1]: others[2:]}
    pairs = [
        (word, ["w99"] if word in same else [*listed, *more.get(word, ())]) for word, listed in relations()[0].pairs
    ]
    half = Relation("half", pairs)
    study = study_of(model, [half, relations()[1]], n_together=1)
    assert study.names == ["half", "b"], "each word by itself has other demonstrations"
    study = study_of(model, [half, relations()[1]], n_together=2)
    assert study.names == ["b"] and "no permutation made every answer wrong" in study.left_out["half"]


@pytest.mark.slow
def test_more_shots_than_the_context_holds_are_told_at_once(model):
    with pytest.raises(InputError, match="context of 128; give shorter words or fewer shots"):
        study_of(model, [made("a", n=80)], n_pairs=20, n_validation=10)


@pytest.mark.slow
def test_at_least_one_relation_is_studied_and_each_once(model):
    with pytest.raises(InputError, match=r"are \[\]; give at least one.* 'small' has 15 pairs.* 'four' has 4 pairs"):
        study_of(model, [unfit()["small"][0], unfit()["four"][0]])
    with pytest.raises(InputError, match=r"are \[\]; give at least one"):
        study_of(model, [])
    with pytest.raises(InputError, match=r"are \['a', 'a'\]; give at least one, each name once"):
        study_of(model, [made("a"), made("a", 1)])
    with pytest.raises(InputError, match=r"are \['a', 'a'\]; give at least one, each name once"):
        study_of(model, [made("a"), made("a", n=4)])
    with pytest.raises(InputError, match="no bundled relation 'antonim'; did you mean .*antonym"):
        study_of(model, ["antonim"])
