"""Losses and gradients of vectors against plain autograd through full forwards, one unpadded prompt at a time."""

import logging
from dataclasses import replace

import pytest
import torch

from fv_lens.engine import chunks, gradients
from fv_lens.engine.batches import PromptBatch
from fv_lens.engine.gradients import Rows
from fv_lens.ground.errors import InputError, ParityError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.patching import patch

from .. import oracles, tiny
from ..oracles import EXACT, difference

# Longer and shorter than the window of the models that have one; every answer length with several prompt lengths.
LENGTHS = (9, 13, 5, 9, 12, 6, 3, 11)
ANSWER_LENGTHS = (1, 2, 3, 1, 3, 2, 1, 2)
OWNERS = [0, 1, 0, 2, 1, 0, 0, 2]
PROMPTS = oracles.random_prompts(*LENGTHS)
ANSWERS = oracles.random_prompts(*ANSWER_LENGTHS, seed=1)
OTHERS = oracles.random_prompts(*reversed(ANSWER_LENGTHS), seed=2)  # listed second: right, but not tuned on
ABOVE, IN_FULL = Rows._above, Rows._in_full


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fresh(model):
    """A lens that has found nothing out yet; the model keeps its own."""
    return type(lens_of(model))(model)


def prompt_batch(prompts=PROMPTS, answers=ANSWERS, others=OTHERS) -> PromptBatch:
    names = tuple(map(str, range(len(prompts))))
    listed = tuple((tuple(answer), tuple(other)) for answer, other in zip(answers, others))
    return PromptBatch(*oracles.padded(prompts), torch.tensor([answer[0] for answer in answers]), listed, names, names)


def rows_of(model, layer=1, *, lens=None, owners=OWNERS, **more) -> Rows:
    return Rows(lens or fresh(model), prompt_batch(), owners, layer, **more)


def vectors_for(model, owners=OWNERS) -> torch.Tensor:
    return noise(max(owners) + 1, model.cfg.d_model)


def by_hand(model, layer=1, answers=ANSWERS, owners=OWNERS):
    return oracles.losses_and_gradient(model, PROMPTS, answers, owners, layer, vectors_for(model, owners))


def errors(found, expected) -> tuple[float, float]:
    """The largest difference of a loss, and the largest relative difference of a vector's gradient in norm."""
    (losses, gradient), (true_losses, true_gradient) = found, expected
    relative = (gradient - true_gradient).norm(dim=1) / true_gradient.norm(dim=1)
    return difference(losses, true_losses), relative.max().item()


def equal(found, expected) -> bool:
    return max(errors(found, expected)) <= EXACT


# The same numbers as full forwards


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_losses_and_gradients_equal_plain_autograd(model, layer):
    rows, vectors, expected = rows_of(model, layer), vectors_for(model), by_hand(model, layer)
    assert rows.exact, "no architecture here needs full forwards"
    assert equal(rows.gradient(vectors), expected) and expected[1].norm(dim=1).min() > 1e-3
    assert difference(rows.losses(vectors), expected[0]) <= EXACT
    rows.exact = False
    assert equal(rows.gradient(vectors), expected)
    assert difference(rows.losses(vectors), expected[0]) <= EXACT


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("layers", [(2, 0, 1), (1, 2, 1)])
def test_vectors_of_several_layers_run_in_one_batch(model, layers):
    rows, vectors = rows_of(model, layers), vectors_for(model)
    losses, gradient = rows.gradient(vectors)
    assert rows.exact and len(rows.chunks) < len(PROMPTS)
    for owner, layer in enumerate(layers):
        own = [row for row, of in enumerate(OWNERS) if of == owner]
        true_losses, true_gradient = by_hand(model, layer)
        assert difference(losses[own], true_losses[own]) <= EXACT
        assert (gradient[owner] - true_gradient[owner]).norm() <= EXACT * true_gradient[owner].norm()
    assert difference(rows.losses(vectors), losses) <= EXACT
    rms = torch.stack([rows_of(model, layer).residual_rms[owner] for owner, layer in enumerate(layers)])
    assert difference(rows.residual_rms, rms) <= EXACT


@pytest.mark.slow(but=1)
def test_a_prompt_of_several_vectors_is_begun_once(model, monkeypatch):
    begun, prefix = [], type(fresh(model)).prefix
    monkeypatch.setattr(
        type(fresh(model)), "prefix", lambda lens, ids, mask: begun.append(len(ids)) or prefix(lens, ids, mask)
    )
    both = PromptBatch.joined([prompt_batch()] * 2, pad_id=0)
    rows = Rows(fresh(model), both, [0] * len(PROMPTS) + [1] * len(PROMPTS), [0, 2])
    assert rows.exact and sum(begun[-len(rows.chunks) :]) == len(PROMPTS)
    vector = vectors_for(model, [0])
    losses, gradient = rows.gradient(vector.expand(2, -1))
    for owner, layer in enumerate((0, 2)):
        alone = rows_of(model, layer, owners=[0] * len(PROMPTS)).gradient(vector)
        assert equal((losses.unflatten(0, (2, -1))[owner], gradient[owner : owner + 1]), alone)


@pytest.mark.slow
def test_the_first_token_alone_counts_where_that_is_asked_for(model):
    expected = by_hand(model, answers=[answer[:1] for answer in ANSWERS])
    rows = rows_of(model, first_token=True)
    assert rows.exact and equal(rows.gradient(vectors_for(model)), expected)


@pytest.mark.slow
def test_whole_answers_are_right_also_after_first_tokens_were_probed(model):
    lens = fresh(model)
    rows_of(model, lens=lens, first_token=True)
    assert equal(rows_of(model, lens=lens).gradient(vectors_for(model)), by_hand(model))


@pytest.mark.slow
def test_longer_prompts_are_right_also_after_short_ones_were_probed(model):
    lens = fresh(model)
    Rows(lens, prompt_batch(oracles.random_prompts(3, 4), ANSWERS[:2], OTHERS[:2]), [0, 1], 1)
    assert equal(rows_of(model, lens=lens).gradient(vectors_for(model)), by_hand(model))


@pytest.mark.slow
def test_each_vector_moves_its_own_prompts_alone(llama):
    rows, vectors = rows_of(llama), vectors_for(llama)
    losses, gradient = rows.gradient(vectors)
    vectors[1] += 1
    changed_losses, changed_gradient = rows.gradient(vectors)
    assert [a != b for a, b in zip(losses, changed_losses)] == [owner == 1 for owner in OWNERS]
    assert [bool((a != b).any()) for a, b in zip(gradient, changed_gradient)] == [False, True, False]


@pytest.mark.slow
def test_a_vector_without_prompts_has_no_gradient(llama):
    owners = [0, 2, 0, 2, 2, 0, 0, 2]
    _, gradient = rows_of(llama, owners=owners).gradient(vectors_for(llama, owners))
    assert gradient[1].abs().max() == 0 and gradient[[0, 2]].norm(dim=1).min() > 1e-3


@pytest.mark.slow
def test_zero_is_the_clean_model(llama):
    expected = [-oracles.continuation_log_probs(llama, *pair).sum() for pair in zip(PROMPTS, ANSWERS)]
    assert difference(rows_of(llama).losses(torch.zeros(3, 32)), torch.stack(expected)) <= EXACT


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_small_chunks_give_the_same(model, monkeypatch, exact):
    whole = rows_of(model).gradient(vectors_for(model))
    monkeypatch.setattr(chunks, "MOST_ROWS", 2)
    monkeypatch.setattr(gradients, "TILE", 3)
    rows = rows_of(model)
    rows.exact = exact
    assert max(len(chunk.rows) for chunk in rows.chunks) <= 2
    assert equal(rows.gradient(vectors_for(model)), whole)


@pytest.mark.slow
def test_memory_at_hand_bounds_the_chunks(llama, monkeypatch):
    whole = rows_of(llama)
    monkeypatch.setattr(chunks, "CPU_BYTES", 1)
    alone = rows_of(llama)
    assert len(alone.chunks) == len(PROMPTS) > len(whole.chunks)
    assert equal(alone.gradient(vectors_for(llama)), whole.gradient(vectors_for(llama)))


@pytest.mark.slow
def test_prompts_of_one_length_where_padding_does_harm(llama):
    lens = fresh(llama)
    rows_of(llama, lens=lens)
    lens.parity.padding = False
    rows = rows_of(llama, lens=lens)
    assert all(chunk.mask.all() for chunk in rows.chunks)
    assert equal(rows.gradient(vectors_for(llama)), by_hand(llama))


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_the_residual_streams_size_is_that_at_the_last_prompt_tokens(model, exact):
    rows = rows_of(model)
    rows.exact = exact
    expected = [
        oracles.residual_rms(model, [p for p, of in zip(PROMPTS, OWNERS) if of == owner], 1) for owner in range(3)
    ]
    assert difference(rows.residual_rms, torch.tensor(expected)) <= EXACT


@pytest.mark.slow
def test_bfloat16_is_close_and_its_losses_are_float32(llama):
    model = tiny.build("llama").to(torch.bfloat16)
    losses, gradient = rows_of(model).gradient(vectors_for(model))
    expected, slope = by_hand(llama)
    assert losses.dtype == gradient.dtype == torch.float32 and losses.isfinite().all()
    assert difference(losses, expected) < 0.5
    assert torch.cosine_similarity(gradient, slope).min() > 0.95


# The model is left as it was


@pytest.mark.slow
def test_the_model_is_left_as_it_was():
    model = tiny.build("llama")
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    before = [(parameter.requires_grad, parameter.detach().clone()) for parameter in model.parameters()]
    clean, forwards = oracles.logits(model, PROMPTS[0]), [block.__dict__.get("forward") for block in model.blocks]
    rows = rows_of(model)
    rows.gradient(vectors_for(model)), rows.losses(vectors_for(model))
    for parameter, (asked, value) in zip(model.parameters(), before, strict=True):
        assert parameter.requires_grad is asked and parameter.grad is None and torch.equal(parameter, value)
    assert torch.equal(oracles.logits(model, PROMPTS[0]), clean)
    assert [block.__dict__.get("forward") for block in model.blocks] == forwards


@pytest.mark.slow
def test_an_error_on_the_way_leaves_the_model_as_it_was(llama, monkeypatch):
    rows = rows_of(llama)
    asked = [parameter.requires_grad for parameter in llama.parameters()]
    monkeypatch.setattr(rows.lens, "readout", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rows.gradient(vectors_for(llama))
    assert [parameter.requires_grad for parameter in llama.parameters()] == asked and any(asked)
    assert not any("forward" in block.__dict__ for block in llama.blocks)


@pytest.mark.slow
def test_gradients_are_computed_also_where_the_caller_turned_them_off(llama):
    rows, vectors, expected = rows_of(llama), vectors_for(llama).requires_grad_(), by_hand(llama)
    with torch.no_grad():
        assert equal(rows.gradient(vectors), expected)
    assert vectors.grad is None and not rows.losses(vectors).requires_grad


# What is refused, and what is noticed


def test_a_layer_that_is_not_there_is_named(llama):
    with pytest.raises(InputError, match=r"Layer 3 is outside 0\.\.2 of tiny/llama"):
        rows_of(llama, 3)


def test_owners_are_one_for_each_prompt(llama):
    with pytest.raises(InputError, match="7 owners for 8 prompts"):
        rows_of(llama, owners=OWNERS[:-1])


def test_an_active_patch_is_refused(model):
    with (
        patch(model, FunctionVector(noise(32), 1, model=model.cfg.model_name)),
        pytest.raises(InputError, match="patch"),
    ):
        rows_of(model, lens=lens_of(model))


@pytest.mark.slow
def test_a_vector_that_changes_nothing_is_noticed(model, monkeypatch):
    monkeypatch.setattr(Rows, "_in_full", lambda self, chunk, added: IN_FULL(self, chunk, 0 * added))
    with pytest.raises(ParityError, match=r"blocks\.1\.hook_resid_post of .* changed nothing"):
        rows_of(model)


def slightly_wrong(self, chunk, added):
    return ABOVE(self, chunk, 1.01 * added)


def refusing(self, chunk, added):
    raise TypeError("this architecture takes no such cache")


@pytest.mark.slow
@pytest.mark.parametrize("above", [slightly_wrong, refusing], ids=["slightly wrong", "refusing"])
def test_a_model_that_cannot_skip_its_lower_blocks_runs_full_forwards(model, monkeypatch, caplog, above):
    monkeypatch.setattr(Rows, "_above", above)
    lens = fresh(model)
    with caplog.at_level(logging.WARNING, logger="fv_lens"):
        rows = rows_of(model, lens=lens)
        assert not rows.exact and equal(rows.gradient(vectors_for(model)), by_hand(model))
        assert not rows_of(model, lens=lens).exact
    warned = [record.getMessage() for record in caplog.records if "full forwards" in record.getMessage()]
    assert len(warned) == 1 and model.cfg.model_name in warned[0], "said once for a model and layer"


def unadded(self, chunk, added):
    return ABOVE(self, chunk, 0 * added)


def a_token_late(self, chunk, added):
    if chunk.new == 1:
        return ABOVE(self, chunk, added)
    first, second, rest = chunk.begun.residual.split([1, 1, chunk.new - 2], dim=1)
    moved = torch.cat([first - added[:, None], second + added[:, None], rest], 1)
    return ABOVE(self, replace(chunk, above=replace(chunk.begun, residual=moved)), added)


def of_the_next_row(self, chunk, added):
    return ABOVE(self, chunk, added.roll(1, 0))


def detached_after_the_first_token(self, chunk, added):
    rows = ABOVE(self, chunk, added)
    return torch.cat([rows[:, :1], rows[:, 1:].detach()], 1)


def with_padding_seen(self, chunk, added):
    return ABOVE(self, replace(chunk, mask=torch.ones_like(chunk.mask)), added)


BROKEN = [unadded, a_token_late, of_the_next_row, detached_after_the_first_token, with_padding_seen, slightly_wrong]


@pytest.fixture
def unprobed(monkeypatch):
    """The check at first use is skipped: the oracle must notice."""
    monkeypatch.setattr(Rows, "_probe", lambda self, *args: True)


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("above", BROKEN, ids=lambda broken: broken.__name__.replace("_", " "))
def test_broken_engines_are_noticed(model, unprobed, monkeypatch, above):
    assert equal(rows_of(model).gradient(vectors_for(model)), by_hand(model))
    monkeypatch.setattr(Rows, "_above", above)
    assert max(errors(rows_of(model).gradient(vectors_for(model)), by_hand(model))) > 100 * EXACT


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_another_layer_is_noticed(model, unprobed, monkeypatch, exact):
    monkeypatch.setattr(gradients, "check_layer", lambda lens, layer: layer + 1)
    rows = rows_of(model)
    rows.exact = exact
    assert max(errors(rows.gradient(vectors_for(model)), by_hand(model))) > 100 * EXACT


# The check is made anew where it may come out otherwise


def where(wrong, broken=slightly_wrong):
    """Runs above the layer that are wrong for some chunks only."""
    return lambda self, chunk, added: (broken if wrong(chunk) else ABOVE)(self, chunk, added)


@pytest.mark.slow
def test_answers_of_several_tokens_are_checked_also_after_first_tokens_were(model, monkeypatch):
    monkeypatch.setattr(Rows, "_above", where(lambda chunk: chunk.new > 1))
    lens = fresh(model)
    first, whole = rows_of(model, lens=lens, first_token=True), rows_of(model, lens=lens)
    assert first.exact and not whole.exact
    assert equal(whole.gradient(vectors_for(model)), by_hand(model))
    assert rows_of(model, lens=lens, first_token=True).exact, "what holds for one token still does"


@pytest.mark.slow
def test_longer_prompts_are_checked_also_after_short_ones_were(model, monkeypatch):
    monkeypatch.setattr(Rows, "_above", where(lambda chunk: chunk.ids.shape[1] > 12))
    lens = fresh(model)
    short = Rows(lens, prompt_batch(oracles.random_prompts(3, 4), ANSWERS[:2], OTHERS[:2]), [0, 1], 1)
    long = rows_of(model, lens=lens)
    assert short.exact and not long.exact
    assert equal(long.gradient(vectors_for(model)), by_hand(model))


@pytest.mark.slow
def test_answers_of_several_tokens_are_checked_wherever_they_stand(llama, monkeypatch):
    """Neither the longest nor the shortest prompt has one."""
    monkeypatch.setattr(Rows, "_above", where(lambda chunk: chunk.new > 1, a_token_late))
    answers = [answer if 3 < len(prompt) < 13 else answer[:1] for prompt, answer in zip(PROMPTS, ANSWERS)]
    rows = Rows(fresh(llama), prompt_batch(answers=answers), OWNERS, 1)
    assert not rows.exact and equal(rows.gradient(vectors_for(llama)), by_hand(llama, answers=answers))


@pytest.mark.slow
def test_shorter_prompts_and_other_layers_cost_one_check_each(llama, monkeypatch):
    checked, measured = [], Rows._losses_and_gradient

    def counted(self, chunk, vectors, exact):
        checked.append(self.layers[0])
        return measured(self, chunk, vectors, exact)

    monkeypatch.setattr(Rows, "_losses_and_gradient", counted)
    lens, short = fresh(llama), oracles.random_prompts(3, 4)
    for layer in (1, 1, 2):
        rows_of(llama, layer, lens=lens)
        Rows(lens, prompt_batch(short, ANSWERS[:2], OTHERS[:2]), [0, 1], layer)
    assert checked == [1] * 3 + [2] * 3, "a check: the truth, without the vector, above the layer"
