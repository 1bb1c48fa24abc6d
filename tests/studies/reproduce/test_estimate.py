"""What a study will take: counts against a hand count and against the operations that torch counts while it runs."""

import json
from dataclasses import replace

import pytest
import transformers as hf
from typer.testing import CliRunner

from fv_lens.datasets.prompts import FewShot, PromptTemplate, with_demonstrations
from fv_lens.datasets.relations import Relation
from fv_lens.engine import chunks
from fv_lens.engine.batches import batch
from fv_lens.engine.gradients import Rows
from fv_lens.engine.parity import measure_ahead
from fv_lens.engine.whatif import without_patches
from fv_lens.ground.errors import InputError
from fv_lens.models import onednn
from fv_lens.models.lens import lens_of
from fv_lens.models.load import load_model
from fv_lens.models.source import Source
from fv_lens.studies import cli
from fv_lens.studies.reproduce import steps
from fv_lens.studies.reproduce.dry_run import estimate as estimates
from fv_lens.studies.reproduce.dry_run import shape as shapes
from fv_lens.studies.reproduce.dry_run.cost import Cost, Kind
from fv_lens.studies.reproduce.dry_run.estimate import estimate
from fv_lens.studies.reproduce.dry_run.network import configuration, shape_of
from fv_lens.studies.reproduce.dry_run.rates import of_gpu
from fv_lens.studies.reproduce.dry_run.shape import Shape
from fv_lens.studies.reproduce.dry_run.stages import stage_costs
from fv_lens.studies.reproduce.dry_run.words import Words, words_of
from fv_lens.studies.reproduce.setup import Settings, Study
from fv_lens.vectors.tuning import layer_grid

from ... import tiny
from .counting import Counting, shape_with

SMALL = Settings(
    n_pairs=10, n_validation=5, n_test=10, n_shots=3, n_together=2, map_prompts=4, mean_prompts=4, head_counts=(2, 4),
    strengths=(1.0, 4.0), draws=2, steps=4, curve=(1, 4), seeds=2,
)  # fmt: skip


def related(name: str, at: int = 0, n: int = 40) -> Relation:
    return Relation(name, [(f"w{(at + i) % 200}", f"w{(at + 7 * i + 3) % 200}") for i in range(n)])


def shape_in(folder) -> Shape:
    return shape_of(folder, configuration(folder, folder))


@pytest.fixture
def unmeasured(monkeypatch):
    """No blocks are timed, which takes seconds."""
    monkeypatch.setattr(estimates, "measured", lambda *args: of_gpu())


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


def test_operations_of_a_tuning_against_a_count_by_hand():
    shape = shape_with(100, 200, 300)
    words = Words(prompt=5, shown=6, answer=2, long=1, several=0, source="")
    cost = shape.tuned(3, 2, words, layer=1, steps=4)
    context = 5 + 2 - 1
    prepared = 5 * context * (2 * 600 + 3 * 16 * context)
    there = 2 * (2 * 300 + 16 * context + 100)  # two tokens in the block above layer 1, and the unembedding
    back = 2 * (2 * 300 + 32 * context + 100)
    looks = 1 + 3  # the start's strength; steps 0, 2 and 4
    assert cost.flop == prepared + 4 * 3 * (there + back) + looks * 2 * there
    assert cost.flops[Kind.LOSS] == 100 * (2 * 2 * 4 * 3 + 2 * looks * 2)
    assert cost.rows == 4 * 3 + looks * 2 and cost.tokens == 5 * context + 2 * cost.rows


def test_rows_are_run_from_the_layer_where_they_are_born():
    shape = shape_with(100, 200, 300)
    one = shape.what_ifs(1, 5, [2]).flop - shape.what_ifs(1, 5, []).flop
    assert one == 2 * 300 + 16 * 5 + 100


def test_prompts_behind_the_same_demonstrations_are_run_once():
    shape = shape_with(100)
    words = Words(prompt=5, shown=10, answer=1, long=0, several=0, source="")
    alone, together = (shape.completed(6, words, (), 4, n).tokens for n in (1, 3))
    assert alone - together == 6 * 40 - 2 * 40


@pytest.mark.slow
def test_tokens_are_those_of_the_prompts(folder, llama, studied):
    words = words_of(Source("tiny", folder, own_bos=False), studied.relations)
    prompts, _ = studied.zero_shot(2)
    assert words.prompt == prompts.mask.sum(1).double().mean() and words.source == "counted"
    lens, test = studied.lens, studied.relations[0].split().test
    shown = batch(lens, with_demonstrations(test, studied.relations[0].split().train, 3)).mask.sum(1)
    assert words.prompt + 3 * words.shown == shown.double().mean()
    assert words.answer == 1 and words.long == words.several == 0


@pytest.mark.parametrize("start", ["", "{{ bos_token }}"], ids=["no BOS", "BOS"])
def test_tokens_of_the_chat_form_are_those_of_its_prompts(start, tmp_path):
    turns = "{% for turn in messages %}<{{ turn.role }}> {{ turn.content }} </s> {% endfor %}"
    model = tiny.chatting(start + turns + "{% if add_generation_prompt %}<assistant> {% endif %}")
    model.tokenizer.save_pretrained(tmp_path)
    words = words_of(Source("tiny", tmp_path, own_bos=False), [related("one")], chat=True)
    template = PromptTemplate.chat(model)
    for n, tokens in ((0, words.prompt), (3, words.prompt + 3 * words.shown)):
        shown = tuple((f"w{i}", f"w{i + 1}") for i in range(n))
        prompts = batch(lens_of(model), [FewShot("w9", ("w8",), shown)], template)
        assert prompts.mask.sum() == pytest.approx(tokens)


def test_a_dry_run_in_the_chat_form_of_a_model_without_one_is_refused(folder, unmeasured):
    with pytest.raises(InputError, match="has no chat template"):
        estimate(folder, [related("one")], SMALL, chat=True)


@pytest.mark.slow
def test_without_a_tokenizer_tokens_are_estimated_and_it_says_so(bare, unmeasured):
    found = estimate(bare, [related("one")], SMALL)
    assert found.words.source == "estimated at 1.4 a word"
    assert found.words.shown == pytest.approx(2 + 2 + 2 + 2 * 1.4)  # Q and A, their colons, two line breaks; words
    assert "Tokens estimated at 1.4 a word" in str(found)


STEPS = {
    "heads": lambda study: steps.heads(study),
    "shots-3": lambda study: steps.prompting(study, 3),
    "difference": lambda study: steps.mean_difference(study, 1),
    "tuned-from-zero-1": lambda study: steps.tuned(study, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_stages_take_the_operations_that_torch_counts(name, folder, studied, unmeasured, monkeypatch):
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
    assert list(estimate(folder, studied.relations, SMALL, memory=80).stages) == ["checks", *ran]


def test_baselines_are_a_stage_of_each_relation_that_costs_more_the_longer_they_train(folder):
    shape, words, sizes = shape_in(folder), Words(6, 8, 1.5, 0.5, 0.5, ""), [(10, 5, 10), (20, 10, 20)]
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
    assert shape_in(folder).grid == layer_grid(studied.lens)


def test_more_deals_and_more_relations_cost_more(folder):
    shape = shape_in(folder)
    words = Words(6, 8, 1.5, 0.5, 0.5, "")

    def total(seeds, n):
        costs = stage_costs(shape, words, replace(SMALL, seeds=seeds), [(10, 5, 10)] * n)
        return sum(costs.values(), Cost())

    for less, more in [((1, 2), (2, 2)), ((2, 2), (4, 2)), ((2, 2), (2, 3)), ((2, 3), (2, 40))]:
        for what in ("rows", "tokens", "flop"):
            assert getattr(total(*less), what) < getattr(total(*more), what)


@pytest.mark.slow
def test_the_checks_are_those_of_the_engine_before_the_first_stage(folder, llama, studied, monkeypatch):
    monkeypatch.setattr(onednn, "_product", None)
    fresh = tiny.build("llama")
    study = Study(fresh, studied.relations, SMALL)
    with Counting() as counted:
        without_patches(measure_ahead)(study.lens, study.longest_prompts())
    checks = estimate(folder, studied.relations, SMALL, memory=80).stages["checks"]
    assert checks.flop == pytest.approx(counted.flop, rel=0.1) and checks.rows == 0


# Memory and time


@pytest.mark.slow
def test_seven_billion_parameters_are_weighed_without_being_held(bare, unmeasured):
    half, whole = (estimate(bare, [related("one")], SMALL, dtype) for dtype in ("bfloat16", "float32"))
    weights = [found.holdings[0].memory["weights"] for found in (half, whole)]
    assert weights[0] == pytest.approx(13.5e9, rel=0.02) and half.peak > weights[0]
    assert weights[1] == 2 * weights[0] and half.total.flop == whole.total.flop


def test_memory_of_a_tuned_row_is_what_the_engine_reckons_with(folder, llama, studied, monkeypatch):
    prompts, owners = studied.zero_shot(0)
    rows = Rows(studied.lens, prompts, owners.tolist(), 1)
    monkeypatch.setattr(chunks, "MOST_ROWS", 10**9)
    size = shape_in(folder).row_bytes(9, 2, 1, 4)
    assert chunks.most_rows(rows.lens, 1, rows.exact, 9, 2) == chunks.CPU_BYTES // size


def test_rows_are_divided_as_the_engine_divides_them(folder, llama, studied, monkeypatch):
    shape = shape_in(folder)
    words = words_of(Source("tiny", folder, own_bos=False), studied.relations)
    prompts, owners = studied.zero_shot(0)
    for n_rows in (1, 3, 7, 1000):
        budget = n_rows * shape.row_bytes(words.prompt, 1, 1, 4) + 1
        monkeypatch.setattr(chunks, "CPU_BYTES", budget)
        monkeypatch.setattr(shapes, "CPU_BYTES", budget)
        made = Rows(studied.lens, prompts, owners.tolist(), 1).chunks
        assert shape.chunks(len(prompts), words, 1) == len(made)
    assert replace(shape, gpu=True).chunks(len(prompts), words, 1) == 1


def test_what_does_not_fit_is_said(folder, unmeasured):
    found = estimate(folder, [related("one")], SMALL)
    assert "it does not fit" in str(replace(found, memory=found.peak - 1))
    assert "it does not fit" not in str(replace(found, memory=found.peak + 1))
    assert "it fits" not in str(replace(found, memory=None))


def test_jobs_on_this_machine_share_its_memory(folder, unmeasured):
    found = estimate(folder, [related("one")], SMALL, jobs=3)
    assert not replace(found, memory=2.9 * found.peak).fits and replace(found, memory=3.1 * found.peak).fits
    assert "times 3 jobs" in str(found)


def test_time_is_work_at_the_rate_of_its_kind(folder, unmeasured):
    found = estimate(folder, [related("one")], SMALL)
    twice = replace(found.rates, of={kind: 2 * rate for kind, rate in found.rates.of.items()})
    assert replace(found, rates=twice).seconds == pytest.approx(found.seconds / 2)
    slow = replace(found.rates, of={**found.rates.of, Kind.STEP: 1.0})
    steps = {name: cost.flops.get(Kind.STEP, 0) for name, cost in found.stages.items()}
    took = replace(found, rates=slow).stage_seconds
    assert steps["curve"] > 0 and took["curve"] == pytest.approx(steps["curve"], rel=1e-6)
    assert took["heads"] == found.stage_seconds["heads"]


# What is refused


def test_small_relations_are_left_out_as_a_study_leaves_them_out(folder, unmeasured):
    tiny_one = related("few", n=12)
    found = estimate(folder, [related("one"), tiny_one], SMALL)
    assert (
        found.n_relations == 1 and list(found.outline.left_out) == ["few"] and "Left out: relation 'few'" in str(found)
    )
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
    assert "On a GPU" not in found.stdout, "it is small"
    assert found.stdout.startswith("1 relation on ") and max(map(len, lines)) <= 80
    assert not list(tmp_path.iterdir())
