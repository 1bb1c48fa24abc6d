"""Units in any order give the bits of one process: on other prompts first, and by a model that has just been loaded."""

import random

import pytest

from fv_lens.studies.jobs.graph import Graph
from fv_lens.studies.jobs.ledger import Ledger
from fv_lens.studies.jobs.worker import work
from fv_lens.studies.reproduce.study import finish, plan_of, prepare
from fv_lens.studies.reproduce.units import units_of
from fv_lens.studies.stages import Stages

from ..small import relations, run, studied, study_of


def small_study(kind: str):
    return study_of(studied(kind), relations()[:2], steps=2, curve=(1,), n_together=4)


def in_any_order(kind: str, out, seed: int, n_models: int = 2) -> None:
    """Compute each unit by one of several loads of the model, drawn, in a drawn order."""
    rng, studies = random.Random(seed), [small_study(kind) for _ in range(n_models)]
    plan = plan_of(studies[0], {})
    graph = Graph(units_of(studies[0]), Stages(out / "stages", plan))
    for study in studies:
        prepare(study)
    while ready := graph.ready(graph.left()):
        unit = graph.units[rng.choice(ready)]
        unit.run(graph.stages, graph.kept, rng.choice(studies))
    assert not graph.left()
    finish(studies[0], out, plan, "fv-lens reproduce", graph.stages)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mistral"])  # its window is shorter than the prompts
def test_units_in_a_drawn_order_by_drawn_models_leave_the_files_of_one_process(kind, tmp_path, without_page):
    run(small_study(kind), tmp_path / "whole")
    in_any_order(kind, tmp_path / "drawn", seed=1)
    for file in ("results.csv", *(f"stages/{p.name}" for p in (tmp_path / "whole/stages").glob("*.safetensors"))):
        assert (tmp_path / "drawn" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    assert not (tmp_path / "drawn" / "stages" / "parts").exists()


@pytest.mark.slow
def test_a_model_without_sums_has_no_units_that_rest_on_them(tmp_path, without_page):
    study = study_of(studied("bent"), relations()[:2], seeds=2, steps=2, curve=(1,))
    run(study, tmp_path / "whole")
    plan, told = plan_of(study, {}), []
    graph = Graph(units_of(study), Stages(tmp_path / "stages", plan))
    assert work(graph, study, Ledger(tmp_path / "units", "worker-1"), told.append) == {}
    finish(study, tmp_path, plan, "fv-lens reproduce", graph.stages)
    assert (tmp_path / "results.csv").read_bytes() == (tmp_path / "whole" / "results.csv").read_bytes()
    assert graph.stages.finished == Stages(tmp_path / "whole" / "stages", plan).finished
    assert not any("from-fv" in name for name in graph.stages.finished)
