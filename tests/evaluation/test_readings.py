"""Readings of vectors against the formula and full forwards of single prompts; names as tokens, and their ranks."""

import pytest
import torch

from fv_lens.evaluation.decoding import decode
from fv_lens.evaluation.readings import log_probs, name_tokens, rank
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of

from ..oracles import EXACT, difference, unembedded
from .read import PROMPTS, by_hand, through_model, vector

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


def test_one_prompt_may_be_given_as_a_string(llama):
    read = log_probs(llama, vector(llama), "model", prompts="w1 w2 w3")
    assert difference(read, log_probs(llama, vector(llama), "model", prompts=["w1 w2 w3"])) == 0


# Words


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


@pytest.mark.parametrize(
    "tokens, expected", [([0], 2), ([1], 2), ([0, 1], 1), ([2], 0), ([3], 3), ([3, 2], 0)], ids=str
)
def test_a_tie_counts_against_a_name_unless_it_is_with_itself(tokens, expected):
    assert rank(torch.tensor([1.0, 1.0, 2.0, 0.0]), tokens) == expected
