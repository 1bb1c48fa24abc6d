"""`fv-lens harness`: what it asks, prints and leaves, on a tiny model and task files made here."""

import json
import os
from dataclasses import replace

import pandas as pd
import pytest
import yaml

from fv_lens.datasets.relations import Relation
from fv_lens.ground.errors import InputError

from .. import tiny
from ..vectors.patched import vector
from .commands import call, files, write

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra 'harness')")

from fv_lens.evaluation.harness.model import PatchedLM  # noqa: E402
from fv_lens.studies.harness import study as module  # noqa: E402
from fv_lens.studies.harness.study import Settings, random_vectors  # noqa: E402


@pytest.fixture
def here(monkeypatch, tmp_path, llama, words):
    """A folder with a vector of `words` and that relation; the model is given to whoever asks for one by name."""
    import datasets

    from fv_lens.models import load

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(load, "load_model", lambda name, **more: llama)
    write(words)
    fv = vector(llama)
    made_of(fv, words).save("v.safetensors")
    return tmp_path


def made_of(fv, relation: Relation, **record):
    return replace(fv, relation=relation.name, data_hash=relation.hash, split_seed=0, **record)


def own_task(folder, name="mine", **more):
    """A task of two choices, of the user's own."""
    folder.mkdir(exist_ok=True)
    lines = [{"q": f"Q: w{i}\nA:", "c": [" w1", " w2"], "right": i % 2} for i in range(6)]
    (folder / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {
        "task": name, "dataset_path": "json", "output_type": "multiple_choice", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(folder / "mine.jsonl")}}, "target_delimiter": "",
        "doc_to_text": "q", "doc_to_choice": "c", "doc_to_target": "right", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task | more))
    return folder


def run_harness(*more, tasks="relation", out="out"):
    return call("harness", "v.safetensors", "--tasks", tasks, "--relation", "successor.json", "--out", out, *more)


def test_bundled_tasks_with_and_without_the_vector(here, llama, words):
    result = run_harness("--limit", "6", "--strength", "1.5", "--batch-size", "4", tasks="relation,analogies,neutral")
    assert result.exit_code == 0, result.output
    assert files(here / "out") == ["harness_tasks", "results.csv", "results.json"]
    frame = pd.read_csv("out/results.csv")
    assert list(frame.columns) == module.COLUMNS
    scores = frame[frame.part == "score"].set_index(["task", "metric", "row"]).value
    assert set(frame.row) == {"without", "vector", "random vector"}
    for row, lm in (("without", PatchedLM(llama)), ("vector", PatchedLM(llama, vector(llama), 1.5))):
        expected = single_perplexity(lm, words.split().test.pairs[:6])
        assert scores["fv_lens_relation_loglikelihood", "perplexity", row] == pytest.approx(expected, rel=1e-4)
    assert scores.unstack()["vector"].ne(scores.unstack()["without"]).any()

    held = json.loads((here / "out" / "results.json").read_text())
    record = held["vector"]["config"]["fv_lens"]
    assert record["vectors"][0]["relation"] == "successor" and record["strength"] == 1.5
    assert held["without"]["config"]["fv_lens"]["vectors"] == []
    [fv] = record["vectors"]
    [at_random] = held["random vector"]["config"]["fv_lens"]["vectors"]
    assert at_random["norm"] == pytest.approx(fv["norm"]) and at_random["sha"] != fv["sha"]
    assert "fv-lens harness v.safetensors --tasks" in held["command"]
    assert "fv_lens_analogies" in held["vector"]["results"] and "samples" not in held["vector"]
    for shown in ("relation_generate", "word_perplexity", "random vector", "out/results.csv"):
        assert shown in result.output


def single_perplexity(lm, pairs) -> float:
    from lm_eval.api.instance import Instance

    given = [Instance("loglikelihood", {}, (f"Q: {w}\nA:", f" {answers[0]}"), 0) for w, answers in pairs]
    scores = [log_prob for log_prob, _ in lm.loglikelihood(given)]
    return 2.718281828459045 ** (-sum(scores) / len(scores))


def test_the_users_own_tasks_beside_bundled_ones(here):
    own_task(here / "tasks")
    result = run_harness("--include-path", "tasks", tasks="neutral,mine")
    assert result.exit_code == 0, result.output
    frame = pd.read_csv("out/results.csv")
    assert list(dict.fromkeys(frame.task)) == ["fv_lens_neutral", "mine"]
    gains = frame[(frame.part == "gain") & (frame.task == "mine")]
    scores = frame[(frame.part == "score") & (frame.task == "mine")].set_index("row").value
    for row, gain in zip(gains.row, gains.value):
        assert gain == pytest.approx(scores[row] - scores["without"])
    assert list(gains.row) == ["vector", "random vector"] and (gains.n == 6).all()


def test_long_texts_are_run_in_windows_of_the_length_that_is_given(here):
    perplexities = {}
    for length in ("6", "64"):
        assert run_harness("--limit", "3", "--max-length", length, tasks="neutral", out=length).exit_code == 0
        frame = pd.read_csv(f"{length}/results.csv")
        perplexities[length] = frame[(frame.metric == "word_perplexity") & (frame.row == "without")].value.item()
    assert perplexities["6"] != perplexities["64"]


def test_a_task_file_by_its_path(here):
    own_task(here / "tasks")
    result = run_harness(tasks="tasks/mine.yaml")
    assert result.exit_code == 0 and set(pd.read_csv("out/results.csv").task) == {"mine"}


@pytest.mark.slow
def test_another_run_in_the_folder_is_refused_and_the_same_is_not(here):
    assert run_harness("--limit", "2").exit_code == 0
    before = (here / "out" / "results.csv").read_bytes()
    again = run_harness("--limit", "3")
    assert again.exit_code == 2 and "holds another run. What differs: limit: 2.0 there, 3.0 here" in again.output
    assert run_harness("--limit", "2").exit_code == 0 and (here / "out" / "results.csv").read_bytes() == before


def test_a_vector_that_may_have_seen_the_words_is_refused(here, llama, words):
    write(Relation("successor", words.pairs[:30]))
    result = run_harness()
    assert result.exit_code == 2 and "may have seen the words it is measured on" in result.output


@pytest.mark.slow
def test_the_words_are_those_of_the_vectors_split(here, llama, words):
    replace(made_of(vector(llama), words), split_seed=3).save("v.safetensors")
    assert run_harness("--limit", "4").exit_code == 0
    lines = (here / "out" / "harness_tasks" / "relation.jsonl").read_text().splitlines()
    assert [json.loads(line)["word"] for line in lines] == list(words.split(3).test.words)


@pytest.mark.parametrize(
    "options, problem",
    [
        (["--tasks", "mine"], "There is no folder 'none' of task files"),
        (["--tasks", ","], "--tasks names no task"),
        (["--limit", "0"], "--limit is 0"),
        (["--rolling", "last"], "rolling is 'last'; choose from first, every, none"),
    ],
)
def test_bad_options_are_refused_and_leave_nothing(here, options, problem):
    result = run_harness("--include-path", "none", *options)
    assert result.exit_code == 2 and problem in " ".join(result.output.split())
    assert not (here / "out").exists() or files(here / "out") == []


def test_an_unknown_task_is_named_with_those_that_are_near(here, monkeypatch):
    own_task(here / "tasks", "mine_own")
    manager = module.TaskManager
    own_alone = lambda include_path, **more: manager(include_path=include_path, include_defaults=False)  # noqa: E731
    monkeypatch.setattr(module, "TaskManager", own_alone)
    result = run_harness("--include-path", "tasks", tasks="mine_owm")
    assert result.exit_code == 2
    assert "The harness has no task 'mine_owm': did you mean mine_own?" in " ".join(result.output.split())


def test_a_task_whose_data_is_not_here_is_an_error_in_one_line(here):
    own_task(here / "tasks", dataset_kwargs={"data_files": {"test": "none.jsonl"}})
    result = run_harness("--include-path", "tasks", tasks="mine")
    assert result.exit_code == 2 and "'mine' cannot be loaded:" in " ".join(result.output.split())


def test_vectors_of_two_relations_need_a_relation(llama, words):
    two = [made_of(vector(llama), words), made_of(vector(llama), Relation("other", words.pairs))]
    with pytest.raises(InputError, match="are of the relations successor, other, and .* give --relation"):
        module._relation(two, Settings())


def test_random_vectors_are_of_the_same_norm_and_place(llama):
    two = [vector(llama), vector(llama, layer=2, seed=1)]
    drawn, again, other = random_vectors(two, 0), random_vectors(two, 0), random_vectors(two, 1)
    for fv, random, same, different in zip(two, drawn, again, other):
        assert float(random.vector.norm()) == pytest.approx(float(fv.vector.norm()), rel=1e-6)
        assert (random.layer, random.site, random.model) == (fv.layer, fv.site, fv.model) and random.relation is None
        assert random.vector.equal(same.vector) and not random.vector.equal(different.vector)


@pytest.mark.slow
def test_both_model_classes(here, monkeypatch):
    if not tiny.HOOKED_INSTALLED:
        pytest.skip("HookedTransformer needs TransformerLens 3")
    from fv_lens.models import load

    model = tiny.build("hooked-llama")
    monkeypatch.setattr(load, "load_model", lambda name, **more: model)
    vector(model).save("v.safetensors")
    assert run_harness("--limit", "3", tasks="relation,analogies,neutral").exit_code == 0


def test_a_random_vector_is_the_first_draw_of_the_controls(llama, words):
    from fv_lens.datasets.prompts import PromptTemplate
    from fv_lens.evaluation.controls import RANDOM_VECTOR, Controls, vector_controls
    from fv_lens.models.lens import lens_of

    fv = vector(llama)
    [first, *_] = vector_controls(lens_of(llama), words, [fv], Controls(), 3, PromptTemplate())[RANDOM_VECTOR]
    assert random_vectors([fv], 3)[0].vector.equal(first[0].value)


def test_the_users_process_is_left_as_it_was(here, monkeypatch):
    from lm_eval import evaluator

    monkeypatch.delenv("DISABLE_MULTIPROC", raising=False)
    ask, during = evaluator.get_git_commit_hash, []
    run = module.simple_evaluate
    monkeypatch.setattr(
        module, "simple_evaluate", lambda *given, **more: during.append(os.environ.copy()) or run(*given, **more)
    )
    assert run_harness("--limit", "2").exit_code == 0
    assert {environment["DISABLE_MULTIPROC"] for environment in during} == {"1"}
    assert "DISABLE_MULTIPROC" not in os.environ and evaluator.get_git_commit_hash is ask
