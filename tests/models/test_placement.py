"""Loading a model over several devices: what is taken, what is refused and why."""

import inspect

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.models.load import load_model
from fv_lens.models.placement import placement

from .. import spread, tiny
from .made import logits, save

DISK_TAKEN = "offload_folder" in inspect.signature(TransformerBridge.boot_transformers).parameters
GPUS = torch.cuda.device_count()


@pytest.mark.parametrize(
    "arguments",
    [
        {"device_map": "auto"} if not GPUS else {"device_map": "cpu"},
        {"device_map": {"": "cpu"}},
        {"device_map": {"": torch.device("cpu")}, "max_memory": {"cpu": "1GiB"}},
        {"n_devices": 1, "device": "cpu"},
    ],
)
def test_a_map_to_one_device_loads_the_same_model(folder, arguments):
    model = load_model(folder, **arguments)
    assert lens_of(model).devices == [torch.device("cpu")] and model.cfg.model_name == "tiny-llama"
    assert torch.equal(logits(model), logits(load_model(folder, device="cpu")))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"device_map": "auto", "device": "cpu"}, "device is 'cpu' beside device_map; give one of them"),
        ({"n_devices": 2, "device": torch.device("cpu")}, "device is 'cpu' beside n_devices=2; give one of them"),
        ({"n_devices": 2, "device_map": "auto"}, "n_devices is 2 beside device_map; give one of them"),
        ({"n_devices": 0}, "n_devices is 0; give a whole number of at least 1"),
        ({"n_devices": 1.5}, "n_devices is 1.5; give a whole number"),
        ({"max_memory": {0: "1GiB"}}, "max_memory says nothing for one device; give device_map"),
        ({"n_devices": 1, "offload_folder": "x"}, "offload_folder says nothing for one device; give device_map"),
        ({"device_map": 3}, 'device_map is int; give "auto", or a mapping'),
        ({"device_map": "auto", "max_memory": 3}, "max_memory is 3; give a mapping"),
        ({"n_devices": GPUS + 2}, f"n_devices={GPUS + 2} cannot be used here: n_devices={GPUS + 2}"),
        ({"device_map": {"a": "cuda:0", "b": "cpu"}}, "device_map cannot be used here: device_map mixes CPU"),
        ({"device_map": "wherever"}, "cannot be loaded: .*found wherever.*, or another device_map"),
        ({"device_map": {"": "cuda:99"}}, "cannot be loaded: .*, or another device_map"),
    ],
    ids=str,
)
def test_what_cannot_be_loaded_so_is_refused(folder, arguments, message):
    with pytest.raises(InputError, match=message):
        load_model(folder, **arguments)


@pytest.mark.skipif(not tiny.HOOKED_INSTALLED, reason="TransformerLens 4 has no HookedTransformer")
@pytest.mark.parametrize("arguments", [{"device_map": "auto"}, {"n_devices": 2}])
def test_a_hooked_transformer_stays_on_one_device(folder, arguments):
    with pytest.raises(InputError, match='cls="hooked" holds a model on one device; .*cls="bridge"'):
        load_model(folder, cls="hooked", **arguments)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"device_map": "auto"}, {"device_map": "auto"}),
        (
            {"device_map": {"a": 0, "b": torch.device("cuda", 1)}, "max_memory": {0: "1GiB"}},
            {"device_map": {"a": 0, "b": "cuda:1"}, "max_memory": {0: "1GiB"}},
        ),
        ({"device": "cpu"}, {"device": "cpu"}),
    ],
)
def test_what_a_bridge_is_told(arguments, expected):
    assert placement(**arguments).for_bridge == expected


def test_gpus_are_counted_as_the_bridge_counts_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    told = placement(None, n_devices=2, max_memory={0: "1GiB", 1: "2GiB"}).for_bridge
    assert told == {"device_map": "balanced", "max_memory": {0: "1GiB", 1: "2GiB"}}


@pytest.mark.skipif(DISK_TAKEN, reason="this TransformerLens takes weights on the disk")
def test_weights_on_the_disk_need_a_newer_transformer_lens(folder, tmp_path):
    with pytest.raises(
        InputError, match='offload_folder is for weights on the disk.*pip install "transformer-lens>=4.3"'
    ):
        load_model(folder, device_map="auto", offload_folder=tmp_path)


ON_DISK = pytest.mark.skipif(not DISK_TAKEN, reason="TransformerLens before 4.3 does not take weights on the disk")
PARTS = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
PARTS |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model in memory, and the same with two blocks and the unembedding on the disk."""
    folder = save(tmp_path_factory.mktemp("models") / "tiny-llama")
    elsewhere = tmp_path_factory.mktemp("offloaded")
    return load_model(folder, device="cpu"), load_model(folder, device_map=PARTS, offload_folder=elsewhere)


@ON_DISK
@pytest.mark.slow(but=3)
@pytest.mark.parametrize("measure", [spread.MEASURED[name] for name in spread.MEASURED if name != "trained_adapters"])
def test_weights_on_the_disk_give_the_numbers_of_those_in_memory(pair, measure, words):
    one, other = pair
    assert any(parameter.is_meta for parameter in other.parameters())
    assert spread.furthest(measure(other, words), measure(one, words)) < 1e-6
    assert spread.exact_forms(other) == spread.exact_forms(one)


@ON_DISK
def test_adapters_are_not_trained_on_weights_on_the_disk(pair):
    with pytest.raises(InputError, match="loaded from the disk or the CPU for each call.*Load the model on one device"):
        spread.trained_adapters(pair[1], None)


@ON_DISK
@pytest.mark.parametrize("name", ["llama", pytest.param("gpt2", id="tied")])
def test_a_model_has_one_hash_wherever_its_weights_are(tmp_path, name):
    folder = save(tmp_path / "tiny", name)
    model = load_model(folder, device_map={"": "disk"}, offload_folder=tmp_path / "offloaded")
    expected = lens_of(load_model(folder, device="cpu")).weights_hash
    assert lens_of(model).weights_hash == expected
    logits(model)  # which loads them and lets go of them
    assert lens_of(model).weights_hash == expected
