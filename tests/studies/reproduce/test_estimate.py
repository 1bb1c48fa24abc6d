"""What a study will take: counts against a hand count and against the operations that torch counts while it runs."""

import json
from dataclasses import replace

import pytest
import torch
import transformers as hf
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from typer.testing import CliRunner

from fv_lens.datasets.prompts import with_demonstrations
from fv_lens.datasets.relations import Relation
from fv_lens.engine import chunks
from fv_lens.engine.batches import batch
from fv_lens.engine.gradients import Rows
from fv_lens.ground.errors import InputError
from fv_lens.models import onednn
from fv_lens.models.load import load_model
from fv_lens.models.source import Source
from fv_lens.studies import cli
from fv_lens.studies.reproduce import costs, steps
from fv_lens.studies.reproduce.costs import Cost, Shape, Words, stage_costs
from fv_lens.studies.reproduce.estimate import _shape, _words, estimate, matmul_rate, row_bytes
from fv_lens.studies.reproduce.setup import Settings, Study
from fv_lens.vectors.tuning import layer_grid

from ... import tiny

SMALL = Settings(
    n_pairs=10, n_validation=5, n_test=10, n_shots=3, n_together=2, map_prompts=4, mean_prompts=4, head_counts=(2, 4),
    strengths=(1.0, 4.0), draws=2, steps=4, curve=(1, 4), seeds=2,
)  # fmt: skip


def related(name: str, at: int = 0, n: int = 40) -> Relation:
    return Relation(name, [(f"w{(at + i) % 200}", f"w{(at + 7 * i + 3) % 200}") for i in range(n)])


def shape_of(*blocks: int) -> Shape:
    sizes = dict(d_model=4, d_mlp=8, n_heads=2, n_kv_heads=1, d_head=2, d_vocab=10, matrix=(8, 4))
    return Shape(blocks, 50, sum(blocks) + 50, **sizes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder without weights."""
    path = tmp_path_factory.mktemp("tiny") / "llama"
    hf.LlamaConfig(**tiny.GROUPED).save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The configuration of a Llama of seven billion parameters, and nothing else."""
    path = tmp_path_factory.mktemp("large") / "llama-7b"
    hf.LlamaConfig().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def studied(llama):
    return Study(llama, [related("one"), related("two", 50)], SMALL)


# Counts


def test_weights_are_counted_without_any(folder):
    shape = _shape(folder, folder)
    network = hf.LlamaForCausalLM(hf.LlamaConfig(**tiny.GROUPED))
    assert shape.n_parameters == sum(weight.numel() for weight in network.parameters())
    block = 32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32  # q and o, k and v of half the heads, the MLP, two norms
    assert shape.blocks == (block,) * 3 and shape.unembedding == 256 * 32 and shape.matrix in [(48, 32), (32, 48)]
    assert (shape.n_heads, shape.n_kv_heads, shape.d_head) == (4, 2, 8)


@pytest.mark.parametrize("name", ["gpt2", "neox", "gemma2", "qwen3", "bloom"])
def test_every_architecture_has_blocks_and_an_unembedding(name, tmp_path):
    network = tiny.ARCHITECTURES[name]()
    network.config.save_pretrained(tmp_path)
    shape = _shape(tmp_path, tmp_path)
    assert len(shape.blocks) == 3 and shape.unembedding == 256 * 32
    assert shape.n_parameters == sum(weight.numel() for weight in network.parameters())


def test_operations_of_a_tuning_against_a_count_by_hand():
    shape = shape_of(100, 200, 300)
    words = Words(prompt=5, shown=6, answer=2, long=1, several=0, source="")
    cost = shape.tuned(3, 2, words, layer=1, steps=4)
    context = 5 + 2 - 1
    attention = 2 * 2 * (2 * 2) * context  # two products, multiply and add, n_heads x d_head numbers for each key
    prepared = 5 * (context * (2 * 600 + 3 * attention) + 2 * 50)
    token = 2 * 300 + attention + 2 * 50  # the block above layer 1, and the unembedding
    looks = 1 + 3  # the start's strength; steps 0, 2 and 4
    assert cost.flop == prepared + 2 * 4 * (3 * 2 * token) + looks * (2 * 2 * token)
    assert cost.rows == 4 * 3 + looks * 2 and cost.tokens == 5 * context + 2 * cost.rows


def test_rows_are_run_from_the_layer_where_they_are_born():
    shape = shape_of(100, 200, 300)
    one = shape.what_ifs(1, 5, [2]).flop - shape.what_ifs(1, 5, []).flop
    assert one == 2 * 300 + 4 * 4 * 5 + 2 * 50


def test_prompts_behind_the_same_demonstrations_are_run_once():
    shape = shape_of(100)
    words = Words(prompt=5, shown=10, answer=1, long=0, several=0, source="")
    alone, together = (shape.completed(6, words, (), 4, n).tokens for n in (1, 3))
    assert alone - together == 6 * 40 - 2 * 40


@pytest.mark.slow
def test_tokens_are_those_of_the_prompts(folder, llama, studied):
    words = _words(Source("tiny", folder, own_bos=False), studied.relations)
    prompts, _ = studied.zero_shot(2)
    assert words.prompt == prompts.mask.sum(1).double().mean() and words.source == "counted"
    lens, test = studied.lens, studied.relations[0].split().test
    shown = batch(lens, with_demonstrations(test, studied.relations[0].split().train, 3)).mask.sum(1)
    assert words.prompt + 3 * words.shown == shown.double().mean()
    assert words.answer == 1 and words.long == words.several == 0


@pytest.mark.slow
def test_without_a_tokenizer_tokens_are_estimated_and_it_says_so(bare):
    found = estimate(bare, [related("one")], SMALL)
    assert found.words.source == "estimated, 1.4 a word,"
    assert found.words.shown == pytest.approx(2 + 2 + 2 + 2 * 1.4)  # Q and A, their colons, two line breaks; words
    assert "Tokens estimated, 1.4 a word" in str(found)


class Counting(TorchDispatchMode):
    """Adds up the operations of all products of matrices, on the way back as well."""

    flop = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.flop += count(*args, **(kwargs or {}), out_val=out)
        return out


STEPS = {
    "heads": lambda study: steps.heads(study),
    "shots-3": lambda study: steps.prompting(study, 3),
    "difference": lambda study: steps.mean_difference(study, 1),
    "tuned-from-zero-1": lambda study: steps.tuned(study, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_stages_take_the_operations_that_torch_counts(name, folder, studied, monkeypatch):
    monkeypatch.setattr(costs, "CHECKED", 0)
    monkeypatch.setattr(onednn, "_product", None)  # torch counts no products of oneDNN
    estimated = estimate(folder, studied.relations, SMALL).stages[name].flop
    STEPS[name](studied)  # after which the engine's checks of itself are over
    with Counting() as counted:
        STEPS[name](studied)
    assert estimated == pytest.approx(counted.flop, rel=0.05)


@pytest.mark.slow
def test_stages_are_those_of_reproduce(folder, studied, tmp_path):
    from fv_lens.studies.folders import OutputFolder
    from fv_lens.studies.job import Job
    from fv_lens.studies.reproduce.study import reproduce

    with OutputFolder(tmp_path / "out", "reproduce") as out:
        reproduce(studied, Job(out, "", lambda line: None), {})
    ran = json.loads((tmp_path / "out" / "summary.json").read_text())["timings_s"]
    assert list(estimate(folder, studied.relations, SMALL).stages) == list(ran)


def test_baselines_are_a_stage_of_each_relation_that_costs_more_the_longer_they_train(folder):
    shape, words, sizes = _shape(folder, folder), Words(6, 8, 1.5, 0.5, 0.5, ""), [(10, 5, 10), (20, 10, 20)]
    plain, short, long = (
        stage_costs(shape, words, replace(SMALL, steps=steps, baselines=beside), sizes)
        for steps, beside in ((4, False), (4, True), (40, True))
    )
    assert [name for name in short if name not in plain] == ["baselines-0", "baselines-1"]
    assert all(short[name] == cost for name, cost in plain.items())
    for name, factor in (("baselines-0", 2), ("baselines-1", 2)):
        assert long[name].flop > factor * short[name].flop
    assert short["baselines-1"].flop > 1.9 * short["baselines-0"].flop


def test_the_grid_is_that_of_tuning(folder, studied):
    assert _shape(folder, folder).grid == layer_grid(studied.lens)


def test_more_deals_and_more_relations_cost_more(folder):
    shape = _shape(folder, folder)
    words = Words(6, 8, 1.5, 0.5, 0.5, "")

    def total(seeds, n):
        costs = stage_costs(shape, words, replace(SMALL, seeds=seeds), [(10, 5, 10)] * n)
        return sum(costs.values(), Cost())

    for less, more in [((1, 2), (2, 2)), ((2, 2), (4, 2)), ((2, 2), (2, 3)), ((2, 3), (2, 40))]:
        for what in ("rows", "tokens", "flop"):
            assert getattr(total(*less), what) < getattr(total(*more), what)


# Memory and time


@pytest.mark.slow
def test_seven_billion_parameters_are_weighed_without_being_held(bare):
    half, whole = (estimate(bare, [related("one")], SMALL, dtype) for dtype in ("bfloat16", "float32"))
    assert half.memory["weights"] == pytest.approx(13.5e9, rel=0.02) and half.peak > half.memory["weights"]
    assert whole.memory["weights"] == 2 * half.memory["weights"]
    assert half.total.flop == whole.total.flop


def test_memory_of_a_tuned_row_is_what_the_engine_reckons_with(folder, llama, studied, monkeypatch):
    prompts, owners = studied.zero_shot(0)
    rows = Rows(studied.lens, prompts, owners.tolist(), 1)
    monkeypatch.setattr(chunks, "MOST_ROWS", 10**9)
    assert chunks.most_rows(rows.lens, 1, rows.exact, 9, 2) == chunks.CPU_BYTES // row_bytes(
        _shape(folder, folder), 9, 2, 1, 4
    )


@pytest.mark.slow
def test_what_does_not_fit_is_said(folder):
    found = estimate(folder, [related("one")], SMALL)
    assert "it does not fit" in str(replace(found, available=found.peak - 1))
    assert "it does not fit" not in str(replace(found, available=found.peak + 1))
    assert "GB here" not in str(replace(found, available=None))


def test_the_rate_is_measured_and_threads_stay_as_they_were():
    threads = torch.get_num_threads()
    assert 1e6 < matmul_rate((64, 32), torch.float32, torch.device("cpu"), seconds=0.02) < 1e16
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_the_time_is_said_to_be_that_of_a_machine_as_busy_as_now(folder):
    shown = str(estimate(folder, [related("one")], SMALL))
    assert "give or take a factor of 2, if the machine stays as busy as it is now" in shown
    assert "nothing else" not in shown


@pytest.mark.slow
def test_time_is_work_at_the_measured_rate(folder):
    found = estimate(folder, [related("one")], SMALL)
    assert replace(found, rate=2 * found.rate).seconds == pytest.approx(found.seconds / 2)


# What is refused


@pytest.mark.slow
def test_small_relations_are_left_out_as_a_study_leaves_them_out(folder):
    tiny_one = related("few", n=12)
    found = estimate(folder, [related("one"), tiny_one], SMALL)
    assert found.n_relations == 1 and list(found.left_out) == ["few"] and "Left out: relation 'few'" in str(found)
    with pytest.raises(InputError, match="give at least one, each name once"):
        estimate(folder, [tiny_one], SMALL)
    with pytest.raises(InputError, match="each name once"):
        estimate(folder, [related("one"), related("one")], SMALL)


@pytest.mark.parametrize("name", ["./nowhere", ".", 3])
def test_a_folder_that_is_none_is_refused_as_load_model_refuses_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as loading:
        load_model(name)
    with pytest.raises(InputError) as estimating:
        estimate(name, [related("one")], SMALL)
    assert str(estimating.value) == str(loading.value)


def test_a_damaged_configuration_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read: .* Check its config.json"):
        estimate(tmp_path, [related("one")], SMALL)
    (tmp_path / "config.json").write_text('{"model_type": "none such"}')
    with pytest.raises(InputError, match="none such"):
        estimate(tmp_path, [related("one")], SMALL)


def test_without_a_hub_it_says_what_to_do():
    with pytest.raises(InputError, match="'org/none'.*Check the name and the network, or give a model"):
        estimate("org/none", [related("one")], SMALL)


def test_an_unknown_dtype_is_refused(folder):
    with pytest.raises(InputError, match="float8"):
        estimate(folder, [related("one")], SMALL, "float8")


# The command


def test_a_dry_run_prints_stages_and_totals_and_writes_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(cli.app, ["reproduce", "--dry-run", "--model", str(folder), "--relations", "antonym"])
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    for name in ("stage", "heads", "sums", "tuned-from-zero-1", "curve", "scores", "shots-30", "readings", "total"):
        assert sum(line.split()[:1] == [name] for line in lines) == 1
    assert "On a GPU of 300 TFLOP/s at 40% use:" in " ".join(found.stdout.split()) and max(map(len, lines)) <= 80
    assert not list(tmp_path.iterdir())
