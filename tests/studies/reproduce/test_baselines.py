"""Baselines within a study: those of one relation by itself, beside its vectors, and the best of them."""

import numpy as np
import pandas as pd
import pytest
import torch

import fv_lens
from fv_lens.evaluation.baselines.names import BASELINES, INSTRUCTION, OTHERS_BEST, SOFT_1, TRAINED
from fv_lens.evaluation.rows import BEST_BASELINE
from fv_lens.ground.measures import COMPLETED
from fv_lens.studies.reproduce.baselines import of_relation, together
from fv_lens.studies.reproduce.markdown import markdown
from fv_lens.studies.reproduce.steps import tuned, unpacked
from fv_lens.vectors.function_vector import FunctionVector

from ... import tiny
from ..left import summary
from ..pages import Page
from ..small import made, run, studied, study_of

pytest.importorskip("peft")
QUICK = dict(steps=2, curve=(1,), seeds=1, baselines=True)
NAMES = ("antonym", "b")  # one of a known instruction


@pytest.fixture(scope="module")
def study(model):
    kin = [made(name, at, family=name, category="one") for at, name in enumerate(NAMES)]
    return study_of(model, kin, **QUICK)


@pytest.fixture(scope="module")
def left(study, tmp_path_factory):
    """The folder and table of a whole study."""
    out = tmp_path_factory.mktemp("beside")
    return out, run(study, out)


@pytest.mark.slow
def test_the_rows_of_a_relation_are_those_of_the_function(study, left):
    out, frame = left
    vectors = {name: FunctionVector.load(out / "vectors/from-zero" / f"{name}.safetensors") for name in NAMES}
    table = fv_lens.baselines(study.model, study.relations[0], vectors["antonym"], others=vectors, how=study.tuning)
    of = frame[(frame.part == "score") & (frame.name == "antonym")].set_index(["row", "measure"]).value
    said = summary(out)["baselines"]
    assert not table.gaps and said["chosen"]["antonym"].keys() == set(BASELINES) <= set(table.rows)
    for name in BASELINES:
        result = table.rows[name].result
        assert of[name, "accuracy"] == pytest.approx(result.accuracy.value)
        assert of[name, "log_prob"] == pytest.approx(result.log_prob.value, abs=1e-4)
        assert said["chosen"]["antonym"][name] == table.rows[name].chosen
        assert said["costs"][name]["parameters"] == table.rows[name].cost.parameters


def test_what_a_relation_lacks_is_missing_for_its_words_alone_and_the_best_is_of_the_rows_that_most_have():
    def step(r, **right):
        columns = torch.tensor(list(right.values()), dtype=torch.double).T
        tensors = {"right": columns, "rank": 1 - columns, "log_prob": columns - 1}
        record = {
            "rows": list(right),
            "chosen": dict.fromkeys(right, "x"),
            "gaps": {} if r else {INSTRUCTION: "none is known"},
        }
        return tensors, record | {"cost": {name: {"parameters": r, "seconds": 1.0, "memory": 2.0} for name in right}}

    owners = np.repeat([0, 1, 2], 2)
    results = [
        step(0, **{SOFT_1: [1, 0], OTHERS_BEST: [0, 0]}),
        step(1, **{SOFT_1: [1, 0], INSTRUCTION: [1, 1], OTHERS_BEST: [1, 0]}),
        ({}, {"rows": [], "cost": {}, "chosen": {}, "gaps": dict.fromkeys(BASELINES, "its vector broke")}),
    ]  # fmt: skip
    rows, said = together(["antonym", "b", "c"], results, owners)
    assert list(rows) == [SOFT_1, INSTRUCTION, OTHERS_BEST, BEST_BASELINE]
    assert rows[SOFT_1]["accuracy"][0, :4].tolist() == [1, 0, 1, 0] and np.isnan(rows[SOFT_1]["accuracy"][0, 4:]).all()
    assert np.isnan(rows[INSTRUCTION]["accuracy"]).tolist() == [[True, True, False, False, True, True]]
    assert said["best"] == SOFT_1 and rows[BEST_BASELINE] is rows[SOFT_1], "the instruction is of one relation"
    assert said["costs"][SOFT_1] == {"parameters": 0.5, "seconds": 1.0, "memory": 2.0}
    assert said["gaps"][INSTRUCTION] == {"antonym": "none is known", "c": "its vector broke"}


@pytest.mark.slow
def test_a_study_has_them_in_table_summary_and_page(left):
    out, frame = left
    scores = (
        frame[(frame.part == "score") & (frame.group == "all") & (frame.measure == "accuracy")].set_index("row").value
    )
    assert {*BASELINES, BEST_BASELINE} <= set(scores.index)
    said = summary(out)["baselines"]
    every = [name for name in BASELINES if name != INSTRUCTION]  # which one relation alone has
    assert said["best"] in every and scores[BEST_BASELINE] == scores[every].max() == scores[said["best"]]
    assert said["costs"].keys() == set(BASELINES) and said["costs"][SOFT_1]["parameters"] == 32
    gained = frame[(frame.part == "difference") & (frame.group == "all")]
    assert {f"FFV from zero - {name}" for name in (*BASELINES, BEST_BASELINE)} <= set(gained.row)
    assert set(gained[gained.row == f"FFV from zero - {BEST_BASELINE}"].measure) == set(COMPLETED)
    page = Page((out / "report.html").read_text(encoding="utf-8")).text
    assert "Other methods on the same pairs" in page and "no instruction is known for 'b'" in page
    assert SOFT_1 in markdown(pd.read_csv(out / "results.csv"), summary(out))


@pytest.mark.slow
@pytest.mark.skipif(not tiny.HOOKED_INSTALLED, reason="TransformerLens 4 has no HookedTransformer")
def test_on_a_hooked_transformer_what_would_be_trained_is_a_named_gap():
    study = study_of(studied("hooked-llama"), [made(name, at, family=name) for at, name in enumerate("ab")], **QUICK)
    _, record = of_relation(study, 0, unpacked(tuned(study, 1)))
    assert set(TRAINED) <= record["gaps"].keys() and all("bridge" in record["gaps"][name] for name in TRAINED)
    assert record["rows"] == [name for name in BASELINES if name not in (*TRAINED, INSTRUCTION)]
