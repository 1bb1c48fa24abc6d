"""On a GPU the same numbers come out as on the CPU, and come back to it; where there is none, nothing of this runs."""

import functools

import pytest
import torch

from fv_lens.datasets.prompts import PromptTemplate, with_demonstrations
from fv_lens.datasets.relations import Relation
from fv_lens.engine.batches import batch
from fv_lens.engine.chunks import most_rows
from fv_lens.engine.forms import POSITIONS
from fv_lens.engine.gradients import Rows
from fv_lens.evaluation.controls import Controls
from fv_lens.evaluation.evaluate import evaluate
from fv_lens.models.lens import lens_of
from fv_lens.models.load import load_model
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.mediation import indirect_effects
from fv_lens.vectors.optimizer import Tuning
from fv_lens.vectors.patching import patch
from fv_lens.vectors.tuning import finetune

from . import oracles, spread, tiny
from .models.made import save
from .oracles import difference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

CLOSE = 1e-4  # a GPU adds up in another order


@pytest.fixture(scope="module", autouse=True)
def full_precision():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2"])
def pair(request):
    """The same model on the CPU and on the GPU."""
    return tiny.build(request.param), tiny.build(request.param).to("cuda")


def vector_of(model) -> FunctionVector:
    noise = 4 * torch.randn(32, generator=torch.Generator().manual_seed(0))
    lens = lens_of(model)
    return FunctionVector(noise, 1, model=lens.name, processing=lens.processing, bos=lens.bos)


def test_effects_equal_full_forwards_there(pair, words):
    _, model = pair
    found = indirect_effects(model, words, n_prompts=3, n_shots=3, n_mean_prompts=5)
    with torch.device("cuda"):
        prompts, answers = oracles.unpadded(found.batch), found.batch.answer_ids.tolist()
        _, expected = oracles.head_effects(model, prompts, answers, found.mean_z.to("cuda"))
    assert found.values.device.type == found.mean_z.device.type == "cpu"
    assert found.log_prob_values.abs().max() > 0.01
    assert difference(found.log_prob_values, expected.cpu().float()) < CLOSE


def test_words_are_completed_as_on_the_cpu(pair, words):
    here, there = (
        evaluate(model, words, vector_of(model), controls=Controls(mean_z=torch.ones(3, 4, lens_of(model).d_head)))
        for model in pair
    )
    assert abs(here.words["log_prob"] - there.words["log_prob"]).max() < CLOSE
    assert {name: row.log_prob.n for name, row in here.rows.items()} == {
        name: row.log_prob.n for name, row in there.rows.items()
    }


@pytest.mark.parametrize("first_token", [True, False])
def test_a_vector_is_tuned_as_on_the_cpu(pair, first_token):
    answers = [" ".join(f"w{100 + i % 4 + j}" for j in range(1 + i % 3)) for i in range(40)]  # of one to three tokens
    relation = Relation("uneven", [(f"w{i} w{i}" if i % 2 else f"w{i}", answer) for i, answer in enumerate(answers)])
    how = dict(layer=1, n_pairs=10, n_validation=5, how=Tuning(4, first_token=first_token))
    here, there = (finetune(model, relation, vector_of(model), **how) for model in pair)
    assert there.vector.device.type == "cpu"
    assert difference(*(torch.tensor(fv.training["losses"]) for fv in (here, there))) < CLOSE


def test_patched_logits_equal_those_on_the_cpu(pair):
    ids, logits = torch.tensor(oracles.random_prompts(6, 6)), []
    for model in pair:
        with torch.no_grad(), patch(model, vector_of(model)):
            logits.append(model(ids.to(lens_of(model).device))[:, -1].log_softmax(-1).cpu())
    assert difference(*logits) < CLOSE


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_products_in_tf32_are_taken_as_the_rounding_they_are(words, monkeypatch, name):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    model = tiny.build(name).to("cuda")
    found = indirect_effects(model, words, n_prompts=3, n_shots=3, n_mean_prompts=5)
    with torch.device("cuda"):
        prompts, answers = oracles.unpadded(found.batch), found.batch.answer_ids.tolist()
        _, expected = oracles.head_effects(model, prompts, answers, found.mean_z.to("cuda"))
    assert difference(found.log_prob_values, expected.cpu().float()) < 0.05
    assert lens_of(model).parity.forms[0] == POSITIONS


def test_memory_that_torch_keeps_counts_as_free(words):
    model = tiny.build("llama").to("cuda")
    part = words.split(0).train
    prompts = batch(lens_of(model), with_demonstrations(part, part, 0), PromptTemplate())
    rows = Rows(lens_of(model), prompts, [0] * len(prompts), 1)
    row = 2**24  # long enough that memory, not the most rows, is what limits
    torch.cuda.empty_cache()
    before = most_rows(rows.lens, 1, rows.exact, row, 1)
    held = torch.empty(torch.cuda.mem_get_info()[0] * 3 // 4, dtype=torch.uint8, device="cuda")
    del held
    after = most_rows(rows.lens, 1, rows.exact, row, 1)
    torch.cuda.empty_cache()
    assert after > before * 0.9


# Models over several devices

GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU; blocks on two need another one")
GPU_FIRST, CPU_FIRST, TWO_GPUS = ("cuda:0", "cpu"), ("cpu", "cuda:0"), ("cuda:0", "cuda:1")
SPREAD = [
    *(pytest.param(name, GPU_FIRST, id=f"{name}-gpu-then-cpu") for name in ("llama", "gpt2", "gemma2")),
    pytest.param("llama", CPU_FIRST, id="llama-cpu-then-gpu"),
    *(pytest.param(name, TWO_GPUS, id=f"{name}-two-gpus", marks=GPUS) for name in ("llama", "gpt2", "gemma2")),
]


@functools.cache
def on_one(name):
    return tiny.build(name).to("cuda:0")


@functools.cache
def on_two(name, devices):
    return spread.build(name, devices)


@pytest.mark.parametrize("measure", spread.MEASURED.values(), ids=spread.MEASURED)
@pytest.mark.parametrize("name, devices", SPREAD)
def test_blocks_on_two_devices_give_the_numbers_of_one(name, devices, measure, words):
    one, two = on_one(name), on_two(name, devices)
    assert {parameter.device for parameter in two.parameters()} == set(map(torch.device, devices))
    assert spread.furthest(measure(two, words), measure(one, words)) < CLOSE
    assert spread.exact_forms(two) == spread.exact_forms(one)


HALVES = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "model.layers.2": 1, "model.norm": 1}
HALVES |= {"model.rotary_emb": 0, "lm_head": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        {"device_map": "auto"},
        {"device_map": {"": 0}, "max_memory": {0: "1GiB"}},
        pytest.param({"n_devices": 2}, marks=GPUS),
        pytest.param({"device_map": HALVES}, marks=GPUS),
    ],
    ids=str,
)
def test_a_folder_is_loaded_over_gpus(tmp_path, arguments):
    folder = save(tmp_path / "tiny-llama")
    here, there = load_model(folder, device="cpu"), load_model(folder, **arguments)
    assert {parameter.device.type for parameter in there.parameters()} == {"cuda"}
    assert lens_of(there).weights_hash == lens_of(here).weights_hash
    assert spread.furthest(spread.decoded(there, None), spread.decoded(here, None)) < CLOSE
    assert spread.furthest(spread.tuned(there, None), spread.tuned(here, None)) < CLOSE
    if arguments.get("device_map") is HALVES:
        assert lens_of(there).devices == [torch.device("cuda", 0), torch.device("cuda", 1)]
