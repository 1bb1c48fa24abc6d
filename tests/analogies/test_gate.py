"""Gates: signals by full forwards, curves by hand, thresholds that no other beats."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fv_lens import plots
from fv_lens.analogies.compose import compose
from fv_lens.analogies.composition import METHODS, Composition, Folded
from fv_lens.analogies.gate import COVERAGES, SIGNALS, Gate, GateCurve, Gated, fit_gate
from fv_lens.analogies.unseen import unseen
from fv_lens.ground.errors import InputError

from .. import oracles
from ..oracles import Change
from .made import FAMILIES, FAMILY, LAYER, TRAIN, VALIDATION, noise, vectors_of

pytestmark = pytest.mark.usefixtures("some_end")

ENDS = oracles.some_endings().nonzero()[:, 0].tolist()
CURVE = GateCurve(
    "gain of the composite", np.array([3.0, 1.0, 2.0, 0.0, -1.0]), np.array([1.0, 1.0, 0.0, -1.0, 0.0]), [*"aabbc"]
)


# Curves


def test_what_is_covered_first_has_the_largest_signal():
    assert [CURVE.covered(c).tolist() for c in (0.2, 0.4, 1.0)] == [
        [True, False, False, False, False], [True, False, True, False, False], [True] * 5,
    ]  # fmt: skip
    assert CURVE.covered(0.01).sum() == 1, "at least one"


def test_gains_are_of_what_is_covered_and_of_all():
    assert [CURVE.gain(c).value for c in (0.2, 0.4, 0.6, 1.0)] == pytest.approx([1, 1 / 2, 2 / 3, 1 / 5])
    assert [CURVE.gain_over_all(c).value for c in (0.2, 0.6, 1.0)] == pytest.approx([1 / 5, 2 / 5, 1 / 5])
    assert (CURVE.gain(0.6).n, CURVE.gain_over_all(0.6).n) == (3, 5)
    gate = replace(CURVE, threshold=1.0)
    assert gate.inserted.tolist() == [True, True, True, False, False] and gate.gated.value == pytest.approx(2 / 5)


def test_the_table_has_both_gains_at_every_coverage():
    frame = CURVE.to_frame()
    assert len(frame) == 2 * len(COVERAGES) and COVERAGES[0] == 0.1 and COVERAGES[-1] == 1
    for line in frame.itertuples():
        score = getattr(CURVE, line.measure)(line.coverage)
        assert (line.value, line.n) == (score.value, score.n)
    assert "100%" in CURVE._repr_html_() and CURVE.signal in CURVE._repr_html_()


def test_a_signal_that_puts_what_helps_first_has_the_larger_mean_gain():
    worst = replace(CURVE, values=-CURVE.values)
    assert CURVE.mean_gain > replace(CURVE, values=np.array([0.0, 1.0, 2.0, 3.0, 4.0])).mean_gain
    assert CURVE.mean_gain > worst.mean_gain


@pytest.mark.parametrize("coverage", [0.0, -0.5, 1.5])
def test_a_coverage_outside_0_to_1_is_refused(coverage):
    with pytest.raises(InputError, match=f"^coverage is {coverage}; give a share above 0"):
        CURVE.covered(coverage)


def test_a_curve_without_a_threshold_inserts_nothing_on_its_own():
    with pytest.raises(InputError, match="without a threshold"):
        CURVE.inserted  # noqa: B018


# Signals


def log_prob(model, pair, vector=None) -> float:
    prompt, (answer,) = oracles.in_words(model, f"Q: {pair[0]}\nA:", pair[1:])
    changes = [] if vector is None else [Change(LAYER, vector)]
    return float(oracles.continuation_log_probs(model, prompt, answer, changes).sum())


@pytest.mark.parametrize("how, library", [("posterior", "full"), ("centred", "relation left out")])
def test_signals_are_those_of_full_forwards(llama, how, library):
    vectors, questions = vectors_of(llama), TRAIN[:6]
    found = Gated(llama, vectors, questions).signals(METHODS[how], library)
    for i, question in enumerate(questions):
        mine = {n: fv for n, fv in vectors.items() if library == "full" or n != question.relation}
        composite, plain = compose(llama, mine, question.source, how), log_prob(llama, question.source)
        best = max(log_prob(llama, question.source, fv.vector) for fv in mine.values()) - plain
        own = log_prob(llama, question.source, composite.vector) - plain
        shares = [w for w in composite.weights.values() if w]
        certainty = 1 + sum(w * math.log(w) for w in shares) / math.log(len(mine))
        assert [found[name][i] for name in SIGNALS] == pytest.approx([best, own, certainty], abs=1e-4)


@pytest.mark.slow
def test_answers_have_no_part_in_signals(llama):
    other = [replace(q, answers=("w41",), target="w40") for q in TRAIN[:5]]
    found = [Gated(llama, vectors_of(llama), some).signals(METHODS["posterior"], "full") for some in (TRAIN[:5], other)]
    for name in SIGNALS:
        assert np.array_equal(found[0][name], found[1][name])


def test_without_weights_there_is_no_certainty(llama):
    found = Gated(llama, vectors_of(llama), TRAIN[:3]).signals(Composition("none", shared=noise(32)), "full")
    assert [*found] == list(SIGNALS[:2])


def test_a_composite_without_weights_in_one_fold_has_no_certainty_wherever_it_is_used(llama):
    bare = Composition("none", shared=noise(32))
    for folded in (
        Folded(bare, (METHODS["uniform"], METHODS["single best"]), {"f": 0, "g": 1}),
        Folded(METHODS["uniform"], (bare, METHODS["single best"]), {"f": 0, "g": 1}),
    ):
        gate = fit_gate(llama, vectors_of(llama), [q for q in TRAIN if q.family == "g"], folded, library=FAMILY)
        assert gate.signal in SIGNALS[:2] and SIGNALS[2] not in gate.record["mean gain"]
        strangers = [replace(question, family=None, relation=None) for question in TRAIN]
        assert len(gate.curve(llama, vectors_of(llama), strangers).values) == len(TRAIN)
        assert gate.inserts(llama, vectors_of(llama), ("w3", "w4")) in (True, False)


@pytest.mark.parametrize("n_shots", [0, 1])
def test_gains_are_those_of_full_forwards(llama, n_shots):
    vectors, how = vectors_of(llama), replace(METHODS["posterior"], n_shots=n_shots)
    found = Gated(llama, vectors, TRAIN).gained(how, "full")
    expected = []
    for question in TRAIN:
        (a, b), (target, answers) = question.source, question.completion
        text = f"Q: {a}\nA: {b}\n\n" * n_shots + f"Q: {target}\nA:"
        prompt, listed = oracles.in_words(llama, text, answers)
        vector = compose(llama, vectors, question.source, how).vector
        right = [
            oracles.completion(llama, prompt, listed, ENDS, edits).right for edits in ((), [Change(LAYER, vector)])
        ]
        expected.append(right[1] - right[0])
    assert found.tolist() == expected and len(set(expected)) > 1


@pytest.mark.slow
def test_a_family_is_answered_by_its_fold_where_it_is_left_out(llama):
    folded = Folded(METHODS["posterior"], (METHODS["uniform"], METHODS["centred"]), {"f": 0, "g": 1})
    gated = Gated(llama, vectors_of(llama), TRAIN)
    for library in ("full", "family left out"):
        found = gated.signals(folded, library)["gain of the composite"]
        for i, question in enumerate(TRAIN):
            how = folded.of(question.family) if library != "full" else folded.whole
            assert found[i] == pytest.approx(gated.signals(how, library)["gain of the composite"][i], abs=1e-4)


@pytest.mark.parametrize("library", ["full", "family left out"])
def test_certainty_is_of_the_weights_of_each_ones_own_fold(llama, library):
    folded = Folded(METHODS["posterior"], (METHODS["uniform"], METHODS["single best"]), {"f": 0, "g": 1})
    gated = Gated(llama, vectors_of(llama), TRAIN)
    alone = {how: gated.signals(METHODS[how], library)[SIGNALS[2]] for how in ("posterior", "uniform", "single best")}
    of_family = {"f": "uniform", "g": "single best"} if library != "full" else {}
    expected = [alone[of_family.get(question.family, "posterior")][i] for i, question in enumerate(TRAIN)]
    assert gated.signals(folded, library)[SIGNALS[2]] == pytest.approx(expected, abs=1e-6)


# Gates


@pytest.fixture
def gained(monkeypatch):
    """What composites are said to gain; a random model's own gains follow no signal."""

    def say(values: np.ndarray) -> None:
        monkeypatch.setattr(Gated, "gained", lambda self, how, library: values)

    return say


@pytest.mark.parametrize("signal", SIGNALS)
def test_the_signal_that_tells_what_helps_is_chosen_with_a_threshold_that_no_other_beats(llama, gained, signal):
    how = Composition(scale=-1.0)  # what the composite gains is then another thing than what the best vector gains
    values = Gated(llama, vectors_of(llama), VALIDATION).signals(how, "full")[signal]
    helps = np.where(values > np.median(values), 1.0, -1.0)
    gained(helps)
    gate = fit_gate(llama, vectors_of(llama), VALIDATION, how)
    assert gate.signal == signal and gate.record["gain"] == pytest.approx((helps > 0).mean())
    curve = gate.curve(llama, vectors_of(llama), VALIDATION)
    assert np.array_equal(curve.inserted, helps > 0) and curve.gated.value == pytest.approx(gate.record["gain"])
    assert {*gate.record["mean gain"]} == {*SIGNALS}


def test_a_composite_that_always_helps_is_always_inserted(llama, gained):
    gained(np.ones(len(VALIDATION)))
    gate = fit_gate(llama, vectors_of(llama), VALIDATION)
    assert gate.curve(llama, vectors_of(llama), VALIDATION).inserted.all()


@pytest.mark.slow
def test_a_gate_says_of_a_pair_what_its_curve_says(llama):
    vectors = vectors_of(llama)
    curve = Gated(llama, vectors, TRAIN).signals(METHODS["posterior"], "full")
    for signal in SIGNALS:
        middle = float(np.sort(curve[signal])[len(TRAIN) // 2 - 1 : len(TRAIN) // 2 + 1].mean())
        gate = Gate(METHODS["posterior"], signal, middle)
        said = [gate.inserts(llama, vectors, question.source) for question in TRAIN[:6]]
        assert said == (curve[signal][:6] >= middle).tolist()


def test_what_a_gate_cannot_be_chosen_on_is_refused(llama):
    with pytest.raises(InputError, match="^There are no analogies"):
        fit_gate(llama, vectors_of(llama), [])
    with pytest.raises(InputError, match="^how is 'postrior'"):
        fit_gate(llama, vectors_of(llama), VALIDATION, "postrior")  # type: ignore[arg-type]


def test_a_composite_that_always_harms_is_never_inserted(llama, gained):
    gained(-np.ones(len(VALIDATION)))
    vectors = vectors_of(llama)
    gate = fit_gate(llama, vectors, VALIDATION)
    curve = gate.curve(llama, vectors, VALIDATION)
    assert not curve.inserted.any() and gate.record["gain"] == 0 == curve.gated.value
    assert not gate.inserts(llama, vectors, VALIDATION[0].source)
    assert not replace(CURVE, values=np.full(5, np.inf), threshold=gate.threshold).inserted.any()
    assert curve._repr_html_() and plots.gate({"full": curve})
    told = json.loads(json.dumps(gate.to_dict(), allow_nan=False))
    assert told["threshold"] is None and told["signal"] == gate.signal


def tuned_on(vectors, question):
    """The library, a vector of which was tuned on the source pair of a question."""
    training = {"train_words": [question.source[0]], "validation_words": []}
    return vectors | {question.relation: replace(vectors[question.relation], training=training)}


def test_analogies_on_pairs_that_were_tuned_on_are_left_out_and_counted(llama):
    vectors = tuned_on(vectors_of(llama), VALIDATION[0])
    kept, out = unseen(VALIDATION, vectors.values())
    gate, same = fit_gate(llama, vectors, VALIDATION), fit_gate(llama, vectors, kept)
    assert len(out) == 1 == gate.record["left out"] and same.record["left out"] == 0
    assert {**gate.to_dict(), "left out": 0} == same.to_dict()
    curve = gate.curve(llama, vectors, VALIDATION)
    assert (len(curve.values), curve.left_out) == (len(kept), 1) and "1 more left out" in curve._repr_html_()
    assert np.array_equal(curve.values, gate.curve(llama, vectors, kept).values)
    with pytest.raises(InputError, match="^No question is left of 1; 1 have a pair"):
        fit_gate(llama, vectors, VALIDATION[:1])


def test_a_gate_decides_on_a_pair_that_was_tuned_on_too(llama):
    vectors = tuned_on(vectors_of(llama), VALIDATION[0])
    assert Gate(METHODS["posterior"], SIGNALS[2], -1.0).inserts(llama, vectors, VALIDATION[0].source)


def test_every_family_is_among_the_questions():
    assert {q.family for q in TRAIN} == set(FAMILIES.values()) and torch.is_tensor(noise(1))
