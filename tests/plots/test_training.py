"""Losses of every relation, their means, and the steps that were kept."""

import numpy as np
import pytest

from fv_lens import plots
from fv_lens.ground.errors import InputError

from .drawn import traces
from .made_table import made_training


def test_losses_of_each_relation_their_means_and_the_kept_steps_are_drawn():
    records = made_training(5)
    figure = plots.training(records)
    thin = [trace for trace in figure.data if trace.name == "validation, each relation"]
    assert [trace.showlegend for trace in thin] == [True] + [False] * 4
    for trace, record in zip(thin, records.values()):
        np.testing.assert_allclose(trace.y, record.validation_loss.dropna())
    mean, training = traces(figure)["validation, mean"], traces(figure)["training, mean"]
    np.testing.assert_allclose(mean.y, np.mean([record.validation_loss.dropna() for record in records.values()], 0))
    np.testing.assert_allclose(training.y, np.mean([record.loss for record in records.values()], 0))
    assert mean.line.width > thin[0].line.width
    kept = traces(figure)["step kept"]
    for x, y, record in zip(kept.x, kept.y, records.values()):
        assert y == record.validation_loss.min() and x == record.step[record.validation_loss.idxmin()]


def test_the_mean_is_of_the_same_relations_at_every_step():
    records = made_training(3)
    records["antonym"] = made_training(1, steps=20).popitem()[1].assign(validation_loss=100.0)
    mean = traces(plots.training(records))["validation, mean"]
    assert max(mean.x) == 20 and min(mean.y) > 25


def test_records_that_cannot_be_drawn_are_refused():
    with pytest.raises(InputError, match="empty"):
        plots.training({})
    with pytest.raises(InputError, match="'antonym' lacks the column 'chosen'"):
        plots.training({"antonym": made_training(1).popitem()[1].drop(columns="chosen")})
