"""Bundled tasks of lm-evaluation-harness, worked out again from single requests, and their scores."""

import json

import pytest

from fv_lens.datasets.prompts import PromptTemplate
from fv_lens.datasets.relations import Relation
from fv_lens.ground.errors import InputError

from ...vectors.patched import vector

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra 'harness')")


from fv_lens.evaluation.harness.lm_eval_names import TaskManager, simple_evaluate  # noqa: E402
from fv_lens.evaluation.harness.model import PatchedLM  # noqa: E402
from fv_lens.evaluation.harness.scores import TaskMetric, task_gains, task_scores  # noqa: E402
from fv_lens.evaluation.harness.tasks import BUNDLED, analogy_lines, relation_lines, write_tasks  # noqa: E402

from .by_hand import STRENGTH, requests  # noqa: E402


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    """The data sets of tasks are cached here."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")


def evaluated(folder, names, lm, **settings):
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=100, **settings)


def test_a_bundled_task_of_each_kind(llama, words, no_cache, tmp_path):
    """Each number is worked out again from single requests."""
    names = write_tasks(tmp_path, words)
    assert names == ["fv_lens_relation", "fv_lens_analogies", "fv_lens_neutral"]
    lm = PatchedLM(llama, vector(llama), STRENGTH, batch_size=8)
    results = evaluated(tmp_path, names, lm, limit=12)
    found, one = task_scores(results), PatchedLM(llama, vector(llama), STRENGTH)

    def log_prob(context, continuation):
        return one.loglikelihood(requests("loglikelihood", [(context, continuation)]))[0]

    test = words.split().test.pairs[:12]
    scores = [log_prob(f"Q: {word}\nA:", f" {answers[0]}") for word, answers in test]
    of = "fv_lens_relation_loglikelihood"
    assert found[TaskMetric(of, "acc", "none")].value == sum(greedy for _, greedy in scores) / 12
    mean = sum(x for x, _ in scores) / 12
    perplexity = found[TaskMetric(of, "perplexity", "none")]
    assert perplexity.value == pytest.approx(2.718281828459045**-mean, rel=1e-4)
    assert perplexity.low < perplexity.value < perplexity.high and perplexity.n == 12

    settings = {"until": ["\n"], "max_gen_toks": 16}
    texts = one.generate_until(requests("generate_until", [(f"Q: {word}\nA:", settings) for word, _ in test]))
    exact = found[TaskMetric("fv_lens_relation_generate", "exact_match", "line")]
    assert exact.value == sum(t.strip() in answers for t, (_, answers) in zip(texts, test)) / 12 and exact.known

    lines = analogy_lines()[:12]
    chosen = [[log_prob(line["prompt"], choice)[0] for choice in line["choices"]] for line in lines]
    right = [max(range(len(x)), key=x.__getitem__) == line["right"] for x, line in zip(chosen, lines)]
    assert found[TaskMetric("fv_lens_analogies", "acc", "none")].value == pytest.approx(sum(right) / 12)

    texts = json.loads("[" + ",".join((tmp_path / "neutral.jsonl").read_text().splitlines()[:12]) + "]")
    log_probs = [log_prob("", line["text"])[0] for line in texts]
    n = sum(len(line["text"].split()) for line in texts)
    expected = 2.718281828459045 ** (-sum(log_probs) / n)
    score = found[TaskMetric("fv_lens_neutral", "word_perplexity", "none")]
    assert score.value == pytest.approx(expected, rel=1e-4) and score.low < score.value < score.high
    told = results["config"]["fv_lens"]
    assert told["strength"] == STRENGTH and told["vectors"][0]["layer"] == 1 and len(told["vectors"][0]["sha"]) == 64


def test_answers_that_are_written_right_are_found(llama, no_cache, tmp_path):
    """Any of a word's answers counts, as the model itself writes them."""
    lm = PatchedLM(llama, vector(llama), STRENGTH, batch_size=8)
    asked = [f"w{i}" for i in range(20)]
    given = [(f"Q: {word}\nA:", {"until": ["\n"], "max_gen_toks": 16}) for word in asked]
    texts = [written.strip() for written in lm.generate_until(requests("generate_until", given))]
    relation = Relation("own", [(word, ["w199", written]) for word, written in zip(asked, texts)])
    results = evaluated(tmp_path, write_tasks(tmp_path, relation, names=["relation"]), lm)
    assert results["results"]["fv_lens_relation_generate"]["exact_match,line"] == 1.0
    assert results["results"]["fv_lens_relation_loglikelihood"]["acc,none"] == 0.0  # the first answer is another


def test_words_and_choices_are_asked_as_the_template_says():
    template = PromptTemplate("{word} is to", " {answer} .")
    [line, *_] = relation_lines("antonym", template)
    word, answers = next(iter(relation_test("antonym")))
    assert line == {
        "word": word, "prompt": f"{word} is to", "continuation": f" {answers[0]} .", "answers": list(answers)
    }  # fmt: skip
    lines = analogy_lines(template)
    assert len({line["relation"] for line in lines[:30]}) > 10 and len({line["right"] for line in lines}) > 3
    assert all(choice.endswith(" .") for choice in lines[0]["choices"]) and lines[0]["prompt"].count(" is to") == 2


def relation_test(name):
    from fv_lens.datasets.relation_files import load_relation

    return load_relation(name).split().test.pairs


def test_bad_tasks_are_refused_before_a_file_is_written(tmp_path):
    with pytest.raises(InputError, match="'synonyms' is not a bundled task; choose from relation, analogies, neutral"):
        write_tasks(tmp_path, names=["neutral", "synonyms"])
    with pytest.raises(InputError, match="The task 'relation' needs a relation"):
        write_tasks(tmp_path, names=["neutral", "relation"])
    assert list(tmp_path.iterdir()) == []
    assert set(BUNDLED) == {"relation", "analogies", "neutral"}


def made(values, metric="acc", stderr=0.1, value=None):
    samples = [{"filter": "none", metric: x} for x in values]
    value = sum(values) / len(values) if value is None else value
    of_task = {f"{metric},none": value, f"{metric}_stderr,none": stderr, "sample_len": len(values)}
    return {"results": {"t": of_task}, "samples": {"t": samples}}


def test_intervals_and_gains():
    key = TaskMetric("t", "acc", "none")
    share = task_scores(made([1, 0, 1, 1]))[key]
    assert (share.value, round(share.low, 2), round(share.high, 2)) == (0.75, 0.30, 0.95)
    mean = task_scores(made([0.2, 0.4, 0.9, 0.5]))[key]
    assert (mean.low, mean.high) == pytest.approx((0.5 - 0.196, 0.5 + 0.196)) and mean.n == 4
    assert not task_scores(made([0.5, 0.5], stderr="N/A"))[key].known
    assert not task_scores(made([0.5, 0.5], stderr=0.0))[key].known
    gains = task_gains(made([1, 1, 1, 0] * 5), made([0, 1, 0, 0] * 5))[key]
    assert gains.value == 0.5 and gains.differs() and gains.n == 20
    log_probs = made([(-2.0, 2), (-6.0, 2)], "word_perplexity", "N/A", 2.718281828459045**2)
    assert task_scores(log_probs)[TaskMetric("t", "word_perplexity", "none")].low < 7.39
    assert not task_gains(log_probs, log_probs)
