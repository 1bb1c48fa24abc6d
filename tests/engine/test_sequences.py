"""Whole sequences under edits: continuations step by step equal those by full forwards, whatever stands beside them."""

import pytest
import torch

from fv_lens.engine import sequences
from fv_lens.engine.edits import Edit
from fv_lens.engine.forms import BATCH, SLOW
from fv_lens.engine.sequences import continuation_scores, continuations, left_padded, runs_alone
from fv_lens.ground.errors import InputError, ParityError
from fv_lens.models.lens import lens_of

PROMPTS = [[5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25], [3], [8, 6, 4], [2, 2, 2, 2, 2], [9, 8, 7]]


def edits(lens) -> list[Edit]:
    values = torch.randn(2, lens.d_model, generator=torch.Generator().manual_seed(0)) * 4
    return [Edit(0, values[0]), Edit(2, values[1])]


def greedy(ids, logits):
    return logits.argmax(-1)


@torch.no_grad()
def by_hand(lens, prompt: list[int], n: int) -> list[int]:
    """One token after the other, each by a forward over all before it."""

    def adding(value):
        def add(x, hook):
            x = x.clone()
            x[0, len(prompt) - 1] += value
            return x

        return add

    ids, hooks = torch.tensor([prompt]), [(f"blocks.{e.layer}.hook_resid_post", adding(e.value)) for e in edits(lens)]
    for _ in range(n):
        logits = lens.model.run_with_hooks(ids, fwd_hooks=hooks)
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[0, len(prompt) :].tolist()


def test_continuations_are_those_of_single_forwards(model):
    lens = lens_of(model)
    expected = [by_hand(lens, prompt, 6) for prompt in PROMPTS]
    assert continuations(lens, PROMPTS, edits(lens), 6, greedy, lambda row: False) == expected
    assert [continuations(lens, [p], edits(lens), 6, greedy, lambda row: False)[0] for p in PROMPTS] == expected
    assert expected != [by_clean(lens, prompt, 6) for prompt in PROMPTS]


def by_clean(lens, prompt, n):
    return continuations(lens, [prompt], [], n, greedy, lambda row: False)[0]


@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("form", [BATCH, SLOW])
def test_every_form_gives_the_same(llama, monkeypatch, form, padding):
    """With steps or full forwards, in padded batches or with prompts of one length together."""
    lens, sizes = lens_of(llama), []
    expected = [by_hand(lens, prompt, 4) for prompt in PROMPTS]
    monkeypatch.setattr(sequences, "form_for", lambda *given: form)
    monkeypatch.setattr(lens.parity, "padding", padding)

    def counting(run):
        return lambda lens, ids, *more: sizes.append(len(ids)) or run(lens, ids, *more)

    for name in ("_by_steps", "_by_forwards"):
        monkeypatch.setattr(sequences, name, counting(getattr(sequences, name)))
    assert continuations(lens, PROMPTS, edits(lens), 4, greedy, lambda row: False) == expected
    assert sorted(sizes) == ([5] if padding else [1, 1, 1, 2])


def test_a_row_ends_and_the_others_go_on(llama):
    lens = lens_of(llama)
    whole = [by_hand(lens, prompt, 6) for prompt in PROMPTS]
    stop = whole[0][1]
    rows = continuations(lens, PROMPTS, edits(lens), 6, greedy, lambda row: row[-1] == stop)
    assert rows == [row[: row.index(stop) + 1] if stop in row else row for row in whole] and len(rows[0]) == 2


def test_it_ends_with_the_last_row(llama):
    calls = []
    lens = lens_of(llama)
    continuations(lens, PROMPTS, [], 6, lambda ids, logits: calls.append(ids) or logits.argmax(-1), lambda row: True)
    assert len(calls) == 1


def test_a_choice_sees_the_prompts_own_tokens_alone(llama):
    """Padding on the left is a row's own first token: what has been written is known whatever the batch."""
    seen = []
    continuations(lens_of(llama), PROMPTS, [], 2, lambda ids, x: seen.append(ids) or x.argmax(-1), lambda row: False)
    assert all(set(row.tolist()) == set(prompt) for row, prompt in zip(seen[0], PROMPTS))
    assert seen[1].shape[1] == seen[0].shape[1] + 1


def test_the_longest_prompt_decides_the_padding():
    ids, mask = left_padded([[4, 5], [6]])
    assert ids.tolist() == [[4, 5], [6, 6]] and mask.tolist() == [[1, 1], [0, 1]]


def test_scores_of_several_targets_of_a_row(llama):
    lens = lens_of(llama)
    row, targets = [5, 6, 7, 8], [[8, 1], [8, 2]]
    [both] = continuation_scores(lens, [row], [targets], [], [slice(0)])
    with torch.no_grad():
        log_probs = llama(torch.tensor([row]))[0, -2:].log_softmax(-1)
    for (score, _), target in zip(both, targets):
        assert score == pytest.approx(float(log_probs[[0, 1], target].sum()), abs=1e-5)


def test_logits_that_would_take_too_much_memory_are_made_in_parts(llama, monkeypatch):
    lens, widths = lens_of(llama), []
    rows = [[*prompt, 1, 2] for prompt in PROMPTS]
    given = rows, [[[1, 2, 3]]] * len(rows), edits(lens), [slice(0, 1)] * len(rows)
    whole = continuation_scores(lens, *given)
    run = type(lens).logits
    monkeypatch.setattr(
        type(lens), "logits", lambda *given, **more: widths.append(len(given[1])) or run(*given, **more)
    )
    monkeypatch.setattr(sequences, "MOST_LOGITS", 1)
    parts = continuation_scores(lens, *given)
    for [(score, _)], [(expected, _)] in zip(parts, whole, strict=True):
        assert score == pytest.approx(expected, abs=1e-5)
    assert widths == [1] * len(rows)


def test_dropout_is_noticed(llama):
    lens = lens_of(llama)
    assert not runs_alone(lens, PROMPTS)

    def drop(module, inputs, out):
        dropped = torch.nn.functional.dropout(out[0] if isinstance(out, tuple) else out)
        return (dropped, *out[1:]) if isinstance(out, tuple) else dropped

    handle = llama.blocks[1].register_forward_hook(drop)
    try:
        with pytest.raises(ParityError, match="gives different logits for equal tokens"):
            runs_alone(lens_of(llama), PROMPTS)
    finally:
        handle.remove()


def test_edits_of_heads_and_of_single_prompts_are_refused(llama):
    """A head's value would be added to every head's, and a prompt's would meet the tokens of another."""
    lens = lens_of(llama)
    for edit, problem in (
        (Edit(1, torch.ones(lens.d_head), head=2), "An edit of layer 1 is of head 2"),
        (Edit(1, torch.ones(3, lens.d_model)), r"An edit of layer 1 has the shape \[3, 32\]"),
    ):
        with pytest.raises(InputError, match=problem):
            continuation_scores(lens, [[5, 6, 7]] * 3, [[[8]]] * 3, [edit], [slice(0, 1)] * 3)
        with pytest.raises(InputError, match=problem):
            continuations(lens, [[5, 6, 7]] * 3, [edit], 2, greedy, lambda row: False)


def test_what_cannot_be_batched_runs_alone():
    assert sequences._groups([3, 1, 3], padding=False, alone=False) == [[1], [0, 2]]
    assert sequences._groups([3, 1, 3], padding=True, alone=False) == [[0, 1, 2]]
    assert sequences._groups([3, 1, 3], padding=True, alone=True) == [[0], [1], [2]]
