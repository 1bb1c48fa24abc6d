"""Log-likelihoods in lm-evaluation-harness against forwards under `patch`, one by one."""

import random

import pytest
import torch

from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of

from ... import tiny
from ...vectors.patched import state, vector

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra 'harness')")

from lm_eval.utils import get_rolling_token_windows  # noqa: E402

from fv_lens.evaluation.harness import scoring  # noqa: E402
from fv_lens.evaluation.harness.model import ROLLING, PatchedLM  # noqa: E402
from fv_lens.evaluation.harness.tasks import analogy_lines  # noqa: E402

from .by_hand import SIZES, STRENGTH, assert_close, by_hand, generated, pairs, requests, split, text  # noqa: E402


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
