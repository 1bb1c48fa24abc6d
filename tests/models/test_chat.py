"""A model's chat form as a template, against what its tokenizer writes."""

import pytest

from fv_lens import InputError, PromptTemplate, Relation
from fv_lens.datasets.prompts import FewShot
from fv_lens.engine.batches import batch
from fv_lens.models.lens import lens_of

from .. import tiny

TURNS = "{% for turn in messages %}<{{ turn.role }}> {{ turn.content }} </s>\n{% endfor %}"
ASKS = "{% if add_generation_prompt %}<assistant> {% endif %}"
PLAIN = TURNS + ASKS
FORMS = {
    "plain": PLAIN,
    "system": "<system> be {kind} </s>\n" + PLAIN,
    "with BOS": "{{ bos_token }}" + PLAIN,
    "instructions": "{{ bos_token }}{% for turn in messages %}{% if turn.role == 'user' %}"
    "[INST] {{ turn.content }} [/INST] {% else %}{{ turn.content }} </s>{% endif %}{% endfor %}",
}  # fmt: skip
DEMONSTRATIONS = [("w1", "w2"), ("w3", "{w4}")]


def conversation(model, words: list[str]) -> str:
    turns = [{"role": ("user", "assistant")[i % 2], "content": word} for i, word in enumerate(words)]
    return model.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("bos", [True, False], ids=["BOS", "no BOS"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_prompts_are_what_the_tokenizer_writes(form, bos):
    if not bos and "bos_token" in form:
        pytest.skip("the form writes a token that there is not")
    model = tiny.chatting(form, bos)
    template = PromptTemplate.chat(model)
    expected = conversation(model, ["w1", "w2", "w3", "{w4}", "w5"])
    found = template.prompt("w5", DEMONSTRATIONS)
    assert found == (expected.removeprefix("<s>") if bos else expected)
    asked = PromptTemplate.chat(model, "What of {word}?").prompt("w5")
    assert asked.removeprefix("<s>") == conversation(model, ["What of w5?"]).removeprefix("<s>")


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_there_is_one_bos_and_answers_are_found_in_the_ids(form):
    model = tiny.chatting(form)
    template, bos = PromptTemplate.chat(model), model.tokenizer.bos_token_id
    prompts = batch(lens_of(model), [FewShot("w5", ("w6 w7",), DEMONSTRATIONS)], template)
    ids = prompts.tokens[0].tolist()
    assert ids.count(bos) == 1 and ids[0] == bos
    assert prompts.answers == ((tuple(model.tokenizer.convert_tokens_to_ids(["w6", "w7"])),),)


def test_a_chat_template_goes_through_a_vectors_record(tmp_path):
    from fv_lens import FunctionVector, finetune

    model = tiny.chatting(FORMS["system"])
    template = PromptTemplate.chat(model)
    assert PromptTemplate.from_dict(template.to_dict()) == template
    words = Relation("next", [(f"w{i}", f"w{i + 1}") for i in range(0, 80, 2)])
    from fv_lens import Tuning

    with pytest.warns(UserWarning, match="train and"):
        tuned = finetune(model, words, "zero", layer=1, how=Tuning(2, template=template))
    tuned.save(tmp_path / "v.safetensors")
    assert PromptTemplate.from_dict(FunctionVector.load(tmp_path / "v.safetensors").template) == template


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('only tools') }}", "only tools"),
        (TURNS + "{% if add_generation_prompt %}<assistant> think {% endif %}", "one after the other"),
        ("{{ messages[-1].content }}", "one after the other"),
        ("{{ messages[0].content }} " + PLAIN, "one after the other"),
    ],
)
def test_what_is_not_a_plain_conversation_is_refused(form, message):
    with pytest.raises(InputError, match=message):
        PromptTemplate.chat(tiny.chatting(form))


def test_a_question_without_its_word_is_refused():
    with pytest.raises(InputError, match="takes {word}"):
        PromptTemplate.chat(tiny.chatting(PLAIN), "What?")
