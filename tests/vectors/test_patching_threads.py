"""Threads share a patched model: every answer is as in one thread, and what was begun ends as it was begun."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import DynamicCache

import fv_lens
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.patching import patch, unpatch

from .. import tiny
from .patched import AT, GREEDY, greedy, oracle, prompts, run, state, vector

NAMES = ["gpt2", "llama", *[name for name in tiny.NAMES if name in tiny.HOOKED]]  # gpt2 notes each batch's size down
MODELS = pytest.mark.parametrize("name", NAMES)
MORE = dict(verbose=False, **GREEDY)


def in_threads(*works):
    """Run functions at the same time, and raise what any of them raised."""
    start = threading.Barrier(len(works))

    def begin(work):
        start.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(begin, work) for work in works]]


def asked(model, kind: str, rows: int, length: int, seed: int):
    ids = torch.randint(0, 200, (rows, length), generator=torch.Generator().manual_seed(seed))
    texts = [" ".join(f"w{token}" for token in row[: len(row) - i]) for i, row in enumerate(ids.tolist())]
    if kind == "forward":
        return run(model, ids).argmax(-1).tolist()
    if kind == "strings":
        return run(model, texts, padding_side="right")[0].argmax(-1).tolist()
    if kind == "stream":
        return torch.cat(list(model.generate_stream(ids, 5, max_tokens_per_yield=2, **MORE)), 1).tolist()
    if kind == "texts":
        return model.generate(texts, 4, return_type="tokens", **MORE).tolist()
    return model.generate(ids, 5, use_past_kv_cache=kind == "cached", **MORE).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name, tokens", zip(NAMES, ["last", "every", "last", "every"]))
def test_every_answer_is_as_in_one_thread(name, tokens):
    """Two runs of four threads with thirty requests each; each thread in an order of its own."""
    model, kinds = tiny.build(name), ["cached", "forward", "stream", "plain", "strings", "texts"]
    requests = [(kinds[i % 6], 1 if kinds[i % 6] == "stream" else 1 + i % 3, 4 + i % 5, i) for i in range(30)]

    def ask(order):
        return {i: asked(model, *requests[i]) for i in order}

    with patch(model, vector(model), tokens=tokens):
        expected = ask(range(30))
        for repeat in range(2):
            orders = [random.Random(4 * repeat + thread).sample(range(30), 30) for thread in range(4)]
            for answers in in_threads(*[lambda order=order: ask(order) for order in orders]):
                assert answers == expected


@pytest.mark.slow
@MODELS
def test_a_head_map_beside_it_is_refused_cleanly(name):
    model = tiny.build(name)
    relation = fv_lens.Relation("shift", [(f"w{i}", f"w{i + 60}") for i in range(60)])
    few = dict(n_prompts=2, n_shots=2, n_mean_prompts=2)

    def maps():
        for _ in range(10):
            with pytest.raises(InputError, match="A patch is active on this model"):
                fv_lens.indirect_effects(model, relation, **few)

    def ask():
        return [asked(model, "cached", 2, 6, i) for i in range(10)]

    before = fv_lens.indirect_effects(model, relation, **few)
    with patch(model, vector(model)):
        expected = ask()
        _, *answers = in_threads(maps, ask, ask)
    assert answers == [expected, expected]
    assert torch.equal(fv_lens.indirect_effects(model, relation, **few).values, before.values)


@pytest.mark.slow
@MODELS
def test_each_thread_has_its_own_at(name):
    model, ids, fv = tiny.build(name), prompts(2, 8), vector(tiny.build(name))
    expected = [oracle(model, ids, fv, [column, column]) for column in range(8)]

    with patch(model, fv, at=-1) as handle:

        def ask(column):
            for _ in range(20):
                handle.at = column
                torch.testing.assert_close(run(model, ids), expected[column])

        in_threads(*[lambda column=column: ask(column) for column in range(4)])
        assert handle.at == -1
        torch.testing.assert_close(run(model, ids), expected[7])


@pytest.mark.slow
@MODELS
@pytest.mark.parametrize("cached", [True, False])
def test_a_generation_ends_as_it_was_begun_though_patches_come_and_go(name, cached):
    """Patches are put on and taken off by another thread all the while: each answer is one of two."""
    model, ids, stop = tiny.build(name), prompts(2, 5), threading.Event()
    fv = vector(model)
    expected = [greedy(model, ids, fv, [4, 4], 6, False), model.generate(ids, 6, use_past_kv_cache=False, **MORE)]
    assert not torch.equal(*expected)
    before = state(model)
    refused = 0
    began = time.perf_counter()
    model.generate(ids, 6, use_past_kv_cache=cached, **MORE)
    longest = 4 * (time.perf_counter() - began)  # by turns shorter and longer than a generation, on any machine

    def toggle():
        while not stop.is_set():
            with patch(model, fv):
                time.sleep(random.random() * longest)
            time.sleep(random.random() * longest)

    def ask():
        nonlocal refused
        for _ in range(40):
            try:
                answer = model.generate(ids, 6, use_past_kv_cache=cached, **MORE)
            except InputError as error:
                assert "was begun before the patch" in str(error)
                refused += 1
                continue
            assert any(torch.equal(answer, right) for right in expected)

    def ask_and_stop():
        try:
            ask()
        finally:
            stop.set()

    in_threads(toggle, ask_and_stop)
    assert refused < 40 and state(model) == before


@pytest.mark.slow
@MODELS
def test_a_generation_begun_before_a_patch_is_refused_once_it_meets_it(name):
    model, ids = tiny.build(name), prompts(1)
    stream = model.generate_stream(ids, 4, max_tokens_per_yield=1, **MORE)
    early, first = model.generate, next(stream)
    with patch(model, vector(model)):
        for go_on in (lambda: next(stream), lambda: early(ids, 2, **MORE)):
            with pytest.raises(InputError, match="was begun before the patch, or by a method taken from the model"):
                go_on()
    assert first.shape[0] == 1


@pytest.mark.slow
@MODELS
@pytest.mark.parametrize("tokens", ["last", "every"])
@pytest.mark.parametrize("cached", [True, False])
def test_a_stream_goes_on_as_it_was_begun(name, tokens, cached):
    """Under the patches of its beginning, also where they are gone and others have come."""
    model, ids = tiny.build(name), prompts(1)
    fv, other, clean = vector(model), vector(model, seed=5), run(model, prompts(1))
    expected = greedy(model, ids, fv, [5], 5, tokens == "every")
    with patch(model, fv, tokens=tokens) as handle:
        stream = model.generate_stream(ids, 5, max_tokens_per_yield=1, use_past_kv_cache=cached, **MORE)
        pieces = [next(stream)]
    pieces.append(next(stream))
    assert torch.equal(run(model, ids), clean) and not lens_of(model).patches
    with patch(model, other, tokens="every"):
        pieces.append(next(stream))
    handle.at = 0
    pieces += stream
    assert torch.equal(torch.cat(pieces, 1), expected)
    assert torch.equal(run(model, ids), clean)


def test_streams_side_by_side_do_not_wait_for_each_other():
    model, ids = tiny.build("llama"), prompts(1)
    more = dict(max_tokens_per_yield=1, **MORE)
    with patch(model, vector(model)):
        expected = torch.cat(list(model.generate_stream(ids, 5, **more)), 1)
        streams = [model.generate_stream(ids, 5, **more) for _ in range(3)]
        pieces = [[] for _ in streams]

        def take(i, stream):
            for piece in stream:
                pieces[i].append(piece)
                time.sleep(0.002)

        in_threads(*[lambda i=i, s=s: take(i, s) for i, s in enumerate(streams)])
        assert all(torch.equal(torch.cat(piece, 1), expected) for piece in pieces)
        begun = model.generate_stream(ids, 5, **more)
        next(begun)
        (answer,) = in_threads(lambda: run(model, ids))  # a stream between two pieces holds nobody up
        torch.testing.assert_close(answer, run(model, ids))


@pytest.mark.slow
def test_a_patch_is_removed_when_the_generation_of_another_thread_has_ended():
    model, ids, running = tiny.build("llama"), prompts(2), threading.Event()
    expected = greedy(model, ids, vector(model), [5, 5], 5, False)

    def slow(x, hook):
        running.set()
        time.sleep(0.01)

    patch(model, vector(model))

    def remove():
        running.wait()
        unpatch(model)

    with model.hooks(fwd_hooks=[(AT, slow)]):
        answer, _ = in_threads(lambda: model.generate(ids, 5, use_past_kv_cache=False, **MORE), remove)
    assert torch.equal(answer, expected) and not lens_of(model).patches


@pytest.mark.slow(but=1)
@MODELS
def test_a_forward_that_fails_frees_the_model_for_others(name):
    model = tiny.build(name)
    with patch(model, vector(model)):
        expected = run(model, prompts())
        with pytest.raises(InputError):
            run(model, prompts(), attention_mask=torch.zeros(2, 6))
        (answer,) = in_threads(lambda: run(model, prompts()))
        assert torch.equal(answer, expected)


@pytest.mark.slow(but=1)
@MODELS
def test_a_forward_of_texts_begun_before_a_patch_is_as_it_was_begun(name, monkeypatch):
    """The patch comes while the texts become tokens: their padding is not taken for the ends of prompts."""
    model, begun, patched = tiny.build(name), threading.Event(), threading.Event()
    texts, to_tokens = ["w1 w2 w3 w4 w5", "w6 w7"], model.to_tokens
    clean, here = run(model, texts, padding_side="right"), threading.get_ident()

    def slow(*args, **kwargs):
        if threading.get_ident() != here and not begun.is_set():
            begun.set()
            patched.wait()
        return to_tokens(*args, **kwargs)

    monkeypatch.setitem(model.__dict__, "to_tokens", slow)

    def put_on():
        begun.wait()
        patch(model, vector(model))
        patched.set()

    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(run, model, texts, padding_side="right")
        pool.submit(put_on).result()
        assert torch.equal(answer.result(), clean)
        later = pool.submit(run, model, texts, padding_side="right").result()
    assert not torch.equal(later, clean)
    torch.testing.assert_close(later, run(model, texts, padding_side="right"))


@pytest.mark.slow
def test_caches_of_several_threads():
    model, fv = tiny.build("llama"), vector(tiny.build("llama"))
    prefixes, rests = [prompts(2, 3 + i) for i in range(4)], prompts(2, 2)
    expected = [
        oracle(model, torch.cat([ids, rests], 1), fv, [[2 + i, 4 + i]] * 2)[:, -1] for i, ids in enumerate(prefixes)
    ]
    with patch(model, fv):

        def ask(i):
            for _ in range(10):
                cache = DynamicCache()  # each part of the prompts ends in a vector
                run(model.original_model, prefixes[i], past_key_values=cache, use_cache=True)
                out = run(model.original_model, rests, past_key_values=cache, use_cache=True).logits[:, -1]
                torch.testing.assert_close(out, expected[i])

        in_threads(*[lambda i=i: ask(i) for i in range(4)])
