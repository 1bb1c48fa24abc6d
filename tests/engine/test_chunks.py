"""Which rows share a pass."""

import pytest

from fv_lens.datasets.prompts import with_demonstrations
from fv_lens.engine import chunks
from fv_lens.engine.batches import batch
from fv_lens.engine.parity import measured
from fv_lens.models.lens import lens_of

EITHER = pytest.mark.parametrize("exact", [False, True], ids=["whole forwards", "new tokens"])


@pytest.fixture
def grouped(llama, words):
    """The lengths of the answers in each group: of sixteen answers, of one, two and three tokens by turns."""
    lens, test = lens_of(llama), words.split().test
    prompts, answers = batch(lens, with_demonstrations(test, test, 0)), [(1,) * (1 + i % 3) for i in range(len(test))]
    parity = measured(lens, prompts.tokens, prompts.mask)
    assert len(test) == 16 and int(prompts.mask.sum(1).max()) == 6

    def lengths(exact: bool) -> list[list[int]]:
        found = list(chunks.groups(lens, parity, prompts, answers, 0, exact))
        assert sorted(row for rows in found for row in rows) == list(range(len(answers)))
        return [[len(answers[row]) for row in rows] for rows in found]

    return lengths


@EITHER
def test_answers_of_other_lengths_share_a_small_pass(grouped, exact):
    assert grouped(exact) == [[3] * 5 + [2] * 5 + [1] * 6]


@EITHER
def test_they_do_not_where_one_length_alone_fills_a_pass(grouped, exact, monkeypatch):
    monkeypatch.setattr(chunks, "ENOUGH", 5)
    assert grouped(exact) == [[3] * 5, [2] * 5, [1] * 6]


def test_tokens_of_the_prompt_count_where_they_run_in_it(grouped, monkeypatch):
    monkeypatch.setattr(chunks, "ENOUGH", 16 * 3 + 1)
    assert grouped(exact=True) == [[3] * 5 + [2] * 5 + [1] * 6]
    assert grouped(exact=False) == [[3] * 5 + [2], [2] * 4 + [1] * 3, [1] * 3]
