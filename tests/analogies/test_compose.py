"""Composites: weights against their definitions by hand, gradient-made parts against plain autograd, and records."""

from dataclasses import replace

import pytest
import torch

from fv_lens.analogies import compose as module
from fv_lens.analogies.basis import Basis, pairs_batch
from fv_lens.analogies.compose import PAIR_RATE, WEIGHT_RATE, WEIGHT_STEPS, Composer, compose, pair_parts, weights_of
from fv_lens.analogies.composition import METHODS, WEIGHTINGS, Composition, Folded
from fv_lens.datasets.prompts import PromptTemplate
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector

from .. import oracles
from ..oracles import EXACT, difference

PAIRS = [("w3", "w5 w6 w7"), ("w10 w11", "w12"), ("w20 w21 w22 w23", "w26 w27"), ("w30", "w31")]
MIXED = [name for name in WEIGHTINGS if name != "none"]
LAYER = 1
# Adam divides a gradient by its size, so what float32 rounds off is amplified: in norm, relative to what it added.
CLOSE = 1e-3


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vectors_of(model, n: int = 5, **more) -> dict[str, FunctionVector]:
    lens = lens_of(model)
    record = dict(model=lens.name, processing=lens.processing, bos=lens.bos) | more
    values = zip("abcdefgh", 3 * noise(n, lens.d_model))
    return {name: FunctionVector(value, LAYER, relation=f"relation {name}", **record) for name, value in values}


def composer_of(model, pairs=PAIRS, n: int = 5) -> Composer:
    return Composer(lens_of(model), Basis.of(lens_of(model), vectors_of(model, n)), pairs)


def some_allowed(n_pairs: int, n: int) -> torch.Tensor:
    """A different half or so of the vectors for each pair; one pair may use a single one."""
    may = noise(n_pairs, n, seed=3) > 0
    may[0], may[1, :2], may[1, -1] = torch.arange(n) == 2, True, False
    assert may.any(1).all() and not may.all(1).any()
    return may


def in_words(model, pair) -> tuple[list[int], list[int]]:
    prompt, (answer,) = oracles.in_words(model, PromptTemplate().prompt(pair[0]), pair[1:])
    return prompt, list(answer)


def loss(model, pair, vector: torch.Tensor) -> torch.Tensor:
    return oracles.answer_loss(model, *in_words(model, pair), LAYER, vector)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of two rows in norm, relative to the norm expected."""
    return ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


# Weights by their definitions


@pytest.mark.slow
@pytest.mark.parametrize("weighting", MIXED)
def test_weights_sum_to_one_and_none_is_outside_what_is_allowed(model, weighting):
    composer, may = composer_of(model), some_allowed(len(PAIRS), 5)
    weights = composer.weights(Composition(weighting), may)
    assert difference(weights.sum(1), torch.ones(len(PAIRS))) <= EXACT
    assert weights[~may].abs().max() == 0 and weights.min() >= 0 and weights[0, 2] == 1
    free = composer.weights(Composition(weighting))
    assert difference(free.sum(1), torch.ones(len(PAIRS))) <= EXACT and free.shape == (len(PAIRS), 5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_posterior_is_the_softmax_of_the_pairs_log_probabilities(temperature):
    log_probs, may = 5 * noise(4, 6), some_allowed(4, 5)
    for allowed in (None, may):
        found = weights_of(log_probs, Composition("posterior", temperature), allowed)
        for row, mine, ok in zip(log_probs.tolist(), found, (torch.ones_like(may) if allowed is None else may)):
            shares = [2.718281828459045 ** (x / temperature) * bool(y) for x, y in zip(row[1:], ok)]
            assert mine.tolist() == pytest.approx([share / sum(shares) for share in shares], abs=EXACT)


def test_a_gain_is_over_no_vector_and_in_proportion():
    log_probs = torch.tensor([[-4.0, -2.0, -3.0, -9.0], [-4.0, -4.5, -1.0, -4.0], [-4.0, -5.0, -4.0, -9.0]])
    found = weights_of(log_probs, Composition("gain"))
    assert difference(found[0], torch.tensor([2 / 3, 1 / 3, 0])) <= EXACT
    assert found[1].tolist() == [0, 1, 0], "all on the only one that gains"
    assert difference(found[2], torch.full((3,), 1 / 3)) <= EXACT, "flat where none gains"


def test_what_gains_but_may_not_be_used_gives_nothing():
    log_probs = torch.tensor([[-4.0, -2.0, -3.0, -9.0], [-4.0, -5.0, -1.0, -4.0]])
    may = torch.tensor([[False, True, True], [True, False, True]])
    assert weights_of(log_probs, Composition("gain"), may).tolist() == [[0, 1, 0], [0.5, 0, 0.5]]


def test_the_single_best_is_the_one_that_explains_the_pair_best():
    log_probs, may = noise(4, 6), some_allowed(4, 5)
    for row, ok, mine in zip(
        log_probs[:, 1:].tolist(), may.tolist(), weights_of(log_probs, Composition("single"), may)
    ):
        best = max((i for i in range(5) if ok[i]), key=lambda i: row[i])
        assert mine.tolist() == [float(i == best) for i in range(5)]


def test_uniform_weights_are_equal_whatever_the_pair():
    may = some_allowed(4, 5)
    for ok, mine in zip(may, weights_of(noise(4, 6), Composition("uniform"), may)):
        assert mine.tolist() == pytest.approx([float(x) / int(ok.sum()) for x in ok])


def test_the_posterior_of_a_low_temperature_is_the_single_best():
    cold, single = (weights_of(noise(4, 6), how) for how in (Composition("posterior", 1e-4), Composition("single")))
    assert difference(cold, single) <= EXACT
    hot = weights_of(noise(4, 6), Composition("posterior", 1e6))
    assert difference(hot, torch.full((4, 5), 0.2)) <= EXACT


@pytest.mark.slow
@pytest.mark.parametrize("weighting", MIXED)
@pytest.mark.parametrize("center", [False, True], ids=["as they are", "centred"])
def test_a_pair_that_may_use_no_vector_is_refused(llama, weighting, center):
    may = torch.ones(len(PAIRS), 5, dtype=torch.bool)
    may[2] = False
    with pytest.raises(
        InputError, match="^Without a pair's own relation or family no vector is left; give more relations.$"
    ):
        composer_of(llama).vectors(Composition(weighting, center=center), may)


# Weights and vectors that are fitted to the pair


def weights_by_hand(model, matrix: torch.Tensor, pair, ok: torch.Tensor) -> torch.Tensor:
    """Adam by plain autograd on the logits of the vectors that may be used."""
    logits = torch.zeros(int(ok.sum()), requires_grad=True)
    adam = torch.optim.Adam([logits], lr=WEIGHT_RATE)
    for _ in range(WEIGHT_STEPS):
        (logits.grad,) = torch.autograd.grad(loss(model, pair, logits.softmax(0) @ matrix[ok]), logits)
        adam.step()
    return torch.zeros(len(ok)).masked_scatter(ok, logits.detach().softmax(0))


@pytest.mark.slow
def test_fitted_weights_are_adams(model):
    composer, may = composer_of(model), some_allowed(len(PAIRS), 5)
    found = composer.weights(Composition("gradient"), may)
    for pair, ok, mine in zip(PAIRS, may, found):
        assert difference(mine, weights_by_hand(model, composer.library.matrix, pair, ok)) <= CLOSE


@pytest.mark.slow
def test_fitted_weights_lower_the_loss_of_their_pair(model):
    composer = composer_of(model)
    found = composer.weights(Composition("gradient")) @ composer.library.matrix
    flat = composer.library.matrix.mean(0)
    for pair, vector in zip(PAIRS, found):
        assert loss(model, pair, vector) < loss(model, pair, flat) - 1e-3


def part_by_hand(model, pair, start: torch.Tensor, steps: int) -> torch.Tensor:
    prompt, answer = in_words(model, pair)
    rate = PAIR_RATE * oracles.residual_rms(model, [prompt], LAYER)
    vector = start.clone().requires_grad_()
    adam = torch.optim.Adam([vector], lr=rate)
    for _ in range(steps):
        (vector.grad,) = torch.autograd.grad(oracles.answer_loss(model, prompt, answer, LAYER, vector), vector)
        adam.step()
    return vector.detach() - start


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("steps", [1, 5])
def test_pair_parts_are_what_adam_adds_to_their_starts(model, steps):
    lens, starts = lens_of(model), noise(len(PAIRS), 32, seed=4)
    starts[1] = 0
    found = pair_parts(lens, pairs_batch(lens, PAIRS, PromptTemplate()), LAYER, starts, steps)
    assert len(found) == steps + 1 and found[0].abs().max() == 0
    for n in range(1, steps + 1):
        expected = torch.stack([part_by_hand(model, pair, start, n) for pair, start in zip(PAIRS, starts)])
        assert relative(found[n], expected) <= CLOSE and expected.norm(dim=1).min() > 0.01


@pytest.mark.slow
def test_pair_parts_lower_the_loss_of_their_pair(model):
    parts = composer_of(model).vectors(Composition("none", pair_steps=8))
    for pair, part in zip(PAIRS, parts):
        assert loss(model, pair, part) < loss(model, pair, torch.zeros(32)) - 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [Composition("none", pair_steps=4), Composition("gradient")], ids=["pair part", "weights"]
)
def test_a_pair_is_fitted_as_if_it_were_alone(model, how):
    together = composer_of(model).vectors(how)
    alone = torch.cat([composer_of(model, [pair]).vectors(how) for pair in PAIRS])
    assert relative(together, alone) <= CLOSE and relative(together.roll(1, 0), alone) > 0.05


@pytest.mark.slow
def test_no_step_adds_nothing_and_moves_no_start(llama):
    lens, starts = lens_of(llama), noise(len(PAIRS), 32)
    kept = starts.clone()
    sources = pairs_batch(lens, PAIRS, PromptTemplate())
    assert pair_parts(lens, sources, LAYER, starts, 0).abs().max() == 0
    pair_parts(lens, sources, LAYER, starts, 2)
    assert torch.equal(starts, kept)


# Composites


@pytest.mark.slow
@pytest.mark.parametrize("weighting", MIXED)
def test_a_library_of_one_vector_gives_that_vector(model, weighting):
    vectors = vectors_of(model, 1)
    made = compose(model, vectors, PAIRS[0], Composition(weighting))
    assert torch.equal(made.vector, vectors["a"].vector) and made.weights == {"a": 1.0}
    assert compose(model, vectors, PAIRS[0], Composition(weighting, center=True)).vector.abs().max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("weighting", MIXED)
def test_a_composite_is_the_weighted_sum_and_centred_without_the_mean(llama, weighting):
    composer, how, may = composer_of(llama), Composition(weighting, scale=1.5), some_allowed(len(PAIRS), 5)
    matrix = composer.library.matrix
    for allowed in (None, may):
        weights = composer.weights(how, allowed)
        found, centred = composer.vectors(how, allowed), composer.vectors(replace(how, center=True), allowed)
        for row, ok in enumerate(torch.ones_like(may) if allowed is None else may):
            mean = matrix[ok].mean(0)
            plain = sum(float(w) * one for w, one in zip(weights[row], matrix))
            less = sum(float(w) * (one - mean) for w, one in zip(weights[row], matrix))
            assert difference(found[row], 1.5 * plain) <= EXACT and difference(centred[row], 1.5 * less) <= EXACT


@pytest.mark.slow
def test_the_parts_of_a_composite_add_up(llama):
    composer, shared, start = composer_of(llama), noise(32, seed=5), noise(32, seed=6)
    mixed = composer.vectors(Composition("posterior", 2.0, True, 0.5))
    moved = composer.vectors(Composition("none", pair_steps=3, start=start))
    whole = composer.vectors(Composition("posterior", 2.0, True, 0.5, shared, 3, 0.25, start))
    assert difference(whole, mixed + shared + 0.25 * moved) <= EXACT
    assert torch.equal(composer.vectors(Composition("none", shared=shared)), shared.expand(len(PAIRS), -1))
    for nothing in (Composition("none"), Composition(scale=0.0), Composition("none", pair_steps=3, pair_scale=0.0)):
        assert composer.vectors(nothing).abs().max() == 0
    from_zero = composer.vectors(Composition("none", pair_steps=3))
    assert difference(from_zero, moved) > 0.01, "a start changes what the steps add"
    assert torch.equal(from_zero, composer.vectors(Composition("none", pair_steps=3, start=torch.zeros(32))))


@pytest.mark.slow
def test_one_setting_for_each_pair_gives_what_each_gives_alone(model):
    start, shared = noise(2, 32, seed=5)
    settings = [
        METHODS["posterior"], METHODS["single best"], METHODS["centred"], METHODS["gradient"], METHODS["posterior"],
        Composition("none", pair_steps=3), Composition("uniform", pair_steps=3, start=start, pair_scale=0.5),
        Composition("gain", scale=0.5, shared=shared, pair_steps=2), Composition("none", shared=shared),
    ]  # fmt: skip
    pairs = [*PAIRS, *PAIRS, PAIRS[0]]
    may = some_allowed(len(pairs), 5)
    together, each = composer_of(model, pairs).vectors(settings, may), zip(pairs, settings, may)
    alone = torch.cat([composer_of(model, [pair]).vectors(how, mine[None]) for pair, how, mine in each])
    assert relative(together, alone) <= CLOSE


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [*METHODS.values(), Composition(pair_steps=2)], ids=lambda how: f"{how.weighting} {how.center}"
)
def test_repeated_pairs_are_equal(llama, how):
    found = composer_of(llama, [PAIRS[0], PAIRS[1], PAIRS[0], PAIRS[2], PAIRS[0]]).vectors(how)
    assert relative(found[[2, 4]], found[[0, 0]]) <= EXACT
    if how.weighting != "uniform":
        assert relative(found[[1, 3]], found[[0, 0]]) > EXACT
    assert relative(found[:4:2], composer_of(llama, [PAIRS[0]]).vectors(how).expand(2, -1)) <= CLOSE


@pytest.mark.slow
def test_what_several_settings_share_is_computed_once(llama, monkeypatch):
    scored, moved, fitted = [], [], []
    explained, parts, weights = module.explained, module.pair_parts, module.fitted_weights
    monkeypatch.setattr(module, "explained", lambda *args: scored.append(len(args[2])) or explained(*args))
    monkeypatch.setattr(module, "fitted_weights", lambda *args: fitted.append(args[3]) or weights(*args))
    monkeypatch.setattr(module, "pair_parts", lambda *args: moved.append(len(args[1])) or parts(*args))
    composer, start = composer_of(llama, [*PAIRS, *PAIRS]), noise(32)
    for how in METHODS.values():
        composer.vectors(how)
    assert scored == [len(PAIRS)] and moved == [len(PAIRS)], "repeated pairs are asked once"
    composer.vectors(Composition("none", pair_steps=8, pair_scale=0.5))
    assert moved == [len(PAIRS)], "another scale of known steps needs no step"
    composer.vectors(Composition("none", pair_steps=8, start=start))
    composer.vectors(Composition("none", pair_steps=8, start=start, pair_scale=0.1))
    assert moved == [len(PAIRS)] * 2, "another start has other steps, once"
    composer.vectors(Composition("none", pair_steps=8, start=start.clone()))
    composer.vectors(Composition("none", pair_steps=3, start=start))
    assert moved == [len(PAIRS)] * 2, "the same start again, and fewer steps from it, are known"
    longest = Composer(composer.lens, composer.library, PAIRS, pair_steps=6)
    few = longest.vectors(Composition("none", pair_steps=2))
    longest.vectors(Composition("none", pair_steps=6))
    assert moved == [len(PAIRS)] * 3, "so many steps as will be asked for are taken at once"
    assert relative(few, composer.vectors(Composition("none", pair_steps=2))[: len(PAIRS)]) <= CLOSE
    for may in (None, some_allowed(2 * len(PAIRS), 5)):
        half, whole = (composer.vectors(Composition("gradient", scale=scale), may) for scale in (0.5, 1.0))
        assert torch.equal(2 * half, whole)
    assert len(fitted) == 2 and not fitted[0].equal(fitted[1]), "weights are fitted once for what is allowed"


@pytest.mark.slow
def test_a_start_that_is_gone_is_not_mistaken_for_a_new_one(llama):
    """Tensors that are freed and made anew may have the identity of the old."""
    composer, alone = composer_of(llama), composer_of(llama, PAIRS[:1])
    for seed in range(8):
        how = Composition("none", pair_steps=1, start=noise(32, seed=seed))
        fresh = pair_parts(alone.lens, alone.sources, LAYER, how.start[None], 1)[-1]
        assert relative(composer.vectors(how)[:1], fresh) <= CLOSE
        del how


@pytest.mark.slow
def test_composing_leaves_the_model_as_it_was(llama):
    prompt = oracles.random_prompts(7)[0]
    before, asked = oracles.log_probs(llama, prompt), [one.requires_grad for one in llama.parameters()]
    for how in METHODS:
        compose(llama, vectors_of(llama), PAIRS[0], how)
    assert torch.equal(oracles.log_probs(llama, prompt), before)
    assert [one.requires_grad for one in llama.parameters()] == asked and not lens_of(llama).patches


# compose


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_composite_carries_where_it_came_from(llama, name):
    vectors, how = vectors_of(llama, split_seed=0, data_hash="abc"), METHODS[name]
    made, composer = compose(llama, vectors, PAIRS[0], name), composer_of(llama, PAIRS[:1])
    assert difference(made.vector, composer.vectors(how)[0]) <= EXACT
    assert (made.method, made.source, made.layer, made.site) == ("composite", PAIRS[0], LAYER, "hook_resid_post")
    assert made.relation is None and made.data_hash is None and made.split_seed is None and made.training is None
    assert (made.model, made.bos, made.template) == ("tiny/llama", True, PromptTemplate().to_dict())
    if how.weighting == "none":
        assert made.weights == {} and made.parents == ()
        return
    shares = list(made.weights.values())
    assert shares == sorted(shares, reverse=True) and set(made.weights) == set(vectors)
    expected = dict(zip(composer.library.names, composer.weights(how)[0].tolist()))
    assert made.weights == pytest.approx(expected, abs=EXACT) and sum(shares) == pytest.approx(1)
    assert [parent["relation"] for _, parent in made.parents] == [f"relation {r}" for r, w in made.weights.items() if w]


@pytest.mark.slow
@pytest.mark.parametrize("weighting", MIXED)
def test_parents_weigh_what_they_weigh_in_the_composite(llama, weighting):
    vectors = vectors_of(llama)
    made = compose(llama, vectors, PAIRS[0], Composition(weighting, scale=0.5))
    assert [weight for weight, _ in made.parents] == [0.5 * weight for weight in made.weights.values() if weight]
    summed = sum(weight * vectors[parent["relation"].split()[1]].vector for weight, parent in made.parents)
    assert difference(summed, made.vector) <= EXACT
    assert len(made.parents) == (1 if weighting == "single" else sum(map(bool, made.weights.values())))


@pytest.mark.slow
def test_uniform_weights_are_listed_by_name(llama):
    assert list(compose(llama, vectors_of(llama), PAIRS[0], "uniform").weights) == list("abcde")


def test_a_composite_may_not_be_measured_on_words_that_a_parent_may_have_seen(llama, words):
    vectors = {words.name: replace(vectors_of(llama, 1)["a"], relation=words.name, split_seed=1, data_hash=words.hash)}
    with pytest.raises(InputError, match="split 1 of 'successor'"):
        compose(llama, vectors, PAIRS[0]).check_split(words)


@pytest.mark.slow
def test_the_whole_settings_of_folds_are_used(llama):
    folded, vectors = Folded(METHODS["uniform"], (METHODS["single best"],), {"x": 0}), vectors_of(llama)
    made, uniform, posterior = (
        compose(llama, vectors, PAIRS[0], how).vector for how in (folded, "uniform", "posterior")
    )
    assert torch.equal(made, uniform) and not torch.equal(made, posterior)
    assert torch.equal(compose(llama, vectors, PAIRS[0]).vector, posterior), "the default"


@pytest.mark.slow
def test_the_order_of_the_mapping_changes_no_composite(llama):
    vectors = vectors_of(llama)
    for how in METHODS:
        one, other = (
            compose(llama, dict(order), PAIRS[0], how) for order in (vectors.items(), reversed(vectors.items()))
        )
        assert torch.equal(one.vector, other.vector) and one.record == other.record
        assert list(one.weights) == list(other.weights)


@pytest.mark.slow
def test_a_composite_comes_back_from_its_file(llama, tmp_path):
    made = compose(llama, vectors_of(llama), PAIRS[0], Composition(scale=0.5))
    made.save(tmp_path / "composite.safetensors")
    back = FunctionVector.load(tmp_path / "composite.safetensors")
    assert torch.equal(back.vector, made.vector) and back.record == made.record
    assert list(back.weights.items()) == list(made.weights.items())
    assert (back.source, back.method, back.parents) == (made.source, "composite", made.parents)


@pytest.mark.slow
def test_sums_of_composites_forget_weights_and_sources(llama):
    one, other = (compose(llama, vectors_of(llama), pair) for pair in PAIRS[:2])
    for mixed in (one + other, one - other, 2.0 * one, -one):
        assert mixed.weights is None and mixed.source == () and mixed.method == "combination"
    for mixed in (one + other, 2.0 * one, -one):
        assert all(parent["weights"] for _, parent in mixed.parents), "the parents still have theirs"
    assert one.weights and one.source == PAIRS[0]


# What is refused


def test_compose_refuses_what_it_cannot_use(llama):
    vectors = vectors_of(llama)
    for wrong, message in [
        ((vectors, ("w1", " ")), "The source pair is"),
        (({}, PAIRS[0]), "The library has no vectors"),
        ((vectors | {"z": replace(vectors["a"], model="gpt2")}, PAIRS[0]), "The library mixes vectors of model"),
        ((vectors | {"z": replace(vectors["a"], layer=2)}, PAIRS[0]), "The library mixes vectors of layer"),
        ((vectors | {"z": replace(vectors["a"], vector=noise(16))}, PAIRS[0]), "The vector has 16 numbers"),
        ((vectors, PAIRS[0], "postrior"), "how is 'postrior'"),
    ]:
        with pytest.raises(InputError) as refused:
            compose(llama, *wrong)
        assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_compose_refuses_a_word_too_long_for_the_context(llama):
    with pytest.raises(InputError, match="more than the model's context of 128"):
        compose(llama, vectors_of(llama), ("w1 " * 130, "w2"))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["shared", "start"])
def test_settings_of_a_model_of_another_size_are_refused(llama, part):
    with pytest.raises(InputError, match="16 numbers"):
        compose(llama, vectors_of(llama), PAIRS[0], Composition(pair_steps=1, **{part: noise(16)}))
