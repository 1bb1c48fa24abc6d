"""The score of names against brute force loops, its interval over families, and the choice of a reading."""

import hashlib

import numpy as np
import pytest
import torch
from scipy import stats

from fv_lens.datasets.relations import Relation
from fv_lens.evaluation.names import all_readings, choose_reading, name_scores, rank_test
from fv_lens.evaluation.readings import log_probs
from fv_lens.ground import scores
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector

from ..oracles import EXACT, difference


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relation(name: str, names=(), family: str | None = None) -> Relation:
    return Relation(name, [("a", "b")], names=list(names), family=family)


RELATIONS = [
    relation("past", ["w1", "w2"], "tense"),
    relation("participle", ["w1", "w3"], "tense"),
    relation("capital", ["w4"], "place"),
    relation("unnamed"),
    relation("plural", ["w5", "w6", "nowhere"]),
    relation("unknown", ["nowhere"], "place"),
]
TOKENS = [[1, 2], [1, 3], [4], [], [5, 6], []]
FAMILIES = ["tense", "tense", "place", "unnamed", "plural", "place"]


def by_hand(readings) -> dict[str, tuple[float, int]]:
    """Score and best rank of each relation with names."""
    found = {}
    for r, tokens in enumerate(TOKENS):
        wins, rivals = 0.0, 0
        for q in range(len(TOKENS)):
            if FAMILIES[q] != FAMILIES[r] and tokens:
                own, other = (sum(float(readings[i, t]) for t in tokens) / len(tokens) for i in (r, q))
                wins, rivals = wins + (1 if own > other else 0.5 if own == other else 0), rivals + 1
        if tokens:
            ranks = [sum(float(x) > float(readings[r, t]) for x in readings[r]) for t in tokens]
            found[RELATIONS[r].name] = wins / rivals, min(ranks)
    return found


def naming(rows: list[list[int]]) -> torch.Tensor:
    """Readings that say these tokens and nothing else."""
    readings = torch.zeros(len(rows), 256)
    for reading, tokens in zip(readings, rows):
        reading[tokens] = 1.0
    return readings


# The score


@pytest.mark.parametrize("seed", range(5))
def test_the_score_is_that_of_loops_over_relations_and_rivals(llama, seed):
    readings = noise(6, 256, seed=seed)
    expected = by_hand(readings)
    measured = name_scores(llama, readings, RELATIONS)
    frame = measured.per_relation.set_index("relation")
    assert list(frame.index) == list(expected)
    for name, (score, best) in expected.items():
        assert frame.loc[name, "score"] == pytest.approx(score) and frame.loc[name, "rank"] == best
    assert float(measured.score) == pytest.approx(np.mean([score for score, _ in expected.values()]))
    assert measured.score.n == 4 and frame.loc["capital", "log_prob"] == pytest.approx(float(readings[2, 4]))


def test_readings_that_say_their_own_names_score_one_and_those_of_rivals_zero(llama):
    own = naming([[1, 2], [1, 3], [4], [], [5, 6], []])
    swapped = naming([[4, 5, 6], [4, 5, 6], [1, 2, 3, 5, 6], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6]])
    assert float(name_scores(llama, own, RELATIONS).score) == 1
    assert float(name_scores(llama, swapped, RELATIONS).score) == 0


def test_a_tie_counts_one_half(llama):
    measured = name_scores(llama, torch.zeros(6, 256), RELATIONS)
    assert float(measured.score) == 0.5 and not measured.score.known, "all alike: nothing is known of the spread"


def test_a_token_that_is_strong_in_every_reading_helps_no_relation(llama):
    readings = noise(6, 256)
    loud = readings + 100 * noise(256, seed=1)
    before, after = (name_scores(llama, r, RELATIONS).per_relation for r in (readings, loud))
    assert before["score"].tolist() == after["score"].tolist() and before["rank"].tolist() != after["rank"].tolist()


def test_siblings_are_no_rivals(llama):
    readings = noise(6, 256)
    changed = readings.clone()
    changed[1, [1, 2]] += 100  # the participle speaks of the past's names
    past = [name_scores(llama, r, RELATIONS).per_relation.iloc[0] for r in (readings, changed)]
    assert past[0]["score"] == past[1]["score"]


def test_of_several_spellings_the_best_counts(llama, monkeypatch):
    spelled = {"one": [1, 2], "two": [3]}
    monkeypatch.setattr(
        "fv_lens.evaluation.names.name_tokens", lambda lens, names, strict: {n: spelled[n] for n in names}
    )
    readings = torch.zeros(3, 256)
    readings[0, [1, 2, 3]] = torch.tensor([0.0, 4.0, 2.0])  # mean over names of the best spelling: 3
    readings[1, [1, 2, 3]] = torch.tensor([5.0, 0.0, 0.9])  # 2.95
    readings[2, [1, 2, 3]] = torch.tensor([5.0, 0.0, 1.1])  # 3.05
    line = name_scores(llama, readings, [relation("r", ["one", "two"]), relation("q"), relation("p")]).per_relation
    assert line.loc[0, "score"] == 0.5 and line.loc[0, "log_prob"] == 3 and line.loc[0, "rank"] == 0


def test_the_names_are_spelled_with_the_model_s_tokenizer(model):
    measured = name_scores(model, naming([[7], [8]]), [relation("a", ["w7"]), relation("b", ["w8"])])
    assert float(measured.score) == 1 and measured.per_relation["rank"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "readings, relations, message",
    [
        (torch.zeros(5, 256), RELATIONS, r"\[5, 256\].*6 relations"),
        (torch.zeros(256), RELATIONS[:1], r"\[256\]"),
        (torch.full((6, 256), torch.nan), RELATIONS, "NaN"),
        (torch.zeros(2, 256), RELATIONS[:2], "at least two families"),
        (torch.zeros(1, 256), RELATIONS[2:3], "at least two families"),
        (torch.zeros(2, 256), [relation("a"), relation("b", ["nowhere"])], "names"),
    ],
    ids=["rows", "shape", "NaN", "one family", "one relation", "no names"],
)
def test_what_cannot_be_scored_is_refused(llama, readings, relations, message):
    with pytest.raises(InputError, match=message):
        name_scores(llama, readings, relations)


# The interval over families


def test_a_clustered_interval_of_a_case_worked_out_by_hand():
    # Two families of means 0 and 1 beside a mean of 1/4: each is off by 3/4 in sum; Student's t has one degree left.
    values, groups = np.array([0.0, 0.0, 0.0, 1.0]), ["a", "a", "a", "b"]
    score = scores.clustered_mean(values, groups)
    half = stats.t.ppf(0.975, 1) * np.sqrt(2 * (0.75**2 + 0.75**2)) / 4
    assert (score.value, score.n) == (0.25, 4) and (score.low, score.high) == pytest.approx((0.25 - half, 0.25 + half))


def test_the_interval_of_few_families_is_that_of_their_means_where_families_are_of_one_size():
    values = noise(12).double().numpy()
    score, means = scores.clustered_mean(values, [i // 3 for i in range(12)]), values.reshape(4, 3).mean(1)
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert (score.low, score.high) == pytest.approx((expected.low, expected.high))


def test_many_families_are_drawn_and_agree_with_students_interval():
    values = noise(40).double().numpy()
    drawn = scores.clustered_mean(values, range(40))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (drawn.low, drawn.high) == pytest.approx((expected.low, expected.high), abs=0.05)
    assert (drawn.low, drawn.high) != (expected.low, expected.high)


def test_what_differs_within_families_only_does_not_widen_the_interval():
    families = np.arange(24) // 2
    values = np.array([0.0, 1.0] * 12) + 0.001 * families
    nearly = scores.clustered_mean(values, families)
    assert 0.5 < nearly.low < nearly.high < 0.52 and scores.mean(values).high > 0.65


def test_copies_of_a_value_do_not_narrow_the_interval():
    values = noise(12).double().numpy()
    alone = scores.clustered_mean(values, range(12))
    thrice = scores.clustered_mean(np.tile(values, 3), [*range(12)] * 3)
    assert (thrice.low, thrice.high) == pytest.approx((alone.low, alone.high)) and thrice.n == 36
    assert (alone.low, alone.high) == pytest.approx((scores.mean(values).low, scores.mean(values).high), abs=0.1)


def test_one_family_says_nothing_about_the_spread():
    score = scores.clustered_mean(np.array([0.0, 1.0]), ["a", "a"])
    assert score.value == 0.5 and not score.high - score.low < 1


def test_the_interval_of_a_score_is_over_its_families(llama):
    measured = name_scores(llama, noise(6, 256), RELATIONS, seed=3)
    frame = measured.per_relation
    expected = scores.clustered_mean(frame["score"].to_numpy(), ["tense", "tense", "place", "plural"], 3, scores.SHARE)
    assert measured.score == expected and frame["family"].tolist() == ["tense", "tense", "place", "plural"]


# Ranks before and after


def test_the_sign_test_counts_relations_by_the_rank_of_their_best_name(llama):
    relations = [relation(f"r{i}", [f"w{i}"]) for i in range(8)]
    before, after = torch.zeros(8, 256), torch.zeros(8, 256)
    for i in range(8):  # seven names rise to the top, the last one stays where it was
        before[i, i], before[i, 100:110] = 1.0, 2.0
        after[i, i], after[i, 100:110] = (3.0 if i < 7 else 1.0), 2.0
    before, after = (name_scores(llama, readings, relations) for readings in (before, after))
    assert rank_test(before, after) == (7, 0, 1, pytest.approx(2 / 2**7))
    assert rank_test(after, before) == (0, 7, 1, pytest.approx(2 / 2**7))
    assert rank_test(before, before) == (0, 0, 8, 1.0)


def test_relations_scored_only_once_are_not_compared(llama):
    six = name_scores(llama, noise(6, 256), RELATIONS)
    two = name_scores(llama, noise(2, 256, seed=1), [relation("capital", ["w4"]), relation("new", ["w9"])])
    assert sum(rank_test(six, two)[:3]) == 1
    with pytest.raises(InputError, match="both before and after"):
        rank_test(six, name_scores(llama, noise(2, 256), [relation("x", ["w4"]), relation("y", ["w9"])]))


# The choice of a reading


def halves(relations) -> tuple[list[int], list[int]]:
    families = sorted({r.family for r in relations}, key=lambda family: hashlib.sha256(family.encode()).digest())
    first = [i for i, r in enumerate(relations) if families.index(r.family) % 2 == 0]
    return first, [i for i in range(len(relations)) if i not in first]


def test_a_reading_is_chosen_on_one_half_of_the_families_and_confirmed_on_the_other(llama):
    relations = [relation(f"r{i}", [f"w{i}"], f"family {i // 2}") for i in range(12)]
    first, second = halves(relations)
    assert len(first) == len(second) == 6
    says_first, says_second = torch.zeros(12, 256), torch.zeros(12, 256)
    says_first[first, first] = says_second[second, second] = 1.0
    says_first[second, second] = says_second[first, first] = -1.0
    choice = choose_reading(llama, {"second": says_second, "first": says_first}, relations)
    assert choice.reading == "first" and (float(choice.chosen), float(choice.confirmed)) == (1.0, 0.0)
    assert choice.chosen == name_scores(llama, says_first[first], [relations[i] for i in first]).score
    assert choice.confirmed.n == 6


def test_the_confirming_half_has_no_say_in_the_choice(llama):
    relations = [relation(f"r{i}", [f"w{i}"], f"family {i // 2}") for i in range(12)]
    readings = {"one": noise(12, 256), "other": noise(12, 256, seed=1)}
    changed = {name: reading.clone() for name, reading in readings.items()}
    for reading in changed.values():
        reading[halves(relations)[1]] = noise(6, 256, seed=9)
    before, after = (choose_reading(llama, given, relations) for given in (readings, changed))
    assert before[:2] == after[:2] and before.confirmed != after.confirmed


def test_halves_without_rivals_are_refused(llama):
    with pytest.raises(InputError, match="at least two families"):
        choose_reading(llama, {"one": noise(2, 256)}, [RELATIONS[0], RELATIONS[2]])
    with pytest.raises(InputError, match="readings is empty"):
        choose_reading(llama, {}, RELATIONS)


def test_four_readings_of_the_same_vectors(model):
    lens = lens_of(model)
    made_on = dict(model=lens.name, processing=lens.processing, bos=lens.bos)
    numbers = 3 * noise(3, 32)
    vectors = [FunctionVector(row, 1, **made_on) for row in numbers]
    readings = all_readings(model, vectors, prompts=["w1 w2 w3", "w4 w5"])
    assert list(readings) == ["unembed", "unembed, centred", "model", "model, centred"]
    plain = log_probs(model, vectors, "model", prompts=["w1 w2 w3", "w4 w5"])
    assert difference(readings["unembed"], log_probs(model, vectors)) <= EXACT
    assert difference(readings["unembed, centred"], lens.unembed(numbers - numbers.mean(0)).log_softmax(-1)) <= EXACT
    assert difference(readings["model"], plain) <= EXACT
    assert difference(readings["model, centred"], plain - plain.mean(0)) <= 2 * EXACT
