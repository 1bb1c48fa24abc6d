"""What prompts lose without heads, against full forwards with hooks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fv_lens import InputError, Relation, ablation, indirect_effects, mean_effects
from fv_lens.datasets.prompts import PromptTemplate, corrupted, with_demonstrations
from fv_lens.datasets.relations import Split
from fv_lens.engine.batches import batch
from fv_lens.models.lens import lens_of

from .. import oracles, tiny
from ..oracles import EXACT, Change, difference
from .completed import ENDINGS

K, SHOTS, PROMPTS, DRAWS = 3, 2, 6, 2
SIZES = dict(draws=DRAWS, n_prompts=PROMPTS)


def corrupted_z(model, relation) -> torch.Tensor:
    """Mean head outputs over corrupted prompts of train words, one unpadded prompt at a time."""
    prompts = batch(lens_of(model), corrupted(relation.split().train, PROMPTS, SHOTS, 0))
    return oracles.mean_z(model, oracles.unpadded(prompts))


def completed(model, relation, heads=(), z=None) -> np.ndarray:
    """(right, log-probability, rank, ...) of each test word, `[word, 4]`; without `z` heads keep the word."""
    split, measured = relation.split(), []
    intact, shuffled = (with_demonstrations(split.test, split.train, SHOTS, 0, wrong) for wrong in (False, True))
    for shots, wrong in zip(intact, shuffled):
        text, other = (PromptTemplate().prompt(x.word, x.demonstrations) for x in (shots, wrong))
        prompt, answers = oracles.in_words(model, text, shots.answers)
        own = oracles.head_outputs(model, oracles.in_words(model, other, shots.answers)[0]) if z is None else z
        edits = [Change(layer, own[layer, head], head) for layer, head in heads]
        measured.append(oracles.completion(model, prompt, answers, ENDINGS.nonzero()[:, 0].tolist(), edits))
    return np.array(measured, dtype=float)


@pytest.fixture(scope="module")
def effects(llama, words):
    return indirect_effects(llama, words, 2, SHOTS, 4)


@pytest.fixture(scope="module")
def found(llama, words, effects):
    return ablation(llama, words, effects, K, SHOTS, **SIZES)


@torch.no_grad()
@pytest.mark.parametrize("name", tiny.params())
def test_prompts_without_heads_are_those_of_full_forwards(name, words, monkeypatch):
    model = tiny.build(name)
    monkeypatch.setattr(lens_of(model).state, "endings", ENDINGS)
    effects = indirect_effects(model, words, 2, SHOTS, 4)
    found = ablation(model, words, effects, K, SHOTS, **SIZES)
    z = corrupted_z(model, words)
    assert difference(found.corrupted_z, z) <= EXACT
    drawn = {"writers": [found.writers], "cancellers": [found.cancellers], "random heads": found.random}
    values = {"2-shot": completed(model, words)[:, None]}
    for name, listed in drawn.items():
        values[f"without {name}"] = np.stack([completed(model, words, heads, z) for heads in listed], 1)
    for name, listed in drawn.items():
        values[f"without {name}, word kept"] = np.stack([completed(model, words, heads) for heads in listed], 1)
    assert list(found.rows) == list(values)
    values = {row: x.transpose(2, 0, 1) for row, x in values.items()}  # [measure, word, draw]
    for row, (right, log_prob, rank, _) in values.items():
        of_row = found.words[found.words.row == row]
        assert np.abs(of_row.log_prob - log_prob.mean(1)).max() <= EXACT
        assert of_row.right.to_numpy() == pytest.approx(right.mean(1))
        assert found.rows[row].accuracy.value == pytest.approx(right.mean())
        assert found.rows[row].first_token_accuracy.value == pytest.approx((rank == 0).mean())
        random = "without random heads" + ", word kept" * row.endswith("kept")
        for kind, base in (("change", "2-shot"), ("beyond_random", random)):
            change = getattr(found.rows[row], f"log_prob_{kind}")
            if row in ("2-shot", base):
                assert change is None
            else:
                assert change.value == pytest.approx(log_prob.mean() - values[base][1].mean(), abs=EXACT)
    edited = list(values)[1:]
    moved = [np.abs(values[row][1] - values["2-shot"][1]).max() for row in edited]  # the means may cancel
    assert min(moved) > 100 * EXACT, "each edit does something"
    assert len({found.rows[row].log_prob_change.value for row in edited}) == 6, "and each another thing"


def test_heads_are_the_ends_of_the_map_and_others_are_neither(found, effects):
    assert list(found.writers) == effects.top(K) and list(found.cancellers) == effects.top(K, -1)
    assert all(effects.mean[head] > 0 for head in found.writers)
    assert all(effects.mean[head] < 0 for head in found.cancellers)
    for heads in found.random:
        assert len(set(heads)) == K and not {*found.writers, *found.cancellers} & set(heads)
    assert len(set(found.random)) == DRAWS


def test_draws_follow_the_seed(llama, words, effects, found):
    again, other = (ablation(llama, words, effects, K, SHOTS, **SIZES, seed=seed) for seed in (0, 1))
    assert again.to_frame().equals(found.to_frame()) and again.random == found.random
    assert other.random != found.random


def test_nothing_is_measured_on_test_words_but_the_scores(llama, words, effects, found):
    train, validation, test = words.split()
    other = test.with_pairs([(word, f"w{100 + i}") for i, word in enumerate(test.words)])
    exchanged = replace(words, parts=Split(train, validation, other), cut_from=words.hash)
    moved = ablation(llama, exchanged, effects, K, SHOTS, **SIZES)
    assert torch.equal(moved.corrupted_z, found.corrupted_z)
    assert (moved.writers, moved.cancellers, moved.random) == (found.writers, found.cancellers, found.random)
    assert moved.rows["2-shot"].log_prob != found.rows["2-shot"].log_prob


def test_a_map_over_relations_gives_the_heads_and_the_relation_its_own_means(llama, words, effects, found):
    other = Relation("other", [(f"w{i}", f"w{i + 50}") for i in range(40)])
    both = mean_effects([effects, indirect_effects(llama, other, 2, SHOTS, 4)])
    shared = ablation(llama, words, both, K, SHOTS, **SIZES)
    assert list(shared.writers) == both.top(K)
    assert torch.equal(shared.corrupted_z, found.corrupted_z)


def test_tables_hold_every_row(found):
    frame = found.to_frame()
    assert list(frame.index) == list(found.rows) and frame.loc["without writers", "log_prob_change"] == pytest.approx(
        found.rows["without writers"].log_prob_change.value
    )
    for shown in (str(found), found._repr_html_()):
        assert all(row in shown for row in found.rows) and "16 test words; 3 heads in each row, 2 random draws" in shown
    layer, head = found.writers[0]
    assert f"L{layer}H{head}" in found._repr_html_() and repr(found).startswith("Ablation('successor', 3 heads each")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(n_heads=0), "n_heads is 0"),
        (dict(n_heads=12), "n_heads is 12, and . heads have a positive effect"),
        (dict(n_shots=1), "n_shots is 1"),
        (dict(draws=0), "draws is 0"),
        (dict(n_prompts=0), "n_prompts is 0"),
    ],
)
def test_what_cannot_be_measured_is_named(llama, words, effects, wrong, message):
    with pytest.raises(InputError, match=message):
        ablation(llama, words, effects, **dict(n_heads=K, n_shots=SHOTS, **SIZES) | wrong)


def test_heads_must_leave_others_to_compare_with(llama, words, effects):
    values = effects.values.clone()
    values[:] = torch.tensor([1.0, 1.0, -1.0, -1.0])
    with pytest.raises(InputError, match="n_heads is 5; of 12 heads .* at most 4"):
        ablation(llama, words, replace(effects, values=values), 5, SHOTS, **SIZES)


def test_effects_that_may_hold_the_test_words_are_refused(llama, words, effects):
    other = Relation(words.name, words.pairs[:-1])
    with pytest.raises(InputError, match="other pairs of 'successor', which may hold its test words"):
        ablation(llama, other, effects, K, SHOTS, **SIZES)
    elsewhere = replace(effects, record=effects.record | {"model": "another"})
    with pytest.raises(InputError, match="'another'"):
        ablation(llama, words, elsewhere, K, SHOTS, **SIZES)
