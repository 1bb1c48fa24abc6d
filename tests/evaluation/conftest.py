"""Tiny models whose tokenizers know words with and without a space; a summed vector; words that end."""

import tempfile

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformer_lens.model_bridge import TransformerBridge

from fv_lens.models.lens import lens_of
from fv_lens.vectors.summed import function_vector

from .. import tiny
from .completed import ENDINGS, HEADS, noise


def with_tokenizer(made: Tokenizer):
    """A tiny Llama with this tokenizer."""
    folder = tempfile.mkdtemp()
    hf.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    network, tokenizer = tiny.ARCHITECTURES["llama"]().eval(), hf.AutoTokenizer.from_pretrained(folder)
    return TransformerBridge.boot_transformers("tiny/words", hf_model=network, tokenizer=tokenizer, device="cpu")


@pytest.fixture(scope="package")
def words_with_spaces():
    """Byte-level BPE: a word and the same word behind a space are two tokens, in each case of its letters."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    text = ["past Past PAST past", "(past) (Past) (PAST)", "opposite", "a a a ."] * 20
    made.train_from_iterator(text, trainers.BpeTrainer(vocab_size=120, special_tokens=["</s>"], show_progress=False))
    return with_tokenizer(made)


@pytest.fixture(scope="package")
def sentence_pieces():
    """Words begin with a mark for the space, which is dropped at the start of a text."""
    pieces = ["</s>", "▁a", "▁past", "past", "▁", "▁the", "▁new", "o", "p", "?"]
    made = Tokenizer(models.Unigram([(piece, -float(len(pieces) - i)) for i, piece in enumerate(pieces)], unk_id=9))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    made.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    return with_tokenizer(made)


@pytest.fixture(scope="package")
def summed(llama, words):
    return function_vector(llama, words, HEADS, 1, 4 * noise(3, 4, 8))


@pytest.fixture
def some_end(llama, monkeypatch):
    """Half of the tokens end an answer: the tiny model completes none before one of its two special tokens."""
    monkeypatch.setattr(lens_of(llama).state, "endings", ENDINGS)
