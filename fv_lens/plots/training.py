"""Losses while vectors are fine-tuned."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from ..ground.errors import InputError
from .style import ACCENT, CONTROL, INK, escaped, finish, tint
from .table import number

COLUMNS = ("step", "loss", "validation_loss", "chosen")


def training(records: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Loss against steps: validation of each relation (thin) and its mean (thick), the kept steps, the training mean.

    For a single relation the thick lines are its own losses. Means are drawn only at the steps that every relation has.

    Args:
        records: relation -> a frame with the columns `step`, `loss` and `validation_loss` (nats; missing where it was
            not measured) and `chosen`, true at the step whose vector was kept.

    Raises:
        InputError: no records, or one that lacks a column.

    Example:
        >>> training({"antonym": pd.DataFrame(
        ...     {"step": [0, 1], "loss": [3.1, 2.0], "validation_loss": [3.0, 2.2], "chosen": [False, True]})})
    """
    if not records:
        raise InputError("records is empty; give the training record of at least one relation")
    for name, record in records.items():
        if missing := [column for column in COLUMNS if column not in record]:
            raise InputError(f"the record of {name!r} lacks the column {missing[0]!r}; give {', '.join(COLUMNS)}")
    records = {name: record[list(COLUMNS)].astype(float) for name, record in records.items()}
    validation = {name: record.dropna(subset="validation_loss") for name, record in records.items()}

    figure, is_single = go.Figure(), len(records) == 1
    for at, (name, record) in enumerate(() if is_single else validation.items()):
        figure.add_scatter(
            x=record.step, y=record.validation_loss, mode="lines", line=dict(color=tint(ACCENT, 0.28), width=1),
            name="validation, each relation", legendgroup="each", showlegend=not at, hoverinfo="text",
            text=[_hover(name, "validation", *point) for point in zip(record.step, record.validation_loss)],
        )  # fmt: skip
    training_loss = {name: record.dropna(subset="loss") for name, record in records.items()}
    for label, part, curves, colour, dash in (
        ("training", "loss", training_loss, CONTROL, "dash"),
        ("validation", "validation_loss", validation, ACCENT, "solid"),
    ):
        mean = _mean({name: record.set_index("step")[part] for name, record in curves.items()})
        figure.add_scatter(
            x=mean.index, y=mean, mode="lines", name=f"{label}{', mean' * (not is_single)}",
            line=dict(color=colour, width=3, dash=dash), hoverinfo="text",
            text=[_hover(next(iter(curves)) if is_single else f"mean of {len(curves)} relations", label, *point)
                  for point in mean.items()],
        )  # fmt: skip
    kept = [(name, *point) for name, record in validation.items()
            for point in record.loc[record.chosen.astype(bool), ["step", "validation_loss"]].to_numpy()]  # fmt: skip
    figure.add_scatter(
        x=[step for _, step, _ in kept], y=[loss for *_, loss in kept], mode="markers", name="step kept",
        marker=dict(size=7, color="white", line=dict(color=INK, width=1.25)), hoverinfo="text",
        text=[_hover(name, "kept, validation", step, loss) for name, step, loss in kept],
    )  # fmt: skip
    most = max(record.step.max() for record in records.values())
    figure.update_xaxes(title="step", range=[-0.02 * most, 1.02 * most])
    figure.update_yaxes(title="loss (nats)", title_standoff=6, rangemode="tozero")
    details = ["mean negative log-probability of the right answer"]
    what = next(iter(records)) if is_single else number(len(records), "relation")
    return finish(figure, f"Fine-tuning{f' of {what}' * bool(what)}", details, 340, 860, n_labels=4 - is_single)


def _mean(losses: Mapping[str, pd.Series]) -> pd.Series:
    """Over relations, at the steps that all have."""
    return pd.concat(losses.values(), axis=1, join="inner").sort_index().mean(axis=1)


def _hover(name: str, part: str, step: float, loss: float) -> str:
    return f"<b>{escaped(name)}</b><br>{part}: {loss:.3f} nats at step {step:.0f}"
