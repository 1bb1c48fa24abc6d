"""Where the last token of each prompt stands, behind a cache, under a mask, among beams."""

import torch

from fv_lens.models.positions import Prompts


def test_columns_of_prompts_that_are_cached_in_part():
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 0, 0]])
    whole = Prompts.of((3, 4), mask=mask)
    assert whole.last.tolist() == [2, 3, 0] and whole.end == 4
    behind = Prompts.of((3, 2), past=2, mask=mask)
    assert behind.last.tolist() == whole.last.tolist() and behind.end == whole.end
    assert Prompts.of((1, 2), past=2, mask=torch.tensor([[1, 0, 1, 1]])).last.tolist() == [3]  # a gap in the cache
    last, new = behind.columns((3, 2), 2, torch.device("cpu"))
    assert last.tolist() == [[True, False], [False, True], [False, False]] and not new.any()
    last, new = behind.columns((3, 1), 4, torch.device("cpu"))
    assert not last.any() and new.all()


def test_a_mask_of_the_new_tokens_alone_counts_from_behind_the_cache():
    found = Prompts.of((3, 3), past=4, mask=torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]]))
    assert found.last.tolist() == [5, 6, 3] and found.end == 7


def test_a_prompt_stands_for_each_of_its_beams():
    last, _ = Prompts(torch.tensor([0, 2]), 3).columns((4, 3), 0, torch.device("cpu"))
    assert last.long().argmax(1).tolist() == [0, 0, 2, 2]
