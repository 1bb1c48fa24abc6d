"""Engines that are broken on purpose, with the check at first use skipped: the oracle must notice."""

import pytest
import torch

from fv_lens.engine import forms
from fv_lens.engine.edits import Plan
from fv_lens.engine.whatif import Edit, what_if
from fv_lens.models.lens import lens_of

from . import oracles

PROMPTS = oracles.random_prompts(9, 13)
FORMS = ["as positions", "as batch elements", "in full forwards"]


def noise(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def distance(model, form: str) -> list[float]:
    """How far the engine is from the oracle: the clean row, then each of four what-ifs."""
    lens = type(lens_of(model))(model)
    lens.parity.forms, lens.parity.length, lens.parity.padding = [form], 1000, True
    lens.parity.plain_readout = lens_of(model).parity.plain_readout
    heads = [[Edit(1, noise(lens.d_head, 1), 2)], [Edit(0, noise(lens.d_head, 2), 0)]]
    whatifs = [*heads, [Edit(1, noise(lens.d_model, 3))], [Edit(0, noise(lens.d_model, 4)), *heads[0]]]
    found = what_if(lens, *oracles.padded(PROMPTS), whatifs, lambda logits, prompt: logits[:, 0].log_softmax(-1))
    expected = [[oracles.log_probs(model, ids, edits) for edits in [[], *whatifs]] for ids in PROMPTS]
    expected = torch.stack([torch.stack(rows) for rows in expected])
    return (found - expected).abs().amax(-1).amax(0).tolist()


def noticed(model, form: str) -> bool:
    return max(distance(model, form)) > 100 * oracles.EXACT


def fastest(model) -> str:
    what_if(lens_of(model), *oracles.padded(PROMPTS), [], lambda logits, prompt: prompt)
    return lens_of(model).parity.forms[0]


@pytest.mark.slow
def test_hooks_that_are_turned_off_are_noticed_in_every_whatif(model, monkeypatch):
    form = fastest(model)
    assert not noticed(model, form)
    monkeypatch.setattr(Plan, "hooks", lambda self, view: [])
    clean, *edited = distance(model, form)
    assert clean <= oracles.EXACT and min(edited) > 100 * oracles.EXACT


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


def changed_edits(change):
    """`Plan._editor` with `(row, head, value)` of every edit put through `change`."""
    editor = Plan._editor
    return staticmethod(lambda edits, view: editor([change(*edit) for edit in edits], view))


@pytest.mark.slow(but=1)
@pytest.mark.parametrize(
    "change",
    [
        lambda row, head, value: (row, head, 1.001 * value),
        lambda row, head, value: (row, head if head is None else (head + 1) % 4, value),
        lambda row, head, value: (row - 1, head, value),
    ],
    ids=["a thousandth too strong", "the next head", "the row before"],
)
def test_edits_that_are_a_little_wrong_are_noticed(llama, monkeypatch, form, change):
    monkeypatch.setattr(Plan, "_editor", changed_edits(change))
    assert noticed(llama, form)


@pytest.mark.slow(but=1)
def test_edits_one_layer_late_are_noticed(llama, monkeypatch, form):
    hooks = Plan.hooks

    def late(self, view):
        return [(name.replace("blocks.1.", "blocks.2."), edit) for name, edit in hooks(self, view)]

    monkeypatch.setattr(Plan, "hooks", late)
    assert noticed(llama, form)


@pytest.mark.slow(but=1)
def test_results_out_of_order_are_noticed(llama, monkeypatch, form):
    made = Plan.__init__

    def shuffled(self, *args):
        made(self, *args)
        self.order = self.order.flip(0)

    monkeypatch.setattr(Plan, "__init__", shuffled)
    assert noticed(llama, form)


@pytest.mark.slow
def test_rows_that_do_not_see_themselves_are_noticed(llama, monkeypatch):
    lone_rows = forms.lone_rows

    def blind(lens, prefix):
        attend, hooks = lone_rows(lens, prefix)
        return attend, [(name, hook) for name, hook in hooks if not name.endswith("hook_z")]

    monkeypatch.setattr(forms, "lone_rows", blind)
    assert noticed(llama, "as positions")


@pytest.mark.slow
def test_padding_that_is_seen_is_noticed(llama, monkeypatch):
    prefix = type(lens_of(llama)).prefix
    monkeypatch.setattr(
        type(lens_of(llama)), "prefix", lambda self, ids, mask: prefix(self, ids, torch.ones_like(mask))
    )
    assert noticed(llama, "as positions") and noticed(llama, "as batch elements")
