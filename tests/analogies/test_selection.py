"""Which settings are best on validation, of all families and of each fold, and what the record says of it."""

import numpy as np
import pytest

from fv_lens.analogies.composition import Composition, Folded
from fv_lens.analogies.selection import BEST, UNCHOSEN, Folds, best_settings
from fv_lens.engine.completion import Completions

EVERY = [("mixed", "mixed, small"), ("mixed", "mixed, large"), ("alone", "alone")]
SETTINGS = [[Composition(scale=10.0 * i + fold) for fold in range(3)] for i in range(3)]
FOLDS = Folds({"f": 0, "g": 1})


def measured(right, log_prob=None) -> Completions:
    """Completions `[question, setting]`, by default of equal log-probability."""
    right = np.array(right, dtype=bool)
    zeros = np.zeros(right.shape)
    return Completions(right, zeros if log_prob is None else np.array(log_prob, dtype=float), zeros, zeros)


def chosen(quality, fold_of_question) -> dict[str, Folded]:
    return best_settings(EVERY, SETTINGS, quality, np.array(fold_of_question), FOLDS)


def test_a_fold_is_chosen_on_the_others_and_scored_on_its_own():
    right = [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1]]  # the first setting is right on fold 0, the second on fold 1
    quality = {None: measured([[0, 0, 1]] * 4), "family": measured(right)}
    found = chosen(quality, [0, 0, 1, 1])
    assert [*found] == ["mixed", "alone", BEST]
    assert [how.scale for how in found["mixed"].folds] == [11, 2] and found["mixed"].fold_of == FOLDS.of
    told = found["mixed"].record["family left out"]
    assert told == {"accuracy": 0.0, "log_prob": 0.0, "chosen": ["mixed, large", "mixed, small"]}
    assert found[BEST].whole.scale == 20 and found[BEST].record["chosen"] == "alone"
    assert found[BEST].record["accuracy"] == 1 and found["mixed"].record["accuracy"] == 0


def test_equal_accuracies_are_told_apart_by_log_probability():
    quality = {None: measured([[1, 1, 0]], [[-2, -1, 0]]), "family": measured([[1, 1, 0]], [[-1, -2, 0]])}
    assert chosen(quality, [0])["mixed"].whole.scale == 10
    assert chosen(quality, [0])["mixed"].folds[1].scale == 2


def test_a_fold_without_a_question_of_another_is_said_to_be_unchosen():
    found = chosen({None: measured([[0, 1, 0]] * 2), "family": measured([[0, 1, 0]] * 2)}, [0, 0])["mixed"]
    assert [how.scale for how in found.folds] == [1, 12]
    assert found.record["family left out"]["chosen"] == ["mixed, small" + UNCHOSEN, "mixed, large"]


@pytest.mark.parametrize("of_question", [[-1, -1]])
def test_where_no_family_is_known_nothing_is_said_of_families_left_out(of_question):
    quality = {None: measured([[1, 0, 0]] * 2), "family": measured([[1, 0, 0]] * 2)}
    assert "family left out" not in chosen(quality, of_question)["mixed"].record
