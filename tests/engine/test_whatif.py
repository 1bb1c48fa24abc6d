"""The engine against full forwards of one prompt and one what-if at a time: the same numbers, whatever the form."""

import logging
from contextlib import contextmanager

import pytest
import torch
import transformers as hf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from fv_lens.engine import whatif
from fv_lens.engine.edits import Plan
from fv_lens.engine.forms import FORMS, SLOW
from fv_lens.engine.whatif import Edit, head_outputs, residuals, what_if
from fv_lens.ground.errors import InputError, ParityError
from fv_lens.models.lens import lens_of

from .. import oracles, tiny
from ..oracles import EXACT, difference
from .exact import see_padding

PROMPTS = oracles.random_prompts(9, 13, 5)  # longer and shorter than the window of the models that have one


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def log_probs(logits, prompt):
    return logits[:, 0].log_softmax(-1)


def by_engine(lens, whatifs, prompts=PROMPTS, **options):
    return what_if(lens, *oracles.padded(prompts), whatifs, log_probs, **options)


def by_hand(model, whatifs, prompts=PROMPTS):
    return torch.stack(
        [torch.stack([oracles.log_probs(model, ids, edits) for edits in [[], *whatifs]]) for ids in prompts]
    )


def all_heads(lens):
    at = [(layer, head) for layer in range(lens.n_layers) for head in range(lens.n_heads)]
    return [[Edit(layer, noise(lens.d_head, seed=i), head)] for i, (layer, head) in enumerate(at)]


def all_layers(lens):
    return [[Edit(layer, noise(lens.d_model, seed=layer))] for layer in range(lens.n_layers)]


def fresh(model):
    """A lens that has found nothing out yet; the model keeps its own."""
    return type(lens_of(model))(model)


@contextmanager
def forced(lens, form):
    """Rows in this form only."""
    forms = lens.parity.forms
    lens.parity.forms = [form]
    try:
        yield
    finally:
        lens.parity.forms = forms


@pytest.fixture(scope="module")
def lens(model):
    """The model's lens, probed for prompts of the lengths used here."""
    lens = lens_of(model)
    by_engine(lens, [], oracles.random_prompts(24, 3))
    return lens


@pytest.fixture(scope="module")
def swept(model, lens):
    """What-ifs of all heads and all layers, and their log-probabilities by hand."""
    whatifs = all_heads(lens) + all_layers(lens)
    return whatifs, by_hand(model, whatifs)


# The same numbers as full forwards


@tiny.FAMILIES
def test_every_head_and_every_layer_equal_full_forwards(lens, swept):
    whatifs, expected = swept
    assert difference(by_engine(lens, whatifs), expected) <= EXACT


def test_every_edit_shows_in_the_logits(lens, swept):
    rows = by_engine(lens, swept[0])
    assert ((rows[:, 1:] - rows[:, :1]).abs().amax(-1) > 0.01).all()


def test_every_form_that_was_found_exact_equals_full_forwards(lens, swept):
    whatifs, expected = swept
    for form in lens.parity.forms:
        with forced(lens, form):
            assert difference(by_engine(lens, whatifs), expected) <= EXACT, form


def test_no_architecture_needs_full_forwards(lens):
    assert lens.parity.forms[0] != SLOW


def test_llama_runs_in_the_fastest_form(llama):
    by_engine(lens_of(llama), [])
    assert lens_of(llama).parity.forms[0] == "as positions"


def test_edits_of_one_whatif_act_together(model, lens):
    vector = noise(lens.d_model)
    whatifs = [
        [Edit(0, noise(lens.d_head, seed=1), 3), Edit(2, noise(lens.d_head, seed=2), 0), Edit(1, vector)],
        [Edit(1, noise(lens.d_head, seed=3), 1), Edit(1, noise(lens.d_head, seed=4), 2), Edit(1, vector)],
        [Edit(2, vector), Edit(0, -vector)],
    ]
    expected = by_hand(model, whatifs)
    for form in lens.parity.forms:
        with forced(lens, form):
            assert difference(by_engine(lens, whatifs), expected) <= EXACT, form


def test_two_vectors_in_one_layer_add_up(model, lens):
    a, b = noise(2, lens.d_model)
    together, added = by_engine(lens, [[Edit(1, a), Edit(1, b)], [Edit(1, a + b)]])[:, 1:].unbind(1)
    assert (
        difference(together, added) <= EXACT and difference(together, by_hand(model, [[Edit(1, a + b)]])[:, 1]) <= EXACT
    )


@pytest.mark.slow
def test_a_value_per_prompt_goes_to_its_prompt(model, lens):
    heads, vectors = noise(3, lens.d_head, seed=1), noise(3, lens.d_model, seed=2)
    whatifs = [[Edit(1, heads, 2)], [Edit(1, vectors), Edit(2, noise(lens.d_model))]]
    expected = torch.cat(
        [
            by_hand(model, [[Edit(1, heads[i], 2)], [Edit(1, vectors[i]), Edit(2, noise(lens.d_model))]], [ids])
            for i, ids in enumerate(PROMPTS)
        ]
    )
    for form in lens.parity.forms:
        for max_rows in (2560, 3):
            with forced(lens, form):
                assert difference(by_engine(lens, whatifs, max_rows=max_rows), expected) <= EXACT, form


def continued(model, lens, prompts=PROMPTS, n=3):
    """Log-probabilities of a continuation's tokens `[prompt, 1 + what-if, n]`: by the engine, and by hand."""
    continuations = oracles.random_prompts(*[n] * len(prompts), seed=1)
    whatifs = [[Edit(0, noise(lens.d_head), 1)], [Edit(1, noise(lens.d_model))]]
    expected = torch.stack(
        [
            torch.stack([oracles.continuation_log_probs(model, ids, more, edits) for edits in [[], *whatifs]])
            for ids, more in zip(prompts, continuations)
        ]
    )
    tokens, mask = oracles.padded([ids + more[:-1] for ids, more in zip(prompts, continuations)])
    following = torch.tensor(continuations)

    def read(logits, prompt):
        return logits.log_softmax(-1).gather(-1, following[prompt][..., None])[..., 0]

    return what_if(lens, tokens, mask, whatifs, read, tail=n), expected


def test_a_continuation_follows_the_edited_prompt_token(model, lens):
    for form in [form for form in lens.parity.forms if form != "as positions"]:
        with forced(lens, form):
            found, expected = continued(model, lens)
            assert found.shape == (3, 3, 3) and difference(found, expected) <= EXACT, form
    length, forms = lens.parity.several_tokens
    assert length >= 15 and forms == ["as batch elements", SLOW], "exact on every architecture here"


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_whatifs_on_any_prompts_equal_full_forwards(model, lens, data):
    lengths = data.draw(st.lists(st.integers(2, 20), min_size=1, max_size=3), label="lengths")
    place = st.tuples(st.integers(0, lens.n_layers - 1), st.none() | st.integers(0, lens.n_heads - 1))
    places = data.draw(st.lists(st.lists(place, max_size=3, unique=True), max_size=4), label="whatifs")
    max_rows = data.draw(st.integers(2, 12), label="max_rows")
    whatifs = [
        [
            Edit(at, noise(lens.d_model if head is None else lens.d_head, seed=i), head)
            for i, (at, head) in enumerate(edits)
        ]
        for edits in places
    ]
    prompts = oracles.random_prompts(*lengths)
    expected = by_hand(model, whatifs, prompts)
    for form in lens.parity.forms:
        with forced(lens, form):
            assert difference(by_engine(lens, whatifs, prompts, max_rows=max_rows), expected) <= EXACT, form


def test_a_head_set_to_its_own_output_and_a_zero_vector_change_nothing(lens):
    (_, z, _), *_ = head_outputs(lens, *oracles.padded(PROMPTS[:1]))
    whatifs = [[Edit(layer, z[:, layer, head], head)] for layer in range(lens.n_layers) for head in range(lens.n_heads)]
    rows = by_engine(lens, [*whatifs, [Edit(1, torch.zeros(lens.d_model))], []], PROMPTS[:1])
    assert difference(rows, rows[:, :1].expand_as(rows)) <= EXACT


def test_head_outputs_equal_those_of_single_prompts(model, lens):
    seen = []
    for indices, z, logits in head_outputs(lens, *oracles.padded(PROMPTS)):
        seen += indices.tolist()
        for i, of_prompt, row in zip(indices.tolist(), z, logits):
            assert difference(of_prompt, oracles.head_outputs(model, PROMPTS[i])) <= EXACT
            assert difference(row.log_softmax(-1), oracles.log_probs(model, PROMPTS[i])) <= EXACT
    assert sorted(seen) == [0, 1, 2]


def test_residuals_equal_those_of_single_prompts(model, lens):
    found = residuals(lens, *oracles.padded(PROMPTS), 1)
    for ids, of_prompt in zip(PROMPTS, found, strict=True):
        with torch.no_grad():
            expected = model.run_with_cache(torch.tensor([ids]))[1]["blocks.1.hook_resid_post"][0, -1]
        assert difference(of_prompt, expected) <= EXACT * expected.abs().max().clamp(min=1)


# Models beside those of the fixture


@pytest.mark.slow
def test_weights_that_were_processed_by_transformer_lens_run_as_well():
    model = tiny.build("gpt2")
    model.enable_compatibility_mode(disable_warnings=True)
    lens = lens_of(model)
    whatifs = all_heads(lens) + all_layers(lens)
    assert difference(by_engine(lens, whatifs), by_hand(model, whatifs)) <= EXACT and lens.parity.forms[0] != SLOW


@pytest.mark.slow
@pytest.mark.parametrize("n_whatifs", [1, 3])
def test_a_tensor_that_all_rows_share_is_not_cut_to_the_living_rows(n_whatifs):
    """MPT hands each block an ALiBi bias [head, 1, key]; its heads can be as many as there are rows."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=256, d_model=32, n_heads=4, n_layers=3, expansion_ratio=2, max_seq_len=128)
    network = hf.MptForCausalLM(hf.MptConfig(**sizes)).eval()
    model = TransformerBridge.boot_transformers("tiny/mpt", hf_model=network, tokenizer=tiny.tokenizer(), device="cpu")
    lens = lens_of(model)
    by_engine(lens, [])
    whatifs = [[Edit(2, noise(lens.d_head, seed=head), head)] for head in range(n_whatifs)]
    assert difference(by_engine(lens, whatifs, PROMPTS[1:2]), by_hand(model, whatifs, PROMPTS[1:2])) <= EXACT


# Rows, order, bounds


def test_no_whatifs_give_the_clean_row_only(model, lens):
    rows = by_engine(lens, [])
    assert rows.shape[:2] == (3, 1) and difference(rows, by_hand(model, [])) <= EXACT


def test_an_empty_whatif_is_the_clean_prompt(lens):
    clean, same, _ = by_engine(lens, [[], [Edit(1, noise(lens.d_model))]]).unbind(1)
    assert difference(same, clean) <= EXACT


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("max_rows", [4, 7])
def test_few_rows_at_a_time_give_the_same_and_are_never_exceeded(lens, swept, monkeypatch, max_rows):
    whatifs, expected = swept[0][::3], swept[1][:, [0, *range(1, 16, 3)]]
    for form in lens.parity.forms:
        run, rows = FORMS[form], []

        def counted(lens, prefix, ids, mask, plan, run=run, rows=rows):
            rows.append(plan.n_rows * len(ids))
            return run(lens, prefix, ids, mask, plan)

        monkeypatch.setitem(FORMS, form, counted)
        with forced(lens, form):
            assert difference(by_engine(lens, whatifs, max_rows=max_rows), expected) <= EXACT, form
        assert max(rows) <= max_rows, form


def test_tiles_of_the_unembedding_do_not_show(lens, swept, monkeypatch):
    whatifs, expected = swept
    monkeypatch.setattr(whatif, "TILE", 5)
    assert difference(by_engine(lens, whatifs), expected) <= EXACT


def test_results_stand_in_the_callers_order(lens, swept):
    whatifs, expected = swept
    prompts, order = [2, 0, 1], torch.randperm(len(whatifs), generator=torch.Generator().manual_seed(0)).tolist()
    found = by_engine(lens, [whatifs[i] for i in order], [PROMPTS[i] for i in prompts], max_rows=8)
    assert difference(found, expected[prompts][:, [0, *(1 + i for i in order)]]) <= EXACT


@pytest.mark.slow
def test_read_is_told_which_prompt_each_row_is_of(lens):
    found = what_if(lens, *oracles.padded(PROMPTS), all_heads(lens), lambda logits, prompt: prompt, max_rows=5)
    assert found.tolist() == [[i] * 13 for i in range(3)]


@pytest.mark.slow
def test_copies_of_what_prompts_share_bound_how_many_go_together(llama, monkeypatch):
    monkeypatch.setattr(whatif, "PREFIX_TOKENS", 50)
    beginning, done = oracles.random_prompts(96)[0], []
    prompts = [[*beginning, i, 1, 2, 3] for i in range(1, 31)]
    found = by_engine(lens_of(llama), [], prompts, progress=done.append)
    assert difference(found, by_hand(llama, [], prompts)) <= EXACT
    assert max(done) == 16 * 50 // 100 < 50 // 4, "prompts of 100 tokens, four of which are each one's own"


def test_progress_counts_every_prompt_once(lens):
    done = []
    by_engine(lens, all_layers(lens), max_rows=4, progress=done.append)
    assert sum(done) == len(PROMPTS)


def test_the_model_is_left_as_it_was(model, lens):
    def fail(logits, prompt):
        raise KeyError

    before = oracles.log_probs(model, PROMPTS[0])
    for form in lens.parity.forms:
        with forced(lens, form), pytest.raises(KeyError):
            what_if(lens, *oracles.padded(PROMPTS), all_heads(lens), fail)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert not any("forward" in block.__dict__ for block in model.blocks)
    assert torch.equal(oracles.log_probs(model, PROMPTS[0]), before)


# What is found out when a model is first used


def test_hooks_that_are_turned_off_raise(model, monkeypatch):
    monkeypatch.setattr(Plan, "hooks", lambda self, view: [])
    with pytest.raises(ParityError, match="changed nothing"):
        by_engine(fresh(model), [])


@pytest.mark.parametrize("point", ["blocks.0.attn.hook_z", "blocks.1.hook_resid_post", "blocks.2.attn.hook_z"])
def test_a_hook_point_that_does_nothing_raises(model, monkeypatch, point):
    add_hook = model.hook_dict[point].add_hook
    monkeypatch.setattr(
        model.hook_dict[point], "add_hook", lambda hook, *args, **kw: add_hook(lambda *a, **k: None, *args, **kw)
    )
    with pytest.raises(ParityError, match=f"at {point} .*changed nothing"):
        by_engine(fresh(model), [])


@pytest.mark.slow
def test_dropout_raises_and_names_eval():
    model = tiny.build("gpt2")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model.train()
    with pytest.raises(ParityError, match=r"model\.eval\(\)"):
        by_engine(lens_of(model), [])
    model.eval()
    assert difference(by_engine(lens_of(model), []), by_hand(model, [])) <= EXACT


@pytest.mark.slow
@pytest.mark.parametrize("n_broken", [1, 2])
def test_a_form_that_is_wrong_is_refused_with_a_warning_and_the_next_takes_over(llama, monkeypatch, caplog, n_broken):
    broken, lens = list(FORMS)[:n_broken], fresh(llama)
    for form in broken:
        monkeypatch.setitem(FORMS, form, lambda *args, run=FORMS[form]: run(*args) + 0.1)
    whatifs = all_layers(lens)
    with caplog.at_level(logging.WARNING, "fv_lens"):
        found = by_engine(lens, whatifs)
    assert lens.parity.forms == list(FORMS)[n_broken:3] and difference(found, by_hand(llama, whatifs)) <= EXACT
    assert all(form in caplog.text for form in broken) and "not exact" in caplog.text


@pytest.mark.slow
def test_a_form_that_raises_is_refused_and_does_no_harm_to_the_next(model, monkeypatch):
    monkeypatch.setitem(FORMS, "as positions", lambda *args: 1 / 0)
    lens = fresh(model)
    whatifs = all_layers(lens)
    assert difference(by_engine(lens, whatifs), by_hand(model, whatifs)) <= EXACT
    assert lens.parity.forms == ["as batch elements", SLOW]


@pytest.mark.slow
def test_longer_prompts_than_were_probed_are_probed_anew():
    """Within its window of 8 Mistral's rows may be positions, beyond it they may not."""
    model = tiny.build("mistral")
    lens, whatifs = lens_of(model), [[Edit(0, noise(8), 1)], [Edit(0, noise(32))]]
    for lengths in ((6, 4), (13, 9), (5, 6)):
        prompts = oracles.random_prompts(*lengths)
        assert difference(by_engine(lens, whatifs, prompts), by_hand(model, whatifs, prompts)) <= EXACT, lengths
    assert lens.parity.length == 13


def wrong_tail(run, *args):
    return run(*args) + 0.1


def late_tail(run, lens, prefix, ids, mask, plan):
    return run(lens, prefix, torch.cat([ids[:, :-1], ids[:, -2:-1]], 1), mask, plan)


def raising_tail(run, *args):
    raise TypeError("this architecture takes no such tokens")


def break_tails(monkeypatch, broken, longer_than=0):
    """Rows as batch elements go wrong where they have several tokens and their prompts are long."""
    run = FORMS["as batch elements"]

    def as_batch(lens, prefix, ids, mask, plan):
        wrong = ids.shape[1] - prefix.length > 1 and ids.shape[1] > longer_than
        return broken(run, lens, prefix, ids, mask, plan) if wrong else run(lens, prefix, ids, mask, plan)

    monkeypatch.setitem(FORMS, "as batch elements", as_batch)


@pytest.mark.slow
@pytest.mark.parametrize("broken", [wrong_tail, late_tail, raising_tail], ids=lambda broken: broken.__name__)
@pytest.mark.parametrize("n", [2, 3])
def test_where_rows_of_several_tokens_are_wrong_they_run_in_full_and_others_stay_fast(
    model, monkeypatch, caplog, broken, n
):
    lens = fresh(model)
    forms = lens_of(model).parity.forms
    break_tails(monkeypatch, broken)
    with caplog.at_level(logging.WARNING, "fv_lens"):
        for _ in range(2):
            found, expected = continued(model, lens, n=n)
            assert difference(found, expected) <= EXACT
    assert caplog.text.count("as batch elements are not exact for several tokens") == 1
    whatifs = all_layers(lens)
    monkeypatch.setitem(FORMS, SLOW, lambda *args: 1 / 0)
    assert difference(by_engine(lens, whatifs), by_hand(model, whatifs)) <= EXACT
    assert lens.parity.several_tokens[1] == [SLOW] and lens.parity.forms == forms


@pytest.mark.slow
def test_a_model_whose_later_tokens_change_earlier_ones_is_refused():
    model = tiny.build("llama")

    def looks_back(module, inputs, out):
        return out + 0.1 * out[:, -1:]

    looks_back.of_fv_lens = True  # a part of the model, here, and no hook of the user's
    model.blocks[0].mlp.register_forward_hook(looks_back)
    with pytest.raises(ParityError, match="not causal.*transformer-lens"):
        by_engine(lens_of(model), [])


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3])
def test_where_batches_change_logits_prompts_are_run_one_by_one(caplog, n):
    """As where activations are quantised by the largest of a batch: every forward is right, but only by itself."""
    model = tiny.build("llama")
    shift = noise(32)

    def by_batch(module, inputs, out):
        return out + 0.1 * (len(out) - 1) * shift

    by_batch.of_fv_lens = True  # a part of the model, here, and no hook of the user's
    model.blocks[0].mlp.register_forward_hook(by_batch)
    with caplog.at_level(logging.WARNING, "fv_lens"):
        found, expected = continued(model, lens_of(model), n=n)
    assert (
        difference(found, expected) <= EXACT
        and "logits differ between a padded batch and a forward of its own" in caplog.text
    )


@pytest.mark.slow
def test_rows_of_several_tokens_are_probed_anew_on_longer_prompts(llama, monkeypatch):
    lens = fresh(llama)
    break_tails(monkeypatch, wrong_tail, longer_than=12)
    for lengths, forms in (((6, 4), ["as batch elements", SLOW]), ((13, 9), [SLOW]), ((6, 4), [SLOW])):
        found, expected = continued(llama, lens, oracles.random_prompts(*lengths))
        assert difference(found, expected) <= EXACT and lens.parity.several_tokens[1] == forms


@pytest.mark.slow
@pytest.mark.parametrize("first", [(9, 13), (13, 13)], ids=["of other lengths", "of one length"])
def test_prompts_are_not_padded_on_a_model_that_cannot_be(first):
    """Prompts of one length do not show that padding does harm."""
    model = tiny.build("gpt2")
    lens = lens_of(model)
    see_padding(lens)
    by_engine(lens, [], oracles.random_prompts(*first))
    assert not lens.parity.padding
    whatifs = all_layers(lens)
    assert difference(by_engine(lens, whatifs), by_hand(model, whatifs)) <= EXACT
    found, expected = continued(model, lens)
    assert difference(found, expected) <= EXACT
    single = [residuals(lens, *oracles.padded([ids]), 1) for ids in PROMPTS]
    assert difference(residuals(lens, *oracles.padded(PROMPTS), 1), torch.cat(single)) <= EXACT


def test_an_active_patch_is_refused(llama):
    lens = fresh(llama)
    lens.patches.append("a patch")
    with pytest.raises(InputError, match="patch"):
        by_engine(lens, [])
    with pytest.raises(InputError, match="patch"):
        next(head_outputs(lens, *oracles.padded(PROMPTS)))
    with pytest.raises(InputError, match="patch"):
        residuals(lens, *oracles.padded(PROMPTS), 1)


def test_a_hook_point_that_does_not_exist_raises(model):
    with (
        pytest.raises(ParityError, match="blocks.0.hook_nowhere"),
        lens_of(model).hooks([("blocks.0.hook_nowhere", print)]),
    ):
        pass


def test_a_prompt_of_one_token_is_refused(llama):
    with pytest.raises(InputError, match="two tokens"):
        by_engine(lens_of(llama), [], [[5]])
