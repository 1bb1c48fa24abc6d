"""Where the vector goes, said by the caller: against TransformerLens' own hook at columns written down by hand."""

import logging

import pytest
import torch

import fv_lens
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.patching import patch

from .. import tiny
from ..oracles import Change, continuation_log_probs, random_prompts
from .patched import (  # fmt: skip
    GREEDY,
    SIDES,
    TEXTS,
    adding,
    assert_same,
    cached,
    empty_cache,
    greedy,
    is_bridge,
    last_columns,
    oracle,
    padded,
    prompts,
    run,
    text_lengths,
    vector,
)

FORMS = pytest.mark.parametrize("form", [list, torch.tensor, lambda columns: torch.tensor(columns, dtype=torch.int32)])


def table(columns: list, width: int) -> torch.Tensor:
    """`[row, width]`: 1 in each row's columns."""
    rows = [[int(column in (at if isinstance(at, list) else [at])) for column in range(width)] for at in columns]
    return torch.tensor(rows)


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("column", [0, 2, 5, -1, -3, -6])
def test_one_column(model, column):
    fv, tokens = vector(model), prompts()
    expected = oracle(model, tokens, fv, [column % 6] * 2)
    for at in column, torch.tensor(column), [column, column], table([column % 6] * 2, 6):
        with patch(model, fv, at=at):
            assert_same(run(model, tokens), expected)


@pytest.mark.slow
@SIDES
@FORMS
def test_a_column_for_each_row_of_padded_prompts(model, side, form):
    """From the first column on, padding counts; below zero, from each row's own last token."""
    fv, (tokens, mask, last) = vector(model), padded(side)
    back = [2, 1, 3]
    columns = [end - n for end, n in zip(last, back)]
    expected, at_last = (oracle(model, tokens, fv, own, attention_mask=mask) for own in (columns, last))
    for at in columns, [-1 - n for n in back], [columns[0], -2, columns[2]]:
        with patch(model, fv, at=form(at)):
            assert_same(run(model, tokens, attention_mask=mask), expected)
    with patch(model, fv) as handle:
        handle.at = form(columns)
        assert_same(run(model, tokens, attention_mask=mask), expected)
        handle.at = None
        assert_same(run(model, tokens, attention_mask=mask), at_last)


@pytest.mark.slow(but=1)
@SIDES
@pytest.mark.parametrize("kind", [torch.bool, torch.long, torch.float32])
def test_a_mask_of_several_tokens_or_none_in_a_row(model, side, kind):
    fv, (tokens, mask, last) = vector(model), padded(side)
    columns = [[last[0], last[0] - 3], [], [last[2] - 1]]
    expected = oracle(model, tokens, fv, columns, attention_mask=mask)
    with patch(model, fv, at=table(columns, 6).to(kind)):
        assert_same(run(model, tokens, attention_mask=mask), expected)


@SIDES
def test_the_attention_mask_itself_is_every_token(model, side):
    fv, (tokens, mask, _) = vector(model), padded(side)
    columns = [row.nonzero()[:, 0].tolist() for row in mask]
    parts = slice(0, 2), slice(1, 3)
    expected = [oracle(model, tokens[part], fv, columns[part], attention_mask=mask[part]) for part in parts]
    with patch(model, fv) as handle:
        for part, right in zip(parts, expected):
            handle.at = mask[part]
            assert_same(run(model, tokens[part], attention_mask=mask[part]), right)


@pytest.mark.slow(but=1)
@SIDES
def test_strings(model, side):
    fv, lengths = vector(model), text_lengths(model)
    columns = [end - 1 for end in last_columns(lengths, side)]
    expected = oracle(model, TEXTS, fv, columns, padding_side=side)
    for at in -2, columns:
        with patch(model, fv, at=at):
            assert_same(run(model, TEXTS, padding_side=side), expected)


def test_the_whole_answer_in_one_forward(model):
    """Teacher forcing equals one forward after the other, and prompt and answer behind its cache."""
    fv, (prompt, answer) = vector(model), random_prompts(6, 3)
    expected = continuation_log_probs(model, prompt, answer, [Change(fv.layer, fv.vector)])
    whole = torch.tensor([prompt + answer])
    for at in 5, -4:
        with patch(model, fv, at=at):
            log_probs = run(model, whole).log_softmax(-1)
        assert_same(log_probs[0, 5:-1].gather(1, whole[0, 6:, None])[:, 0], expected)
    cache = empty_cache(model, 1)
    with patch(model, fv, at=5):
        first = run(model, whole[:, :6], **cached(model, cache))[:, -1:]
        log_probs = torch.cat([first, run(model, whole[:, 6:], **cached(model, cache))[:, :-1]], 1).log_softmax(-1)
    assert_same(log_probs[0].gather(1, whole[0, 6:, None])[:, 0], expected)


@SIDES
def test_a_batch_of_answers_of_other_lengths(model, side):
    """As lm-evaluation-harness pads them: each row a prompt and its answer."""
    fv, pairs = vector(model), [random_prompts(n, m, seed=n) for n, m in [(5, 2), (3, 3), (4, 1)]]
    rows = [prompt + answer for prompt, answer in pairs]
    mask = torch.stack([torch.arange(7) < len(row) for row in rows]).long()
    mask = mask if side == "right" else mask.flip(1)
    tokens = torch.zeros(3, 7, dtype=torch.long)
    tokens[mask == 1] = torch.tensor(sum(rows, []))
    with patch(model, fv, at=[-1 - len(answer) for _, answer in pairs]):
        log_probs = run(model, tokens, attention_mask=mask).log_softmax(-1)
    for row, (prompt, answer) in enumerate(pairs):
        own = log_probs[row][mask[row] == 1][len(prompt) - 1 : -1]
        expected = continuation_log_probs(model, prompt, answer, [Change(fv.layer, fv.vector)])
        torch.testing.assert_close(own[range(len(answer)), answer], expected, atol=1e-4, rtol=0)


def test_the_docstrings_loglikelihood(llama):
    fv, requests = vector(llama), [("w1 w2 w3", " w4 w5"), ("w6", " w7"), ("w8 w9", " w1 w2 w3")]

    def loglikelihood(context, continuation):
        prompt, whole = llama.to_tokens(context), llama.to_tokens(context + continuation)
        n = handle.at = prompt.shape[1] - 1
        log_probs, answer = run(llama, whole)[0, n:-1].log_softmax(-1), whole[0, n + 1 :]
        return float(log_probs.gather(1, answer[:, None]).sum())

    with patch(llama, fv) as handle:
        results = [loglikelihood(*request) for request in requests]
    for (context, continuation), result in zip(requests, results):
        prompt, whole = (llama.to_tokens(text)[0].tolist() for text in (context, context + continuation))
        expected = continuation_log_probs(llama, prompt, whole[len(prompt) :], [Change(1, fv.vector)])
        assert abs(float(expected.sum()) - result) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("tokens", ["last", "every"])
@pytest.mark.parametrize("cached", [True, False])
def test_in_generate_columns_are_the_prompts(model, cached, tokens):
    fv, ids, every = vector(model), prompts(), tokens == "every"
    expected = greedy(model, ids, fv, [3, 3], 4, every)
    several = greedy_of(model, ids, fv, [[1, 4], [2]], 4, every)
    more = dict(use_past_kv_cache=cached, verbose=False, **GREEDY)
    for at in 3, -3, [3, -3], table([3, 3], 6):
        with patch(model, fv, tokens=tokens, at=at):
            assert torch.equal(model.generate(ids, 4, **more), expected)
    with patch(model, fv, tokens=tokens, at=table([[1, 4], [2]], 6)):
        assert torch.equal(model.generate(ids, 4, **more), several)
    if is_bridge(model):
        with patch(model, fv, tokens=tokens, at=-3):
            hf = model.hf_generate(ids, 4, use_cache=cached, return_type="tokens", num_return_sequences=1, **GREEDY)
        assert torch.equal(hf, expected)


@torch.no_grad()
def greedy_of(model, tokens, fv, columns: list[list[int]], n: int, every: bool) -> torch.Tensor:
    start = tokens.shape[1]
    for _ in range(n):
        new = list(range(start, tokens.shape[1])) if every else []
        logits = oracle(model, tokens, fv, [[*own, *new] for own in columns])
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return tokens


def test_patches_with_other_ends_add_up(llama):
    a, b, ids = vector(llama), vector(llama, seed=1), prompts()
    with torch.no_grad():
        expected = llama.run_with_hooks(ids, fwd_hooks=adding(a, [2, 2]) + adding(b, [5, 5]))
    with patch(llama, a, at=2), patch(llama, b):
        assert_same(run(llama, ids), expected)


def test_a_mask_behind_a_cache_covers_the_new_tokens_or_all(model):
    fv, ids = vector(model), prompts()
    expected = oracle(model, ids, fv, [[4], [4, 5]])[:, 4:]
    for at in table([[0], [0, 1]], 2), table([[1, 4], [4, 5]], 6):
        cache = empty_cache(model, 2)
        run(model, ids[:, :4], **cached(model, cache))
        with patch(model, fv, at=at):
            assert_same(run(model, ids[:, 4:], **cached(model, cache)), expected)


BAD = [
    (1.0, "at is 1.0; give a column"), (True, "at is True; give a column"), ("last", "at is 'last'; give a column"),
    ([], r"at is \[\]; give a column"), ([1, None], "at is .*; give a column"), ([[0, 2]], "at is .*; give a column"),
    (torch.zeros(2, 3, 4), "give a column"), (torch.tensor([0.5, 1.0]), "give a column"),
    (torch.tensor([True, False]), "give a column"), (float("nan"), "give a column"), (object(), "give a column"),
]  # fmt: skip


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("at, message", BAD, ids=lambda x: str(x)[:20])
def test_an_at_of_another_form(llama, at, message):
    with pytest.raises(InputError, match=message):
        patch(llama, vector(llama), at=at)
    with patch(llama, vector(llama)) as handle:
        with pytest.raises(InputError, match=message):
            handle.at = at


MISFITS = [
    (6, "at is 6, and the last token of row 0 stands in column 5"), (-7, "at is -7, and the last token of row 0"),
    ([1, 9], "at is 9, and the last token of row 1"), ([1, 2, 3], "at names 3 columns and the batch has 2 rows"),
    (torch.ones(3, 6), r"at is \[3, 6\]; the tokens are \[batch, pos\] = \[2, 6\]"),
    (torch.ones(2, 5), r"at is \[2, 5\]; the tokens are \[batch, pos\] = \[2, 6\]"),
]  # fmt: skip


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("at, message", MISFITS)
def test_an_at_that_does_not_fit_the_batch(model, at, message):
    seen, hook = [], ("blocks.0.hook_resid_pre", lambda x, hook: seen.append(x))
    with patch(model, vector(model), at=at), model.hooks(fwd_hooks=[hook]):
        with pytest.raises(InputError, match=message):
            run(model, prompts())
        with pytest.raises(InputError, match=message):
            model.generate(prompts(), 2, verbose=False, **GREEDY)
    assert not seen


@pytest.mark.slow(but=1)
@SIDES
def test_padding_is_refused(model, side):
    fv, (tokens, mask, _) = vector(model), padded(side)
    padding = [2, 0, 0] if side == "left" else [2, 4, 2]
    for at in padding, table(padding, 6):
        with patch(model, fv, at=at), pytest.raises(InputError, match="row 1"):
            run(model, tokens, attention_mask=mask)
    with patch(model, fv, at=[0, 5, 0]), pytest.raises(InputError, match="row 1|row 0"):
        run(model, TEXTS, padding_side="right", prepend_bos=False)


# Two BOS


@pytest.fixture
def fresh():
    return tiny.build("llama")


@pytest.mark.slow
def test_two_bos_are_told_once(fresh, caplog):
    bos = fresh.tokenizer.bos_token_id
    doubled = torch.cat([torch.full((2, 2), bos), prompts()], 1)
    with caplog.at_level(logging.WARNING, "fv_lens"), patch(fresh, vector(fresh)):
        fresh.generate("<s> w1 w2", 2, verbose=False, **GREEDY)
        run(fresh, doubled)
    (told,) = caplog.messages
    assert f"begin with two BOS tokens ({bos})" in told and "prepend_bos=False" in told


@pytest.mark.slow
@pytest.mark.parametrize("what", ["left-padded with it", "one", "embeddings", "behind a mask"])
def test_one_bos_and_padding_with_it_are_no_fault(fresh, what, caplog):
    bos, ids = fresh.tokenizer.bos_token_id, prompts()
    ids[:, 0] = bos
    more = {}
    if what == "left-padded with it":
        ids[1, :4] = bos
    elif what == "embeddings":
        ids = fresh.original_model.get_input_embeddings()(ids).detach()
    elif what == "behind a mask":
        ids[:, :4], more = bos, {"attention_mask": torch.tensor([[0, 0, 0, 1, 1, 1]] * 2)}
    with caplog.at_level(logging.WARNING, "fv_lens"), patch(fresh, vector(fresh)):
        run(fresh, ids, **more)
    assert not caplog.messages


def test_two_bos_behind_padding(fresh, caplog):
    ids = prompts()
    ids[:, :4] = fresh.tokenizer.bos_token_id
    with caplog.at_level(logging.WARNING, "fv_lens"), patch(fresh, vector(fresh)):
        run(fresh, ids, attention_mask=torch.tensor([[0, 0, 1, 1, 1, 1]] * 2))
    assert "two BOS" in caplog.text


# Sites


def at_site(model, site, layer=1):
    return fv_lens.FunctionVector(vector(model).vector, layer, site=site, model=lens_of(model).name)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [0, 2])
def test_a_site_from_which_nothing_reaches_the_stream_is_refused(model, layer):
    lens = lens_of(model)
    sites = ["hook_resid_mid"] if is_bridge(model) else []
    sites += [
        "ln1.hook_normalized",
        "ln2.hook_normalized",
        "attn.hook_in",
        "mlp.hook_in",
        "attn.hook_z",
        "mlp.hook_pre",
    ]
    for site in sites:
        if f"blocks.{layer}.{site}" in lens.points:
            with pytest.raises(InputError, match=f"'blocks.{layer}.{site}' of .* does not reach the residual stream"):
                patch(model, at_site(model, site, layer))
    assert not lens.patches


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("site", ["hook_resid_pre", "hook_attn_out", "attn.hook_out", "hook_mlp_out", "hook_resid_mid"])
def test_sites_from_which_it_does_equal_a_hook_there(model, site):
    lens = lens_of(model)
    if f"blocks.1.{site}" not in lens.points or (site == "hook_resid_mid" and is_bridge(model)):
        pytest.skip("no such site")
    fv, ids = at_site(model, site), prompts()

    def add(x, hook):
        x = x.clone()
        x[:, -1] += fv.vector
        return x

    with torch.no_grad():
        expected = model.run_with_hooks(ids, fwd_hooks=[(f"blocks.1.{site}", add)])
    with patch(model, vector(model), strength=0), patch(model, fv):
        assert_same(run(model, ids), expected)


@pytest.mark.slow
def test_a_site_is_measured_without_patches_and_hooks_of_others(llama):
    def ruin(module, inputs, x):
        return x * 0

    handle = lens_of(llama).points["blocks.1.hook_resid_post"].register_forward_hook(ruin)
    try:
        with patch(llama, vector(llama), strength=1e6), patch(llama, at_site(llama, "hook_attn_out")):
            pass
        with pytest.raises(InputError, match="does not reach"):
            patch(llama, at_site(llama, "hook_resid_mid"))
    finally:
        handle.remove()
