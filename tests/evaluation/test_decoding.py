"""Vocabulary decoding against full forwards of single prompts and the formula; tokens and names as text."""

import json
import tempfile
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformer_lens.model_bridge import TransformerBridge

from fv_lens.datasets.relation_files import load_relation
from fv_lens.evaluation.decoding import decode
from fv_lens.evaluation.readings import NEUTRAL_PROMPTS, log_probs, name_tokens, rank
from fv_lens.ground.errors import InputError, ParityError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.patching import patch

from .. import oracles, tiny
from ..oracles import EXACT, Change, difference

PROMPTS = ["w1 w2 w3 w4 w5 w6 w7 w8 w9 w10", "w9 w8 w7 w6 w5 w4 w3", "w30 : w31 w32 : w33 w34 :"]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vector(model, seed: int = 0, layer: int = 1, **record) -> FunctionVector:
    lens = lens_of(model)
    made_on = dict(model=lens.name, processing=lens.processing, bos=lens.bos)
    return FunctionVector(noise(lens.d_model, seed=seed), layer, **made_on | record)


def loud(name: str):
    """A tiny model whose logits are so large that a soft cap shows."""
    model = tiny.build(name)
    for parameter in model.unembed.parameters():
        parameter.data.mul_(20)
    return model


@torch.no_grad()
def unembedded(model, residual: torch.Tensor) -> torch.Tensor:
    """`[vocab]`: logits of one residual by the modules of the model and, where its configuration has one, the cap."""
    logits = model.unembed(model.ln_final(residual[None, None]))[0, 0]
    config = getattr(getattr(model, "original_model", None), "config", None)
    cap = getattr(config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def through_model(model, fv: FunctionVector | None, prompts=PROMPTS) -> torch.Tensor:
    """`[vocab]`: mean log-probabilities over the prompts by full forwards."""
    edits = [] if fv is None else [Change(fv.layer, fv.vector)]
    ids = [model.to_tokens(prompt)[0].tolist() for prompt in prompts]
    return torch.stack([oracles.log_probs(model, row, edits) for row in ids]).mean(0)


def by_hand(strength: torch.Tensor, token: int) -> int:
    """The rank of a token: how many others are as strong or stronger."""
    return sum(float(other) >= float(strength[token]) for i, other in enumerate(strength) if i != token)


def ids(tokens) -> list[int]:
    return [token.id for token in tokens]


# The unembedding


def test_the_unembedding_of_the_last_residual_is_the_logits_of_a_full_forward(model):
    prompt = torch.tensor(oracles.random_prompts(11))
    with torch.no_grad():
        logits, cache = model.run_with_cache(prompt)
        found = lens_of(model).unembed(cache["blocks.2.hook_resid_post"][0])
    assert difference(found, logits[0]) <= EXACT


def test_any_residual_is_unembedded_as_the_modules_of_the_model_do(model):
    residuals = 5 * noise(3, 32)
    expected = torch.stack([unembedded(model, residual) for residual in residuals])
    assert difference(lens_of(model).unembed(residuals), expected) <= EXACT


def test_a_soft_cap_behind_the_unembedding_is_kept():
    model, residual = loud("gemma2"), 5 * noise(1, 32)
    found = lens_of(model).unembed(residual)[0]
    assert 25 < found.abs().max() <= 30 < model.unembed(model.ln_final(residual[None])).abs().max()
    assert difference(found, unembedded(model, residual[0])) <= 1e-4


def test_more_residuals_than_the_context_has_positions(model):
    residuals = noise(300, 32)
    found = lens_of(model).unembed(residuals)
    assert found.shape == (300, 256)
    for row in (0, 127, 128, 299):
        assert difference(found[row], lens_of(model).unembed(residuals[row : row + 1])[0]) <= EXACT


def test_a_model_that_does_not_read_the_last_block_is_refused(llama, monkeypatch):
    lens = type(lens_of(llama))(llama)
    monkeypatch.setattr(lens, "hooks", lambda hooks: nullcontext())
    with pytest.raises(ParityError, match="blocks.2.hook_resid_post"):
        lens.unembed(noise(2, 32))


# The two readings


def test_unembedded_is_the_softmax_of_the_formula(model):
    fv = vector(model)
    read, expected = log_probs(model, fv), unembedded(model, fv.vector).log_softmax(-1)
    assert read.shape == (1, 256) and difference(read[0], expected) <= EXACT


def test_through_the_model_is_the_mean_over_full_forwards(model):
    vectors = [vector(model, seed, layer) for seed, layer in enumerate((1, 0, 2, 1))]
    expected = torch.stack([through_model(model, fv) for fv in vectors])
    read = log_probs(model, vectors, "model", prompts=PROMPTS)
    assert read.dtype == torch.float32 and difference(read, expected) <= EXACT
    assert difference(read[:1], log_probs(model, vectors[0], "model", prompts=PROMPTS)) <= EXACT


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


def test_one_prompt_may_be_given_as_a_string(llama):
    read = log_probs(llama, vector(llama), "model", prompts="w1 w2 w3")
    assert difference(read, log_probs(llama, vector(llama), "model", prompts=["w1 w2 w3"])) == 0


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


# Words


def with_tokenizer(made: Tokenizer):
    """A tiny Llama with this tokenizer."""
    folder = tempfile.mkdtemp()
    hf.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    network, tokenizer = tiny.ARCHITECTURES["llama"]().eval(), hf.AutoTokenizer.from_pretrained(folder)
    return TransformerBridge.boot_transformers("tiny/words", hf_model=network, tokenizer=tokenizer, device="cpu")


@pytest.fixture(scope="module")
def words_with_spaces():
    """Byte-level BPE: a word and the same word behind a space are two tokens, in each case of its letters."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    text = ["past Past PAST past", "(past) (Past) (PAST)", "opposite", "a a a ."] * 20
    made.train_from_iterator(text, trainers.BpeTrainer(vocab_size=120, special_tokens=["</s>"], show_progress=False))
    return with_tokenizer(made)


@pytest.fixture(scope="module")
def sentence_pieces():
    """Words begin with a mark for the space, which is dropped at the start of a text."""
    pieces = ["</s>", "▁a", "▁past", "past", "▁", "▁the", "▁new", "o", "p", "?"]
    made = Tokenizer(models.Unigram([(piece, -float(len(pieces) - i)) for i, piece in enumerate(pieces)], unk_id=9))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    made.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    return with_tokenizer(made)


def test_a_token_is_shown_with_its_space(words_with_spaces, sentence_pieces):
    spaced, bare = (words_with_spaces.tokenizer.convert_tokens_to_ids(token) for token in ("Ġpast", "past"))
    lens = lens_of(words_with_spaces)
    assert (lens.text(spaced), lens.text(bare), lens.text(0)) == (" past", "past", "</s>")
    lens = lens_of(sentence_pieces)
    assert (lens.text(2), lens.text(3)) == (" past", "past")


def test_a_name_is_looked_for_in_every_case_with_and_without_a_space(words_with_spaces):
    lens = lens_of(words_with_spaces)
    found = {lens.text(token) for token in name_tokens(lens, ["past"])["past"]}
    assert found == {" past", "past", " Past", "Past", " PAST", "PAST"}
    assert set(name_tokens(lens, "PAST")["PAST"]) == set(name_tokens(lens, ["past"])["past"])


def test_a_name_of_several_tokens_counts_by_its_first(words_with_spaces):
    lens = lens_of(words_with_spaces)
    texts = [lens.text(token) for token in lens.tokens("opposites")[lens.bos :]]
    assert texts == ["opposite", "s"]
    found = {lens.text(token) for token in name_tokens(lens, "opposites")["opposites"]}
    assert "opposite" in found and "s" not in found


def test_a_space_of_its_own_names_nothing(words_with_spaces):
    lens = lens_of(words_with_spaces)
    assert lens.text(lens.tokens(" opposite")[lens.bos]) == " "
    assert [lens.text(token) for token in name_tokens(lens, ["opposite", "a"])["opposite"]][0] == "opposite"
    assert all(lens.text(token).strip() for token in name_tokens(lens, "opposite")["opposite"])


def test_BOS_and_unknown_tokens_name_nothing(llama):
    lens = lens_of(llama)
    assert name_tokens(lens, ["w5", "nowhere"], strict=False) == {"w5": [5]}
    with pytest.raises(InputError, match="no token for the name 'nowhere'"):
        decode(llama, vector(llama), names=["w5", "nowhere"])


def test_the_best_spelling_of_a_name_is_ranked(words_with_spaces):
    model, fv = words_with_spaces, vector(words_with_spaces)
    read = log_probs(model, fv)[0]
    spelled = name_tokens(lens_of(model), "past")["past"]
    best = max(spelled, key=lambda token: float(read[token]))
    named = decode(model, fv, names="past").names["past"]
    assert named.id == best and named.rank == by_hand(read, best) and named.probability == float(read[best].exp())


def test_the_names_of_a_bundled_relation_are_looked_for(words_with_spaces, llama):
    names = load_relation("antonym").names
    assert set(decode(words_with_spaces, vector(words_with_spaces, relation="antonym")).names) == set(names)
    assert not decode(words_with_spaces, vector(words_with_spaces, relation="my own")).names
    assert not decode(llama, vector(llama, relation="antonym")).names  # none of these words is in its vocabulary


@pytest.mark.parametrize(
    "tokens, expected", [([0], 2), ([1], 2), ([0, 1], 1), ([2], 0), ([3], 3), ([3, 2], 0)], ids=str
)
def test_a_tie_counts_against_a_name_unless_it_is_with_itself(tokens, expected):
    assert rank(torch.tensor([1.0, 1.0, 2.0, 0.0]), tokens) == expected


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
