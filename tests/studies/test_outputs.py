"""Layers and starts are compared over the same relations, whatever breaks."""

import numpy as np
import pytest
import torch

from fv_lens.ground.errors import InputError
from fv_lens.studies.reproduce.files import Found, _file_names
from fv_lens.studies.reproduce.steps import packed
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.lessons import mean_validation_losses


def tuned(losses: list[float | None]) -> list[FunctionVector | InputError]:
    """Tuned vectors by the loss of each relation at its chosen step, None where its vector broke."""
    training = dict(
        n_pairs=1, n_validation=1, chosen_step=0, losses=[9.0], train_words=["a"], validation_words=["b"],
        learning_rate=0.1, first_token=False, shuffle=False, seed=0,
    )  # fmt: skip
    return [
        InputError("broke") if loss is None
        else FunctionVector(
            torch.ones(4), 1, method="tuned",
            training=training | dict(validation_loss=float(loss), validation_losses=[[0, float(loss)]]),
        )
        for loss in losses
    ]  # fmt: skip


def step(losses: list[float | None]):
    return packed([f"r{i}" for i in range(len(losses))], tuned(losses), 4)


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


@pytest.mark.parametrize(
    ("zero", "fv", "library"),
    [
        ([1.0, 2.0, 9.0], [0.5, 1.5, 8.0], "from-fv"),
        ([1.0, 2.0, 9.0], [1.5, 2.5, None], "from-zero"),
        ([1.0, 2.0, None], [0.5, 1.5, 90.0], "from-fv"),
        ([1.0, 2.0], [1.0, 2.0], "from-zero"),
        ([None, None], [None, None], "from-zero"),
    ],
    ids=str,
)
def test_the_library_is_of_the_start_that_is_better_where_both_are_whole(zero, fv, library):
    tuning = {"from-zero": step(zero), "from-fv": step(fv)}
    found = Found(1, {1: 0.0}, [], ({}, {}), tuning, {}, np.zeros(0), {})
    assert found.library == library
    assert (
        Found(1, {1: 0.0}, [], ({}, {}), {"from-zero": tuning["from-zero"]}, {}, np.zeros(0), {}).library == "from-zero"
    )


def test_no_two_relations_have_vectors_of_one_file_name():
    for names in (["a b", "a-b", "a-b-2"], ["a-b-2", "a b", "a-b"], ["a"] * 3):
        assert len(set(_file_names(names))) == 3
