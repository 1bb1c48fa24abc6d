"""Indirect effects against one full forward for each head and prompt, and what keeps them honest."""

import copy
import dataclasses
import re

import numpy as np
import pytest
import torch
from torch import nn

from fv_lens.datasets.prompts import PromptTemplate, few_shot
from fv_lens.datasets.relations import Relation
from fv_lens.engine.batches import batch
from fv_lens.ground import storage
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors import mediation
from fv_lens.vectors.effects import HeadEffects, mean_effects
from fv_lens.vectors.mediation import indirect_effects, mean_head_outputs

from .. import oracles, tiny
from ..oracles import EXACT, difference

HOW = dict(n_shots=2, seed=1)


def measure(model, relation, **how) -> HeadEffects:
    return indirect_effects(model, relation, **dict(HOW, n_prompts=3, n_mean_prompts=5) | how)


def made_up(values, relation="made up", model="a model") -> HeadEffects:
    """Effects with these values, `[prompt, layer, head]`."""
    values = torch.as_tensor(values, dtype=torch.float32)
    z = torch.full((*values.shape[1:], 2), float(values.mean()))
    record = {
        "relation": relation, "model": model, "data_hash": "0" * 64, "processing": "raw", "bos": True,
        "template": PromptTemplate().to_dict(), "n_shots": 3, "n_mean_prompts": 5, "only_correct": False, "seed": 0,
        "split_seed": 0, "versions": storage.versions(),
    }  # fmt: skip
    return HeadEffects(values, 10 * values, torch.full(values.shape[:1], 0.5), z, 0.5, None, record)


@pytest.fixture(scope="module")
def effects(model, words):
    return measure(model, words)


@pytest.fixture(scope="module")
def of_llama(llama, words):
    return measure(llama, words, n_prompts=8)


def intact_prompts(lens, relation, n_prompts=5):
    return batch(lens, few_shot(relation.split(0).train, n_prompts, HOW["n_shots"], HOW["seed"]))


# The same numbers as full forwards


@tiny.FAMILIES
def test_effects_equal_one_full_forward_for_each_head(model, effects):
    prompts, answers = oracles.unpadded(effects.batch), effects.batch.answer_ids.tolist()
    values, log_prob_values = oracles.head_effects(model, prompts, answers, effects.mean_z)
    assert difference(effects.values, values) <= EXACT / 10
    assert difference(effects.log_prob_values, log_prob_values) <= EXACT
    assert effects.log_prob_values.abs().max() > 0.01


def test_base_is_the_answers_probability_in_the_corrupted_prompt(model, effects):
    expected = [
        oracles.log_probs(model, prompt)[answer].exp()
        for prompt, answer in zip(oracles.unpadded(effects.batch), effects.batch.answer_ids)
    ]
    assert difference(effects.base, torch.stack(expected)) <= EXACT


def test_mean_z_is_the_mean_over_intact_prompts(model, words, effects):
    prompts = intact_prompts(lens_of(model), words)
    assert difference(effects.mean_z, oracles.mean_z(model, oracles.unpadded(prompts))) <= EXACT


def test_the_writes_of_all_heads_and_the_bias_are_the_output_of_attention(model):
    if model.cfg.model_name == "tiny/gemma2":
        pytest.skip("Gemma-2 puts a norm behind W_O, so its attention gives out something else by design")
    lens, (prompt,) = lens_of(model), oracles.random_prompts(9)
    _, cache = model.run_with_cache(torch.tensor([prompt]))
    for layer in range(lens.n_layers):
        bias = model.blocks[layer].attn.b_O
        z, out = cache[f"blocks.{layer}.attn.hook_z"], cache[f"blocks.{layer}.hook_attn_out"]
        written = lens.writes(layer, z[0]) + (0 if bias is None else bias)
        assert difference(written, out[0]) <= EXACT


# Which prompts are averaged


@pytest.fixture(scope="module")
def many_right():
    """A relation with so many right answers that even a random model gives one now and then."""
    return Relation("any", [(f"w{i}", [f"w{j}" for j in range(100 - i, 200 - i)]) for i in range(30)])


def right_answers(model, prompts):
    """For each prompt, whether its most probable next token begins a right answer."""
    best = [int(oracles.log_probs(model, prompt).argmax()) for prompt in oracles.unpadded(prompts)]
    return [token in {ids[0] for ids in listed} for token, listed in zip(best, prompts.answers)]


@pytest.mark.slow
def test_share_right_counts_any_listed_answer(llama, many_right):
    prompts = intact_prompts(lens_of(llama), many_right, 12)
    _, share = mean_head_outputs(llama, many_right, 12, **HOW)
    right = right_answers(llama, prompts)
    assert 0 < sum(right) < 12 and share == sum(right) / 12


@pytest.mark.slow
def test_only_correct_averages_the_prompts_answered_right(llama, many_right):
    prompts = intact_prompts(lens_of(llama), many_right, 12)
    mean_z, _ = mean_head_outputs(llama, many_right, 12, only_correct=True, **HOW)
    right = [ids for ids, is_right in zip(oracles.unpadded(prompts), right_answers(llama, prompts)) if is_right]
    assert difference(mean_z, oracles.mean_z(llama, right)) <= EXACT


@pytest.mark.slow
def test_only_correct_without_any_right_answer_raises(llama, words):
    with pytest.raises(InputError, match="only_correct=False"):
        mean_head_outputs(llama, words, 3, only_correct=True, **HOW)


def test_only_words_of_the_train_part_are_used(llama, words, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        mediation, "batch", lambda lens, prompts, *more: drawn.append(prompts) or batch(lens, prompts, *more)
    )
    measure(llama, words, n_prompts=30, n_mean_prompts=30)
    corrupted, intact = drawn
    train = words.split(0).train.answers
    assert {shots.word for shots in (*corrupted, *intact)} == set(train)
    shown = [pair for shots in intact for pair in shots.demonstrations]
    assert all(answer in train[word] for word, answer in shown)
    wrong = [pair for shots in corrupted for pair in shots.demonstrations]
    assert all(word in train and answer not in train[word] for word, answer in wrong)


def test_the_batch_holds_the_corrupted_prompts(of_llama, words):
    text = of_llama.batch.texts[0]
    *shown, query = re.findall(r"Q: (\w+)\nA:", text)
    assert query == of_llama.batch.words[0] and len(shown) == HOW["n_shots"]
    answers = re.findall(r"A: (\w+)", text)
    assert all(answer not in words.answers[word] for word, answer in zip(shown, answers))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(llama, words):
    first, again, other = (measure(llama, words, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.values, again.values) and torch.equal(first.mean_z, again.mean_z)
    assert not torch.equal(first.values, other.values) and first.batch.words != other.batch.words


def test_the_record_says_how_they_were_measured(llama, words):
    template = PromptTemplate("{word} :", prefix="w9 ")
    record = measure(llama, words.with_split(2), template=template).record
    expected = dict(relation="successor", data_hash=words.hash, model="tiny/llama", processing="raw", bos=True)
    expected |= dict(template=template.to_dict(), split_seed=2, n_shots=2, n_mean_prompts=5, seed=1, only_correct=False)
    assert record.items() >= expected.items() and {"torch", "transformer-lens"} <= record["versions"].keys()


@pytest.mark.slow
def test_without_a_bos_token_prompts_begin_with_their_first_word(words):
    model = tiny.build("llama", bos=False)
    model.tokenizer = copy.deepcopy(model.tokenizer)  # the tests share it
    # TransformerLens lets the end-of-sequence token stand in for a BOS token that the tokenizer does not have.
    assert measure(model, words).record["bos"] is True
    model.tokenizer.bos_token = None
    effects = measure(model, words, n_prompts=2)
    prompts, answers = oracles.unpadded(effects.batch), effects.batch.answer_ids.tolist()
    assert effects.record["bos"] is False
    assert {ids[0] for ids in prompts} == {model.tokenizer.convert_tokens_to_ids("Q")}
    _, expected = oracles.head_effects(model, prompts, answers, effects.mean_z)
    assert difference(effects.log_prob_values, expected) <= EXACT


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("bos", [True, False])
def test_the_bos_rule_of_the_model_is_kept_and_recorded(llama, words, monkeypatch, bos):
    monkeypatch.setattr(llama.cfg, "default_prepend_bos", bos)
    effects = measure(llama, words)
    first = {ids[0] for ids in oracles.unpadded(effects.batch)}
    assert effects.record["bos"] is bos and (first == {llama.tokenizer.bos_token_id}) is bos


# Reading them


def test_the_mean_lies_in_its_interval(of_llama):
    (low, high), (narrow_low, narrow_high) = of_llama.confidence_interval(), of_llama.confidence_interval(0.5)
    assert low.shape == high.shape == of_llama.mean.shape == (3, 4)
    assert (low <= narrow_low).all() and (narrow_high <= high).all() and (low < high).all()
    assert (low <= of_llama.mean).all() and (of_llama.mean <= high).all()


def test_one_prompt_has_no_interval():
    low, high = made_up([[[1.0, 2.0]]]).confidence_interval()
    assert (low == -torch.inf).all() and (high == torch.inf).all()


def test_top_heads_are_the_writers_and_with_sign_minus_one_the_cancellers():
    effects = made_up([[[0.1, -0.3], [0.5, 0.0]], [[0.3, -0.1], [0.5, 0.0]]])
    assert effects.top(3) == [(1, 0), (0, 0), (1, 1)]
    assert effects.top(2, sign=-1) == [(0, 1), (1, 1)]


def test_all_heads_from_the_top_are_all_cancellers_from_the_bottom(effects):
    assert effects.top(12) == effects.top(12, sign=-1)[::-1] and len(set(effects.top(12))) == 12


@pytest.mark.parametrize("k, sign", [(0, 1), (13, 1), (-1, 1), (True, 1), (1, 0), (1, 2)])
def test_top_of_what_there_is_not_raises(of_llama, k, sign):
    with pytest.raises(InputError):
        of_llama.top(k, sign)


def test_the_table_has_a_line_for_each_head(of_llama):
    frame, (low, _) = of_llama.to_frame(), of_llama.confidence_interval()
    assert list(zip(frame.layer, frame["head"])) == [(layer, head) for layer in range(3) for head in range(4)]
    line = frame.iloc[6]
    assert line.effect == of_llama.mean[1, 2].item() and line.low == low[1, 2].item()
    assert line.log_prob_effect == of_llama.log_prob_values.mean(0)[1, 2].item()


def test_effects_of_several_relations_are_averaged_relation_by_relation():
    a, b = made_up([[[1.0, 0.0]], [[3.0, 0.0]]], "a"), made_up([[[4.0, 1.0]]], "b")
    both = mean_effects([a, b])
    assert both.values.tolist() == [[[2.0, 0.0]], [[4.0, 1.0]]] and both.mean.tolist() == [[3.0, 0.5]]
    assert both.log_prob_values.tolist() == [[[20.0, 0.0]], [[40.0, 10.0]]]
    assert torch.equal(both.mean_z, (a.mean_z + b.mean_z) / 2) and both.share_right == 0.5
    assert both.batch is None and both.record["relations"] == ["a", "b"]


def test_effects_of_no_or_of_different_models_are_not_averaged():
    with pytest.raises(InputError, match="No effects"):
        mean_effects([])
    with pytest.raises(InputError, match="different models"):
        mean_effects([made_up([[[1.0]]]), made_up([[[1.0]]], model="another")])


# On disk


def test_saved_effects_come_back_bit_for_bit(effects, tmp_path):
    effects.save(tmp_path / "effects.safetensors")
    loaded = HeadEffects.load(tmp_path / "effects.safetensors")
    for name in ("values", "log_prob_values", "base", "mean_z"):
        assert torch.equal(getattr(loaded, name), getattr(effects, name)), name
    for name in ("tokens", "mask", "answer_ids"):
        assert torch.equal(getattr(loaded.batch, name), getattr(effects.batch, name)), name
    for name in ("answers", "texts", "words"):
        assert getattr(loaded.batch, name) == getattr(effects.batch, name), name
    assert loaded.record == effects.record and loaded.share_right == effects.share_right


def test_a_saved_mean_over_relations_comes_back(tmp_path):
    both = mean_effects([made_up(np.ones((2, 1, 2)), "a"), made_up(np.zeros((2, 1, 2)), "b")])
    both.save(tmp_path / "both.safetensors")
    loaded = HeadEffects.load(tmp_path / "both.safetensors")
    assert loaded.batch is None and loaded.record == both.record and torch.equal(loaded.values, both.values)


# What is refused


@pytest.mark.parametrize(
    "how",
    [
        dict(n_prompts=0),
        dict(n_prompts=-1),
        dict(n_prompts=True),
        dict(n_mean_prompts=0),
        dict(n_shots=1),
        dict(n_shots=16),
        dict(seed=-1),
        dict(template=PromptTemplate(prefix="w1 " * 130)),
    ],
    ids=str,
)
def test_numbers_that_cannot_be_are_refused(llama, words, how):
    with pytest.raises(InputError):
        measure(llama, words, **how)


def test_a_relation_of_too_few_pairs_is_refused(llama):
    with pytest.raises(InputError, match="5 pairs"):
        measure(llama, Relation("short", [(f"w{i}", "w9") for i in range(4)]))


@pytest.mark.parametrize("model", [None, "gpt2", nn.Linear(2, 2)], ids=["None", "name", "module"])
def test_what_is_no_model_is_refused(model, words):
    with pytest.raises(InputError, match="HookedTransformer or TransformerBridge"):
        measure(model, words)


@pytest.mark.slow
def test_effects_of_other_rules_are_refused(llama, words):
    found = indirect_effects(llama, words, 2, 3, 3)
    for name, other in (("model", "another"), ("bos", not found.record["bos"]), ("processing", "centered")):
        changed = dataclasses.replace(found, record=found.record | {name: other})
        with pytest.raises(InputError, match=name):
            changed.check(lens_of(llama))
        with pytest.raises(InputError, match=f"different {name}s"):
            mean_effects([found, changed])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("measure", ["values", "log_prob_values"])
def test_an_effect_that_is_no_number_is_refused_by_name(measure, value):
    parts = {name: torch.zeros(2, 3, 4) for name in ("values", "log_prob_values")}
    parts[measure][1, 2, 3] = value
    with pytest.raises(
        InputError, match=r"head \(2, 3\) in prompt 1 is (nan|inf), not a finite number; load the model in"
    ):
        HeadEffects(**parts, base=torch.zeros(2), mean_z=torch.zeros(3, 4, 8), share_right=1.0, batch=None)
