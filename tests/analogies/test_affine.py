"""Affine weights: loss and gradient against plain autograd, left-out vectors against smaller libraries, and fits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fv_lens.analogies import fit_affine as module
from fv_lens.analogies.affine import FLOOR, affine_scores, affine_weights
from fv_lens.analogies.affine_map import Affine, backward
from fv_lens.analogies.basis import Basis
from fv_lens.analogies.compose import Composer, compose, weights_of
from fv_lens.analogies.composition import METHODS, Composition, Folded
from fv_lens.analogies.fit import Fitting
from fv_lens.analogies.fit_affine import AffineFits, fit_affine
from fv_lens.engine.batches import batch
from fv_lens.engine.gradients import Rows
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of

from .. import oracles
from ..oracles import EXACT, Change, difference
from ..tiny import FAMILIES as ARCHITECTURES
from .made import FAMILIES, FAMILY, FULL, LAYER, RELATION, TRAIN, VALIDATION, equal, evaluated, noise, vectors_of

FEW = {"diagonal": [Affine(free_scale=True), Affine(scored_by="probability")], "full": [Affine(full=True)]}
QUICK = dict(candidates=FEW, how=Fitting(steps=8))
NAMES = ("a", "b", "c", "d")
SOME = TRAIN[:8:2]


def made(full: bool = True, scored_by: str = "log-probability", **more) -> Composition:
    """Settings whose map and bias are not the identity."""
    matrix = torch.eye(4) + 0.3 * noise(4, 4, seed=5)
    how = Composition(
        "affine", affine_map=matrix if full else matrix.diagonal().clone(), affine_bias=noise(4, seed=6),
        scored_by=scored_by, vectors=NAMES, scale=0.7,
    )  # fmt: skip
    return replace(how, **more)


def asked_in_words(model, question, n_shots: int):
    (a, b), (target, answers) = question.source, question.completion
    text = f"Q: {a}\nA: {b}\n\n" * n_shots + f"Q: {target}\nA:"
    prompt, (answer,) = oracles.in_words(model, text, answers[:1])
    return prompt, list(answer)


def explained_by_hand(model, question, vectors) -> torch.Tensor:
    """log P(B | A) with each vector, by one full forward each."""
    prompt, (answer,) = oracles.in_words(model, f"Q: {question.source[0]}\nA:", question.source[1:])
    values = [oracles.continuation_log_probs(model, prompt, answer, [Change(LAYER, v.vector)]) for v in vectors]
    return torch.stack([value.sum() for value in values])


def plain_loss(model, questions, vectors, may, matrix, bias, scale, scored_by, n_shots) -> torch.Tensor:
    """Mean loss of D, with the composite of each pair made and added by hand; may be differentiated."""
    losses = []
    for question, ok in zip(questions, may.tolist()):
        kept = [i for i in range(len(NAMES)) if ok[i]]
        s = explained_by_hand(model, question, [vectors[NAMES[i]] for i in kept])
        s = s.exp() if scored_by == "probability" else s
        s = s - s.mean()
        mapped = matrix[kept] * s if matrix.dim() == 1 else matrix[kept][:, kept] @ s
        weights = (mapped + bias[kept]).softmax(0)
        composite = scale * sum(w * vectors[NAMES[i]].vector for w, i in zip(weights, kept))
        losses.append(oracles.answer_loss(model, *asked_in_words(model, question, n_shots), LAYER, composite))
    return torch.stack(losses).mean()


@ARCHITECTURES
@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("scored_by, n_shots", [("log-probability", 0), ("probability", 1)])
def test_loss_and_gradient_are_those_of_full_forwards_and_autograd(model, full, scored_by, n_shots):
    lens, vectors = lens_of(model), vectors_of(model)
    library = Basis.of(lens, vectors)
    may = torch.tensor([[True] * 4, [True, False, True, True], [False, False, True, True], [True] * 4])
    leaves = [[x.clone().requires_grad_() for x in (made(full).affine_map, noise(4, seed=6), torch.tensor(0.7))]
              for _ in range(2)]  # fmt: skip
    rows = Rows(lens, batch(lens, [q.asked(n_shots) for q in SOME], library.template), range(4), LAYER)
    scores, known = affine_scores(Composer(lens, library, [q.source for q in SOME]).log_probs[:, 1:], scored_by, may)
    # In units of the scores, as where it is fitted: probabilities of a random model are tiny.
    unit, (matrix, bias, scale) = float(scores[known].square().mean().sqrt()), leaves[0]
    composites = scale * affine_weights(scores, matrix / unit, bias, known) @ library.matrix
    losses = backward(rows, composites)
    matrix, *others = leaves[1]
    expected = plain_loss(model, SOME, vectors, may, matrix / unit, *others, scored_by, n_shots)
    expected.backward()
    assert abs(losses.mean() - expected.detach()) <= EXACT * expected.detach().clamp(min=1)
    for found, plain in zip(leaves[0], leaves[1]):
        assert plain.grad.abs().max() > 1e-4, "nothing to compare"
        assert difference(found.grad, plain.grad) <= EXACT * plain.grad.abs().max().clamp(min=1)


# Weights


def test_the_identity_by_log_probability_is_the_posterior():
    log_probs = 5 * noise(6, 5)
    some = noise(6, 4, seed=1) > -0.5
    some[:, 0] = True
    for may in (None, some):
        expected = weights_of(log_probs, METHODS["posterior"], may)
        for matrix in (None, torch.ones(4), torch.eye(4)):
            for bias in (None, torch.full((4,), 3.0)):
                how = Composition("affine", affine_map=matrix, affine_bias=bias, vectors=NAMES)
                assert difference(weights_of(log_probs, how, may), expected) <= EXACT
    by_probability = weights_of(log_probs, Composition("affine", scored_by="probability"), may)
    assert difference(by_probability, expected) > 0.1


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("scored_by", ["log-probability", "probability"])
def test_what_is_left_out_is_as_if_it_had_never_been_there(llama, full, scored_by):
    """A full map takes no score of a vector that is left out, nor does the mean."""
    lens, vectors, how = lens_of(llama), vectors_of(llama), made(full, scored_by)
    pairs = [q.source for q in TRAIN]
    whole = Composer(lens, Basis.of(lens, vectors), pairs)
    for out in NAMES:
        rest = {name: fv for name, fv in vectors.items() if name != out}
        may = torch.tensor([[name != out for name in NAMES]] * len(pairs))
        expected = Composer(lens, Basis.of(lens, rest), pairs)
        kept = [i for i, name in enumerate(NAMES) if name != out]
        assert difference(whole.weights(how, may)[:, kept], expected.weights(how)) <= EXACT
        assert not whole.weights(how, may)[:, NAMES.index(out)].any()
        assert difference(whole.vectors(how, may), expected.vectors(how)) <= 1e-4


def test_names_and_not_places_say_what_a_number_belongs_to(llama):
    vectors, pair = vectors_of(llama), TRAIN[0].source
    order = [2, 0, 3, 1]
    how = made()
    moved = replace(
        how, vectors=tuple(NAMES[i] for i in order), affine_map=how.affine_map[order][:, order],
        affine_bias=how.affine_bias[order],
    )  # fmt: skip
    one, other = (compose(llama, vectors, pair, each) for each in (how, moved))
    assert difference(one.vector, other.vector) <= EXACT
    unlike = compose(llama, vectors, pair, replace(how, vectors=moved.vectors))
    assert difference(one.vector, unlike.vector) > 1e-2


def test_a_probability_of_nothing_is_the_least_and_an_unknown_one_leaves_its_vector_out():
    log_probs = torch.tensor([[-3.0, -torch.inf, -2.0, -1.0], [-3.0, torch.nan, -2.0, -1.0]])
    may = torch.ones(2, 4, dtype=torch.bool)
    for scored_by in ("log-probability", "probability"):
        scores, known = affine_scores(log_probs, scored_by, may)
        assert scores.isfinite().all() and known.tolist() == [[True] * 4, [True, False, True, True]]
        assert scores.sum(1).abs().max() <= 1e-4 and scores[1, 1] == 0
        for how in (made(True, scored_by), made(False, scored_by)):
            weights = affine_weights(scores, how.affine_map, how.affine_bias, known)
            assert weights.isfinite().all() and difference(weights.sum(1), torch.ones(2)) <= EXACT
            assert weights[1, 1] == 0
    low, floor = (affine_scores(torch.tensor([[-1.0, x]]), "log-probability", may[:1, :2])[0]
                  for x in (-torch.inf, FLOOR))  # fmt: skip
    assert torch.equal(low, floor)
    with pytest.raises(InputError, match="no vector is left"):
        affine_scores(torch.full((1, 4), torch.nan), "probability", may[:1])


# What map and bias may be


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(affine_map=torch.ones(3)), "affine_map has the shape [3] and vectors 4 names; give a number for each"),
        (dict(affine_map=torch.ones(4, 3)), "affine_map has the shape [4, 3] and vectors 4 names"),
        (dict(affine_bias=torch.ones(4, 4)), "affine_bias has the shape [4, 4] and vectors 4 names"),
        (dict(vectors=()), "affine_map has the shape [4, 4] and vectors 0 names"),
        (dict(affine_bias=torch.full((4,), torch.nan)), "affine_bias holds numbers that are not finite"),
        (dict(scored_by="rank"), "scored_by is 'rank'; choose from log-probability, probability."),
    ],
    ids=str,
)
def test_maps_that_cannot_be_are_refused(wrong, message):
    with pytest.raises((InputError, TypeError)) as refused:
        replace(made(), **wrong)
    if refused.type is InputError:
        assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_a_library_of_other_vectors_is_refused(llama):
    vectors = vectors_of(llama)
    other = vectors | {"z": replace(vectors["a"], relation="z")}
    with pytest.raises(InputError, match="^The library holds 'z', which the affine map was not fitted for"):
        compose(llama, other, TRAIN[0].source, made())


@pytest.mark.parametrize("how", [made(), made(False, "probability"), Composition("affine")], ids=["full", "1", "none"])
def test_maps_come_back_from_their_file(how, tmp_path):
    how.save(tmp_path / "how.safetensors")
    assert equal(Composition.load(tmp_path / "how.safetensors"), how)
    folded = Folded(how, (METHODS["posterior"], made()), {"f": 1, "g": 0})
    folded.save(tmp_path / "folds.safetensors")
    back = Folded.load(tmp_path / "folds.safetensors")
    assert all(map(equal, (back.whole, *back.folds), (how, *folded.folds)))


def test_what_has_no_map_is_saved_as_before():
    assert not {"scored_by", "vectors"} & Folded(METHODS["posterior"]).parts()[1]["settings"][0].keys()


# Fits


@pytest.fixture(autouse=True, scope="module")
def some_end(llama):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lens_of(llama).state, "endings", oracles.some_endings())
        yield


@pytest.fixture(scope="module")
def fitted(llama, some_end):
    return fit_affine(llama, vectors_of(llama), TRAIN, VALIDATION, **QUICK)


def loss_of(model, questions, how: Composition, n_shots: int = 0) -> float:
    """Mean loss of D under the composites of the full library, by full forwards."""
    losses = [
        oracles.answer_loss(
            model,
            *asked_in_words(model, question, n_shots),
            LAYER,
            compose(model, vectors_of(model), question.source, how).vector,
        )  # fmt: skip
        for question in questions
    ]
    return torch.stack(losses).mean().item()


@pytest.mark.parametrize("what", [Affine(ridge=0.0), Affine(full=True, scored_by="probability", ridge=0.0)], ids=str)
@pytest.mark.parametrize("n_shots", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_fit_makes_the_answers_more_probable(llama, what, n_shots):
    """Stopped on the questions that it is fitted on, so that only the fit is under test."""
    settings = dict(n_shots=n_shots, candidates={"it": [what]}, how=Fitting(0, 16))
    how = fit_affine(llama, vectors_of(llama), TRAIN, TRAIN, **settings)["it"].whole
    start = Composition("affine", scored_by=what.scored_by)
    assert loss_of(llama, TRAIN, how, n_shots) < loss_of(llama, TRAIN, start, n_shots) - 0.1
    assert how.n_shots == n_shots and how.vectors == NAMES and how.shared is None
    assert how.affine_map.dim() == (2 if what.full else 1)


@pytest.mark.slow
def test_without_a_free_scale_the_weights_alone_are_fitted(llama):
    candidates = {"it": [Affine()], "free": [Affine(free_scale=True)]}
    found = fit_affine(llama, vectors_of(llama), TRAIN, TRAIN, candidates=candidates, how=Fitting(0, 8))
    assert found["it"].whole.scale == 1 != found["free"].whole.scale


@pytest.mark.slow
def test_a_strong_ridge_holds_the_map_near_the_identity_and_the_bias_near_zero(llama):
    def away(ridge: float) -> float:
        candidates = {"it": [Affine(full=True, ridge=ridge)]}
        how = fit_affine(llama, vectors_of(llama), TRAIN, TRAIN, candidates=candidates, how=Fitting(0, 16))["it"].whole
        return float((how.affine_map - torch.eye(4)).norm() + how.affine_bias.norm())

    assert away(1e4) < 0.5 * away(0.0)


@pytest.mark.slow
def test_what_spoils_validation_from_the_first_step_is_not_taken(llama):
    """Validation answers are not what the fit makes probable: what is kept is no worse for them than the posterior."""
    odd = [replace(question, answers=("w41",)) for question in VALIDATION]
    candidates = {"it": [Affine(full=True, ridge=0.0)]}
    train = [replace(question, answers=("w150",)) for question in TRAIN]
    how = fit_affine(llama, vectors_of(llama), train, odd, candidates=candidates, how=Fitting(0, 8))["it"].whole
    losses = [loss_of(llama, odd, each) for each in (how, METHODS["posterior"])]
    assert losses[0] <= losses[1] + EXACT


@pytest.mark.slow
def test_more_analogies_than_a_block_are_fitted_on_all(llama, monkeypatch):
    """Answers of the second block move the map as well."""
    monkeypatch.setattr(module, "BLOCK", 8)
    settings = dict(candidates={"it": [Affine(ridge=0.0)]}, how=Fitting(0, 4))
    one = fit_affine(llama, vectors_of(llama), TRAIN, TRAIN, **settings)["it"].whole
    for place in (0, 1):
        odd = [replace(q, answers=("w41",)) if i == place else q for i, q in enumerate(TRAIN)]
        other = fit_affine(llama, vectors_of(llama), odd, TRAIN, **settings)["it"].whole
        assert not torch.equal(one.affine_map, other.affine_map)


def without_answers_of(questions, family: str):
    """The questions with the answers of one family passed round among them."""
    places = [i for i, question in enumerate(questions) if question.family == family]
    answers, changed = [questions[i].answers for i in places], list(questions)
    for i, other in zip(places, answers[1:] + answers[:1]):
        changed[i] = replace(questions[i], answers=other)
    return changed


@pytest.mark.slow
def test_no_answer_of_a_family_has_a_say_in_its_settings(llama, fitted):
    for family in "fh":
        changed = [without_answers_of(part, family) for part in (TRAIN, VALIDATION)]
        after = fit_affine(llama, vectors_of(llama), *changed, **QUICK)
        for name in FEW:
            assert equal(after[name].of(family), fitted[name].of(family)), (family, name)
            assert not torch.equal(after[name].whole.affine_bias, fitted[name].whole.affine_bias), "elsewhere they have"


@pytest.mark.parametrize("fold", [None, 0, 1, 2, 3])
def test_a_map_sees_the_analogies_of_other_families_alone_and_each_once(llama, monkeypatch, fold):
    monkeypatch.setattr(module, "BLOCK", 4)
    fits = AffineFits(llama, vectors_of(llama), TRAIN, VALIDATION, QUICK["how"])
    analogies = fits._analogies(0, fold)
    of_fold = {family for family, other in fits.folds.of.items() if other == fold}
    assert fits.folds.n == 4 and (fold is None) == (not of_fold)
    seen = sorted(place for block in analogies.blocks for place in block.places)
    assert seen == [i for i, question in enumerate(TRAIN) if question.family not in of_fold]
    assert analogies.check.places == [i for i, question in enumerate(VALIDATION) if question.family not in of_fold]
    assert analogies.exclude == (None if fold is None else "family")
    assert all(len(block.rows.owners) == len(block.places) <= 4 for block in analogies.blocks)


@pytest.mark.slow
def test_a_fold_is_fitted_without_the_family_of_each_analogy_in_the_library(llama):
    """The vector of relation "c" alone is of family "g": it has no part in how analogies of "g" move a fold's map."""
    own = [q for q in TRAIN if q.family == "g"]
    few = [*own, *(q for q in TRAIN if q.family == "h")]
    vectors, settings = vectors_of(llama), dict(candidates={"it": [Affine(ridge=0.0)]}, how=Fitting(2, 4))
    poison = vectors | {"c": replace(vectors["c"], vector=5 * noise(32, seed=77))}
    found = [fit_affine(llama, each, few, few, **settings)["it"] for each in (vectors, poison)]
    assert equal(found[0].of("h"), found[1].of("h")), "fitted on analogies of g alone"
    assert not torch.equal(found[0].of("g").affine_bias, found[1].of("g").affine_bias)


@pytest.mark.slow
def test_every_name_has_the_best_of_its_candidates(fitted, llama):
    assert [*fitted] == [*FEW] and all(len(how.folds) == 4 for how in fitted.values())
    one = fit_affine(
        llama, vectors_of(llama), TRAIN, VALIDATION, candidates={"it": FEW["diagonal"][:1]}, how=QUICK["how"]
    )
    two = fit_affine(
        llama, vectors_of(llama), TRAIN, VALIDATION, candidates={"it": FEW["diagonal"][1:]}, how=QUICK["how"]
    )
    of = [(how["it"].record["accuracy"], how["it"].record["log_prob"]) for how in (one, two)]
    best = (one, two)[of.index(max(of))]["it"]
    assert equal(fitted["diagonal"].whole, best.whole) and fitted["diagonal"].record["accuracy"] == max(of)[0]
    assert fitted["diagonal"].record["chosen"] in [f"diagonal, {what}" for what in FEW["diagonal"]]


# Beside the other methods


@pytest.mark.slow
def test_a_map_is_used_in_the_prompt_it_was_fitted_for_and_two_are_one_method(llama):
    zero, one = made(), made(False, n_shots=1)
    alone = evaluated(llama, methods={"zero": zero, "one": one}, choices=False)
    both = evaluated(llama, methods={"both": (zero, one)}, choices=False)
    for library in (FULL, RELATION, FAMILY):
        assert ("zero", library, "one-shot") not in alone.values and ("one", library, "zero-shot") not in alone.values
        for name, prompt in (("zero", "zero-shot"), ("one", "one-shot")):
            mine, theirs = both.values["both", library, prompt], alone.values[name, library, prompt]
            assert np.array_equal(mine["log_prob"], theirs["log_prob"])


# Bad input


def test_what_cannot_be_fitted_is_refused(llama):
    vectors = vectors_of(llama)
    for args, more, message in [
        ((vectors, [], VALIDATION), {}, "There are 0 train and 10 validation analogies; give some of each."),
        ((vectors, TRAIN, VALIDATION), dict(candidates={}), "There are no candidates to choose from"),
        ((vectors, TRAIN, VALIDATION), dict(candidates={"it": []}), "There are no candidates to choose from"),
        (({}, TRAIN, VALIDATION), {}, "The library has no vectors"),
    ]:
        with pytest.raises(InputError) as refused:
            fit_affine(llama, *args, **{**QUICK, **more})
        assert str(refused.value).startswith(message.replace("10", str(len(VALIDATION))))
    with pytest.raises(InputError, match="^ridge is -1.0; give a number of at least 0"):
        Affine(ridge=-1.0)


def test_a_loss_that_is_not_a_number_at_the_start_is_told(llama, monkeypatch):
    monkeypatch.setattr(Rows, "losses", lambda self, vectors: torch.full((len(vectors),), torch.nan))
    with pytest.raises(InputError, match="^The loss of the affine map of all families is nan before its first step"):
        fit_affine(llama, vectors_of(llama), TRAIN, VALIDATION, **QUICK)


def test_families_are_those_of_the_questions():
    assert {q.family for q in TRAIN} == set(FAMILIES.values())
