"""Analogies by the hundred against one question at a time: full forwards with the composite added, and no short cut."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from fv_lens.analogies.compose import compose
from fv_lens.analogies.composition import METHODS, Composition, Folded
from fv_lens.analogies.evaluate import evaluate_analogies
from fv_lens.analogies.scores import LIBRARIES, PROFILES, PROMPT_ONLY, SUMMED, TRUE, AnalogyScores, Row
from fv_lens.datasets.questions import Question
from fv_lens.ground.errors import InputError
from fv_lens.ground.measures import CHOSEN, COMPLETED
from fv_lens.ground.progress import no_progress
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.patching import patch

from .. import oracles
from ..oracles import EXACT, Change
from .made import FAMILIES, FAMILY, FULL, LAYER, QUESTIONS, RELATION, asked, evaluated, noise, vectors_of

pytestmark = pytest.mark.usefixtures("some_end")

CLOSE = 1e-3  # where gradients have a part: Adam divides by a gradient's own size
ENDINGS = oracles.some_endings()
MIXED = {name: METHODS[name] for name in ("posterior", "single best", "uniform", "centred")}
PROMPTS = ("zero-shot", "one-shot", "sentence")
CHOICES = [i for i, question in enumerate(QUESTIONS) if question.pairs]


def text_of(source, word: str, prompt: str) -> str:
    """A question's prompt, written by hand."""
    (a, b) = source
    return {
        "zero-shot": f"Q: {word}\nA:",
        "one-shot": f"Q: {a}\nA: {b}\n\nQ: {word}\nA:",
        "sentence": f"{a} is to {b} as {word} is to",
    }[prompt]


def may_use(vectors, question: Question, library: str) -> dict[str, FunctionVector]:
    """What is left of a library for a question, by names."""
    out = {
        RELATION: [question.relation],
        FAMILY: [name for name, family in FAMILIES.items() if family == question.family],
    }.get(library, [])
    return {name: fv for name, fv in vectors.items() if name not in out}


def vector_of(model, vectors, question: Question, row: Row, ways) -> torch.Tensor:
    """What a row adds to the prompts of a question; zero for a prompt alone."""
    if row.method == PROMPT_ONLY:
        return torch.zeros(32)
    if row.method == TRUE:
        return vectors[question.relation].vector
    how = ways[row.method]
    if isinstance(how, Folded):
        how = how.whole if row.library == FULL else how.of(question.family)
    return compose(model, may_use(vectors, question, row.library or FULL), question.source, how).vector


def applies(row: Row, question: Question, vectors) -> bool:
    return row.method != TRUE or question.relation in vectors


@functools.cache
def in_words(model, text: str, answers: tuple[str, ...]):
    return oracles.in_words(model, text, answers)


def completed(model, question: Question, prompt: str, vector: torch.Tensor) -> tuple[float, float, float]:
    """(the whole word is right, its first token is, its log-probability) by full forwards."""
    c, answers = question.completion
    ids, listed = in_words(model, text_of(question.source, c, prompt), answers)
    found = oracles.completion(model, ids, listed, ENDINGS.nonzero()[:, 0].tolist(), [Change(LAYER, vector)])
    return float(found.right), float(found.rank == 0), found.log_prob


def choice_scores(model, question: Question, prompt: str, vector: torch.Tensor) -> np.ndarray:
    """log P(D | C) of each choice by full forwards."""
    found = []
    for c, d in question.pairs:
        ids, (answer,) = oracles.in_words(model, text_of(question.source, c, prompt), (d,))
        found.append(float(oracles.continuation_log_probs(model, ids, answer, [Change(LAYER, vector)]).sum()))
    return np.array(found)


def marked(scored: np.ndarray, question: Question) -> float:
    """1 where the right choice scores highest; a gap that rounding could close would make a flaky test."""
    best, second = np.sort(scored)[::-1][:2]
    assert best - second > 1e-4
    return float(scored.argmax() == question.right)


# Completion


def folded() -> Folded:
    whole = Composition("posterior", 2.0, center=True, scale=0.5, shared=2 * noise(32, seed=5), n_shots=1)
    folds = [replace(whole, shared=2 * noise(32, seed=seed), scale=0.25 * seed) for seed in (6, 7)]
    return Folded(whole, tuple(folds), {"f": 0, "g": 1, "h": 0})


@pytest.mark.slow
def test_completions_are_those_of_full_forwards_with_each_questions_own_composite(llama):
    vectors, ways = vectors_of(llama), MIXED | {"fitted": METHODS["fitted"], "of folds": folded()}
    found = evaluated(llama, QUESTIONS[:5], methods=ways, libraries=(FULL, FAMILY), choices=False)
    rows = {Row(name, library, prompt) for name in MIXED for library in (FULL, FAMILY) for prompt in PROMPTS[:2]}
    rows |= {Row(name, "", prompt) for name in ("fitted", TRUE) for prompt in PROMPTS[:2]}
    rows |= {Row("of folds", library, "one-shot") for library in (FULL, FAMILY)}
    rows |= {Row(PROMPT_ONLY, "", prompt) for prompt in PROMPTS}
    assert found.values.keys() == rows
    share = []
    for row, measures in found.values.items():
        assert tuple(measures) == COMPLETED
        for i, question in enumerate(QUESTIONS[:5]):
            values = [measures[name][i] for name in COMPLETED]
            if not applies(row, question, vectors):
                assert np.isnan(values).all()
                continue
            vector = vector_of(llama, vectors, question, row, ways)
            right, first, log_prob = completed(llama, question, row.prompt, vector)
            assert values[:2] == [right, first], (row, i)
            assert values[2] == pytest.approx(log_prob, abs=CLOSE if row.method == "fitted" else EXACT), (row, i)
            share.append((right, first))
    assert 0 < np.mean(share, 0)[0] < np.mean(share, 0)[1] < 1, "all alike would show nothing"


@pytest.mark.slow
def test_completions_in_every_architecture(model, monkeypatch):
    monkeypatch.setattr(lens_of(model).state, "endings", ENDINGS)
    vectors, ways, some = vectors_of(model), {"posterior": METHODS["posterior"]}, QUESTIONS[1:3]
    found = evaluated(model, some, vectors, ways, libraries=(RELATION,), choices=False)
    for row, measures in found.values.items():
        for i, question in enumerate(some):
            right, first, log_prob = completed(
                model, question, row.prompt, vector_of(model, vectors, question, row, ways)
            )
            assert [measures[name][i] for name in COMPLETED[:2]] == [right, first]
            assert measures["log_prob"][i] == pytest.approx(log_prob, abs=2 * EXACT)


@pytest.mark.slow
def test_the_true_relations_vector_is_added_where_there_is_one(llama):
    vectors = vectors_of(llama)
    found = evaluated(llama, choices=False)
    values = found.values[TRUE, "", "zero-shot"]["log_prob"]
    assert np.isnan(values).tolist() == [question.relation not in vectors for question in QUESTIONS]
    question = QUESTIONS[2]
    ids, (answer, *_) = oracles.in_words(
        llama, text_of(question.source, question.completion[0], "zero-shot"), question.answers
    )
    with patch(llama, vectors["c"]), torch.no_grad():
        logits = llama(torch.tensor([ids]))[0, -1]
    assert len(answer) == 1 and values[2] == pytest.approx(float(logits.log_softmax(-1)[answer[0]]), abs=EXACT)
    without = evaluated(llama, [QUESTIONS[3], QUESTIONS[4]], choices=False)
    assert not any(row.method == TRUE for row in without.values)


@pytest.mark.slow
def test_a_method_with_a_shared_vector_is_asked_in_its_own_prompt_alone(llama):
    ways = {
        "zero": Composition("none", shared=noise(32)), "one": Composition("uniform", shared=noise(32), n_shots=1),
        "both": Composition("none", pair_steps=1, start=noise(32)),
    }  # fmt: skip
    rows = {tuple(row) for row in evaluated(llama, methods=ways, choices=False).values if row.method in ways}
    assert rows == {
        ("zero", "", "zero-shot"), *(("one", library, "one-shot") for library in LIBRARIES),
        ("both", "", "zero-shot"), ("both", "", "one-shot"),
    }  # fmt: skip


@pytest.mark.slow
def test_summed_vectors_are_mixed_by_the_posterior_of_their_own(llama):
    summed = {
        name: replace(fv, vector=noise(32, seed=50 + i)) for i, (name, fv) in enumerate(vectors_of(llama).items())
    }
    found = evaluated(llama, summed=summed, choices=False)
    assert {row.library for row in found.values if row.method == SUMMED} == set(LIBRARIES)
    own = evaluated(llama, vectors=summed, choices=False)
    for row, measures in found.values.items():
        if row.method == SUMMED:
            expected = own.values[row._replace(method="posterior")]
            assert all(measures[name] == pytest.approx(expected[name], abs=EXACT) for name in COMPLETED)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["posterior", METHODS["posterior"], Folded(METHODS["posterior"])], ids=["name", "settings", "folds"]
)
def test_methods_are_names_settings_or_folds(llama, how):
    found, expected = (evaluated(llama, methods={"x": one}, choices=False) for one in (how, Composition()))
    for row in (Row("x", library, prompt) for library in LIBRARIES for prompt in PROMPTS[:2]):
        assert np.array_equal(found.values[row]["log_prob"], expected.values[row]["log_prob"])


@pytest.mark.slow
def test_all_named_methods_are_asked_unless_told_otherwise(llama):
    found = evaluate_analogies(llama, vectors_of(llama), QUESTIONS[:1], libraries=[FULL], choices=False)
    assert {row.method for row in found.values} == {*METHODS, PROMPT_ONLY, TRUE}


@pytest.mark.slow
def test_the_order_of_questions_vectors_and_methods_changes_nothing(llama):
    ways = {name: MIXED[name] for name in ("posterior", "centred")}
    one, places = evaluated(llama, methods=ways), [3, 0, 5, 1, 4, 2]
    some = dict(reversed(vectors_of(llama).items()))
    other = evaluated(llama, [QUESTIONS[i] for i in places], some, dict(reversed(ways.items())))
    assert one.values.keys() == other.values.keys()
    for row, measures in one.values.items():
        assert measures.keys() == other.values[row].keys()
        for name, values in measures.items():
            assert other.values[row][name] == pytest.approx(values[places], abs=EXACT, nan_ok=True), (row, name)


# What is left out


def same(one: AnalogyScores, other: AnalogyScores, rows) -> bool:
    """Bit by bit."""
    pairs = [(one.values[row], other.values[row]) for row in rows]
    return all(a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a) for a, b in pairs)


def of_library(found: AnalogyScores, *libraries: str) -> list[Row]:
    return [row for row in found.values if row.library in libraries]


def poisoned(model, *names: str) -> dict[str, FunctionVector]:
    """Vectors that would show: a finite one of huge numbers gives every question the same wrong answer."""
    return {
        name: replace(fv, vector=torch.full((32,), 1e4)) if name in names else fv
        for name, fv in vectors_of(model).items()
    }


OF_A = [asked(i, "a", 4) for i in range(5)]


def of_first(found: AnalogyScores) -> AnalogyScores:
    """The values of the first five questions alone."""
    return replace(found, values={row: {k: v[:5] for k, v in m.items()} for row, m in found.values.items()})


@pytest.mark.slow
def test_what_is_left_out_changes_nothing(llama):
    ways = {"uniform": METHODS["uniform"], "centred": METHODS["centred"], "of folds": folded()}
    vectors = (vectors_of(llama), poisoned(llama, "a"), poisoned(llama, "a", "b"))
    plain, own, kin = (of_first(evaluated(llama, [*OF_A, asked(6, "b", 3)], some, ways)) for some in vectors)
    assert same(plain, own, of_library(plain, RELATION, FAMILY)) and same(plain, kin, of_library(plain, FAMILY))
    for row in of_library(plain, FULL):
        if row.method in ways:
            assert not same(plain, own, [row]), row
    for row in of_library(plain, RELATION):
        if row.method in ways:
            assert not same(plain, kin, [row]), row
    assert {row.library for row in plain.values if row.method == PROFILES} == set(LIBRARIES)


@pytest.mark.slow
def test_families_that_only_questions_without_choices_tell_of_hold_for_choices_too(llama):
    """That "b" is of family "f" is known by a question that has no choices."""
    ways = {"uniform": METHODS["uniform"]}
    plain, kin = (
        evaluated(llama, [*OF_A, asked(6, "b")], some, ways) for some in (vectors_of(llama), poisoned(llama, "b"))
    )
    rows = of_library(plain, FAMILY)
    for name in (*COMPLETED, *CHOSEN):
        for row in rows:
            if name in plain.values[row]:
                assert np.array_equal(plain.values[row][name][:5], kin.values[row][name][:5], equal_nan=True), (
                    row,
                    name,
                )


@pytest.mark.slow
def test_a_question_of_a_known_family_and_no_relation_is_asked_without_the_family(llama):
    questions = [asked(i, None, family="f") for i in range(3)] + [asked(6, "a"), asked(7, "b")]
    ways = {"uniform": METHODS["uniform"]}
    plain, kin = (evaluated(llama, questions, some, ways) for some in (vectors_of(llama), poisoned(llama, "a", "b")))
    for row in of_library(plain, FAMILY):
        assert np.array_equal(plain.values[row]["log_prob"], kin.values[row]["log_prob"]), row


@pytest.mark.slow
@pytest.mark.parametrize("relation, family", [("c", "g"), ("e", "i"), ("new", None)])
def test_settings_of_folds_are_those_that_have_not_seen_the_family(llama, relation, family):
    questions, ways = [asked(i, relation, family=family) for i in range(2)], {"of folds": folded()}
    found = evaluated(llama, questions, methods=ways)
    for library in LIBRARIES:
        how = folded().whole if library == FULL else folded().of(family)
        expected = evaluated(llama, questions, methods={"one": how}, libraries=[library])
        mine, others = (one.values[name, library, "one-shot"] for one, name in ((found, "of folds"), (expected, "one")))
        assert np.array_equal(mine["log_prob"], others["log_prob"])


@pytest.mark.slow
def test_settings_of_folds_over_relations_without_families_are_found_by_the_relation(llama):
    """As `fit_compositions` does: a relation that has no family is its own."""
    how = replace(folded(), fold_of={"a": 0, "c": 1})
    questions = [asked(i, relation, family=None) for i, relation in enumerate("ac")]
    found = evaluated(llama, questions, methods={"of folds": how}, libraries=[RELATION, FAMILY])
    for library in (RELATION, FAMILY):
        values = found.values["of folds", library, "one-shot"]["log_prob"]
        for i, question in enumerate(questions):
            expected = evaluated(llama, [question], methods={"one": how.folds[i]}, libraries=[library])
            assert values[i] == pytest.approx(expected.values["one", library, "one-shot"]["log_prob"][0], abs=EXACT)


def tuned(fv: FunctionVector, train=(), validation=()) -> FunctionVector:
    return replace(fv, training={"train_words": list(train), "validation_words": list(validation)})


@pytest.mark.slow
def test_questions_with_a_pair_that_a_vector_was_tuned_on_are_left_out_and_counted(llama):
    vectors = vectors_of(llama)
    vectors["a"] = tuned(vectors["a"], [QUESTIONS[0].completion[0]])
    vectors["c"] = tuned(vectors["c"], [], [QUESTIONS[2].source[0]])
    vectors["d"] = tuned(vectors["d"], ["w180"])
    found, kept = evaluated(llama, vectors=vectors, choices=False), [1, 3, 4, 5]
    assert found.left_out == 2 and [q.source for q in found.questions] == [QUESTIONS[i].source for i in kept]
    found = evaluated(llama, vectors=vectors, choices=False, libraries=[FULL, RELATION])
    whole = evaluated(llama, choices=False, libraries=[FULL, RELATION])
    assert whole.left_out == 0 and len(whole.questions) == 6
    for row, measures in found.values.items():
        for name, values in measures.items():
            assert values == pytest.approx(whole.values[row][name][kept], abs=EXACT, nan_ok=True)


@pytest.mark.slow
def test_families_that_only_questions_left_out_tell_of_hold(llama):
    """That "b" is of family "f" is known by a question that is left out itself."""
    tuned_on = asked(6, "b")
    vectors, values = vectors_of(llama), []
    for b in (vectors["b"], poisoned(llama, "b")["b"]):
        some = vectors | {"b": tuned(b, [tuned_on.source[0]])}
        found = evaluated(llama, [*OF_A, tuned_on], some, {"uniform": METHODS["uniform"]}, choices=False)
        assert found.left_out == 1
        values.append(found.values["uniform", FAMILY, "zero-shot"]["log_prob"])
    assert np.array_equal(*values)


# Choices


@pytest.mark.slow
def test_choices_are_those_of_full_forwards(llama):
    vectors, ways = vectors_of(llama), {name: METHODS[name] for name in ("posterior", "uniform")}
    found, turned = evaluated(llama, methods=ways, libraries=(FULL, FAMILY)), []
    rows = [row for row in found.values if row.method != PROFILES]
    assert len(rows) == 2 * (1 + 2 * 2 + 1) + 1
    for i, question in enumerate(found.questions):
        if not question.pairs:
            assert all(
                np.isnan(found.values[row][name][i]) for row in rows for name in CHOSEN if name in found.values[row]
            )
            continue
        back = question.reversed()
        plain = {prompt: choice_scores(llama, question, prompt, torch.zeros(32)) for prompt in PROMPTS}
        for row in rows:
            measures = {name: values[i] for name, values in found.values[row].items() if name in CHOSEN}
            if not applies(row, question, vectors):
                assert np.isnan([*measures.values()]).all()
                continue
            one, other = (vector_of(llama, vectors, q, row, ways) for q in (question, back))
            there = choice_scores(llama, question, row.prompt, one)
            expected = {"choice": marked(there, question)}
            if row.method != PROMPT_ONLY:
                expected["choice_minus_plain"] = marked(there - plain[row.prompt], question)
            if row.method != TRUE:
                both = there + choice_scores(llama, back, row.prompt, other)
                expected["choice_both_ways"] = marked(both, question)
            assert measures == expected, (row, i)
            turned.append([*expected.values()])
    assert 0 < np.mean([values[0] for values in turned]) < 1
    assert any(len(set(values)) > 1 for values in turned), "the measures differ somewhere"


@pytest.mark.slow
def test_profiles_are_cosines_of_the_weights_of_source_and_choice(llama):
    vectors = vectors_of(llama)
    found = evaluated(llama)
    for library in LIBRARIES:
        (values,) = (found.values[PROFILES, library, ""][name] for name in ("choice",))
        for i, question in enumerate(found.questions):
            if not question.pairs:
                assert np.isnan(values[i])
                continue
            some, cosines = may_use(vectors, question, library), []
            for pair in question.pairs:
                one, other = (compose(llama, some, words).weights for words in (question.source, pair))
                one, other = (np.array([weights[name] for name in sorted(some)]) for weights in (one, other))
                cosines.append(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
            assert values[i] == marked(np.array(cosines), question), (library, i)


@pytest.mark.slow
def test_a_tie_is_not_right(llama):
    """Words that the tokenizer does not know read alike."""

    def choice(words, right):
        question = Question(("w1", "w2"), [("w3", word) for word in words], words.index(right))
        values = evaluated(llama, [question], seed=1).values
        return {values[PROMPT_ONLY, "", prompt]["choice"][0] for prompt in PROMPTS}, values[PROFILES, FULL, ""][
            "choice"
        ][0]

    prompts = [
        oracles.log_probs(llama, llama.to_tokens(text_of(("w1", "w2"), "w3", prompt))[0].tolist()) for prompt in PROMPTS
    ]
    unknown = llama.tokenizer.convert_tokens_to_ids("[UNK]")
    lower = [f"w{i}" for i in range(10, 200) if all(x[i] < x[unknown] for x in prompts)]
    assert lower, "a word that is less probable than an unknown one in every prompt"
    assert choice(["foo", "bar", lower[0]], "foo") == ({0.0}, 0.0)
    assert choice(["foo", lower[0]], "foo")[0] == {1.0}
    assert choice(["foo", "bar", lower[0]], lower[0])[0] == {0.0}


@pytest.mark.slow
def test_profiles_of_one_vector_are_all_alike_and_none_is_right(llama):
    found = evaluated(llama, [asked(0, None, 3), asked(1, None, 2)], vectors_of(llama, "a"))
    assert found.values[PROFILES, FULL, ""]["choice"].tolist() == [0.0, 0.0]


@pytest.mark.slow
def test_the_order_of_choices_changes_no_score(llama):
    found = [evaluated(llama, seed=seed, libraries=[FULL]) for seed in range(2)]
    assert [question.pairs for question in found[0].questions] != [question.pairs for question in found[1].questions]
    turned = [
        replace(q, pairs=q.pairs[::-1], right=len(q.pairs) - 1 - q.right) if q.pairs else q for q in QUESTIONS
    ]  # fmt: skip
    for other in (*found[1:], evaluated(llama, turned, libraries=[FULL])):
        assert other.values.keys() == found[0].values.keys()
        for row, measures in found[0].values.items():
            for name, values in measures.items():
                assert other.values[row][name] == pytest.approx(values, abs=EXACT, nan_ok=True), (row, name)


@pytest.mark.slow
def test_chance_is_the_mean_over_questions_with_choices(llama):
    found = evaluated(llama, choices=False)
    assert found.chance == pytest.approx(np.mean([1 / 3, 1 / 4, 1 / 2, 1 / 5, 1 / 3]))
    assert evaluated(llama, [QUESTIONS[1]]).chance is None
    assert not any(name in CHOSEN for measures in evaluated(llama, [QUESTIONS[1]]).values.values() for name in measures)


@pytest.mark.slow
def test_without_choices_asked_for_none_is_made(llama):
    found = evaluated(llama, choices=False)
    assert not any(name in CHOSEN for measures in found.values.values() for name in measures)
    assert not any(row.method == PROFILES for row in found.values)


# Bad input


def test_without_questions_there_is_nothing_to_ask(llama):
    vectors = vectors_of(llama)
    vectors["a"] = tuned(vectors["a"], [question.source[0] for question in OF_A])
    with pytest.raises(InputError, match="^No question is left of 5; 5 have a pair that was tuned on.$"):
        evaluated(llama, OF_A, vectors)
    with pytest.raises(InputError, match="^No question is left of 0; "):
        evaluated(llama, [])


@pytest.mark.slow
def test_what_cannot_be_evaluated_is_refused(llama):
    with pytest.raises(
        InputError, match="^libraries has 'family'; choose from full, relation left out, family left out.$"
    ):
        evaluated(llama, libraries=[FULL, "family"])
    with pytest.raises(InputError, match="^how is 'best'; give a Composition, or one of posterior, "):
        evaluated(llama, methods={"x": "best"})
    with pytest.raises(InputError, match="^The library has no vectors"):
        evaluate_analogies(llama, {}, QUESTIONS)
    with pytest.raises(InputError, match="^The library mixes vectors of layer"):
        evaluated(llama, vectors=vectors_of(llama, "a") | vectors_of(llama, "b", 2))
    with pytest.raises(InputError, match="^The library mixes vectors of layer"):
        evaluated(llama, summed=vectors_of(llama, "a") | vectors_of(llama, "b", 2))
    with pytest.raises(InputError, match="^Without a pair's own relation or family no vector is left"):
        evaluated(llama, OF_A, vectors_of(llama, "a"), libraries=[RELATION])


@pytest.mark.slow
def test_progress_is_told_unless_not_wanted(llama, capsys):
    with no_progress():
        evaluate_analogies(llama, vectors_of(llama), QUESTIONS[1:2], {}, choices=False)
    assert capsys.readouterr().err == ""
    evaluate_analogies(llama, vectors_of(llama), QUESTIONS[1:2], {}, choices=False)
    assert "analogies" in capsys.readouterr().err
