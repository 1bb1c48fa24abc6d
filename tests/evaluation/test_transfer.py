"""A vector in other templates, against full forwards with hooks; the templates themselves."""

import numpy as np
import pytest
import torch

from fv_lens import InputError, PromptTemplate, relation_names, transfer
from fv_lens.datasets.instructions import sentences
from fv_lens.datasets.prompts import with_demonstrations
from fv_lens.datasets.templates import TEMPLATES, sentence_template
from fv_lens.models.lens import lens_of

from .. import tiny
from ..oracles import EXACT, Change
from .completed import ENDINGS, by_hand, noise, vector

SHOTS = 2
ARROW, OTHER = PromptTemplate("w1 {word} w2", separator=" w3 "), PromptTemplate("w4 {word} :")
CHAT = "{% for turn in messages %}<{{ turn.role }}> {{ turn.content }} </s>\n{% endfor %}"
CHAT += "{% if add_generation_prompt %}<assistant> {% endif %}"


def of(model, layer: int = 1, **record):
    """A vector of noise that belongs to the model."""
    lens = lens_of(model)
    return vector(3 * noise(32), layer, model=lens.name, bos=lens.bos, **record)


@torch.no_grad()
@pytest.mark.parametrize("name", tiny.params())
def test_every_template_is_that_of_full_forwards(name, words, monkeypatch):
    model = tiny.build(name)
    monkeypatch.setattr(lens_of(model).state, "endings", ENDINGS)
    fv, test = of(model, template=ARROW.to_dict()), words.split().test.words
    found = transfer(model, words, fv, {"other": OTHER, "usual": PromptTemplate()}, SHOTS)
    edit = [Change(1, fv.vector)]
    gained = []
    assert list(found.rows) == ["own", "other", "usual"] and found.gaps == {}
    for row, template in {"own": ARROW, "other": OTHER, "usual": PromptTemplate()}.items():
        assert found.templates[row] == template
        values = {
            "zero-shot": by_hand(model, words, template=template),
            "zero-shot + vector": by_hand(model, words, edit, template=template),
            "2-shot": by_hand(model, words, n_shots=SHOTS, template=template),
        }
        moved = values["zero-shot + vector"]
        assert list(found.rows[row]) == list(values)
        for prompt, (right, log_prob, rank, _) in ((prompt, x.T) for prompt, x in values.items()):
            own = found.words[(found.words.template == row) & (found.words.prompt == prompt)]
            assert tuple(own.word) == test and (own.right == right).all()
            assert np.abs(own.log_prob - log_prob).max() <= EXACT
            result = found.rows[row][prompt]
            assert result.accuracy.value == pytest.approx(right.mean())
            assert result.first_token_accuracy.value == pytest.approx((rank == 0).mean())
            if prompt == "zero-shot + vector":
                assert result.accuracy_gain is result.log_prob_gain is None
            else:
                assert result.accuracy_gain.value == pytest.approx((moved[:, 0] - right).mean())
                assert result.log_prob_gain.value == pytest.approx((moved[:, 1] - log_prob).mean(), abs=EXACT)
        gained.append((moved[:, 0] - values["zero-shot"][:, 0]).mean())
    assert found.elsewhere.value == pytest.approx(np.mean(gained[1:])), "the vector's own template does not count"


@pytest.mark.usefixtures("some_end")
def test_vectors_of_a_list_are_added_together(llama, words):
    parts = [of(llama, 0), of(llama, 2)]
    found = transfer(llama, words, parts, {"other": OTHER}, SHOTS)
    expected = by_hand(llama, words, [Change(v.layer, v.vector) for v in parts], template=OTHER)
    own = found.words[(found.words.template == "other") & (found.words.prompt == "zero-shot + vector")]
    assert np.abs(own.log_prob - expected[:, 1]).max() <= EXACT


def test_no_vector_gains_nothing_anywhere(llama, words):
    found = transfer(llama, words, vector(torch.zeros(32)), None, SHOTS)
    gains = [rows["zero-shot"].log_prob_gain.value for rows in found.rows.values()]
    assert gains == pytest.approx([0] * len(gains), abs=1e-9) and found.elsewhere.value == 0


@pytest.mark.parametrize("own", ["Q and A", "arrow"])
def test_a_vector_is_asked_in_five_short_templates_that_are_not_its_own(llama, words, own):
    found = transfer(llama, words, of(llama, template=TEMPLATES[own].to_dict()), None, SHOTS)
    assert found.templates["own"] == TEMPLATES[own]
    assert set(found.rows) == {"own", *TEMPLATES} - {own} and len(found.rows) == 6


def test_a_model_with_a_chat_form_is_asked_in_it_and_another_has_a_gap(words):
    model = tiny.chatting(CHAT)
    found = transfer(model, words, of(model), None, SHOTS)
    assert found.templates["chat"] == PromptTemplate.chat(model) and "chat" not in found.gaps
    plain = tiny.build("llama")
    found = transfer(plain, words, of(plain), None, SHOTS)
    assert "has no chat template" in found.gaps["chat"] and "chat" not in found.rows
    assert "left out: " in str(found) and "has no chat template" in found._repr_html_()


def test_a_vector_made_in_the_chat_form_is_asked_in_it_once(words):
    model = tiny.chatting(CHAT)
    found = transfer(model, words, of(model, template=PromptTemplate.chat(model).to_dict()), None, SHOTS)
    assert "chat" not in found.rows and "Q and A" in found.rows and "chat" not in found.gaps


def test_a_relation_without_a_sentence_has_a_gap_until_one_is_given(llama, words):
    found = transfer(llama, words, of(llama), None, SHOTS)
    assert "no sentence is known for 'successor'" in found.gaps["sentence"]
    found = transfer(llama, words, of(llama), {"other": OTHER}, SHOTS, sentence="w1 of {word} w2")
    assert list(found.rows) == ["own", "other", "sentence"] and not found.gaps
    assert found.templates["sentence"] == sentence_template("successor", "w1 of {word} w2")


def test_a_template_whose_words_the_tokenizer_joins_is_a_gap_and_not_the_end(llama, words):
    joins = PromptTemplate("{word}", "{answer}")
    found = transfer(llama, words, of(llama), {"joins": joins, "other": OTHER}, SHOTS)
    assert list(found.rows) == ["own", "other"] and "the tokenizer joins the two" in found.gaps["joins"]
    long = PromptTemplate("w1 " * 60 + "{word} :")
    found = transfer(llama, words, of(llama), {"long": long}, SHOTS)
    assert "more than the model's context of 128" in found.gaps["long"]
    assert found.elsewhere is None and "in its own template." in str(found)


def test_tables_hold_every_template(llama, words):
    found = transfer(llama, words, of(llama), None, SHOTS)
    frame = found.to_frame()
    assert list(frame.index) == [(name, prompt) for name, rows in found.rows.items() for prompt in rows]
    assert frame.loc[("arrow", "zero-shot"), "log_prob_gain"] == found.rows["arrow"]["zero-shot"].log_prob_gain.value
    for shown in (str(found), found._repr_html_()):
        assert all(f"{name}, zero-shot + vector" in shown for name in found.rows) and found.verdict[:40] in shown
    assert "16 test words" in str(found) and "5 other templates, 2 gaps" in repr(found)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(templates={}), "templates is {}"),
        (dict(templates=[OTHER]), "templates is "),
        (dict(templates={"other": "{word} ->"}), "the template 'other' is '{word} ->'"),
        (dict(templates={"own": OTHER}), "templates names one 'own'"),
        (dict(templates={"sentence": OTHER}, sentence="w1 {word}"), "templates names one 'sentence'"),
        (dict(sentence="w1"), "takes {word}"),
        (dict(n_shots=0), "n_shots is 0"),
        (dict(n_shots=30), "has 16 pairs"),
        (dict(fv=[]), "fv is an empty list"),
    ],
)
def test_what_cannot_be_measured_is_named(llama, words, wrong, message):
    with pytest.raises(InputError, match=message):
        transfer(llama, words, **dict(fv=of(llama), n_shots=SHOTS) | wrong)


def test_vectors_that_may_have_seen_the_words_are_refused(llama, words):
    seen = of(llama, relation=words.name, data_hash=words.hash, split_seed=7)
    with pytest.raises(InputError, match="split 7"):
        transfer(llama, words, seen, None, SHOTS)
    with pytest.raises(InputError, match="was made on 'other'"):
        transfer(llama, words, vector(noise(32), model="other"), None, SHOTS)


# The templates


def test_short_templates_are_unlike_each_other_and_answers_begin_with_a_space():
    assert len(set(TEMPLATES.values())) == len(TEMPLATES) == 6 and PromptTemplate() in TEMPLATES.values()
    for template in TEMPLATES.values():
        assert template.prompt("big")[-1] != " " and template.answer == " {answer}"


def test_every_bundled_relation_has_a_sentence_that_waits_for_its_answer():
    assert set(sentences()) == set(relation_names())
    assert len(set(sentences().values())) == len(sentences())
    for name in relation_names():
        text = sentence_template(name).prompt("x", [("y", "z")])
        shown, _, asked = text.partition("\n")
        assert shown == f"{sentences()[name].replace('{word}', 'y')} z."
        assert asked[0].isupper() and " x " in f"{asked} ".replace(",", "") and asked.rstrip(" .,") == asked


@pytest.mark.default_model
@pytest.mark.parametrize("name", ["antonym", "country-capital"])
def test_the_bundled_model_completes_sentences_better_than_chance(default_model, name):
    from fv_lens import load_relation
    from fv_lens.engine.batches import batch
    from fv_lens.engine.completion import completions

    split = load_relation(name).split()
    prompts = with_demonstrations(split.test.with_pairs(split.test.pairs[:20]), split.train, 0)
    found = completions(lens_of(default_model), batch(lens_of(default_model), prompts, sentence_template(name)), [])
    assert found.right.mean() > 0.15, "whole answers, with the full stop that ends the sentence"
