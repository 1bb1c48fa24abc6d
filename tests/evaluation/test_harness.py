"""Models in lm-evaluation-harness: the numbers of its requests against forwards under `patch`, one by one."""

import json
import random
import subprocess
import sys

import pytest
import torch

from fv_lens.datasets.prompts import PromptTemplate
from fv_lens.datasets.relations import Relation
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.patching import patch

from .. import tiny
from ..vectors.patched import is_bridge, state, vector

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra 'harness')")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.utils import get_rolling_token_windows  # noqa: E402

from fv_lens.evaluation.harness import scoring  # noqa: E402
from fv_lens.evaluation.harness.arguments import NamedLM  # noqa: E402
from fv_lens.evaluation.harness.lm_eval_names import TaskManager, simple_evaluate  # noqa: E402
from fv_lens.evaluation.harness.model import ROLLING, PatchedLM  # noqa: E402
from fv_lens.evaluation.harness.scores import TaskMetric, task_gains, task_scores  # noqa: E402
from fv_lens.evaluation.harness.tasks import BUNDLED, analogy_lines, relation_lines, write_tasks  # noqa: E402
from fv_lens.evaluation.harness.writing import chooser  # noqa: E402

STRENGTH = 1.5
SIZES = pytest.mark.parametrize("batch_size", [1, 8])


def text(rng, most: int, least: int = 1) -> str:
    return " ".join(f"w{rng.randrange(tiny.N_WORDS)}" for _ in range(rng.randint(least, most)))


def pairs(n: int = 50) -> list[tuple[str, str]]:
    """Contexts and continuations of unequal length; among them choices of one token, and spaces at a context's end."""
    rng = random.Random(0)
    made = [(text(rng, 20), " " + text(rng, 5)) for _ in range(n - 8)]
    made += [("w1 w2 w3", f" w{i}") for i in range(4)]
    return [*made, ("w5 w6  ", "w7 w8"), ("w5", " w6 w7"), ("w5 w6", " w7"), ("w5 w6 w7", " w8")]


def requests(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, given, i) for i, given in enumerate(arguments)]


@torch.no_grad()
def by_hand(model, vectors, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """One forward over a context and its continuation, the vectors at the context's last token."""
    n, ids = len(context), torch.tensor([context + continuation])
    with patch(model, vectors, STRENGTH, at=n - 1):
        log_probs = model(ids)[0, n - 1 : -1].double().log_softmax(-1)
    listed = torch.tensor(continuation)
    return float(log_probs.gather(1, listed[:, None]).sum()), bool((log_probs.argmax(-1) == listed).all())


def tokens(model, given: str) -> list[int]:
    return model.to_tokens(given)[0].tolist()


def split(model, context: str, continuation: str) -> tuple[list[int], list[int]]:
    before = tokens(model, context.rstrip())
    return before, tokens(model, context + continuation)[len(before) :]


def assert_close(scores, expected):
    assert [greedy for _, greedy in scores] == [greedy for _, greedy in expected]
    assert max(abs(a - b) for (a, _), (b, _) in zip(scores, expected, strict=True)) <= 1e-5


@tiny.FAMILIES
def test_log_likelihoods_are_those_of_single_patched_forwards(model):
    vectors = [vector(model), vector(model, layer=2, seed=1)]
    expected = [by_hand(model, vectors, *split(model, *pair)) for pair in pairs()]
    by_size = {
        size: PatchedLM(model, vectors, STRENGTH, batch_size=size).loglikelihood(requests("loglikelihood", pairs()))
        for size in (1, 8)
    }
    for scores in by_size.values():
        assert_close(scores, expected)
    assert len({log_prob for log_prob, _ in expected}) > 40


def test_log_likelihoods_of_the_default_model(default_model):
    """To the rounding of float32, in which the forwards by hand are themselves 2e-5 off those in float64."""
    given = [(line["prompt"][i % 30 :], line["choices"][0]) for i, line in enumerate(analogy_lines()[:20])]
    fv = vector(default_model, layer=12, size=8.0)
    expected = [by_hand(default_model, fv, *split(default_model, *pair)) for pair in given]
    for size in (1, 8):
        scores = PatchedLM(default_model, fv, STRENGTH, batch_size=size).loglikelihood(requests("loglikelihood", given))
        assert max(abs(a - b) for (a, _), (b, _) in zip(scores, expected, strict=True)) <= 1e-4


def test_without_a_vector_and_at_strength_0_the_model_is_as_it_is(llama):
    clean = PatchedLM(llama, batch_size=8).loglikelihood(requests("loglikelihood", pairs()))
    weak = PatchedLM(llama, vector(llama), 0, batch_size=8).loglikelihood(requests("loglikelihood", pairs()))
    moved = PatchedLM(llama, vector(llama), batch_size=8).loglikelihood(requests("loglikelihood", pairs()))
    assert_close(clean, weak)
    assert all(abs(a - b) > 1e-3 for (a, _), (b, _) in zip(clean, moved))


def test_what_greedy_decoding_writes_is_told(llama):
    """Of what it writes, words of the tokenizer alone: the tiny model has more tokens than that."""
    ids = {context.rstrip(): generated(llama, vector(llama), context.rstrip(), 2) for context, _ in pairs(30)}
    decode = llama.tokenizer.decode
    written = [(context, f" {decode(two)}") for context, two in ids.items() if max(two) < tiny.N_WORDS]
    lm = PatchedLM(llama, vector(llama), STRENGTH, batch_size=8)
    assert [greedy for _, greedy in lm.loglikelihood(requests("loglikelihood", written))] == [True] * len(written)
    others = [(context, behind + " w1") for context, behind in written]
    assert len(written) > 5 and not all(greedy for _, greedy in lm.loglikelihood(requests("loglikelihood", others)))


def test_equal_tokens_behind_contexts_of_other_lengths_are_told_apart(llama):
    """The vector stands elsewhere, so they cannot share a forward."""
    lm = PatchedLM(llama, vector(llama), batch_size=8)
    whole, first, rest = lm.loglikelihood(
        requests("loglikelihood", [("w5", " w6 w7"), ("w5", " w6"), ("w5 w6", " w7")])
    )
    assert abs(whole[0] - first[0] - rest[0]) > 1e-3
    plain = PatchedLM(llama, batch_size=8)
    whole, first, rest = plain.loglikelihood(
        requests("loglikelihood", [("w5", " w6 w7"), ("w5", " w6"), ("w5 w6", " w7")])
    )
    assert abs(whole[0] - first[0] - rest[0]) < 1e-5


def test_choices_of_one_token_share_a_forward(llama, monkeypatch):
    given, rows = [("w1 w2", f" w{i}") for i in range(4)] + [("w1", " w2 w9")], []
    run = scoring.continuation_scores
    monkeypatch.setattr(scoring, "continuation_scores", lambda lens, of, *more: rows.extend(of) or run(lens, of, *more))
    scores = PatchedLM(llama, vector(llama), STRENGTH, batch_size=8).loglikelihood(requests("loglikelihood", given))
    assert_close(scores, [by_hand(llama, vector(llama), *split(llama, *pair)) for pair in given])
    assert len(rows) == 2 and rows[0] == rows[1]  # the last one's context ends elsewhere


def test_nothing_stays_on_the_model(model):
    lm, before = PatchedLM(model, vector(model), batch_size=8), None
    for _ in range(2):  # the first use of a model leaves what is known about it
        lm.loglikelihood(requests("loglikelihood", pairs()[:9]))
        lm.generate_until(requests("generate_until", [("w1", {"until": [], "max_gen_toks": 2})]))
        before, earlier = state(model), before
    assert before == earlier


# Contexts that are empty or too long


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("context", ["", "  "])
def test_an_empty_context_is_the_bos_token_or_else_the_eos_token(bos, context):
    model = tiny.build("llama", bos)
    prefix = model.tokenizer.convert_tokens_to_ids("<s>" if bos else "</s>")
    own = model.tokenizer("w1 w2", add_special_tokens=False)["input_ids"]
    expected = by_hand(model, vector(model), [prefix], own)
    lm = PatchedLM(model, vector(model), STRENGTH)
    assert_close(lm.loglikelihood(requests("loglikelihood", [(context, "w1 w2")])), [expected])


@SIZES
def test_a_long_context_loses_its_first_tokens_and_the_vector_stays_at_its_last(model, batch_size, caplog):
    long = text(random.Random(1), 40, 40)
    given = [(long, " w1 w2 w3"), ("w4 w5", " w6"), (long, " " + text(random.Random(2), 12, 12))]
    expected = []
    for pair in given:
        before, behind = split(model, *pair)
        expected.append(by_hand(model, vector(model), (before + behind)[-13 : -len(behind)], behind))
    lm = PatchedLM(model, vector(model), STRENGTH, batch_size=batch_size, max_length=12)
    assert_close(lm.loglikelihood(requests("loglikelihood", given)), expected)
    assert "2 of 3 requests are longer than 12 tokens and lose their first ones" in caplog.text


def test_a_continuation_that_does_not_fit_or_is_empty_is_refused(llama):
    lm = PatchedLM(llama, vector(llama), max_length=4)
    with pytest.raises(InputError, match=r"The continuation ' w1 .*' has 5 tokens .* give 1 to 4 \(max_length\)"):
        lm.loglikelihood(requests("loglikelihood", [("w1", " w1 w2 w3 w4 w5")]))
    with pytest.raises(InputError, match="The continuation of 'w1' is empty; give a text to score"):
        lm.loglikelihood(requests("loglikelihood", [("w1", "")]))
    with pytest.raises(InputError, match="has 0 tokens behind its context"):
        lm.loglikelihood(requests("loglikelihood", [("w1", "  ")]))


# Texts without a prompt


@torch.no_grad()
def rolled_by_hand(model, fv, given: str, rolling: str, max_length: int) -> float:
    lens, total = lens_of(model), 0.0
    ids = model.tokenizer(given, add_special_tokens=False)["input_ids"]
    for read, scored in get_rolling_token_windows(ids, model.tokenizer.bos_token_id, max_length, 1):
        at = torch.zeros(1, len(read), dtype=torch.bool)
        at[:, : {"first": 1, "every": len(read), "none": 0}[rolling]] = True
        hooks = fv.hooks(lens.model, strength=STRENGTH, at=at) if rolling != "none" else []
        logits = model.run_with_hooks(torch.tensor([read]), fwd_hooks=hooks)
        log_probs = logits[0, -len(scored) :].log_softmax(-1)
        total += float(log_probs.gather(1, torch.tensor(scored)[:, None]).sum())
    return total


@pytest.mark.slow(but=3)
@pytest.mark.parametrize("rolling", ROLLING)
@SIZES
def test_rolling_texts_are_whole_windows_with_their_overlap(model, rolling, batch_size):
    rng = random.Random(3)
    texts = [text(rng, 30) for _ in range(6)] + [text(rng, 8, 8), text(rng, 16, 16), text(rng, 17, 17), ""]
    fv = vector(model)
    expected = [rolled_by_hand(model, fv, given, rolling, 8) for given in texts]
    lm = PatchedLM(model, fv, STRENGTH, batch_size=batch_size, rolling=rolling, max_length=8)
    found = lm.loglikelihood_rolling(requests("loglikelihood_rolling", [(given,) for given in texts]))
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 3e-5  # sums of up to 30 tokens
    assert found[-1] == 0


def test_a_text_of_one_window_is_the_continuation_of_an_empty_context(model):
    given = text(random.Random(4), 20, 20)
    lm = PatchedLM(model, vector(model), STRENGTH)
    [rolling] = lm.loglikelihood_rolling(requests("loglikelihood_rolling", [(given,)]))
    [(scored, _)] = lm.loglikelihood(requests("loglikelihood", [("", given)]))
    assert rolling == pytest.approx(scored, abs=1e-5)


def test_where_the_vector_stands_in_a_rolling_text_matters(llama):
    given = requests("loglikelihood_rolling", [(text(random.Random(5), 30, 30),)])
    found = {r: PatchedLM(llama, vector(llama), rolling=r).loglikelihood_rolling(given)[0] for r in ROLLING}
    clean = PatchedLM(llama).loglikelihood_rolling(given)[0]
    assert found["none"] == pytest.approx(clean, abs=1e-5) and len({round(x, 3) for x in found.values()}) == 3


# Texts that are written


def contexts(n: int = 10) -> list[str]:
    return [context.rstrip() for context, _ in pairs()[:n]] + ["w3", ""]


@torch.no_grad()
def generated(model, fv, context: str, n: int) -> list[int]:
    """What `model.generate` writes under `patch`, without regard to ends of texts."""
    ids = model.to_tokens(context) if context else torch.tensor([[model.tokenizer.bos_token_id]])
    with patch(model, fv, STRENGTH):
        out = model.generate(
            ids, max_new_tokens=n, do_sample=False, stop_at_eos=False, return_type="tokens", verbose=False
        )
    return out[0, ids.shape[1] :].tolist()


@tiny.FAMILIES
def test_greedy_texts_are_those_of_generate_under_patch(model):
    fv, settings = vector(model), {"until": [], "max_gen_toks": 5}
    expected = []
    for context in contexts():
        ids = generated(model, fv, context, 5)
        end = ids.index(model.tokenizer.eos_token_id) if model.tokenizer.eos_token_id in ids else 5
        expected.append(model.tokenizer.decode(ids[:end], skip_special_tokens=True))
    for size in (1, 8):
        lm = PatchedLM(model, fv, STRENGTH, batch_size=size)
        texts = lm.generate_until(requests("generate_until", [(context, settings) for context in contexts()]))
        assert texts == expected
    assert len(set(expected)) > 6


@pytest.mark.slow(but=1)
@SIZES
def test_texts_are_cut_at_the_first_stop(llama, batch_size):
    fv = vector(llama)
    whole = [llama.tokenizer.decode(generated(llama, fv, context, 6)) for context in contexts()]
    stops = [whole[0].split()[3], whole[1].split()[1]]
    lm = PatchedLM(llama, fv, STRENGTH, batch_size=batch_size)
    given = [(context, {"until": stops, "max_gen_toks": 6}) for context in contexts()]
    cut = lm.generate_until(requests("generate_until", given))
    for text_cut, text_whole in zip(cut, whole):
        at = min([text_whole.find(stop) for stop in stops if stop in text_whole], default=len(text_whole))
        assert text_cut == text_whole[:at]
    assert cut[0] != whole[0] and cut[1] != whole[1] and any(a == b for a, b in zip(cut, whole))


def test_a_row_that_has_ended_does_not_hold_what_was_written_beside_it(llama):
    """A stop that is a special token is gone from the text, so that what follows must not be there either."""
    fv, lm = vector(llama), PatchedLM(llama, vector(llama), STRENGTH, batch_size=8)
    first = generated(llama, fv, contexts()[0], 6)
    llama.tokenizer.add_special_tokens({"additional_special_tokens": [llama.tokenizer.convert_ids_to_tokens(first[2])]})
    try:
        stop = llama.tokenizer.convert_ids_to_tokens(first[2])
        given = [(context, {"until": [stop], "max_gen_toks": 6}) for context in contexts()[:8]]
        cut = lm.generate_until(requests("generate_until", given))[0]
        assert cut.split() == llama.tokenizer.convert_ids_to_tokens(first[:2])
    finally:
        tiny.tokenizer.cache_clear()
        llama.tokenizer = tiny.tokenizer()


def test_a_long_prompt_leaves_room_for_the_text(llama):
    long = text(random.Random(6), 40, 40)
    lm = PatchedLM(llama, vector(llama), STRENGTH, max_length=12)
    [short] = lm.generate_until(requests("generate_until", [(long, {"until": [], "max_gen_toks": 4})]))
    kept = torch.tensor([tokens(llama, long)[-8:]])
    with patch(llama, vector(llama), STRENGTH), torch.no_grad():
        out = llama.generate(kept, 4, do_sample=False, stop_at_eos=False, return_type="tokens", verbose=False)
    assert short == llama.tokenizer.decode(out[0, 8:])
    with pytest.raises(InputError, match="max_gen_toks is 12, and max_length 12: give 1 to 11"):
        lm.generate_until(requests("generate_until", [("w1", {"until": [], "max_gen_toks": 12})]))


def test_sampling_draws_from_what_the_settings_leave(llama):
    fv, lm = vector(llama), PatchedLM(llama, vector(llama), STRENGTH, batch_size=8)

    def texts(**settings):
        given = [(context, {"until": [], "max_gen_toks": 4, **settings}) for context in contexts()[:8]]
        return lm.generate_until(requests("generate_until", given))

    greedy = [llama.tokenizer.decode(generated(llama, fv, context, 4)) for context in contexts()[:8]]
    assert texts(do_sample=True, temperature=1.0, top_k=1) == greedy == texts(temperature=0.0)
    torch.manual_seed(0)
    drawn = texts(do_sample=True, temperature=3.0)
    torch.manual_seed(0)
    assert texts(do_sample=True, temperature=3.0) == drawn != greedy


def test_a_repetition_penalty_is_that_of_transformers(llama):
    lm = PatchedLM(llama, batch_size=8)
    given = [(context, {"until": [], "max_gen_toks": 6, "repetition_penalty": 1.8}) for context in contexts()[:8]]
    found = lm.generate_until(requests("generate_until", given))
    for (context, _), written in zip(given, found):
        ids = llama.to_tokens(context)
        out = llama.original_model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, repetition_penalty=1.8,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert written == llama.tokenizer.decode(out[0, ids.shape[1] :])


@pytest.mark.parametrize(
    "settings, problem",
    [
        (
            {"num_beams": 4},
            "The generation setting num_beams = 4 is not supported; give until, max_gen_toks, do_sample",
        ),
        ({"do_sample": True, "top_p": 3.0}, "are refused by transformers"),
    ],
)
def test_other_generation_settings_are_refused(settings, problem):
    with pytest.raises(InputError, match=problem):
        chooser(settings)
    chooser({"num_beams": 1, "do_sample": False})


# Beside the harness's own model


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_without_a_vector_all_is_as_in_the_harness_own_model(model):
    """Under the BOS rule of its tokenizer, which adds none.

    With a cache of logits, it gives a short continuation another token's log-probability if a longer one behind a
    shorter context has the same tokens (0.4.13).
    """
    from lm_eval.models.huggingface import HFLM

    bridge = tiny.build(model)
    bridge.cfg.default_prepend_bos = False
    theirs = HFLM(tiny.network(model), tokenizer=tiny.tokenizer(), batch_size=4, max_length=24, logits_cache=False)
    ours = PatchedLM(bridge, batch_size=8, max_length=24)
    asked = requests("loglikelihood", [*pairs(), ("", "w1 w2"), (text(random.Random(7), 40, 40), " w1 w2")])
    assert_close(ours.loglikelihood(asked), theirs.loglikelihood(asked))
    rolling = requests("loglikelihood_rolling", [(text(random.Random(8), 80, 60),), ("w1 w2",)])
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(theirs.loglikelihood_rolling(rolling), abs=1e-4)
    settings = {"until": ["w7"], "max_gen_toks": 5}
    written = requests("generate_until", [(context, settings) for context in contexts()[:-1]])
    assert ours.generate_until(written) == theirs.generate_until(written)


# What it is given, and tells


def test_the_users_own_hooks_see_each_request_alone(llama, caplog):
    fv, widths = vector(llama), []

    def double(x, hook):
        widths.append(tuple(x.shape[:2]))
        return x * 1.1

    llama.add_hook("blocks.0.hook_resid_post", double)
    try:
        expected = [by_hand(llama, fv, *split(llama, *pair)) for pair in pairs()[:8]]
        widths.clear()
        lm = PatchedLM(llama, fv, STRENGTH, batch_size=8)
        assert_close(lm.loglikelihood(requests("loglikelihood", pairs()[:8])), expected)
        assert {rows for rows, _ in widths} == {1}
    finally:
        llama.reset_hooks()


def test_a_patch_on_the_model_is_refused(llama):
    lm = PatchedLM(llama, vector(llama))
    with patch(llama, vector(llama)):
        for kind, given in (("loglikelihood", ("w1", " w2")), ("generate_until", ("w1", {"max_gen_toks": 2}))):
            with pytest.raises(InputError, match="A patch is active on this model"):
                getattr(lm, kind)(requests(kind, [given]))


def test_bad_settings_are_refused(llama):
    other = vector(tiny.build("gpt2"))
    for given, problem in (
        (dict(vectors=other), "was made on 'tiny/gpt2'"),
        (dict(strength=float("nan")), "strength is nan"),
        (dict(batch_size=0), "batch_size is 0"),
        (dict(rolling="last"), "rolling is 'last'; choose from first, every, none"),
        (dict(max_length=129), "max_length is 129; tiny/llama takes at most 128"),
        (dict(vectors=[1]), "fv holds int"),
    ):
        with pytest.raises(InputError, match=problem):
            PatchedLM(llama, **given)


CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ m.role }} : {{ m.content }} {% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)


def test_the_chat_form_is_the_tokenizers_without_a_second_bos(caplog):
    model = tiny.chatting(CHAT)
    lm = PatchedLM(model)
    written = lm.apply_chat_template([{"role": "system", "content": "w9"}, {"role": "user", "content": "w1"}])
    assert written == "<s>user : w1 assistant :" and "takes no system turn" in caplog.text
    assert lm.chat_template(True) == CHAT and lm.tokenizer_name
    ids, bos = lm.tok_encode(written), model.tokenizer.bos_token_id
    assert ids[0] == bos and ids.count(bos) == 1 and lm.tok_encode("w1")[0] == bos
    with pytest.raises(InputError, match="The tokenizer of tiny/llama has no chat template"):
        PatchedLM(tiny.build("llama")).apply_chat_template([])


# Tasks


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


# By name, and where it is not installed


def test_the_harness_command_line_makes_it_by_name(monkeypatch, tmp_path, llama):
    from fv_lens.evaluation.harness import arguments

    vector(llama).save(tmp_path / "v.safetensors")
    asked = []
    monkeypatch.setattr(arguments, "load_model", lambda name, **more: asked.append((name, more)) or llama)
    line = f"vector={tmp_path / 'v.safetensors'},strength=2,dtype=float32"
    lm = NamedLM.create_from_arg_string(line, {"batch_size": "4", "max_batch_size": 64, "device": "cuda:0"})
    on_gpu = {"device": "cuda:0"} if torch.cuda.is_available() else {}
    assert asked == [("tiny/llama", {"dtype": "float32"} | on_gpu)]
    assert (lm.strength, lm.batch_size, lm.vectors[0].layer) == (2.0, 4, 1)
    assert NamedLM.create_from_arg_obj({"model": "x"}).vectors == []
    for given, problem in (
        ({"vektor": "v"}, "model_args has 'vektor'; give model, vector, dtype"),
        ({"strength": 2}, "model_args names no model"),
        ({"model": "x", "batch_size": "auto"}, "batch_size is 'auto'"),
    ):
        with pytest.raises(InputError, match=problem):
            NamedLM.create_from_arg_obj(given)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.slow
def test_fv_lens_does_not_import_the_harness_and_says_how_to_install_it():
    imported = run_python(
        "import sys, fv_lens\nfor name in fv_lens.__all__: getattr(fv_lens, name)\nprint('lm_eval' in sys.modules)"
    )
    assert imported.strip() == "False"
    missing = run_python(
        "import sys\nsys.modules['lm_eval'] = None\n"
        "try:\n    import fv_lens.evaluation.harness.model\n"
        "except ValueError as error:\n    print(type(error).__name__, error)"
    )
    assert missing.startswith("InputError") and 'pip install "fv-lens[harness]"' in missing


@pytest.mark.skipif(not tiny.HOOKED_INSTALLED, reason="HookedTransformer needs TransformerLens 3")
def test_both_model_classes_are_served():
    assert not is_bridge(tiny.build("hooked-llama")) and is_bridge(tiny.build("llama"))
