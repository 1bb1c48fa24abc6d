"""How long a study takes when several jobs share it, against schedules worked out by hand."""

from dataclasses import replace

import pytest
import transformers as hf

from fv_lens.datasets.relations import Relation
from fv_lens.studies.reproduce.dry_run.estimate import estimate
from fv_lens.studies.reproduce.dry_run.schedule import critical, makespan, needs_of, parts_of
from fv_lens.studies.reproduce.setup import Settings
from fv_lens.studies.reproduce.units import units_of

from ... import tiny

NEEDS = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": []}
TAKES = {"a": 2, "b": 3, "c": 1, "d": 2, "e": 4}
WHOLE = dict.fromkeys(TAKES, 1)
SMALL = Settings(n_pairs=10, n_validation=5, n_test=10, steps=4)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "llama"
    hf.LlamaConfig(**tiny.GROUPED).save_pretrained(folder)
    relations = [
        Relation(name, [(f"w{(at + i) % 200}", f"w{(at + 7 * i) % 200 + 1}") for i in range(40)])
        for name, at in (("one", 0), ("two", 60), ("three", 120))
    ]
    return estimate(folder, relations, SMALL, memory=80)


@pytest.mark.parametrize(("n_jobs", "hours"), [(1, 12), (2, 7), (3, 7), (9, 7)])
def test_units_wait_for_those_they_need(n_jobs, hours):
    """Two jobs: a (0-2) and e (0-4), then b (2-5), c (4-5), d (5-7)."""
    assert makespan(TAKES, NEEDS, WHOLE, n_jobs) == hours


def test_the_longest_way_is_the_least_time():
    assert critical(TAKES, NEEDS) == {"e": 4, "d": 2, "c": 3, "b": 5, "a": 7}


@pytest.mark.parametrize(("n_jobs", "hours"), [(1, 12), (2, 6), (4, 5)])
def test_a_stage_of_several_parts_is_shared(n_jobs, hours):
    """Two jobs: a (0-2) beside two parts of e, b (2-5) beside d and c, then the other parts of e (5-6)."""
    assert makespan(TAKES, NEEDS | {"d": ["a"]}, WHOLE | {"e": 4}, n_jobs) == hours
    assert makespan({"e": 4}, NEEDS, {"e": 4}, 4) == 1


def test_every_stage_is_counted_and_waits_for_those_of_the_study(found):
    units = units_of(found.outline)
    assert [unit.name for unit in units] == [name for name in found.stages if name != "checks"]
    needs, parts = needs_of(units), parts_of(units)
    assert needs["sums"] == ["heads"] and needs["shots-10"] == [] and "curve" in needs["shots-10-shuffled"]
    assert parts["heads"] == parts["shots-10"] == 3 and parts["sums"] == 1


def test_jobs_take_less_but_never_less_than_the_longest_path_nor_their_share(found):
    alone = sum(found.stage_seconds.values())
    times = [replace(found, jobs=n).seconds for n in (1, 2, 4, 64)]
    assert times[0] == pytest.approx(alone) and times == sorted(times, reverse=True)
    assert times[1] < 0.75 * alone and times[3] == pytest.approx(found.longest_path)
    for n, took in zip((1, 2, 4, 64), times):
        assert took >= max(alone / n, found.longest_path) * (1 - 1e-9)


def test_jobs_that_share_the_cores_of_one_machine_take_no_less_than_all_the_work_takes_on_them(found):
    here = replace(found, here=True, device="cpu", cores=(1, 2))
    alone, checks = here.seconds, here.stage_seconds["checks"]
    for jobs in (2, 4, 16):
        several = replace(here, jobs=jobs)
        least = (alone + (jobs - 1) * checks) / 2
        assert several.seconds == pytest.approx(max(least, replace(several, apart=True).seconds)) and least > 0
        assert several.longest_path >= least and f"want {jobs} cores and share 2" in str(several) or jobs == 2
    assert "share" not in str(replace(here, jobs=4, apart=True)) and "share" not in str(replace(here, jobs=2))


def test_it_says_how_long_several_jobs_take(found):
    said = str(replace(found, jobs=4))
    assert "That is with 4 jobs" in said and "no less than" in said and "jobs" not in str(found)
