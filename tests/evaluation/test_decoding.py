"""Decoding lists what readings say: the strongest and weakest tokens and the names, as text and as a table."""

import json
from dataclasses import replace

import pytest
import torch

from fv_lens.datasets.relation_files import load_relation
from fv_lens.evaluation.decoding import decode
from fv_lens.evaluation.readings import NEUTRAL_PROMPTS, log_probs
from fv_lens.ground.errors import InputError
from fv_lens.vectors.patching import patch

from ..oracles import EXACT, difference, unembedded
from .read import PROMPTS, by_hand, ids, through_model, vector


def test_decode_lists_the_strongest_and_the_weakest_tokens_of_the_unembedding(model):
    fv, expected = vector(model), unembedded(model, vector(model).vector).log_softmax(-1)
    decoded = decode(model, fv, k=5)
    assert [t.log_prob for t in decoded.top] == pytest.approx(sorted(expected.tolist())[:-6:-1], abs=EXACT)
    assert [t.log_prob for t in decoded.suppressed] == pytest.approx(sorted(expected.tolist())[:5], abs=EXACT)
    for token in (*decoded.top, *decoded.suppressed):
        assert token.log_prob == pytest.approx(expected[token.id].item(), abs=EXACT)
        assert token.probability == pytest.approx(expected[token.id].exp().item(), rel=1e-4)
        assert token.change is None and token.rank == by_hand(expected, token.id)


def test_decode_through_the_model_suppresses_what_the_vector_lowers_most(model):
    fv, plain = vector(model), through_model(model, None)
    own = through_model(model, fv)
    decoded = decode(model, fv, k=4, through="model", prompts=PROMPTS, names=["w5"])
    assert ids(decoded.top) == own.argsort(descending=True)[:4].tolist()
    assert ids(decoded.suppressed) == (own - plain).argsort()[:4].tolist()
    for token in (*decoded.top, *decoded.suppressed, *decoded.names.values()):
        assert token.log_prob == pytest.approx(own[token.id].item(), abs=EXACT)
        assert token.change == pytest.approx((own - plain)[token.id].item(), abs=2 * EXACT)
        assert token.rank == by_hand(own, token.id)


def test_a_centre_is_taken_from_the_vector_before_it_is_unembedded(model):
    fv, centre = vector(model), vector(model, seed=1)
    expected = unembedded(model, fv.vector - centre.vector).log_softmax(-1)
    for given in (centre, centre.vector):
        decoded = decode(model, fv, k=4, center=given)
        assert ids(decoded.top) == expected.argsort(descending=True)[:4].tolist() and decoded.centered
        assert [t.log_prob for t in decoded.top] == pytest.approx(expected.topk(4).values.tolist(), abs=EXACT)


@pytest.mark.slow
def test_the_reading_of_a_centre_is_taken_from_that_through_the_model(model):
    fv, centre = vector(model), vector(model, seed=1, layer=2)
    for given, meant in ((centre, centre), (centre.vector, replace(centre, layer=1))):
        own, change = through_model(model, fv), through_model(model, fv) - through_model(model, meant)
        decoded = decode(model, fv, k=4, through="model", center=given, prompts=PROMPTS, names=["w5"])
        assert ids(decoded.top) == change.argsort(descending=True)[:4].tolist()
        assert ids(decoded.suppressed) == change.argsort()[:4].tolist()
        for token in (*decoded.top, *decoded.names.values()):
            assert token.probability == pytest.approx(own[token.id].exp().item(), rel=1e-4)
            assert token.rank == by_hand(change, token.id)


def test_six_neutral_prompts_are_read_where_none_are_given(llama):
    assert len(set(NEUTRAL_PROMPTS)) == 6 and NEUTRAL_PROMPTS[0] == "This is an example of the"
    decoded = decode(llama, vector(llama), through="model")
    assert decoded.prompts == NEUTRAL_PROMPTS
    expected = through_model(llama, vector(llama), NEUTRAL_PROMPTS)
    assert ids(decoded.top) == expected.argsort(descending=True)[:10].tolist()


def test_the_whole_vocabulary_may_be_listed(llama):
    decoded = decode(llama, vector(llama), k=256)
    assert sorted(ids(decoded.top)) == list(range(256)) and ids(decoded.suppressed) == ids(decoded.top)[::-1]
    assert sum(token.probability for token in decoded.top) == pytest.approx(1, abs=1e-4)


def test_the_names_of_a_bundled_relation_are_looked_for(words_with_spaces, llama):
    names = load_relation("antonym").names
    assert set(decode(words_with_spaces, vector(words_with_spaces, relation="antonym")).names) == set(names)
    assert not decode(words_with_spaces, vector(words_with_spaces, relation="my own")).names
    assert not decode(llama, vector(llama, relation="antonym")).names  # none of these words is in its vocabulary


# The result


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("through, center", [("unembed", False), ("model", False), ("model", True)])
def test_a_decoding_is_shown_and_becomes_a_table(llama, through, center):
    centre = vector(llama, seed=1) if center else None
    fv = vector(llama, relation="successor")
    decoded = decode(llama, fv, 3, through, names=["w5", "w6"], prompts=PROMPTS, center=centre)
    assert "\n" not in repr(decoded) and "'successor'" in repr(decoded) and "'w5' at rank" in repr(decoded)
    shown, frame = str(decoded), decoded.to_frame()
    for token in (*decoded.top, *decoded.suppressed):
        assert json.dumps(token.token) in shown
    assert ("change" in shown) == (through == "model") and ("centred" in shown) == center
    assert frame["part"].tolist() == ["top"] * 3 + ["suppressed"] * 3 + ["name"] * 2
    assert frame["id"].tolist() == ids([*decoded.top, *decoded.suppressed, *decoded.names.values()])
    assert frame["name"].tolist()[-2:] == ["w5", "w6"] and frame["change"].isna().all() == (through == "unembed")


@pytest.mark.slow
def test_the_header_says_what_the_numbers_are(llama):
    fv = vector(llama)
    for options, by, change in [
        (dict(), "by probability", False),
        (dict(through="model", prompts=PROMPTS), "by probability", True),
        (dict(through="model", prompts=PROMPTS, center=vector(llama, seed=1)), "by change from the centre", True),
    ]:
        header = str(decode(llama, fv, 3, **options)).splitlines()[1]
        assert header.startswith(f"rank 0 is the strongest of 256 tokens, {by}; probability from 0 to 1")
        assert header.endswith("change in nats") == change


def test_a_piece_of_a_name_is_told_from_the_name(words_with_spaces):
    decoded = decode(words_with_spaces, vector(words_with_spaces), 3, names=["past", "opposites", "past tense"])
    assert decoded.pieces == ("opposites", "past tense")
    lines = {line.split(": ")[0].strip(): line for line in str(decoded).splitlines() if ": " in line}
    marked = {name for name, line in lines.items() if line.endswith("(a piece of the name)")}
    assert marked == {"opposites", "past tense"} and "past" in lines
    assert "'past' at rank" in repr(decoded) and "opposites" not in repr(decoded)


# What is refused


@pytest.mark.slow(but=1)
@pytest.mark.parametrize(
    "options, message",
    [
        (dict(k=0), "k is 0"),
        (dict(k=257), "k is 257.*256 tokens"),
        (dict(k=2.5), "k is 2.5"),
        (dict(through="logits"), "'logits'.*'unembed' or 'model'"),
        (dict(names=[]), "names is"),
        (dict(names=["w5", " "]), "names holds ' '"),
        (dict(names=[5]), "names holds 5"),
        (dict(through="model", prompts=[]), "prompts is"),
        (dict(through="model", prompts=""), "prompts holds ''"),
        (dict(through="model", prompts=["w1 w2", "\n"]), "prompts holds"),
        (dict(through="model", prompts=["w1 " * 128]), "longer than the context.*128"),
        (dict(center=torch.ones(31)), "31 numbers"),
        (dict(center="mean"), "center is str"),
    ],
    ids=str,
)
def test_what_cannot_be_decoded_is_refused(llama, options, message):
    with pytest.raises(InputError, match=message):
        decode(llama, vector(llama), **options)


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("through", ["unembed", "model"])
def test_a_vector_of_another_model_is_refused(llama, through):
    for wrong in (replace(vector(llama), vector=torch.ones(16)), replace(vector(llama), bos=False)):
        with pytest.raises(InputError):
            decode(llama, wrong, through=through)
        with pytest.raises(InputError):
            log_probs(llama, [vector(llama), wrong], through)


@pytest.mark.parametrize("fv", [torch.ones(32), None, []], ids=["tensor", "None", "list"])
def test_what_is_no_function_vector_is_refused(llama, fv):
    with pytest.raises(InputError, match="give one FunctionVector"):
        decode(llama, fv)


def test_a_patched_model_is_read_only_once_the_patch_is_gone(llama):
    fv = vector(llama)
    with patch(llama, fv), pytest.raises(InputError, match="patch is active"):
        decode(llama, fv, through="model")
    with patch(llama, fv):
        patched = log_probs(llama, fv)
    assert difference(patched, log_probs(llama, fv)) == 0  # behind the last block no patch is left to act
