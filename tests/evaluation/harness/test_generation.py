"""Texts that are written in lm-evaluation-harness against `generate` under `patch`, one by one."""

import random

import pytest
import torch

from fv_lens.ground.errors import InputError
from fv_lens.vectors.patching import patch

from ... import tiny
from ...vectors.patched import vector

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra 'harness')")


from fv_lens.evaluation.harness.model import PatchedLM  # noqa: E402
from fv_lens.evaluation.harness.writing import chooser  # noqa: E402

from .by_hand import SIZES, STRENGTH, contexts, generated, requests, text, tokens  # noqa: E402


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
