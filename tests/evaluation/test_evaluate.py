"""Word completion against full forwards of single prompts."""

import numpy as np
import pytest
import torch

from fv_lens.datasets.prompts import PromptTemplate
from fv_lens.datasets.relations import Relation
from fv_lens.evaluation.controls import Controls
from fv_lens.evaluation.evaluate import Case, evaluate, evaluate_cases
from fv_lens.ground import scores
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.summed import function_vector

from .. import oracles
from ..oracles import EXACT, Change
from .completed import by_hand, noise, vector

pytestmark = pytest.mark.usefixtures("some_end")


@pytest.fixture(scope="module")
def several():
    """Words with one to three right answers of one or two tokens; w7 is right for every other word."""
    pairs = [
        (f"w{i}", [f"w{i + 100}", "w7"] if i % 2 else [f"w{i + 100} w{i}", "w9", "w11 w7"][: 1 + i % 3])
        for i in range(20, 50)
    ]
    return Relation("several", pairs)


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


# The same numbers as full forwards


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("n_shots", [0, 3])
def test_a_vector_completes_as_in_full_forwards(llama, several, n_shots):
    values = 3 * noise(32)
    found = evaluate(llama, several, vector(1.5 * values), n_shots, controls=False, seed=2)
    assert same(found, by_hand(llama, several, [Change(1, 1.5 * values)], n_shots, seed=2))


def test_in_shuffled_demonstrations_a_vector_completes_as_in_full_forwards(llama, several):
    values = 3 * noise(32)
    found = evaluate(llama, several, vector(values), 3, controls=False, seed=2, shuffled=True)
    assert same(found, by_hand(llama, several, [Change(1, values)], 3, seed=2, shuffled=True))
    assert found.name == "3-shot, shuffled + vector"


@pytest.mark.slow
def test_prompts_with_shuffled_answers_are_their_own_control_once(llama, several):
    found = evaluate(llama, several, vector(3 * noise(32)), 3, shuffled=True)
    assert [name for name in found.rows if "shot" in name] == [
        "3-shot, shuffled + vector", "3-shot, shuffled", "zero-shot", "3-shot"
    ]  # fmt: skip
    for shots in (0, 1):
        with pytest.raises(InputError, match="two demonstrations or more"):
            evaluate(llama, several, vector(noise(32)), shots, shuffled=True)


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


# What is refused


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


# Several vectors in one pass


def test_cases_together_are_what_they_are_alone(llama, several, summed):
    cases = [
        Case(summed, Controls(mean_z=4 * noise(3, 4, 8))),
        Case(vector(3 * noise(32)), beside={"other": summed}),
        Case(None, controls=False),
    ]
    asked = [
        dict(fv=summed, controls=Controls(mean_z=4 * noise(3, 4, 8))),
        dict(fv=vector(3 * noise(32)), beside={"other": summed}),
        dict(fv=None, controls=False),
    ]
    together = evaluate_cases(llama, several, cases, n_shots=1, seed=3)
    for found, each in zip(together, asked, strict=True):
        alone = evaluate(llama, several, n_shots=1, seed=3, **each)
        assert found.name == alone.name and list(found.controls) == list(alone.controls)
        assert found.words["right"].tolist() == alone.words["right"].tolist()
        frames = found.to_frame(), alone.to_frame()
        np.testing.assert_allclose(*(frame.to_numpy(float) for frame in frames), rtol=0, atol=1e-4)
