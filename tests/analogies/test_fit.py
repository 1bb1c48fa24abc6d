"""Fitted composites: shared vectors by plain Adam, settings by slow forwards, families without a say in their own."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from fv_lens.analogies import fit
from fv_lens.analogies.compose import compose
from fv_lens.analogies.composition import Composition
from fv_lens.analogies.fit import CANDIDATES, Fitting, fit_composition, fit_compositions
from fv_lens.analogies.selection import BEST, folds_of
from fv_lens.datasets.questions import Question
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.optimizer import RATE, Result

from .. import oracles
from ..oracles import Change, difference
from .made import FAMILIES, LAYER, TRAIN, VALIDATION, equal, questions_of, vectors_of

CLOSE = 1e-4  # relative: Adam divides by a gradient's own size, so rounding weighs more than in a loss
FEW = {
    "alone": [Composition("none")],
    "mixed": [Composition("posterior", t, center=True, scale=s) for t, s in ((0.5, 1.0), (2.0, 0.5))],
    "moved": [Composition("uniform", scale=0.2, pair_steps=n, pair_scale=s) for n, s in ((2, 0.5), (3, 0.25))],
}
ENDINGS = oracles.some_endings()
QUICK = dict(candidates=FEW, how=Fitting(steps=4))


def with_permuted(questions, family: str) -> list[Question]:
    """The questions with the answers of one family passed round among them."""
    places = [i for i, question in enumerate(questions) if question.family == family]
    answers, changed = [questions[i].answers for i in places], list(questions)
    for i, other in zip(places, answers[1:] + answers[:1]):
        changed[i] = replace(questions[i], answers=other)
    assert sum(a != b for a, b in zip(changed, questions)) >= len(places) - 1 > 0
    return changed


def in_words(model, question: Question, n_shots: int) -> tuple[list[int], list[int]]:
    """A question's prompt and usual answer, written by hand."""
    (a, b), (target, answers) = question.source, question.completion
    text = f"Q: {a}\nA: {b}\n\n" * n_shots + f"Q: {target}\nA:"
    prompt, (answer,) = oracles.in_words(model, text, answers[:1])
    return prompt, list(answer)


def outside(questions, family: str | None) -> list[Question]:
    return [question for question in questions if question.family != family]


def tuned_by_hand(model, train, validation, n_shots: int, steps: int) -> torch.Tensor:
    pairs = [[in_words(model, question, n_shots) for question in part] for part in (train, validation)]
    vectors, _, checks = oracles.tuned(model, *pairs, LAYER, torch.zeros(32), steps, RATE)
    return vectors[min({*range(0, steps + 1, 2), steps}, key=lambda step: checks[step])]


@pytest.fixture(autouse=True, scope="module")
def some_end(llama):
    """Half of the tokens end an answer, so that settings differ in how many whole answers are right."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lens_of(llama).state, "endings", ENDINGS)
        yield


@pytest.fixture(scope="module")
def fitted(llama, some_end):
    return fit_compositions(llama, vectors_of(llama), TRAIN, VALIDATION, **QUICK)


# Folds


def sizes(fold_of, questions) -> list[int]:
    return [sum(fold_of[q.family or q.relation] == fold for q in questions) for fold in sorted(set(fold_of.values()))]


def many(counts) -> list[Question]:
    return [q for i, n in enumerate(counts) for q in questions_of(f"r{i}", n, 0, family=f"f{i // 2}")]


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("n_folds", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_family_is_in_one_fold_and_folds_are_about_even(n_folds, seed):
    questions = many([9, 1, 4, 4, 2, 3, 7, 0, 1, 1, 5, 5, 2, 2])
    fold_of = folds_of(questions, n_folds, seed)
    assert set(fold_of) == {q.family for q in questions} and set(fold_of.values()) == set(range(n_folds))
    assert sum(sizes(fold_of, questions)) == len(questions)
    largest = max(sum(q.family == family for q in questions) for family in fold_of)
    assert max(sizes(fold_of, questions)) - min(sizes(fold_of, questions)) <= largest
    even = folds_of(many([3] * 24), n_folds, seed)
    assert max(sizes(even, many([3] * 24))) - min(sizes(even, many([3] * 24))) <= 6


def test_the_order_of_the_questions_changes_no_fold_and_the_seed_does():
    questions = many([3] * 24)
    fold_of = folds_of(questions, 3)
    for seed in range(3):
        mixed = random.Random(seed).sample(questions, len(questions))
        assert folds_of(mixed, 3) == fold_of
    assert folds_of(questions, 3, seed=1) != fold_of


def test_fewer_families_than_folds_have_one_each():
    assert sorted(folds_of(many([5, 1, 2, 2, 3]), 5).values()) == [0, 1, 2]


@pytest.mark.parametrize("n_folds", [0, 1, 5])
def test_there_are_no_folds_where_there_is_nothing_to_part(n_folds):
    one, none = many([4, 2]), [replace(q, relation=None, family=None) for q in many([4, 2, 3])]
    assert folds_of(one, n_folds) == folds_of(none, n_folds) == folds_of([], n_folds) == {}
    assert n_folds == 5 or folds_of(many([4] * 6), n_folds) == {}


def test_a_relation_without_a_family_is_its_own():
    fold_of = folds_of([replace(q, family=None) for q in many([2, 2, 2])], 5)
    assert fold_of.keys() == {"r0", "r1", "r2"} and len(set(fold_of.values())) == 3


# Shared vectors


@pytest.mark.slow
def test_shared_vectors_are_adams_on_the_families_not_left_out(model):
    """In the one-shot prompt, and the start of pair parts in the zero-shot prompt."""
    train, validation = ([q for q in part if q.relation in "cd"] for part in (TRAIN, VALIDATION))
    how, families = {"moved": [Composition("none", pair_steps=1)]}, (None, "g", "h")
    settings = dict(candidates=how, how=Fitting(steps=2))
    found = fit_compositions(model, vectors_of(model), train, validation, **settings)["moved"]
    assert found.fold_of.keys() == {"g", "h"} and len(found.folds) == 2
    for family in families:
        mine, parts = found.of(family), [outside(part, family) for part in (train, validation)]
        assert mine.n_shots == 1
        for shots, part in {1: mine.shared, 0: mine.start}.items():
            expected = tuned_by_hand(model, *parts, shots, 2)
            assert difference(part, expected) <= CLOSE * expected.abs().max() and expected.norm() > 0.01


@pytest.mark.slow
def test_only_what_has_a_pair_part_has_a_start_and_all_have_the_shared_vector(fitted):
    for family in (None, "f", "g", "h", "i"):
        alone, moved = (fitted[name].of(family) for name in ("alone", "moved"))
        assert alone.start is None and moved.start is not None
        assert torch.equal(alone.shared, moved.shared) and torch.equal(alone.shared, fitted["mixed"].of(family).shared)
        assert not torch.equal(moved.start, moved.shared), "the start is for the zero-shot prompt"


@pytest.mark.slow
def test_in_the_zero_shot_prompt_the_shared_vector_is_the_start(llama):
    found = fit_compositions(llama, vectors_of(llama), TRAIN, VALIDATION, n_shots=0, **QUICK)["moved"]
    assert torch.equal(found.whole.shared, found.whole.start) and found.whole.n_shots == 0


# A family has no say in the settings without it


@pytest.fixture
def scored(monkeypatch):
    """What settings are chosen by, `[question, setting, 2]`, and each validation question's fold; one entry a fit."""
    taken, chosen = [], fit.best_settings

    def chosen_(every, made, quality, mine, *rest):
        taken.append(({key: np.stack([found.right, found.log_prob], -1) for key, found in quality.items()}, mine))
        return chosen(every, made, quality, mine, *rest)

    monkeypatch.setattr(fit, "best_settings", chosen_)
    return taken


# So fine that any change of what is best shows.
FINE = {"fine": [Composition("posterior", center=True, scale=i / 20) for i in range(-60, 11)]}


@pytest.fixture
def by_log_prob(llama, monkeypatch):
    """No answer is right as a whole, so that settings are chosen by log-probability alone."""
    monkeypatch.setattr(lens_of(llama).state, "endings", ENDINGS & False)


@pytest.mark.slow
@pytest.mark.parametrize("n_folds", [2, 5], ids=["several families a fold", "a fold a family"])
def test_no_validation_answer_of_a_family_has_a_say_in_its_settings(llama, scored, by_log_prob, n_folds):
    settings = QUICK | dict(how=Fitting(n_folds, 4), candidates=FINE | {"moved": FEW["moved"]})
    before = fit_compositions(llama, vectors_of(llama), TRAIN, VALIDATION, **settings)
    for family in "fh":
        after = fit_compositions(llama, vectors_of(llama), TRAIN, with_permuted(VALIDATION, family), **settings)
        fold = before[BEST].fold_of[family]
        for name in before:
            assert after[name].fold_of == before[name].fold_of
            assert equal(after[name].of(family), before[name].of(family)), (family, name)
        (quality, mine), (other, _) = scored[0], scored[-1]
        assert quality["family"][mine != fold].tobytes() == other["family"][mine != fold].tobytes()
        assert after["fine"].whole.scale != before["fine"].whole.scale, "elsewhere they have"


@pytest.fixture(scope="module")
def stopped(llama, some_end):
    """Two fits: validation questions of family "f", which are many, have their own answers, or one that tuning spoils.

    Spoilt ones end the tuning of every shared vector that is stopped by them before its first step.
    """
    own = [question for question in VALIDATION if question.family == "f"]
    odd = [replace(question, answers=("w41",)) for question in own]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lens_of(llama).state, "endings", ENDINGS & False)
        settings = QUICK | dict(candidates=FINE | {"moved": FEW["moved"]})
        rest = outside(VALIDATION, "f")
        return [fit_compositions(llama, vectors_of(llama), TRAIN, rest + 10 * some, **settings) for some in (own, odd)]


@pytest.mark.slow
def test_no_validation_answer_of_a_family_stops_the_vectors_without_it(stopped):
    one, other = (found["moved"] for found in stopped)
    assert torch.equal(one.of("f").shared, other.of("f").shared)
    assert torch.equal(one.of("f").start, other.of("f").start)
    for family in (None, "g", "h", "i"):
        assert not torch.equal(one.of(family).shared, other.of(family).shared), "elsewhere they are stopped sooner"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["f", "h"])
def test_no_train_answer_of_a_family_has_a_say_in_its_settings(llama, scored, fitted, family):
    after = fit_compositions(llama, vectors_of(llama), with_permuted(TRAIN, family), VALIDATION, **QUICK)
    fit_compositions(llama, vectors_of(llama), TRAIN, VALIDATION, **QUICK)
    for name in FEW:
        mine, before = after[name].of(family), fitted[name].of(family)
        assert torch.equal(mine.shared, before.shared)
        assert mine.start is before.start is None or torch.equal(mine.start, before.start)
    assert not torch.equal(after["moved"].whole.shared, fitted["moved"].whole.shared)
    assert not torch.equal(after["moved"].whole.start, fitted["moved"].whole.start)
    others = [one for one in "fghi" if one != family]
    assert not any(torch.equal(after["alone"].of(one).shared, fitted["alone"].of(one).shared) for one in others)
    (other, _), (quality, mine) = scored
    own = mine == fitted[BEST].fold_of[family]
    assert quality["family"][own].tobytes() == other["family"][own].tobytes()


@pytest.mark.slow
def test_questions_without_a_family_do_not_let_one_in(llama, by_log_prob):
    """Settings of a fold are chosen on them too: not by answers with vectors that were tuned on the family left out."""
    own = [question for question in TRAIN if question.family == "g"]
    odd = [replace(question, answers=("w41",)) for question in own]
    validation, found = [*questions_of("c", 3, 60), *questions_of(None, 6, 100)], []
    for some in (own, odd):
        train = outside(TRAIN, "g") + 5 * some
        how = fit_compositions(llama, vectors_of(llama), train, validation, **QUICK | dict(candidates=FINE))["fine"]
        found.append(how)
    one, other = found
    assert torch.equal(one.of("g").shared, other.of("g").shared) and one.whole.scale != other.whole.scale
    assert one.of("g").scale == other.of("g").scale


@pytest.mark.slow
def test_the_library_of_a_family_left_out_has_none_of_it(llama, scored):
    """A poisoned vector is seen by what may use it, and by nothing else."""
    vectors = vectors_of(llama)
    fit_compositions(llama, vectors, TRAIN, VALIDATION, **QUICK)
    for poisoned in "ac":
        poison = replace(vectors[poisoned], vector=torch.full((32,), 1e4))
        fit_compositions(llama, vectors | {poisoned: poison}, TRAIN, VALIDATION, **QUICK)
        (quality, _), (other, _) = scored[0], scored[-1]
        own = np.array([question.family == FAMILIES[poisoned] for question in VALIDATION])
        assert quality["family"][own].tobytes() == other["family"][own].tobytes()
        assert (quality["family"][~own][:, 1:] != other["family"][~own][:, 1:]).any((1, 2)).all()
        assert (quality[None][:, 3:, 1] != other[None][:, 3:, 1]).all(), "the full library has it"


@pytest.mark.slow
def test_kin_that_train_questions_alone_tell_of_are_left_out_too(llama, scored):
    """No validation question is of relation "b", but the train questions say that it is of family "f"."""
    vectors, validation = vectors_of(llama), [question for question in VALIDATION if question.relation != "b"]
    for b in (vectors["b"], replace(vectors["b"], vector=torch.full((32,), 1e4))):
        fit_compositions(llama, vectors | {"b": b}, TRAIN, validation, **QUICK)
    own = np.array([question.family == "f" for question in validation])
    assert scored[0][0]["family"][own].tobytes() == scored[1][0]["family"][own].tobytes()


# What is chosen


def completed(model, question: Question, vector: torch.Tensor) -> tuple[bool, float]:
    """Whether the whole answer is right in the one-shot prompt, and its log-probability, by full forwards."""
    prompt, _ = in_words(model, question, 1)
    answers = [(model.tokenizer.convert_tokens_to_ids(answer),) for answer in question.answers]
    ends = ENDINGS.nonzero()[:, 0].tolist()
    return oracles.completion(model, prompt, answers, ends, [Change(LAYER, vector)])[:2]


def by_hand(model, found, questions, family_left_out: bool) -> np.ndarray:
    """`[question, setting, 2]`: each question with each setting's composite, one at a time."""
    vectors, table = vectors_of(model), []
    for question in questions:
        family = question.family if family_left_out else None
        library = {name: fv for name, fv in vectors.items() if FAMILIES[name] != family}
        shared, start = found["alone"].of(family).shared, found["moved"].of(family).start
        row = []
        for how in (how for listed in FEW.values() for how in listed):
            how = replace(how, shared=shared, start=start if how.pair_steps else None, n_shots=1)
            row.append(completed(model, question, compose(model, library, question.source, how).vector))
        table.append(row)
    return np.array(table, dtype=float)


@pytest.mark.slow
def test_settings_are_the_best_by_slow_forwards_of_validation_questions(llama, fitted, scored):
    """By the share of whole answers, then by log-probability."""
    fit_compositions(llama, vectors_of(llama), TRAIN, VALIDATION, **QUICK)
    ((quality, mine),) = scored
    full, left_out = quality[None], quality["family"]
    for found, out in ((full, False), (left_out, True)):
        slow = by_hand(llama, fitted, VALIDATION[::2], out)
        assert np.abs(found[::2] - slow).max() <= 1e-3 and 0 < slow[..., 0].mean() < 1
    settings = [how for listed in FEW.values() for how in listed]
    some, n = {}, 0
    for name, listed in FEW.items():
        some[name] = list(range(n, n := n + len(listed)))
    some[BEST] = list(range(n))
    fold_of = fitted[BEST].fold_of
    for name, places in some.items():
        found, expected = fitted[name], {}
        for family in (None, "f", "g", "h", "i"):
            kept = [i for i, q in enumerate(VALIDATION) if family is None or fold_of[q.family] != fold_of[family]]
            means = (full if family is None else left_out)[kept].mean(0).round(9).tolist()
            expected[family] = max(places, key=lambda i: means[i])
            how = settings[expected[family]]
            assert equal(replace(found.of(family), shared=None, start=None), replace(how, n_shots=1)), (name, family)
        told = found.record
        assert (told["accuracy"], told["log_prob"]) == pytest.approx(full.mean(0)[expected[None]], abs=1e-3)
        own = np.mean([left_out[i, expected[q.family]] for i, q in enumerate(VALIDATION)], 0)
        told = told["family left out"]
        assert (told["accuracy"], told["log_prob"]) == pytest.approx(own, abs=1e-3)
    assert mine.tolist() == [fold_of[q.family] for q in VALIDATION]


@pytest.mark.slow
def test_the_best_of_all_is_the_best_of_the_names(fitted):
    of = {name: (how.record["accuracy"], how.record["log_prob"]) for name, how in fitted.items() if name != BEST}
    best, record = max(of, key=of.get), fitted[BEST].record
    assert len(set(of.values())) == len(FEW) and (record["accuracy"], record["log_prob"]) == of[best]
    assert record["chosen"].split(", ")[0] == best and equal(fitted[BEST].whole, fitted[best].whole)
    for fold, told in enumerate(record["family left out"]["chosen"]):
        assert equal(fitted[BEST].folds[fold], fitted[told.split(", ")[0]].folds[fold])


@pytest.mark.slow
def test_what_was_chosen_is_told_in_words(fitted):
    assert fitted["alone"].record["chosen"] == "alone"
    how = fitted["mixed"].whole
    assert fitted["mixed"].record["chosen"] == f"mixed, T = {how.temperature:g}, scale {how.scale:g}"
    how = fitted["moved"].whole
    assert fitted["moved"].record["chosen"] == f"moved, T = 1, scale 0.2, {how.pair_steps} steps x {how.pair_scale:g}"


@pytest.mark.slow
def test_settings_of_a_family_are_of_its_fold_and_of_others_the_whole(fitted):
    for found in fitted.values():
        for family in "fghi":
            assert found.of(family) is found.folds[found.fold_of[family]]
        assert found.of("another") is found.of(None) is found.whole


@pytest.mark.slow
def test_every_kind_of_composite_is_fitted_and_one_of_them_is_the_best(llama):
    parts = [[q for q in part if q.relation in "ac"] for part in (TRAIN, VALIDATION)]
    found = fit_compositions(llama, vectors_of(llama), *parts, how=Fitting(steps=2))
    assert [*found] == [*CANDIDATES, BEST]
    one = fit_composition(llama, vectors_of(llama), *parts, how=Fitting(steps=2))
    assert equal(one.whole, found[BEST].whole) and all(map(equal, one.folds, found[BEST].folds))
    for name, listed in CANDIDATES.items():
        for mine in (found[name].whole, *found[name].folds):
            assert any(equal(replace(mine, shared=None, start=None, n_shots=0), how) for how in listed), name


@pytest.mark.slow
def test_without_folds_there_is_the_whole_alone(llama, fitted):
    unknown = [[replace(q, relation=None, family=None) for q in part] for part in (TRAIN, VALIDATION)]
    for questions, n_folds in (([TRAIN, VALIDATION], 0), (unknown, 5)):
        found = fit_compositions(llama, vectors_of(llama), *questions, candidates=FEW, how=Fitting(n_folds, 4))
        for name, mine in found.items():
            assert mine.folds == () and mine.of("f") is mine.whole and mine.fold_of == {}
            assert mine.record.keys() == {"accuracy", "log_prob", "chosen"}
            assert mine.record["log_prob"] == pytest.approx(fitted[name].record["log_prob"], abs=1e-3)
        shared, expected = found["alone"].whole.shared, fitted["alone"].whole.shared
        assert difference(shared, expected) <= CLOSE * expected.abs().max()


# Bad input


@pytest.mark.parametrize(
    "train, validation", [([], VALIDATION), (TRAIN, []), ([], [])], ids=["train", "validation", "both"]
)
def test_without_questions_nothing_is_fitted(llama, train, validation):
    with pytest.raises(
        InputError, match=rf"^There are {len(train)} train and {len(validation)} validation analogies; give some"
    ):
        fit_compositions(llama, vectors_of(llama), train, validation, **QUICK)


def test_what_cannot_be_fitted_is_refused(llama):
    with pytest.raises(InputError, match="^The library has no vectors"):
        fit_compositions(llama, {}, TRAIN, VALIDATION, **QUICK)
    with pytest.raises(InputError, match="^The library mixes vectors of layer 1 .'a'. and 2 .'b'."):
        fit_compositions(llama, vectors_of(llama, "a") | vectors_of(llama, "b", 2), TRAIN, VALIDATION, **QUICK)
    with pytest.raises(InputError, match="^n_folds is -1; give a whole number of at least 0"):
        fit_compositions(llama, vectors_of(llama), TRAIN, VALIDATION, candidates=FEW, how=Fitting(-1))
    with pytest.raises(InputError, match="^seed is -1; give a whole number of at least 0"):
        fit_compositions(llama, vectors_of(llama), TRAIN, VALIDATION, candidates=FEW, how=Fitting(seed=-1))
    of_f, others = ([q for q in TRAIN if (q.family == "f") == own] for own in (True, False))
    with pytest.raises(InputError, match="^Every train analogy is of f, which one fold leaves out"):
        fit_compositions(llama, vectors_of(llama), of_f, others, **QUICK)
    with pytest.raises(InputError, match="^Every validation analogy is of f, .*give validation analogies of other fam"):
        fit_compositions(llama, vectors_of(llama), others, of_f, **QUICK)


def test_a_shared_vector_that_breaks_is_told(llama, monkeypatch):
    broken = Result(None, 3, 1.0, np.zeros(4), np.zeros(5))
    monkeypatch.setattr(fit, "tune", lambda lens, tasks, *args, **settings: [broken] * len(tasks))
    with pytest.raises(InputError, match="^The loss of the shared vector of 'all' became NaN"):
        fit_compositions(llama, vectors_of(llama), TRAIN, VALIDATION, **QUICK)
