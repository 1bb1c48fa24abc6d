"""What goes where on several devices, whether it fits, and what passes between them; models of up to 405 billion."""

import pytest
import torch
import transformers as hf
from typer.testing import CliRunner

from fv_lens.datasets.relations import Relation
from fv_lens.ground.errors import InputError
from fv_lens.models.placement import planned
from fv_lens.studies import cli
from fv_lens.studies.reproduce.dry_run import estimate as estimates
from fv_lens.studies.reproduce.dry_run.cost import Kind
from fv_lens.studies.reproduce.dry_run.estimate import estimate
from fv_lens.studies.reproduce.dry_run.network import shape_of
from fv_lens.studies.reproduce.dry_run.shape import Placed
from fv_lens.studies.reproduce.setup import Settings

LLAMAS = {
    "7B": dict(),
    "70B": dict(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64),
    "405B": dict(hidden_size=16384, intermediate_size=53248, num_hidden_layers=126, num_attention_heads=128),
}
LATER = dict(vocab_size=128256, num_key_value_heads=8, max_position_embeddings=8192)
RELATIONS = [
    Relation(name, [(f"w{(at + i) % 200}", f"w{(at + 7 * i + 3) % 200}") for i in range(50)])
    for name, at in (("one", 0), ("two", 60))
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders with nothing but a configuration."""
    paths = {}
    for name, sizes in LLAMAS.items():
        paths[name] = tmp_path_factory.mktemp("large") / f"llama-{name}"
        hf.LlamaConfig(**sizes, **(LATER if sizes else {})).save_pretrained(paths[name])
    return paths


@pytest.fixture(scope="module")
def seventy(folders):
    return estimate(folders["70B"], RELATIONS, Settings(), "bfloat16", devices=8, memory=80)


def test_seventy_billion_fit_on_eight_devices_and_it_says_what_goes_where(seventy):
    assert seventy.fits and seventy.shape.n_parameters == pytest.approx(70.55e9, rel=0.001)
    blocks = [at for holding in seventy.holdings for at in holding.blocks]
    assert blocks == list(range(80)) and len(seventy.holdings) == 8
    assert sum(holding.memory["weights"] for holding in seventy.holdings) == pytest.approx(141.1e9, rel=0.001)
    first, last = seventy.holdings[0].parts, seventy.holdings[-1].parts
    assert first == "embeddings, blocks 0-8" and last == "blocks 75-79, unembedding"
    lines = [line.split() for line in str(seventy).splitlines()]
    assert ["0", "embeddings,", "blocks", "0-8", "17.5", "GB"] in [line[:6] for line in lines]
    assert "it fits" in str(seventy) and "no place" not in str(seventy)


@pytest.mark.parametrize(("name", "devices"), [("70B", 1), ("405B", 8)])
def test_what_is_larger_than_its_devices_does_not_fit(name, devices, folders):
    found = estimate(folders[name], RELATIONS, Settings(), "bfloat16", devices=devices)
    assert found.fits is False and "it does not fit" in str(found)
    assert ("no place" in str(found)) == (devices > 1)


def test_every_block_of_405_billion_has_its_place_on_sixteen(folders):
    found = estimate(folders["405B"], RELATIONS, Settings(), "bfloat16", devices=16, memory=80)
    assert found.fits and [at for holding in found.holdings for at in holding.blocks] == list(range(126))
    assert found.total.flop > 5 * estimate(folders["70B"], RELATIONS, Settings(), devices=8).total.flop


def test_seven_billion_fit_on_one(folders):
    found = estimate(folders["7B"], RELATIONS, Settings(), "bfloat16", memory=24)
    assert found.fits and found.traffic == 0 and found.devices == 1 and "Traffic" not in str(found)
    assert not estimate(folders["7B"], RELATIONS, Settings(), "bfloat16", memory=12).fits
    assert found.holdings[0].memory["weights"] == pytest.approx(13.5e9, rel=0.01)


def test_places_are_those_that_transformers_gives(folders):
    """`load_model(n_devices=)` leaves them to it: with budgets as here, "balanced" gives the same map."""
    from transformers.integrations.accelerate import _get_device_map

    config = hf.AutoConfig.from_pretrained(folders["7B"])
    with torch.device("meta"):
        network = hf.LlamaForCausalLM(config).to(torch.bfloat16)
    budgets = {**dict.fromkeys(range(3), 20 * 10**9), "cpu": 10**12}
    assert planned(network, 3, 20e9) == _get_device_map(network, "balanced", budgets, None)
    assert planned(network, 1, None) == {"": 0}


def test_residuals_cross_each_border_above_a_row_once_and_back():
    placed = Placed((0, 0, 1, 1, 2), 0, 0, (0, 0, 0, 0))
    assert placed.crossed == [3, 3, 2, 2, 1, 0] and placed.enters == 0
    assert Placed((1, 1), 0, 1, (0, 0, 0)).enters == 1


def test_traffic_is_of_the_residuals_that_cross(folders):
    config = hf.AutoConfig.from_pretrained(folders["7B"])
    shape = shape_of("7B", config, torch.bfloat16, 2, 80e9)
    border = shape.placed.blocks.index(1)
    for start, crossing in ((0, 1), (border - 1, 1), (border, 0)):
        assert shape.run(Kind.ROW, 10, 5, start).carried == 10 * crossing
        assert shape.run(Kind.STEP, 10, 5, start, backward=True).carried == 20 * crossing
    assert shape.whole(3, 7).carried == 21


def test_more_devices_carry_more_and_are_no_faster(folders, seventy):
    fewer = estimate(folders["70B"], RELATIONS, Settings(), "bfloat16", devices=4, memory=80)
    assert 0 < fewer.traffic < seventy.traffic and fewer.seconds == seventy.seconds
    assert f"Traffic between the devices of a job: {seventy.traffic / 1e9:,.1f} GB" in str(seventy)


@pytest.mark.parametrize(
    ("given", "what"),
    [({"devices": 0}, "devices is 0"), ({"jobs": 0}, "jobs is 0"), ({"memory": 0}, "memory is 0; give the gigabytes"),
     ({"memory": float("nan")}, "memory is nan"), ({"devices": 1.5}, "devices is 1.5")],
)  # fmt: skip
def test_numbers_of_nothing_are_refused(given, what, folders):
    with pytest.raises(InputError, match=what):
        estimate(folders["7B"], RELATIONS, Settings(), **given)


def test_the_command_says_where_blocks_go_and_how_long_several_jobs_take(folders, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimates, "measured", None)  # of devices elsewhere nothing is measured here
    options = ["--dtype", "bfloat16", "--devices", "8", "--memory", "80", "--jobs", "2", "--relations", "antonym"]
    found = CliRunner().invoke(cli.app, ["reproduce", "--dry-run", "--model", str(folders["70B"]), *options])
    assert found.exit_code == 0, found.output
    said = " ".join(found.stdout.split())
    for part in ("on 8 devices a job", "blocks 75-79, unembedding", "with 2 jobs", "GB of each device: it fits",
                 "assumed, 300 TFLOP/s at 40% use", "Traffic between"):  # fmt: skip
        assert part in said
    assert not list(tmp_path.iterdir()) and max(map(len, found.stdout.splitlines())) <= 80


def test_what_is_of_an_estimate_is_refused_in_a_run(tmp_path):
    found = CliRunner().invoke(cli.app, ["reproduce", "--memory", "2", "--out", str(tmp_path / "out")])
    assert found.exit_code == 2 and "give --dry-run beside" in found.stderr and not (tmp_path / "out").exists()
