"""Validation losses of layers and starts are compared over the same relations, whatever breaks."""

import numpy as np
import pytest

from fv_lens.vectors.lessons import mean_validation_losses

from .tuned import tuned


def test_a_layer_at_which_a_hard_relation_breaks_gains_nothing_by_it():
    whole, broken = tuned([1.0, 2.0, 9.0]), tuned([1.5, 2.5, None])
    assert mean_validation_losses([whole, broken]) == [1.5, 2.0]
    assert mean_validation_losses([whole]) == [4.0]


def test_where_all_are_whole_losses_are_plain_means():
    rng = np.random.default_rng(0)
    losses = rng.random((3, 7)).round(3)
    assert mean_validation_losses([tuned(list(of)) for of in losses]) == pytest.approx(losses.mean(1), abs=1e-6)


def test_what_broke_in_every_relation_is_worst_and_spoils_no_comparison():
    nothing = tuned([None, None, None])
    assert mean_validation_losses([nothing, tuned([1.0, 3.0, None]), tuned([2.0, 5.0, 0.0])]) == [np.inf, 2.0, 3.5]
    assert mean_validation_losses([nothing, nothing]) == [np.inf, np.inf]
    assert mean_validation_losses([tuned([None, None, 0.0]), tuned([1.0, 3.0, None])]) == [np.inf, 2.0]
