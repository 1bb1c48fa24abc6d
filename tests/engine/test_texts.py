"""Texts of users as tokens: what no model can read is refused by name."""

import pytest
import torch

from fv_lens.engine.batches import padded_texts
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of


class Letters:
    """Tokens of a model without a BOS token: one for each letter."""

    n_ctx, pad_id = 128, 0

    def tokens(self, text):
        return [ord(letter) for letter in text]


def test_texts_are_padded_on_the_left(llama):
    lens = lens_of(llama)
    texts = ["w1 w2 w3", "w4", " ".join(["w5"] * (lens.n_ctx - 1))]
    tokens, mask = padded_texts(lens, texts)
    assert tokens.shape == mask.shape == (3, lens.n_ctx)
    for row, text in enumerate(texts):
        assert tokens[row][mask[row].bool()].tolist() == lens.tokens(text)
        assert mask[row].diff().min() >= 0 and torch.equal(tokens[row][~mask[row].bool()].unique(), tokens.new_tensor(
            [lens.pad_id] if row < 2 else []
        ))  # fmt: skip


@pytest.mark.parametrize(
    "texts, message",
    [
        ([], "there are no texts; give at least one"),
        (["w1", "w2 " * 43], r"the text '(w2 ){13}w\.\.\.' has 129 tokens, more than the model's context of 128"),
        (["w1", ""], "the text '' has no tokens; give some words"),
        (["w1", 3], "a text is 3; give a string"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(texts, message):
    with pytest.raises(InputError, match=message):
        padded_texts(Letters(), texts)
