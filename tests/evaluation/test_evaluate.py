"""Word completion against full forwards of single prompts, and the controls that stand beside it."""

import re

import numpy as np
import pytest
import torch

from fv_lens.datasets.prompts import PromptTemplate, with_demonstrations
from fv_lens.datasets.relations import Relation
from fv_lens.engine.batches import batch
from fv_lens.evaluation import controls as controls_module
from fv_lens.evaluation import evaluate as module
from fv_lens.evaluation.controls import RANDOM, RANDOM_HEADS, RANDOM_VECTOR, SAME_NORM, Controls, vector_controls
from fv_lens.evaluation.evaluate import evaluate
from fv_lens.ground import scores
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.summed import distributed_vectors, function_vector

from .. import oracles
from ..oracles import EXACT, Change

HEADS = [(0, 1), (1, 2)]
PROMPT_CONTROLS = {"10-shot", "10-shot, shuffled"}
ENDINGS = oracles.some_endings()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vector(values: torch.Tensor, layer: int = 1, **record) -> FunctionVector:
    return FunctionVector(values, layer, **dict(model="tiny/llama", bos=True) | record)


@pytest.fixture(scope="module")
def several():
    """Words with one to three right answers of one or two tokens; w7 is right for every other word."""
    pairs = [
        (f"w{i}", [f"w{i + 100}", "w7"] if i % 2 else [f"w{i + 100} w{i}", "w9", "w11 w7"][: 1 + i % 3])
        for i in range(20, 50)
    ]
    return Relation("several", pairs)


@pytest.fixture(scope="module")
def summed(llama, words):
    return function_vector(llama, words, HEADS, 1, 4 * noise(3, 4, 8))


@pytest.fixture(autouse=True)
def some_end(llama, monkeypatch):
    """Half of the tokens end an answer: the tiny model completes none before one of its two special tokens."""
    monkeypatch.setattr(lens_of(llama).state, "endings", ENDINGS)


def by_hand(model, relation, edits=(), n_shots=0, template=None, seed=0, ends=ENDINGS):
    """(right, log-probability, rank, ...) for each test word, `[word, 4]`."""
    split, measured, ends = relation.split(0), [], ends.nonzero()[:, 0].tolist()
    for shots in with_demonstrations(split.test, split.train, n_shots, seed):
        text = (template or PromptTemplate()).prompt(shots.word, shots.demonstrations)
        prompt, answers = oracles.in_words(model, text, shots.answers)
        measured.append(oracles.completion(model, prompt, answers, ends, edits))
    return np.array(measured, dtype=float)


def same(evaluated, expected) -> bool:
    right, log_probs, ranks, _ = expected.T
    return (
        evaluated.words["right"].tolist() == (right == 1).tolist()
        and evaluated.words["rank"].tolist() == ranks.tolist()
        and np.abs(evaluated.words["log_prob"] - log_probs).max() <= EXACT
        and evaluated.accuracy == scores.proportion(right)
        and evaluated.first_token_accuracy == scores.proportion(ranks == 0)
        and evaluated.top_k == scores.proportion(ranks < 5)
        and evaluated.log_prob.value == pytest.approx(log_probs.mean(), abs=EXACT)
    )


@pytest.fixture
def seen(monkeypatch):
    """What is asked of the engine: (prompts, what-ifs) of each call."""
    calls, completions = [], module.completions

    def spy(lens, prompts, whatifs, *more):
        calls.append((prompts, whatifs))
        return completions(lens, prompts, whatifs, *more)

    monkeypatch.setattr(module, "completions", spy)
    return calls


def drawn_controls(model, relation, vectors):
    return vector_controls(lens_of(model), relation, vectors, Controls(mean_z=noise(3, 4, 8)), 0, PromptTemplate())


# The same numbers as full forwards


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("n_shots", [0, 3])
def test_a_vector_completes_as_in_full_forwards(llama, several, n_shots):
    values = 3 * noise(32)
    found = evaluate(llama, several, vector(1.5 * values), n_shots, controls=False, seed=2)
    assert same(found, by_hand(llama, several, [Change(1, 1.5 * values)], n_shots, seed=2))


@pytest.mark.slow
def test_a_plain_prompt_completes_as_in_full_forwards(llama, several):
    template = PromptTemplate("{word} :", prefix="w3 w4 ")
    found = evaluate(llama, several, controls=False, template=template)
    assert same(found, by_hand(llama, several, template=template)) and found.name == "zero-shot"


@pytest.mark.slow
def test_any_listed_answer_is_right(llama, several, monkeypatch):
    """A vector that makes w7 the next token is right for the words that list it, first or not, if the answer ends."""
    values = 1000 * llama.unembed.W_U[:, 7].detach()
    listed = ["w7" in answers for _, answers in several.split(0).test.pairs]
    found = evaluate(llama, several, vector(values, 2), controls=False)
    assert 0 < sum(listed) < len(listed) and (found.words["rank"] == 0).tolist() == listed
    assert same(found, by_hand(llama, several, [Change(2, values)]))
    for ends in (True, False):
        endings = torch.full((256,), ends)
        monkeypatch.setattr(lens_of(llama).state, "endings", endings)
        found = evaluate(llama, several, vector(values, 2), controls=False)
        assert found.words["right"].tolist() == [ends and right for right in listed]
        assert found.first_token_accuracy == scores.proportion(np.array(listed))
        assert same(found, by_hand(llama, several, [Change(2, values)], ends=endings))


@pytest.mark.slow
def test_a_list_of_vectors_is_added_together(llama, several):
    a, b, c = 2 * noise(3, 32)
    found = evaluate(llama, several, [vector(a), vector(b), vector(c, 0)], controls=False)
    assert same(found, by_hand(llama, several, [Change(1, a + b), Change(0, c)]))


@pytest.mark.slow
def test_a_strength_multiplies_the_vector(llama, several):
    fv = vector(noise(32))
    weak, strong, plain = (
        evaluate(llama, several, what, controls=False) for what in (fv.strengthened(2.0), 2.0 * fv, None)
    )
    assert weak.words.equals(strong.words) and not weak.words.equals(plain.words)
    nothing = evaluate(llama, several, fv.strengthened(0.0), controls=False)
    assert nothing.words["log_prob"].to_numpy() == pytest.approx(plain.words["log_prob"].to_numpy(), abs=EXACT)


# Controls


def test_a_vector_has_its_controls_beside_it(llama, words, summed):
    found = evaluate(llama, words, summed)
    assert set(found.controls) == {"zero-shot"} | PROMPT_CONTROLS | set(RANDOM)
    assert found.name == "zero-shot + vector" and list(found.to_frame().index) == [found.name, *found.controls]
    assert all(name in str(found) for name in found.controls)
    assert all(str(score) in str(found) for score in (found.accuracy, found.first_token_accuracy, found.log_prob))


@pytest.mark.slow
def test_a_vector_in_few_shot_prompts_has_those_and_zero_shot_beside_it(llama, words, summed):
    found = evaluate(llama, words, summed, 3)
    assert set(found.controls) == {"zero-shot", "3-shot", "3-shot, shuffled"} | set(RANDOM)


@pytest.mark.slow
def test_a_plain_prompt_has_the_other_prompts_beside_it(llama, words):
    assert set(evaluate(llama, words).controls) == PROMPT_CONTROLS
    assert set(evaluate(llama, words, n_shots=3).controls) == {"zero-shot", "3-shot, shuffled"}


def test_a_vector_beside_cannot_take_the_name_of_another_row(llama, words, summed):
    settings = dict(controls=Controls(mean_z=noise(3, 4, 8)))
    for name in ("zero-shot + vector", "zero-shot", "random vector", "10-shot"):
        with pytest.raises(InputError, match=re.escape(repr(name))):
            evaluate(llama, words, summed, beside={"mine": summed, name: vector(noise(32))}, **settings)
    rows = evaluate(llama, words, summed, controls=False, beside={"random vector": vector(noise(32))}).rows
    assert list(rows) == ["zero-shot + vector", "random vector"], "where there are no controls, their names are free"


@pytest.mark.slow
def test_a_vector_without_heads_has_no_random_heads(llama, words):
    found = evaluate(llama, words, vector(noise(32)))
    assert {"zero-shot", RANDOM_VECTOR} | PROMPT_CONTROLS <= set(found.controls)
    assert not {RANDOM_HEADS, SAME_NORM} & set(found.controls)


@pytest.mark.slow
def test_controls_are_measured_as_any_prompt(llama, words, summed):
    found = evaluate(llama, words, summed)
    for name, n_shots in (("zero-shot", 0), ("10-shot", 10)):
        expected, control = by_hand(llama, words, n_shots=n_shots), found.controls[name]
        assert control.log_prob.value == pytest.approx(expected[:, 1].mean(), abs=EXACT)
        assert control.accuracy == scores.proportion(expected[:, 0])
        assert control.first_token_accuracy == scores.proportion(expected[:, 2] == 0)


@pytest.mark.slow
def test_a_gain_is_the_paired_difference_to_the_control(llama, words, summed):
    found, plain = evaluate(llama, words, summed), evaluate(llama, words, controls=False)
    expected = scores.paired_difference(found.words["log_prob"].to_numpy(), plain.words["log_prob"].to_numpy())
    gain = found.controls["zero-shot"].log_prob_gain
    assert (gain.value, gain.low, gain.high) == pytest.approx((expected.value, expected.low, expected.high), abs=EXACT)
    for control in found.controls.values():
        assert control.log_prob_gain.value == pytest.approx(found.log_prob.value - control.log_prob.value, abs=EXACT)
        assert control.accuracy_gain.value == pytest.approx(found.accuracy.value - control.accuracy.value)


@pytest.mark.slow
def test_random_vectors_have_the_norm_of_the_vector(llama, words, summed):
    drawn = drawn_controls(llama, words, [summed.strengthened(2), vector(6 * noise(32), 2)])[RANDOM_VECTOR]
    norms = [2 * summed.vector.norm().item(), 6 * noise(32).norm().item()]
    assert len(drawn) == Controls.draws and len({float(edits[0].value[0]) for edits in drawn}) == Controls.draws
    for edits in drawn:
        assert [edit.layer for edit in edits] == [1, 2]
        assert [edit.value.norm().item() for edit in edits] == pytest.approx(norms, rel=1e-5)


@pytest.mark.slow
def test_random_heads_are_none_of_the_vectors_and_as_many(llama, words):
    """With half of the heads in the vector, the other half is all that can be drawn."""
    z, heads = noise(3, 4, 8), [(layer, head) for layer in range(3) for head in range(4)]
    taken, free = (function_vector(llama, words, half, 1, z) for half in (heads[::2], heads[1::2]))
    drawn = drawn_controls(llama, words, [taken.strengthened(3)])
    assert len(drawn[RANDOM_HEADS]) == len(drawn[SAME_NORM]) == Controls.draws
    for (edit,) in drawn[RANDOM_HEADS]:
        assert edit.value.numpy() == pytest.approx(3 * free.vector.numpy(), abs=EXACT)
    for (edit,) in drawn[SAME_NORM]:
        assert edit.value.norm().item() == pytest.approx(3 * taken.vector.norm().item(), rel=1e-5)


@pytest.mark.slow
def test_random_heads_of_a_distributed_vector_write_each_at_its_own_layer(llama, words):
    """With half of the heads in the list, the other half is all that can be drawn; with more, none can."""
    z, heads = noise(3, 4, 8), [(layer, head) for layer in range(3) for head in range(4)]
    taken, free = (distributed_vectors(llama, words, half, z) for half in (heads[::2], heads[1::2]))
    drawn = drawn_controls(llama, words, [part.strengthened(3) for part in taken])
    assert len(drawn[RANDOM_HEADS]) == Controls.draws and SAME_NORM not in drawn
    for edits in drawn[RANDOM_HEADS]:
        for edit, own in zip(edits, free, strict=True):
            assert (edit.layer, edit.hook) == (own.layer, own.site)
            assert edit.value.numpy() == pytest.approx(3 * own.vector.numpy(), abs=EXACT)
    for most in (heads[:7], heads):
        drawn = drawn_controls(llama, words, distributed_vectors(llama, words, most, z))
        assert RANDOM_VECTOR in drawn and RANDOM_HEADS not in drawn


@pytest.mark.slow
def test_given_mean_head_outputs_are_not_computed_again(llama, words, summed, monkeypatch):
    monkeypatch.setattr(controls_module, "mean_head_outputs", lambda *args, **kwargs: pytest.fail("computed again"))
    assert "random heads" in evaluate(llama, words, summed, controls=Controls(mean_z=noise(3, 4, 8))).controls


@pytest.mark.slow
def test_a_relation_too_small_for_ten_shots_has_its_controls_as_well(llama, summed):
    few = Relation("few", [(f"w{i}", f"w{i + 1}") for i in range(0, 20, 2)])
    assert {"3-shot", "random heads"} <= set(evaluate(llama, few, vector(noise(32), heads=tuple(HEADS))).controls)


@pytest.mark.slow
def test_only_test_words_are_asked_and_only_train_words_are_shown(llama, words, summed, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        module, "batch", lambda lens, prompts, *more: drawn.append(prompts) or batch(lens, prompts, *more)
    )
    evaluate(llama, words, summed, controls=Controls(mean_z=noise(3, 4, 8)))
    split = words.split(0)
    assert len(drawn) == 3 and all([shots.word for shots in prompts] == list(split.test.words) for prompts in drawn)
    shown = {word for prompts in drawn for shots in prompts for word, _ in shots.demonstrations}
    assert shown and shown <= set(split.train.words)


@pytest.mark.slow
def test_the_same_seed_draws_the_same_controls(llama, words, summed):
    first, again, other = (
        evaluate(llama, words, summed, seed=seed, controls=Controls(mean_z=noise(3, 4, 8))) for seed in (1, 1, 2)
    )
    assert first.controls == again.controls
    for name in ("random vector", "random heads", "10-shot"):
        assert first.controls[name] != other.controls[name], name


# What is refused


@pytest.mark.parametrize("draws", [0, 2.5])
def test_draws_that_are_not_a_number_of_them_are_refused(llama, words, summed, draws):
    with pytest.raises(InputError, match="draws"):
        evaluate(llama, words, summed, controls=Controls(draws))


def test_a_vector_of_another_split_is_refused(llama, words):
    other = vector(noise(32), relation="successor", split_seed=1)
    with pytest.raises(InputError, match=r"\.with_split\(1\)"):
        evaluate(llama, words, other)
    assert evaluate(llama, words.with_split(1), other, controls=False).accuracy.n == len(words.split(1).test)


def test_a_vector_that_does_not_fit_the_model_is_refused(llama, words):
    for unfit in (vector(noise(16)), vector(noise(32), 3), vector(noise(32), bos=False)):
        with pytest.raises(InputError):
            evaluate(llama, words, [vector(noise(32)), unfit])


@pytest.mark.parametrize("how", [dict(n_shots=-1), dict(n_shots=17)], ids=str)
def test_numbers_that_cannot_be_are_refused(llama, words, how):
    with pytest.raises(InputError):
        evaluate(llama, words, **how)


def test_a_relation_of_too_few_pairs_is_refused(llama):
    with pytest.raises(InputError, match="5 pairs"):
        evaluate(llama, Relation("short", [("w1", "w2")]))


@pytest.mark.slow
def test_evaluation_leaves_the_model_as_it_was(llama, words, summed):
    prompt = oracles.random_prompts(7)[0]
    before = oracles.log_probs(llama, prompt)
    evaluate(llama, words, summed)
    assert torch.equal(oracles.log_probs(llama, prompt), before) and not lens_of(llama).patches


def test_a_combination_remembers_the_splits_of_its_parents(llama, words):
    made = {"relation": words.name, "data_hash": words.hash}
    mixed = vector(noise(32), split_seed=0, **made) + vector(noise(32), split_seed=1, **made)
    with pytest.raises(InputError, match="split 1 of 'successor'"):
        evaluate(llama, words, mixed, controls=False)


def test_a_vector_of_other_pairs_under_the_same_name_is_refused(llama, words):
    with pytest.raises(InputError, match="other pairs of 'successor'"):
        evaluate(llama, words, vector(noise(32), relation=words.name, split_seed=0, data_hash="0"), controls=False)


@pytest.mark.parametrize("fv", [[], torch.ones(32), "antonym"])
def test_what_is_no_vector_is_refused(llama, words, fv):
    with pytest.raises(InputError, match="give a FunctionVector"):
        evaluate(llama, words, fv, controls=False)


@pytest.mark.slow
def test_at_strength_zero_no_control_is_right_by_accident(llama, words):
    fv = function_vector(llama, words, [(0, 1)], 1, torch.randn(3, 4, 8))
    result = evaluate(llama, words, fv.strengthened(0), n_shots=2, controls=Controls(mean_z=torch.randn(3, 4, 8)))
    plain = result.controls["2-shot"].accuracy
    assert result.accuracy == plain == result.controls["random heads, same norm"].accuracy
