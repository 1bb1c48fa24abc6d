"""How fast work is done here, measured on a few blocks."""

import pytest
import torch
import transformers as hf

from fv_lens.models import onednn
from fv_lens.models.blank import blank_model
from fv_lens.models.lens import lens_of
from fv_lens.studies.reproduce.dry_run import rates
from fv_lens.studies.reproduce.dry_run.cost import Cost, Kind
from fv_lens.studies.reproduce.dry_run.network import shape_of
from fv_lens.studies.reproduce.dry_run.rates import assumed, matmul_rate, measured, of_gpu
from fv_lens.studies.reproduce.dry_run.words import Words

from ... import tiny
from .counting import Counting

CPU = torch.device("cpu")
WORDS = Words(prompt=6, shown=8, answer=1.5, long=0.5, several=0.5, source="counted", answers=(1, 2))


@pytest.fixture
def briefly(monkeypatch):
    monkeypatch.setattr(rates, "SECONDS", 1e-3)
    monkeypatch.setattr(rates, "matmul_rate", lambda *args: 1e9)


def run(config, words=WORDS):
    return measured(config, shape_of("tiny", config), words, torch.float32, CPU)


def test_the_rate_is_measured_and_threads_stay_as_they_were():
    threads = torch.get_num_threads()
    assert 1e6 < matmul_rate((64, 32), torch.float32, CPU, seconds=0.02) < 1e16
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "config",
    [hf.LlamaConfig(**tiny.GROUPED), pytest.param(hf.GPT2Config(**tiny.GPT2), marks=pytest.mark.slow),
     pytest.param(hf.Gemma2Config(**tiny.GROUPED, head_dim=16, sliding_window=8), marks=pytest.mark.slow)],
)  # fmt: skip
def test_every_kind_of_work_has_a_measured_rate(config, briefly):
    found = run(config)
    assert found.source == "measured on 3 of its blocks with random weights"
    assert set(found.of) == set(Kind) and all(0 < rate <= 2e9 for rate in found.of.values())


def test_rates_are_those_with_which_the_work_takes_its_time():
    true = rates.Rates({kind: 1e9 / (1 + at) for at, kind in enumerate(Kind)}, "", 2e-3)
    costs = [Cost(flops={kind: 1e9, Kind.READ: 5e8}, calls=30 * at) for at, kind in enumerate(Kind)]
    costs.append(Cost(flops={Kind.ROW: 1e7}, calls=100))
    found = rates._solved([(cost, true.seconds(cost)) for cost in costs], 1e9, "measured")
    assert found.of == pytest.approx(true.of, rel=1e-3) and found.call == pytest.approx(2e-3, rel=1e-3)
    assert found.seconds(costs[2]) == pytest.approx(true.seconds(costs[2]), rel=1e-3)


def test_the_costs_of_what_is_timed_are_those_that_torch_counts(monkeypatch):
    """Else a rate would be of other work than the stages are made of."""
    monkeypatch.setattr(onednn, "_product", None)
    config = hf.LlamaConfig(**tiny.GROUPED | dict(vocab_size=4000))  # of which none of the answers is the likeliest
    lens = lens_of(blank_model(config, torch.float32, CPU))
    for cost, timed in rates._runs(lens, shape_of("tiny", config), WORDS, 1e8):
        timed()  # after which the engine's checks of itself are over
        with Counting() as counted:
            timed()
        assert cost.flop == pytest.approx(counted.flop, rel=0.06)


def test_what_cannot_be_timed_is_assumed_and_it_says_why(monkeypatch, briefly):
    config = hf.LlamaConfig(**tiny.GROUPED)

    def fail(*args):
        raise NotImplementedError

    monkeypatch.setattr(rates, "blank_model", fail)
    assert run(config).source == "assumed, as 3 blocks did not run here (NotImplementedError)"
    monkeypatch.setattr(rates, "MOST_WEIGHTS", 1000)
    found = run(config)
    assert found.source == "assumed, as the model is too large to time some of its blocks here"
    assert max(found.of.values()) < 1e9 and found.of == assumed(1e9, "").of and found.call > assumed(1e9, "").call


def test_a_gpu_that_is_not_here_works_at_one_rate():
    assert of_gpu().seconds(Cost(flops={Kind.ROW: 1.2e14, Kind.READ: 1.2e14})) == pytest.approx(2)


def test_a_blank_model_has_few_blocks_and_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model = blank_model(hf.LlamaConfig(**tiny.GROUPED), torch.bfloat16, CPU)
    assert torch.rand(1) == expected
    assert lens_of(model).n_layers == 3 and lens_of(model).dtype == torch.bfloat16
