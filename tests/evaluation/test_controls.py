"""The controls beside a vector: which there are, what is drawn for them, and what a gain over them is."""

import re

import numpy as np
import pytest

from fv_lens.datasets.prompts import PromptTemplate
from fv_lens.datasets.relations import Relation
from fv_lens.engine.batches import batch
from fv_lens.evaluation import controls
from fv_lens.evaluation import evaluate as module
from fv_lens.evaluation.controls import RANDOM, RANDOM_HEADS, RANDOM_VECTOR, SAME_NORM, Controls, vector_controls
from fv_lens.evaluation.evaluate import evaluate
from fv_lens.ground import scores
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.summed import distributed_vectors, function_vector

from ..oracles import EXACT
from .completed import HEADS, PROMPT_CONTROLS, by_hand, noise, vector

pytestmark = pytest.mark.usefixtures("some_end")


def drawn_controls(model, relation, vectors):
    return vector_controls(lens_of(model), relation, vectors, Controls(mean_z=noise(3, 4, 8)), 0, PromptTemplate())


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


@pytest.mark.slow
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
    monkeypatch.setattr(controls, "mean_outputs", lambda *args, **kwargs: pytest.fail("computed again"))
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


@pytest.mark.parametrize("draws", [0, 2.5])
def test_draws_that_are_not_a_number_of_them_are_refused(llama, words, summed, draws):
    with pytest.raises(InputError, match="draws"):
        evaluate(llama, words, summed, controls=Controls(draws))


# Bad input


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1, "1"), (2.0, "2.0"), ("no", "'no'"), (np.True_, "np.True_"), (noise(3, 4, 8), "tensor.*\\.\\.\\..*")],
)
def test_controls_are_true_false_or_settings(llama, words, summed, value, shown):
    with pytest.raises(InputError, match=f"^controls is {shown}; give True, False or Controls") as error:
        evaluate(llama, words, summed, controls=value)
    assert len(str(error.value)) < 150


def test_settings_of_controls_that_cannot_be_are_named():
    with pytest.raises(InputError, match="draws is 0"):
        Controls(draws=0)
    with pytest.raises(InputError, match="^mean_z is ndarray; give a tensor, such as effects.mean_z"):
        Controls(mean_z=noise(3, 4, 8).numpy())
    assert Controls(mean_z=noise(3, 4, 8)) != Controls(mean_z=noise(3, 4, 8)), "compared as objects"


def test_vectors_beside_are_a_mapping(llama, words, summed):
    with pytest.raises(InputError, match="^beside is list; give a mapping from the name of a row"):
        evaluate(llama, words, summed, beside=[summed])
