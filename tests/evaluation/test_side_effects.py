"""What a vector does elsewhere, against full forwards with hooks."""

import numpy as np
import pytest
import torch

from fv_lens import InputError, Relation, side_effects
from fv_lens.datasets.neutral import neutral_texts
from fv_lens.datasets.prompts import PromptTemplate, with_demonstrations
from fv_lens.models.lens import lens_of

from .. import oracles
from ..oracles import Change
from .completed import ENDINGS, by_hand, noise, vector

pytestmark = pytest.mark.usefixtures("some_end")
TEXTS = ("w1 w2 w3", "w9", "w7 : w8 w7 w5")


def other(name: str, start: int) -> Relation:
    return Relation(name, [(f"w{i}", f"w{i + 30}") for i in range(start, start + 40)])


def next_token(model, text: str, edit: torch.Tensor | None) -> torch.Tensor:
    def add(x, hook):
        x = x.clone()
        x[:, -1] += edit
        return x

    ids = torch.tensor([lens_of(model).tokens(text)])
    hooks = [] if edit is None else [("blocks.1.hook_resid_post", add)]
    return model.run_with_hooks(ids, fwd_hooks=hooks)[0, -1].double().log_softmax(-1)


@torch.no_grad()
def test_side_effects_are_those_of_full_forwards(llama, words):
    values, others = 3 * noise(32), [other("one", 20), other("two", 80)]
    vectors = {"vector": values, "weak": 0.1 * values}
    found = side_effects(llama, words, vector(values), others, 2, 4, beside={"weak": vector(0.1 * values)}, texts=TEXTS)
    assert list(found.rows) == list(vectors) and found.others == ("one", "two")
    for name, edit in vectors.items():
        row = found.rows[name]
        plain = [next_token(llama, text, None) for text in TEXTS]
        moved = [next_token(llama, text, edit) for text in TEXTS]
        divergence = [float((m.exp() * (m - p)).sum()) for m, p in zip(moved, plain)]
        assert row.divergence.value == pytest.approx(np.mean(divergence), abs=1e-4)
        own = by_hand(llama, words, [Change(1, edit)])[:, 1] < by_hand(llama, words)[:, 1]
        assert row.wrong_way.value == pytest.approx(own.mean())
        right = []
        for relation in others:
            parts = relation.split()
            few = parts.test.with_pairs(parts.test.pairs[:4])
            for shots in with_demonstrations(few, parts.train, 2):
                text = PromptTemplate().prompt(shots.word, shots.demonstrations)
                prompt, answers = oracles.in_words(llama, text, shots.answers)
                ends = ENDINGS.nonzero()[:, 0].tolist()
                both = [oracles.completion(llama, prompt, answers, ends, edits)[0] for edits in ([], [Change(1, edit)])]
                right.append([float(value) for value in both])
        plain, with_vector = np.mean(right, 0)
        assert row.others.value == pytest.approx(with_vector) and row.others.n == 8
        assert row.lost.value == pytest.approx(plain - with_vector)
    assert found.to_frame().shape == (2, 12) and "one, two" in str(found) and "<table" in found._repr_html_()


@pytest.mark.slow
def test_no_vector_has_no_side_effects(llama, words):
    found = side_effects(llama, words, vector(torch.zeros(32)), [other("one", 20)], 2, 4, texts=TEXTS).rows["vector"]
    assert found.divergence.value == pytest.approx(0, abs=1e-9)
    assert found.lost.value == 0 and found.wrong_way.value == 0
    one = side_effects(llama, words, vector(noise(32)), [other("one", 20)], 2, 4, texts=TEXTS[0]).rows["vector"]
    assert one.divergence.n == 1, "a text by itself is one text"


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [dict(others=[]), dict(others="present-past"), dict(texts=[]), dict(n_words=0), dict(n_shots=-1)],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_cannot_be_measured_is_named(llama, words, wrong):
    given = dict(others=[other("one", 20)], n_shots=2, n_words=4, texts=TEXTS) | wrong
    with pytest.raises(InputError, match=next(iter(wrong))):
        side_effects(llama, words, vector(noise(32)), **given)


@pytest.mark.slow
def test_rows_and_relations_that_would_be_mixed_up_are_refused(llama, words):
    one, fv = other("one", 20), vector(noise(32))
    with pytest.raises(InputError, match="beside names a row 'vector'"):
        side_effects(llama, words, fv, [one], 2, 4, beside={"vector": fv}, texts=TEXTS)
    with pytest.raises(InputError, match="the vector's own relation"):
        side_effects(llama, words, fv, [one, words], 2, 4, texts=TEXTS)
    seen = vector(noise(32), relation="one", data_hash=one.hash, split_seed=7)
    with pytest.raises(InputError, match="split"):
        side_effects(llama, words, fv, [one], 2, 4, beside={"it": seen}, texts=TEXTS)


def test_neutral_texts_are_unlike_each_other_and_wait_for_a_word():
    texts = neutral_texts()
    assert len(set(texts)) == len(texts) >= 40
    assert all(text == text.strip() and text[0].isupper() and not text.endswith((".", ",")) for text in texts)
