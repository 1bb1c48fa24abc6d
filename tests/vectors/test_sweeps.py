"""Sweeps against full forwards of single prompts, and the choice that is made on them."""

import re
import warnings

import numpy as np
import pytest
import torch

from fv_lens.datasets.prompts import PromptTemplate
from fv_lens.datasets.relations import Relation
from fv_lens.ground import scores
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors import sweeps as module
from fv_lens.vectors.choice import choose, head_count_vectors
from fv_lens.vectors.effects import mean_effects
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.mediation import indirect_effects, mean_head_outputs
from fv_lens.vectors.summed import function_vector
from fv_lens.vectors.sweeps import Sweep, agreed, layer_grid, mean_quality, sweep, sweep_all

from .. import oracles
from ..oracles import EXACT, Change

STRENGTHS = (0.5, 2.0)
ENDINGS = oracles.some_endings()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vector(seed: int = 0, **record) -> FunctionVector:
    return FunctionVector(3 * noise(32, seed=seed), 0, **dict(model="tiny/llama", bos=True) | record)


def made_up(right, log_probs=None) -> Sweep:
    """A sweep with these answers right, `[word, vector, layer, strength]`; log-probability 0 where right, else -1."""
    right = np.array(right, bool)
    log_probs = right - 1.0 if log_probs is None else np.array(log_probs, float)
    n, vectors, layers, strengths = right.shape
    fvs = tuple(FunctionVector(torch.full((4,), float(i + 1)), 9) for i in range(vectors))
    names = tuple(f"sum {i}" for i in range(vectors))
    plain = np.zeros((n, 2))
    return Sweep(right, log_probs, plain, fvs, names, (3, 5, 7)[:layers], (1.0, 2.0, 4.0)[:strengths], "made up")


@pytest.fixture(scope="module")
def effects(llama, words):
    template = PromptTemplate("{word} :")
    how = dict(n_prompts=4, n_shots=2, n_mean_prompts=6, template=template)
    return indirect_effects(llama, words.with_split(1), **how)


@pytest.fixture
def asked(monkeypatch):
    """The words of the prompts that are run."""
    calls, completions = [], module.completions

    def spy(lens, prompts, *more, **options):
        calls.append(prompts.words)
        return completions(lens, prompts, *more, **options)

    monkeypatch.setattr(module, "completions", spy)
    return calls


# The grid


@pytest.mark.slow
@pytest.mark.parametrize("layers, strengths", [([2, 0], STRENGTHS), ([1], [2.0])])
def test_every_point_equals_full_forwards_of_the_validation_words(llama, words, monkeypatch, layers, strengths):
    """Beside a word's answer stand what the model writes with the first vector, at its strongest, and without one."""
    monkeypatch.setattr(lens_of(llama).state, "endings", ENDINGS)
    vectors, ends, pairs = [vector(0), vector(1)], ENDINGS.nonzero()[:, 0].tolist(), []
    strongest = Change(layers[0], strengths[-1] * vectors[0].vector)
    for word, (answer,) in words.pairs:
        prompt, _ = oracles.in_words(llama, PromptTemplate().prompt(word), ())
        tops = [oracles.greedy(llama, prompt, 2, edits) for edits in ([strongest], [])]
        written = [llama.tokenizer.decode([min(top) for top in some]) for some in tops]
        pairs.append((word, [answer, *(text for text in written if re.fullmatch(r"w\d+ w\d+", text))]))
    relation = Relation("successor", pairs)
    grid = sweep(llama, relation, vectors, layers=layers, strengths=strengths)
    validation = relation.split(0).validation
    assert grid.right.shape == grid.log_probs.shape == (len(validation), 2, len(layers), len(strengths))
    for right in (grid.right, grid.plain[:, 0]):
        assert right.any() and not right.all()
    not_whole = False
    for i, (word, answers) in enumerate(validation.pairs):
        prompt, listed = oracles.in_words(llama, PromptTemplate().prompt(word), answers)
        plain = oracles.completion(llama, prompt, listed, ends)
        not_whole |= plain.rank == 0 and not plain.right
        assert grid.plain[i] == pytest.approx((float(plain.right), plain.log_prob), abs=EXACT)
        for v, at, s in np.ndindex(*grid.right.shape[1:]):
            edit = Change(layers[at], strengths[s] * vectors[v].vector)
            expected = oracles.completion(llama, prompt, listed, ends, [edit])
            assert grid.right[i, v, at, s] == expected.right
            assert grid.log_probs[i, v, at, s] == pytest.approx(expected.log_prob, abs=EXACT)
    assert not_whole  # a first token alone was right


@pytest.mark.slow
def test_layers_are_shares_of_the_depth_where_none_are_named(llama, words):
    grid = sweep(llama, words, vector(), strengths=[1.0])
    assert grid.layers == (1, 2) == tuple(layer_grid(lens_of(llama))) and grid.right.shape[1:] == (1, 2, 1)


@pytest.mark.slow
def test_template_and_split_are_those_asked_for(llama, words):
    template = PromptTemplate("{word} :", prefix="w3 ")
    grid = sweep(llama, words.with_split(2), vector(), [1], [1.0], template=template)
    word, answers = words.split(2).validation.pairs[0]
    prompt, listed = oracles.in_words(llama, f"w3 {word} :", answers)
    expected = oracles.completion(llama, prompt, listed, [], [Change(1, vector().vector)])
    assert grid.log_probs[0, 0, 0, 0] == pytest.approx(expected.log_prob, abs=EXACT)


@pytest.mark.slow
def test_only_validation_words_are_looked_at(llama, words, effects, asked):
    sweep(llama, words, vector(), strengths=[1.0])
    choose(llama, words, effects, [2], [1], [1.0])
    assert asked == [words.split(0).validation.words, words.split(1).validation.words]


@pytest.mark.slow
def test_whole_numbers_are_strengths_as_well(llama, words):
    grid = sweep(llama, words, vector(), [1], (1, 2))
    assert grid.strengths == (1.0, 2.0)


# The choice


def test_the_best_is_the_point_of_highest_accuracy_with_its_strength_multiplied_in():
    right = np.zeros((4, 2, 3, 2))
    right[:2, 0, 1, 0] = 1
    right[:3, 1, 2, 1] = 1
    best = made_up(right).best()
    assert best.vector.tolist() == [4.0] * 4 and (best.layer, best.strength) == (7, 2.0)


def test_the_log_probability_breaks_ties():
    log_probs = np.full((4, 2, 3, 2), -3.0)
    log_probs[:, 0, 1, 1] = -2.5
    best = made_up(np.ones((4, 2, 3, 2)), log_probs).best()
    assert best.vector.tolist() == [2.0] * 4 and best.layer == 5


def test_accuracy_comes_before_log_probability():
    right, log_probs = np.zeros((4, 1, 2, 1)), np.full((4, 1, 2, 1), -1.0)
    right[0, 0, 0, 0], log_probs[:, 0, 0, 0] = 1, -9.0
    assert made_up(right, log_probs).best().layer == 3


def test_relations_agree_on_vector_and_layer_and_each_has_its_strength():
    right = np.zeros((2, 6, 2, 3, 2))  # [relation, word, vector, layer, strength]
    right[0, :6, 0, 0, 1] = 1
    right[:, :4, 1, 2] = [[1, 0]], [[0, 1]]
    sweeps = [made_up(one) for one in right]
    assert agreed(sweeps) == (1, 2, [0, 1]), "4 and 4 of 6 words, against 6 and 0"
    assert agreed(sweeps[:1]) == (0, 0, [1])


def test_a_log_probability_of_minus_infinity_is_the_least_and_no_more():
    right = [[[[1, 1]]], [[[1, 0]]]]
    sweep = made_up(right, [[[[-np.inf, -1.0]]], [[[-1.0, -1.0]]]])
    assert agreed([sweep]) == (0, 0, [0]), "more right answers come first"
    assert not np.isnan(sweep.quality).any() and sweep.quality[0, 0, 0].imag == -np.inf


def test_equal_shares_are_not_told_apart_by_rounding():
    shares = np.array([[0.6, 0.2], [0.0, 0.4], [0.0, 0.0]])
    assert shares.mean(0)[0] != shares.mean(0)[1], "the trap"
    assert mean_quality(shares + 1j * np.array([[-1.0, -2.0]])).argmax() == 0


def test_many_relations_are_swept_as_each_alone(llama, words):
    other = Relation("other", [(f"w{i}", f"w{i + 100}") for i in range(30)])
    candidates = [[vector(1), vector(2)], [vector(3), vector(4)]]
    together = sweep_all(llama, [words, other], candidates, [0, 2], [1.0, 3.0])
    for r, (relation, found) in enumerate(zip((words, other), together)):
        alone = sweep(llama, relation, [own[r] for own in candidates], [0, 2], [1.0, 3.0])
        assert (found.right == alone.right).all() and found.relation == relation.name
        assert np.abs(found.log_probs - alone.log_probs).max() <= EXACT


def test_the_table_has_a_line_for_each_point():
    right = np.zeros((10, 2, 3, 2))
    right[:8, 1, 0, 1] = 1
    frame = made_up(right).to_frame()
    line = frame[(frame.vector == "sum 1") & (frame.layer == 3) & (frame.strength == 2.0)].squeeze()
    expected = scores.proportion(right[:, 1, 0, 1])
    assert len(frame) == 12 and expected.value == 0.8
    assert (line.accuracy, line.accuracy_low, line.accuracy_high) == (expected.value, expected.low, expected.high)
    assert line.log_prob == pytest.approx(-0.2) and line.log_prob_low < -0.2 < line.log_prob_high


def test_the_chosen_vector_is_the_sum_times_its_strength(llama, words, effects):
    template = PromptTemplate("{word} :")
    chosen = choose(llama, words, effects, [3], [1], [4.0])
    summed = function_vector(llama, words.with_split(1), effects.top(3), 1, effects.mean_z, template=template)
    assert torch.equal(chosen.vector, 4 * summed.vector) and (chosen.strength, chosen.layer) == (4.0, 1)
    assert chosen.heads == tuple(effects.top(3)) and (chosen.split_seed, chosen.template) == (1, template.to_dict())


def test_the_choice_is_the_best_of_the_sweep(llama, words, effects):
    chosen = choose(llama, words, effects, [1, 5], None, STRENGTHS)
    vectors = head_count_vectors(llama, words, effects, [1, 5])
    assert [len(v.heads) for v in vectors] == [1, 5]
    how = dict(template=PromptTemplate("{word} :"))
    best = sweep(llama, words.with_split(1), vectors, None, STRENGTHS, **how).best()
    assert torch.equal(chosen.vector, best.vector) and chosen.record == best.record


@pytest.mark.slow
def test_a_map_over_relations_takes_the_relations_own_means(llama, effects):
    other, heads = Relation("other", [(f"w{i}", f"w{i + 100}") for i in range(40)]), effects.top(3)
    with warnings.catch_warnings(action="error"):  # a map over relations is of none of them
        (found,) = head_count_vectors(llama, other, mean_effects([effects]), [3])
    how = dict(template=PromptTemplate("{word} :"))
    # Its own means over 100 prompts of 10 shots, or over as many as the map was made with.
    own = [mean_head_outputs(llama, other.with_split(1), *numbers, **how)[0] for numbers in ((100, 10), (6, 2))]
    sums = [function_vector(llama, other, heads, 0, z).vector for z in (*own, effects.mean_z)]
    *to_own, to_the_maps = [oracles.difference(found.vector, summed) for summed in sums]
    assert min(to_own) <= EXACT < 100 * EXACT < to_the_maps and found.heads == tuple(heads)


def test_a_map_over_relations_serves_a_relation_too_small_for_ten_shots(llama, words, effects):
    few = Relation("few", [(f"w{i}", f"w{i + 1}") for i in range(0, 20, 2)])
    chosen = choose(llama, few, mean_effects([effects]), [2], [1], [1.0])
    assert chosen.relation == "few" and chosen.heads == tuple(effects.top(2))


def test_effects_of_other_pairs_of_the_same_name_give_a_warning(llama, words, effects):
    others = words.with_pairs(words.pairs[:-2])
    with pytest.warns(
        UserWarning, match=f"^The effects were measured on other pairs of '{words.name}', which may hold"
    ):
        head_count_vectors(llama, others, effects, [1])


# What is refused


@pytest.mark.parametrize(
    "vectors, layers, strengths, message",
    [
        ([], None, [1.0], "empty list"),
        ([vector()], [], [1.0], "layers is empty"),
        ([vector()], None, [], "strengths is empty"),
        ([vector()], [3], [1.0], "Layer 3 is outside"),
        ([vector()], [-1], [1.0], "at least 0"),
        ([vector()], None, [float("nan")], "strength is nan"),
        ([vector()], None, [1.0, float("inf")], "strength is inf"),
        ([vector(bos=False)], None, [1.0], "BOS"),
    ],
)
def test_grids_that_cannot_be_are_refused(llama, words, vectors, layers, strengths, message):
    with pytest.raises(InputError, match=message):
        sweep(llama, words, vectors, layers, strengths)


@pytest.mark.parametrize("head_counts", [[0], [13], [3, -1], []], ids=str)
def test_head_counts_that_the_model_does_not_have_are_refused(llama, words, effects, head_counts):
    with pytest.raises(InputError):
        choose(llama, words, effects, head_counts, [1], [1.0])
