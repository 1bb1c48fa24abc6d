"""Models side by side: every row of every model with its interval, and gaps where a model has no row."""

import numpy as np
import pandas as pd
import pytest

from fv_lens import plots
from fv_lens.evaluation.pooled import OVER_MODELS, POOLED
from fv_lens.ground.errors import InputError

from .made import HOSTILE
from .made_table import FRAME


def together(**rows_lost: str):
    """The made table as three models', without some rows, and pooled."""
    frames = []
    for at, model in enumerate(("one", HOSTILE, "three", POOLED, OVER_MODELS)):
        frame = FRAME.assign(model=model, models=1 if at < 3 else 3)
        frames.append(frame[frame.row != rows_lost.get(model, "")])
    return pd.concat(frames)


@pytest.mark.parametrize("measure", ["accuracy", "log_prob"])
def test_each_model_has_a_mark_for_each_of_its_rows(measure):
    frame = together(three="FV")
    figure = plots.models(frame, measure)
    assert [trace.name for trace in figure.data] == [
        "one",
        HOSTILE.replace("<", "&lt;").replace(">", "&gt;"),
        "three",
        POOLED,
    ]
    for trace, model in zip(figure.data, ("one", HOSTILE, "three", POOLED)):
        lines = frame[
            (frame.model == model) & (frame.part == "score") & (frame.group == "all") & (frame.measure == measure)
        ]
        assert sorted(trace.x) == sorted(lines.value)
        assert np.allclose(np.sort(trace.x + trace.error_x.array), np.sort(lines.high))
    places = [sorted(trace.y) for trace in figure.data]
    assert len(places[2]) == len(places[0]) - 1
    assert len({round(y, 6) for ys in places for y in ys}) == sum(map(len, places)), "no two marks on one line"


def test_what_is_no_table_of_models_is_refused():
    with pytest.raises(InputError, match="lacks the column 'model'"):
        plots.models(FRAME)
    with pytest.raises(InputError, match="no scores over all relations in accuracy"):
        plots.models(together().query("part != 'score'"))
    with pytest.raises(InputError, match="measure is 'speed'"):
        plots.models(together(), "speed")
