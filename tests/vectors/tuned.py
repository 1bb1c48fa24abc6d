"""Vectors as tuning leaves them, by the loss at the step that was kept."""

import torch

from fv_lens.ground.errors import InputError
from fv_lens.vectors.function_vector import FunctionVector


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
