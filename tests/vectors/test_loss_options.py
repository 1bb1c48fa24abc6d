"""The penalty on a vector's length, and perplexity as the loss: against plain autograd through full forwards."""

import pytest
import torch

from fv_lens.datasets.relations import Relation
from fv_lens.engine.batches import PromptBatch
from fv_lens.engine.gradients import Rows
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.optimizer import RATE, Tuning
from fv_lens.vectors.tuning import finetune
from fv_lens.vectors.tuning_pairs import tuning_pairs

from .. import oracles

CLOSE = 1e-4
WORDS = [f"w{i} w{i + 1}" if i % 3 else f"w{i}" for i in range(60)]
ANSWERS = [" ".join(f"w{100 + i % 3 + j}" for j in range(1 + i % 3)) for i in range(60)]  # of one to three tokens
RELATION = Relation("a", list(zip(WORDS, ANSWERS)))
N, LAYER = 10, 1


def nats(model, prompt, answer, vector):
    """Cross-entropy of an answer with the vector added at the prompt's last token, by one full forward."""

    def add(x, hook):
        at = len(prompt) - 1
        return torch.cat([x[:, :at], x[:, at : at + 1] + vector, x[:, at + 1 :]], 1)

    ids = torch.tensor([[*prompt, *answer[:-1]]])
    logits = model.run_with_hooks(ids, fwd_hooks=[(f"blocks.{LAYER}.hook_resid_post", add)])[0, len(prompt) - 1 :]
    return -logits.float().log_softmax(-1)[range(len(answer)), answer].sum()


def objective(model, pairs, vector, l2, perplexity, unit):
    losses = [nats(model, prompt, answer, vector) for prompt, answer in pairs]
    if perplexity:
        losses = [(loss / len(answer)).exp() for loss, (_, answer) in zip(losses, pairs)]
    return sum(losses) / len(losses) + l2 * vector.square().mean() / unit**2


def gradient_by_hand(model, pairs, vector, **options):
    leaf = vector.clone().requires_grad_()
    return torch.autograd.grad(objective(model, pairs, leaf, **options), leaf)[0]


def batch_of(pairs) -> PromptBatch:
    prompts, answers = zip(*pairs)
    names = tuple(map(str, range(len(pairs))))
    return PromptBatch(
        *oracles.padded(prompts), torch.tensor([answer[0] for answer in answers]),
        tuple((tuple(answer),) for answer in answers), names, names,
    )  # fmt: skip


@pytest.mark.slow(but=2)
@pytest.mark.parametrize("exact", [True, False])
def test_the_gradient_of_perplexity_is_that_of_plain_autograd(model, exact):
    pairs = oracles.in_tokens(model, tuning_pairs(RELATION, N, 4).train)
    vector = 0.5 * torch.randn(32, generator=torch.Generator().manual_seed(0))
    rows = Rows(lens_of(model), batch_of(pairs), [0] * N, LAYER)
    rows.exact &= exact
    losses, (gradient,) = rows.gradient(vector[None], perplexity=True)
    expected = gradient_by_hand(model, pairs, vector, l2=0, perplexity=True, unit=1)
    assert {len(answer) for _, answer in pairs} == {1, 2, 3}, "answers of one length could not tell tokens from answers"
    assert (gradient - expected).norm() <= CLOSE * expected.norm()
    assert torch.allclose(losses, rows.losses(vector[None])), "losses stay in nats"
    plain = gradient_by_hand(model, pairs, vector, l2=0, perplexity=False, unit=1)
    assert (rows.gradient(vector[None])[1][0] - plain).norm() <= CLOSE * plain.norm()


@pytest.mark.slow(but=2)
@pytest.mark.parametrize("options", [dict(l2=3.0), dict(perplexity=True), dict(l2=0.5, perplexity=True)], ids=str)
def test_tuning_goes_down_the_loss_asked_for_and_keeps_the_step_of_fewest_nats(llama, options):
    fv = finetune(llama, RELATION, layer=LAYER, n_pairs=N, n_validation=4, how=Tuning(5, **options))
    train, validation, _ = (oracles.in_tokens(llama, part) for part in tuning_pairs(RELATION, N, 4))
    unit = oracles.residual_rms(llama, [prompt for prompt, _ in train], LAYER)
    vector = torch.zeros(32)
    adam = torch.optim.Adam([vector], lr=RATE * float(unit))
    vectors, losses = [vector.clone()], []
    for _ in range(5):
        by_hand = dict(l2=0.0, perplexity=False) | options
        vector.grad = gradient_by_hand(llama, train, vector.clone(), **by_hand, unit=unit)
        with torch.no_grad():
            losses.append(float(objective(llama, train, vector, 0, False, 1)))
        adam.step()
        vectors.append(vector.clone())
    with torch.no_grad():
        checks = {step: float(objective(llama, validation, vectors[step], 0, False, 1)) for step in (0, 2, 4, 5)}
    best = min(checks, key=checks.get)
    assert fv.training["losses"] == pytest.approx(losses, abs=1e-3)
    assert fv.training["chosen_step"] == best > 0
    assert (fv.vector - vectors[best]).norm() <= 1e-3 * vectors[best].norm()


def test_a_stronger_penalty_gives_a_shorter_vector(llama):
    norms = [
        finetune(llama, RELATION, layer=LAYER, n_pairs=N, n_validation=4, how=Tuning(8, l2=l2)).vector.norm()
        for l2 in (0, 1.0, 100.0)
    ]
    assert norms[0] > norms[1] > norms[2]


def test_options_are_in_the_record_where_they_were_used_and_only_there(llama, tmp_path):
    quick = dict(layer=LAYER, n_pairs=N, n_validation=4)
    plain = finetune(llama, RELATION, **quick, how=Tuning(2))
    fv = finetune(llama, RELATION, **quick, how=Tuning(2, l2=0.5, perplexity=True))
    assert not {"l2", "perplexity"} & plain.training.keys(), "files of vectors tuned as before are the same bytes"
    assert (fv.training["l2"], fv.training["perplexity"]) == (0.5, True)
    fv.save(tmp_path / "fv.safetensors")
    assert FunctionVector.load(tmp_path / "fv.safetensors").record == fv.record


@pytest.mark.parametrize(
    "bad, message", [(dict(l2=-1), "l2 is -1"), (dict(l2="a"), "l2 is 'a'"), (dict(perplexity=2), "perplexity is 2")]
)
def test_other_values_are_refused(bad, message):
    with pytest.raises(InputError, match=message):
        Tuning(**bad)
