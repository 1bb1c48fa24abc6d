"""Prompts that begin alike: running their shared tokens once gives what running each prompt whole gives."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fv_lens.engine import prefixes
from fv_lens.engine.edits import Edit
from fv_lens.engine.prefixes import WORTH, prefix_of, shared_tokens
from fv_lens.engine.whatif import SLOW, head_outputs, what_if
from fv_lens.models.lens import lens_of

from .. import oracles
from ..oracles import EXACT, difference

SHARED = 40
BEGINNING = oracles.random_prompts(SHARED, seed=7)[0]
CONTINUED = prefixes._extend_prefix


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def behind(*lengths: int, beginning=BEGINNING) -> list[list[int]]:
    """Prompts of one beginning, with so many tokens of their own, the first of which differ."""
    return [[*beginning, i + 1, *own[1:]] for i, own in enumerate(oracles.random_prompts(*lengths))]


def fresh(model):
    """A lens that has found nothing out yet; the model keeps its own."""
    return type(lens_of(model))(model)


def some_whatifs(lens):
    head, vectors = noise(lens.d_head, seed=1), noise(2, lens.d_model, seed=2)
    return [[Edit(0, head, 1)], [Edit(1, vectors[0])], [Edit(2, head, 3), Edit(0, vectors[1])], []]


def by_hand(model, prompts, whatifs, tail=1):
    rows = [
        [oracles.logits(model, p[: len(p) - tail + 1], e, p[len(p) - tail + 1 :]) for e in whatifs] for p in prompts
    ]
    return torch.stack([torch.stack(of_prompt) for of_prompt in rows]).log_softmax(-1)


def by_engine(lens, prompts, whatifs, tail=1):
    """All rows but the clean one."""
    return what_if(lens, *oracles.padded(prompts), whatifs, lambda logits, of: logits.log_softmax(-1), tail=tail)[:, 1:]


def exact(model, lens, prompts, tail=1) -> bool:
    whatifs = some_whatifs(lens)
    return difference(by_engine(lens, prompts, whatifs, tail), by_hand(model, prompts, whatifs, tail)) <= EXACT


@pytest.fixture
def runs(monkeypatch):
    """How many prompts go on from a shared beginning, for each time that some do."""
    made = []

    def counted(lens, begun, own):
        made.append(len(own))
        return CONTINUED(lens, begun, own)

    monkeypatch.setattr(prefixes, "_extend_prefix", counted)
    return made


# What is shared


@given(st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=9), min_size=1, max_size=4), st.integers(0, 40))
def test_shared_tokens_are_the_longest_common_beginning_that_leaves_each_prompt_one(owns, n):
    prompts = [[5] * n + own for own in owns]
    common = 0
    while all(len(p) > common + 1 and p[: common + 1] == prompts[0][: common + 1] for p in prompts):
        common += 1
    worth = len(prompts) > 1 and common >= WORTH
    assert shared_tokens(*oracles.padded(prompts)) == (common if worth else 0)


# The same numbers


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("lengths", [(6, 6, 6), (9, 1, 4, 4)], ids=["equal", "unequal"])
@pytest.mark.parametrize("shared", [SHARED, SHARED - 3])
def test_keys_and_values_equal_those_of_whole_runs(model, lengths, shared):
    lens, (ids, mask) = lens_of(model), oracles.padded(behind(*lengths))
    with torch.no_grad():
        found, expected = prefix_of(lens, ids, mask, shared), lens.prefix(ids, mask)
    assert torch.equal(found.mask, mask)
    for part in ("keys", "values"):
        for ours, theirs in zip(getattr(found, part), getattr(expected, part), strict=True):
            seen = mask.bool()[:, None, :, None].expand_as(theirs)
            assert ours.shape == theirs.shape and theirs.abs().max() > 0.01
            assert difference(ours[seen], theirs[seen]) <= EXACT * theirs.abs().max().clamp(min=1)


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("lengths", [(8, 8, 8), (9, 4, 6, 4)], ids=["equal", "unequal"])
@pytest.mark.parametrize("tail", [1, 2, 3])
def test_edits_and_continuations_behind_shared_tokens_equal_full_forwards(model, runs, lengths, tail):
    lens, prompts = fresh(model), behind(*lengths)
    assert exact(model, lens, prompts, tail)
    assert lens.parity.sharing == (SHARED + max(lengths), True), "no architecture here runs each prompt whole"
    runs.clear()
    assert exact(model, lens, prompts, tail) and sum(runs) == len(prompts), "the check is over, and still they share"


@pytest.mark.slow
def test_only_what_is_run_once_is_checked(llama, runs):
    lens = fresh(llama)
    assert exact(llama, lens, oracles.random_prompts(50, 45)) and exact(llama, lens, behind(9)) and not runs
    assert lens.parity.sharing == lens.parity.several_tokens[:1] + (False,) == (0, False)
    list(head_outputs(lens, *oracles.padded(behind(5, 7))))
    assert lens.parity.sharing == (0, False), "full forwards share nothing"
    assert exact(llama, lens, behind(5, 7)) and lens.parity.sharing[0] and not lens.parity.several_tokens[0]


@pytest.mark.slow
def test_prompts_of_one_length_share_where_padding_does_harm(llama, runs):
    lens, prompts = fresh(llama), behind(8, 8, 5, 5)
    by_engine(lens, oracles.random_prompts(60, 50), [])
    lens.parity.padding = False
    assert exact(llama, lens, prompts) and lens.parity.sharing[1] and set(runs) == {2}


# Models on which sharing is not exact


def a_little_wrong(lens, begun, own):
    return [(k + 0.02, v) for k, v in CONTINUED(lens, begun, own.roll(1, 1))]


def of_another_prompt(lens, begun, own):
    return CONTINUED(lens, begun, own.flip(0))


def raising(lens, begun, own):
    raise TypeError("this architecture takes no such cache")


@pytest.mark.slow
@pytest.mark.parametrize("broken", [a_little_wrong, of_another_prompt, raising], ids=lambda f: f.__name__)
@pytest.mark.parametrize("tail", [1, 3])
def test_where_sharing_is_wrong_each_prompt_is_run_whole(model, monkeypatch, caplog, broken, tail):
    lens = fresh(model)
    monkeypatch.setattr(prefixes, "_extend_prefix", broken)
    with caplog.at_level(logging.WARNING, "fv_lens"):
        assert exact(model, lens, behind(8, 8, 5), tail) and exact(model, lens, behind(7, 7), tail)
    assert lens.parity.forms[0] != SLOW and lens.parity.sharing == (SHARED + 8, False)
    warned = [r.getMessage() for r in caplog.records if "prompts share" in r.getMessage()]
    assert len(warned) == 1 and model.cfg.model_name in warned[0], "said once"


@pytest.mark.slow
def test_padding_on_the_wrong_side_is_noticed_on_prompts_of_one_length(llama, monkeypatch):
    pad = prefixes.pad
    monkeypatch.setattr(prefixes, "pad", lambda x, by: pad(x, (0, 0, 0, by[2])))
    lens = fresh(llama)
    assert exact(llama, lens, behind(8, 8)) and not lens.parity.sharing[1]
    assert exact(llama, lens, behind(8, 5))


@pytest.mark.slow
def test_sharing_is_checked_anew_on_longer_prompts(llama, monkeypatch):
    def wrong_when_long(lens, begun, own):
        return (CONTINUED if begun.length + own.shape[1] < 50 else a_little_wrong)(lens, begun, own)

    monkeypatch.setattr(prefixes, "_extend_prefix", wrong_when_long)
    lens = fresh(llama)
    assert exact(llama, lens, behind(8, 5)) and lens.parity.sharing == (SHARED + 8, True)
    assert exact(llama, lens, behind(20, 5)) and lens.parity.sharing == (SHARED + 20, False)
    assert exact(llama, lens, behind(8, 5))


@pytest.mark.slow
def test_a_wrong_beginning_is_noticed_where_it_is_not_checked(llama, monkeypatch):
    """The comparison by hand fails where the engine's own check is skipped."""
    monkeypatch.setattr(prefixes, "_extend_prefix", a_little_wrong)
    lens = fresh(llama)
    by_engine(lens, oracles.random_prompts(60, 50), [])
    lens.parity.sharing = 100, True
    assert not exact(llama, lens, behind(8, 5))
