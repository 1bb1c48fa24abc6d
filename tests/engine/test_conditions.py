"""What was found about a model holds under the conditions it was found under.

Everything equals slow full forwards after users add hooks, switch train mode or enter autocast, and whether or not
fv_lens was used before.
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers as hf
from torch.nn.modules.module import register_module_forward_hook
from transformer_lens.model_bridge import TransformerBridge

from fv_lens.datasets.prompts import with_demonstrations
from fv_lens.engine import parity
from fv_lens.engine.batches import batch
from fv_lens.engine.completion import completions
from fv_lens.engine.forms import ALONE
from fv_lens.engine.gradients import Rows
from fv_lens.engine.parity import measure_ahead
from fv_lens.engine.whatif import Edit, what_if
from fv_lens.evaluation.evaluate import evaluate
from fv_lens.evaluation.readings import log_probs
from fv_lens.ground.errors import ParityError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.mediation import indirect_effects
from fv_lens.vectors.optimizer import Tuning
from fv_lens.vectors.summed import function_vector
from fv_lens.vectors.tuning import finetune

from .. import oracles, tiny
from ..oracles import EXACT, difference
from .exact import (
    FEW,
    PROMPTS,
    assert_exact,
    by_full_forwards,
    network,
    noise,
    one_token,
    step_by_step,
    use,
    whatifs_of,
)


def at_last(x):
    x = x.clone()
    x[:, -1] += 2 * noise(x.shape[-1], seed=7)
    return x


def at_third(x):
    x = x.clone()
    x[:, 2:3] += 2 * noise(x.shape[-1], seed=7)
    return x


def everywhere(x):
    return 1.3 * x + 0.5 * noise(x.shape[-1], seed=7)


CHANGES = {"last position": at_last, "third position": at_third, "every position": everywhere}


def hooked_by_transformer_lens(point):
    def add(model, change):
        model.add_hook(point, lambda x, hook: change(x))
        return model.reset_hooks

    return add


def hooked_by_torch(find, pre=False):
    def add(model, change):
        def first(out):
            return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

        module = find(model)
        if pre:
            return module.register_forward_pre_hook(lambda module, inputs: first(inputs)).remove
        return module.register_forward_hook(lambda module, inputs, out: first(out)).remove

    return add


def hooked_everywhere(model, change):
    mlp = model.blocks[1].mlp

    def hook(module, inputs, out):
        return change(out) if module is mlp else None

    return register_module_forward_hook(hook).remove


def replaced_forward(model, change):
    projection = model.blocks[1].mlp.out.original_component
    forward = projection.forward
    projection.forward = lambda *args, **kwargs: change(forward(*args, **kwargs))
    return lambda: projection.__dict__.pop("forward")


class Wrapper(torch.nn.Module):
    """As code that steers puts around a part of a model."""

    def __init__(self, inner, change):
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, *args, **kwargs):
        return self.change(self.inner(*args, **kwargs))


def wrapped_module(model, change):
    part = model.blocks[1].mlp.out
    inner = part.original_component
    part.set_original_component(Wrapper(inner, change))
    return lambda: part.set_original_component(inner)


class Module(torch.nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, module, inputs, out):
        return self.change(out)


def hooked_by_a_module(wrapped):
    """A module as a hook, which PyTorch's own code wraps: it is no less the user's."""

    def add(model, change):
        return model.blocks[1].mlp.register_forward_hook(wrapped(Module(change))).remove

    return add


HOOKS = {
    "hook_resid_post": hooked_by_transformer_lens("blocks.0.hook_resid_post"),
    "hook_mlp_out of the last layer": hooked_by_transformer_lens("blocks.2.hook_mlp_out"),
    "hook_embed": hooked_by_transformer_lens("hook_embed"),
    "forward hook on an MLP": hooked_by_torch(lambda model: model.blocks[1].mlp),
    "forward pre-hook on the last norm": hooked_by_torch(lambda model: model.ln_final, pre=True),
    "forward hook on the unembedding": hooked_by_torch(lambda model: model.unembed),
    "forward hook on every module": hooked_everywhere,
    "forward of an MLP replaced": replaced_forward,
    "projection of an MLP wrapped": wrapped_module,
    "method of a module as a hook": hooked_by_a_module(lambda module: module.__call__),
    "compiled module as a hook": hooked_by_a_module(lambda module: torch.compile(module, backend="eager")),
}
MODELS = ["llama", "gpt2", "gemma2", *(["hooked-llama"] if tiny.HOOKED_INSTALLED else [])]


@pytest.fixture(scope="module")
def plain_llama() -> list[torch.Tensor]:
    """What full forwards of a fresh tiny Llama give, which are the same each time."""
    return by_full_forwards(tiny.build("llama"))


def hooked_cases() -> list:
    """Every hook and change on a model that was used before; on a fresh one, every hook with one of the changes."""
    used = [(hook, change, True) for hook in HOOKS for change in CHANGES]
    fresh = [(hook, list(CHANGES)[i % len(CHANGES)], False) for i, hook in enumerate(HOOKS)]
    return [
        pytest.param(HOOKS[hook], CHANGES[change], before, id=f"{hook}-{change}-{'used before' if before else 'fresh'}")
        for hook, change, before in [fresh[0], *used, *fresh[1:]]
    ]


@pytest.mark.slow(but=1)
@pytest.mark.parametrize(("hook", "change", "before"), hooked_cases())
def test_hooks_of_the_user_act_as_in_full_forwards(hook, change, before, plain_llama):
    model = tiny.build("llama")
    if before:
        use(model)
    clean = [oracles.log_probs(model, ids) for ids in PROMPTS]
    remove = hook(model, change)
    moved = [difference(oracles.log_probs(model, ids), before) for ids, before in zip(PROMPTS, clean)]
    assert max(moved) > 100 * EXACT, "the hook does something"
    try:
        assert_exact(model)
    finally:
        remove()
    assert_exact(model, plain_llama)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_hooks_of_the_user_act_on_every_kind_of_model(name, change):
    model = tiny.build(name)
    use(model)
    remove = HOOKS["hook_resid_post"](model, change)
    assert_exact(model)
    assert lens_of(model).parity.forms == [ALONE]
    remove()
    assert_exact(model)
    assert lens_of(model).parity.forms != [ALONE], "the fast forms are back"


def test_hooks_of_the_user_are_told_of_once_by_name(llama, caplog):
    remove = HOOKS["hook_resid_post"](llama, at_last)
    with caplog.at_level(logging.WARNING, "fv_lens"):
        for lengths in ((9, 5), (12, 7)):
            what_if(lens_of(llama), *oracles.padded(oracles.random_prompts(*lengths)), [], one_token)
    remove()
    assert caplog.text.count("hooks or modules of your own stay in use") == 1
    assert "blocks.0.hook_out" in caplog.text and "times slower" in caplog.text and "reset_hooks" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_losses_and_gradients_under_hooks_of_the_user_are_those_of_full_forwards(llama, words, change):
    from fv_lens.datasets.prompts import FewShot
    from fv_lens.engine.batches import batch

    prompts = batch(lens_of(llama), [FewShot("w3", ("w5 w9 w1",)), FewShot("w4 w7", ("w8",))])
    vectors, owners = noise(2, 32), [0, 1]
    fast = Rows(lens_of(llama), prompts, owners, 1).gradient(vectors)
    remove = HOOKS["hook_resid_post"](llama, change)
    rows = Rows(lens_of(llama), prompts, owners, 1)
    losses, gradient = rows.gradient(vectors)
    leaf = vectors.clone().requires_grad_()
    expected = []
    for ids, listed, owner in zip(oracles.unpadded(prompts), prompts.answers, owners):
        steps = [(ids + list(listed[0][:k]), listed[0][k]) for k in range(len(listed[0]))]
        expected.append(sum(loss_behind(llama, whole, token, len(ids) - 1, leaf[owner]) for whole, token in steps))
    (slope,) = torch.autograd.grad(sum(expected), leaf)
    remove()
    assert difference(losses, torch.stack(expected).detach()) <= EXACT and difference(gradient, slope) <= EXACT
    assert difference(losses, fast[0]) > 100 * EXACT


def loss_behind(model, ids, token, at, vector):
    """Cross-entropy of one token behind ids, with the vector added after layer 1 at a place."""

    def hook(x, hook):
        return torch.cat([x[:, :at], x[:, at : at + 1] + vector, x[:, at + 1 :]], 1)

    out = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=[("blocks.1.hook_resid_post", hook)])
    return -out[0, -1].log_softmax(-1)[token]


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True], ids=["fresh", "used before"])
def test_effects_and_scores_under_a_hook_of_the_user_are_those_of_full_forwards(words, before):
    model = tiny.build("llama")
    fv = FunctionVector(noise(32), 1, model=model.cfg.model_name)
    if before:
        evaluate(model, words, fv, controls=False)
    remove = HOOKS["hook_resid_post"](model, at_last)
    found = indirect_effects(model, words, **FEW)
    prompts = oracles.unpadded(found.batch)
    expected, _ = oracles.head_effects(model, prompts, found.batch.answer_ids.tolist(), found.mean_z)
    assert difference(found.values.double(), expected) <= EXACT
    scores = evaluate(model, words, fv, controls=False).words
    for word, log_prob in zip(scores.word[:4], scores.log_prob):
        ids, [answer] = oracles.in_words(model, f"Q: {word}\nA:", words.answers[word])
        by_hand = step_by_step(model, ids, list(answer), [Edit(1, fv.vector)]).sum()
        assert abs(float(by_hand) - log_prob) <= EXACT
    remove()


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_decoding_through_a_model_with_a_hook_of_the_user_is_decoding_by_full_forwards(llama, change):
    fv, text = FunctionVector(noise(32), 1, model=llama.cfg.model_name), "Q: w1 w2 w3\nA:"
    clean = decoded_log_probs(llama, fv, text)
    remove = HOOKS["hook_resid_post"](llama, change)
    found = decoded_log_probs(llama, fv, text)
    expected = oracles.log_probs(llama, llama.to_tokens(text)[0].tolist(), [oracles.Change(1, fv.vector)])
    remove()
    assert difference(found, expected) <= EXACT and difference(found, clean) > 100 * EXACT


def decoded_log_probs(model, fv, text):
    """`[vocab]`: log-probabilities of the next token after a neutral prompt with the vector."""
    return log_probs(model, fv, "model", prompts=[text])[0]


# Train mode


def dropped(p=0.3):
    torch.manual_seed(0)
    config = hf.GPT2Config(**tiny.GPT2 | dict(resid_pdrop=p, attn_pdrop=p, embd_pdrop=p))
    net = hf.GPT2LMHeadModel(config).eval()
    return TransformerBridge.boot_transformers("tiny/drop", hf_model=net, tokenizer=tiny.tokenizer(), device="cpu")


def only_the_last_dropout(model):
    [*_, last] = [module for module in network(model).modules() if isinstance(module, torch.nn.Dropout)]
    last.train()


@pytest.mark.slow
@pytest.mark.parametrize("switch", [lambda model: model.train(), only_the_last_dropout], ids=["all", "one module"])
@pytest.mark.parametrize("before", [False, True], ids=["fresh", "used before"])
def test_dropout_that_is_switched_on_is_refused(words, switch, before):
    model = dropped()
    if before:
        use(model)
        finetune(model, words, layer=1, how=Tuning(steps=1))
    switch(model)
    fv = FunctionVector(noise(32), 1, model=model.cfg.model_name)
    for call in (
        lambda: indirect_effects(model, words, **FEW),
        lambda: finetune(model, words, layer=1, how=Tuning(steps=1)),
        lambda: evaluate(model, words, fv, controls=False),
    ):
        with pytest.raises(ParityError, match="eval"):
            call()
    model.eval()
    assert_exact(model)


@pytest.mark.slow
def test_train_mode_without_dropout_changes_nothing(words):
    model = tiny.build("llama")
    use(model)
    model.train()
    assert_exact(model)


@pytest.mark.slow
def test_another_attention_implementation_is_found_out_about():
    model = tiny.build("llama")
    use(model)
    config = network(model).config
    config._attn_implementation = "eager" if config._attn_implementation == "sdpa" else "sdpa"
    assert not lens_of(model).parity.length, "nothing is known of it yet"
    assert_exact(model)


@pytest.mark.slow
def test_two_threads_that_use_the_engine_get_what_one_gets(words):
    model = tiny.build("llama")
    seeds = range(4)
    expected = [indirect_effects(model, words, seed=seed, **FEW).values for seed in seeds]
    model = tiny.build("llama")  # of which nothing is known
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: indirect_effects(model, words, seed=seed, **FEW).values, seeds))
    assert all(difference(a, b) <= EXACT for a, b in zip(found, expected))
    assert not any(module.__dict__.get("forward") for module in model.blocks)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "gpt2"])
def test_plain_forwards_of_another_thread_meet_nothing_of_the_engine(name):
    """Not so GPT-2: TransformerBridge keeps the size of a batch on its position embeddings, for all threads."""
    model = tiny.build(name)
    use(model)
    lens = lens_of(model)
    ids = torch.tensor([PROMPTS[1]])
    expected, busy = model(ids).detach(), threading.Event()
    whatifs = whatifs_of(lens) * 8

    def engine():
        busy.set()
        for _ in range(6):
            what_if(lens, *oracles.padded(PROMPTS), whatifs, one_token)

    with ThreadPoolExecutor(1) as pool:
        at_work = pool.submit(engine)
        busy.wait()
        n = 0
        while not at_work.done():
            with torch.no_grad():
                assert difference(model(ids), expected) <= EXACT
            n += 1
        at_work.result()
    assert n, "there were forwards meanwhile"


@pytest.mark.slow
def test_hooks_that_move_or_change_are_told_apart(words):
    """A hook that scales what heads write in one layer, then in another: what was found of the first is forgotten."""
    model, mean_z = tiny.build("llama"), noise(3, 4, 8)
    plain = [function_vector(model, words, [(layer, 1)], 1, mean_z).vector for layer in range(3)]

    def doubled(module, inputs, out):
        return (2 * out[0], *out[1:]) if isinstance(out, tuple) else 2 * out

    for layer in (1, 0, 2, 0):
        handle = model.blocks[layer].attn.register_forward_hook(doubled)
        for other in range(3):
            found = function_vector(model, words, [(other, 1)], 1, mean_z).vector
            expected = (1 + (other == layer)) * plain[other]
            assert difference(found, expected) <= EXACT * float(expected.abs().max())
        handle.remove()
    assert len(lens_of(model).state.parities) <= 8


@pytest.mark.slow
def test_reading_a_vector_under_a_hook_at_a_position_reads_each_by_itself(llama):
    vectors = noise(5, 32)
    remove = llama.ln_final.register_forward_hook(lambda module, inputs, out: at_third(out)).remove
    found = lens_of(llama).unembed(vectors)
    alone = torch.cat([lens_of(llama).unembed(vector[None]) for vector in vectors])
    remove()
    assert difference(found, alone) <= EXACT and difference(found, lens_of(llama).unembed(vectors)) <= EXACT


# Inspected and compared once


def test_a_settled_model_is_inspected_once_and_again_afterwards(monkeypatch):
    model = tiny.build("llama")
    lens, inspected = lens_of(model), []
    monkeypatch.setattr("fv_lens.models.base.user_hooks", lambda *roots: inspected.append(roots) or [])
    with lens.settled(), lens.settled():
        lens.renew()
        lens.renew()
    assert len(inspected) == 1
    lens.renew()
    assert len(inspected) == 2
    with pytest.raises(ZeroDivisionError), lens.settled():
        raise ZeroDivisionError
    lens.renew()
    assert len(inspected) == 4


def test_what_was_compared_ahead_is_not_compared_again(words, monkeypatch):
    model = tiny.build("llama")
    lens, compared, truth = lens_of(model), [], parity._truth

    def watched(*args, **more):
        compared.append(torch.is_grad_enabled())
        return truth(*args, **more)

    monkeypatch.setattr(parity, "_truth", watched)
    long, short = (batch(lens, with_demonstrations(words, words, n)) for n in (3, 0))
    with torch.enable_grad():
        measure_ahead(lens, long)
    assert compared and not any(compared), "no graph of a comparison is kept"
    n = len(compared)
    for prompts in (short, long):
        completions(lens, prompts, [[Edit(1, noise(32))]])
    assert len(compared) == n
