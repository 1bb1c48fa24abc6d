"""Baselines of a tuned vector: trained as plain PyTorch trains, on its pairs, and measured as it is measured."""

import time

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

import fv_lens
from fv_lens.datasets.instructions import instructions
from fv_lens.datasets.prompts import PromptTemplate, corrupted, few_shot
from fv_lens.datasets.relation_files import relation_names
from fv_lens.datasets.relations import Relation
from fv_lens.engine.completion import completions
from fv_lens.engine.whatif import Edit
from fv_lens.evaluation.baselines import costs, steering, training
from fv_lens.evaluation.baselines import rows as rows_module
from fv_lens.evaluation.baselines.compare import baselines
from fv_lens.evaluation.baselines.costs import memory_held, prepared, timed
from fv_lens.evaluation.baselines.names import METHODS, TRAINED
from fv_lens.evaluation.baselines.steering import activation_addition, instructed, mean_difference
from fv_lens.evaluation.baselines.training import (
    AnswerRows,
    TrainingPrompts,
    behind_virtual_tokens,
    first_with_same_history,
    train,
)
from fv_lens.ground.errors import InputError
from fv_lens.models import onednn
from fv_lens.models.adapters import with_lora, with_soft_prompt
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.optimizer import Tuning
from fv_lens.vectors.tuning import finetune
from fv_lens.vectors.tuning_pairs import shuffled, tuning_pairs

from .. import oracles, tiny

peft = pytest.importorskip("peft")

WORDS = [f"w{i} w{i + 1}" if i % 3 else f"w{i}" for i in range(60)]
ANSWERS = [" ".join(f"w{100 + i % 3 + j}" for j in range(1 + i % 2)) for i in range(60)]  # of one and two tokens
RELATION = Relation("a", list(zip(WORDS, ANSWERS)))
OTHER = Relation("b", [(f"w{i}", f"w{150 + i % 4}") for i in range(60)])
QUICK = Tuning(4)
RATE = 0.3


@pytest.fixture(scope="module")
def fv(llama):
    return finetune(llama, RELATION, layer=1, how=QUICK)


@pytest.fixture(scope="module")
def others(llama):
    return {"b": finetune(llama, OTHER, layer=1, how=Tuning(2)), "c": FunctionVector(torch.randn(32), 1)}


@pytest.fixture(scope="module")
def table(llama, fv, others):
    return baselines(llama, RELATION, fv, others=others, instruction="w1 w2", how=QUICK)


CHAT = (
    "{% for turn in messages %}<{{ turn.role }}> {{ turn.content }} </s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def prompt_tuned(rows):
    """PEFT's own prompt tuning of the same network, with these virtual tokens."""
    plain = peft.get_peft_model(
        tiny.network("llama"), peft.PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=len(rows))
    )
    plain.prompt_encoder["default"].embedding.weight.data.copy_(rows)
    return plain.eval()


def nats(plain, pair):
    """An answer's cross-entropy by one full forward of an unpadded prompt."""
    prompt, answer = pair
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    logits = plain(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(answer) :]
    return -logits.log_softmax(-1)[range(len(answer)), answer].sum()


def prompts_of(model):
    return TrainingPrompts.of(lens_of(model), tuning_pairs(RELATION), PromptTemplate())


# Training


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("perplexity", [False, True])
def test_losses_and_gradients_are_those_of_plain_torch(llama, perplexity):
    adapted = with_soft_prompt(lens_of(llama), 2)
    rows = AnswerRows(adapted, prompts_of(llama).train)
    losses = rows.backward(perplexity)
    pairs = oracles.in_tokens(llama, tuning_pairs(RELATION).train)
    plain = prompt_tuned(adapted.parameters[0].detach())
    expected = torch.stack([nats(plain, pair) for pair in pairs])
    values = (expected / torch.tensor([len(answer) for _, answer in pairs])).exp() if perplexity else expected
    (slope,) = torch.autograd.grad(values.mean(), plain.prompt_encoder["default"].embedding.weight)
    assert len({len(prompt) for prompt, _ in pairs}) > 1 and {len(answer) for _, answer in pairs} == {1, 2}
    assert torch.allclose(losses, expected.detach(), atol=1e-4) and torch.allclose(losses, rows.losses(), atol=1e-5)
    assert (adapted.parameters[0].grad - slope).norm() <= 1e-4 * slope.norm()


def test_gradients_of_adapters_are_those_of_forwards_one_by_one(llama):
    adapted, generator = with_lora(lens_of(llama), range(3)), torch.Generator().manual_seed(3)
    for parameter in adapted.parameters:
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    AnswerRows(adapted, prompts_of(llama).train).backward()
    pairs = oracles.in_tokens(llama, tuning_pairs(RELATION).train)
    expected = torch.stack([nats(adapted.lens.network, pair) for pair in pairs]).mean()
    slopes = torch.autograd.grad(expected, adapted.parameters)
    for parameter, slope in zip(adapted.parameters, slopes):
        assert (parameter.grad - slope).norm() <= 1e-4 * slope.norm()


def test_tokens_have_the_same_history_whatever_padding_stands_before():
    ids = torch.tensor([[5, 6, 7, 6], [0, 5, 6, 7], [0, 5, 6, 8], [9, 5, 6, 7]])
    read = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]).bool()
    assert first_with_same_history(ids, read).tolist() == [[0, 1, 2, 3], [4, 0, 1, 2], [8, 0, 1, 11], [12, 13, 14, 15]]


def test_what_fills_up_a_shorter_answer_stands_for_no_token_of_a_longer_one():
    ids, read = torch.tensor([[5, 6, 0], [5, 6, 0]]), torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    assert first_with_same_history(ids, read).tolist() == [[0, 1, 2], [0, 1, 5]]


@pytest.mark.skipif(onednn._product is None, reason="this build of torch has no oneDNN")
def test_what_prompts_share_is_multiplied_once(llama, monkeypatch):
    multiplied, product = [], onednn._product
    monkeypatch.setattr(onednn, "_product", lambda x, *args: multiplied.append(len(x)) or product(x, *args))
    rows = AnswerRows(with_soft_prompt(lens_of(llama), 5), prompts_of(llama).train)
    multiplied.clear()
    rows.losses()
    (chunk,) = rows.chunks
    of_rows = [ids[read].tolist() for ids, read in zip(chunk.ids, chunk.read)]
    sequences = {tuple(ids[: at + 1]) for ids in of_rows for at in range(len(ids))}
    assert max(multiplied) == len(sequences) < int(chunk.read.sum()) / 2


def test_training_is_adam_by_hand_and_keeps_the_step_of_lowest_validation_loss(llama):
    adapted = with_soft_prompt(lens_of(llama), 1)
    plain = prompt_tuned(adapted.parameters[0].detach())
    trained = train(adapted, prompts_of(llama), [RATE], Tuning(5))
    parts = [oracles.in_tokens(llama, part) for part in tuning_pairs(RELATION)[:2]]
    rows = plain.prompt_encoder["default"].embedding.weight
    scale = llama.original_model.get_input_embeddings().weight.detach().square().mean().sqrt()
    adam, values, checks = torch.optim.Adam([rows], lr=RATE * float(scale)), [], []
    for _ in range(6):
        with torch.no_grad():
            checks.append(float(torch.stack([nats(plain, pair) for pair in parts[1]]).mean()))
        values.append(rows.detach().clone())
        adam.zero_grad()
        torch.stack([nats(plain, pair) for pair in parts[0]]).mean().backward()
        adam.step()
    seen = [0, 2, 4, 5]  # every second step and the last, as for vectors
    assert list(trained.losses) == seen and list(trained.losses.values()) == pytest.approx(
        [checks[step] for step in seen], abs=1e-3
    )
    assert trained.step == min(seen, key=lambda step: checks[step]) > 0
    assert (adapted.parameters[0] - values[trained.step]).norm() <= 1e-3 * values[trained.step].norm()


def test_the_step_that_is_kept_may_be_the_start(llama):
    adapted = with_soft_prompt(lens_of(llama), 1)
    start = adapted.parameters[0].detach().clone()
    rows = prompts_of(llama)
    trained = train(adapted, TrainingPrompts(rows.train, rows.train), [1e4], Tuning(2))
    assert trained.step == 0 and torch.equal(adapted.parameters[0], start)


@pytest.mark.parametrize("others", [[1e-6], [1e30]], ids=["too slow", "breaks"])
def test_a_rate_that_is_worse_on_trial_changes_nothing(llama, others):
    how = Tuning(training.TRIAL + 2)
    alone, beside = (with_soft_prompt(lens_of(llama), 1) for _ in range(2))
    first, second = train(alone, prompts_of(llama), [RATE], how), train(beside, prompts_of(llama), [*others, RATE], how)
    assert first == second and first.rate == RATE
    assert torch.equal(alone.parameters[0], beside.parameters[0])


def test_first_tokens_alone_are_trained_on_where_the_vector_was(llama):
    rows = AnswerRows(with_soft_prompt(lens_of(llama), 1), prompts_of(llama).train, first_token=True)
    assert rows.n_tokens.unique().tolist() == [1]


def test_a_trained_prompt_completes_as_plain_torch_does(llama):
    adapted = with_soft_prompt(lens_of(llama), 3)
    prompts = behind_virtual_tokens(adapted, prompts_of(llama).validation)
    assert prompts.tokens[prompts.mask.bool()].tolist().count(adapted.virtual[0]) == len(prompts)
    found = completions(adapted.lens, prompts, []).log_prob[:, 0]
    plain = prompt_tuned(adapted.parameters[0].detach())
    with torch.no_grad():
        expected = [-float(nats(plain, pair)) for pair in oracles.in_tokens(llama, tuning_pairs(RELATION).validation)]
    assert found == pytest.approx(expected, abs=1e-4)


# The table


def test_every_method_has_a_row_and_the_same_words(table, fv):
    named = ["zero-shot", "10-shot", "another relation's, best", "another relation's, mean"]
    assert set(table.rows) == {"tuned vector", *named, *METHODS} - {"other relations"} and not table.gaps
    assert {row.result.accuracy.n for row in table.rows.values()} == {len(RELATION.split().test)}
    assert table.words.word.tolist() == list(RELATION.split().test.words)


def test_trained_numbers_are_counted(table):
    counts = {name: row.cost.parameters for name, row in table.rows.items()}
    of_block = 64 + 48 + 48 + 64 + 3 * (32 + 48)  # in + out of the seven linear maps of a block
    assert counts["tuned vector"] == 32
    assert (counts["soft prompt, 1 token"], counts["soft prompt, 5 tokens"]) == (32, 160)
    assert (counts["LoRA, injection layer"], counts["LoRA, all layers"]) == (of_block, 3 * of_block)
    assert counts["instruction"] == counts["activation addition"] == counts["10-shot"] == 0


def test_what_is_trained_costs_time_and_memory(table):
    for name in METHODS[:4]:
        cost = table.rows[name].cost
        assert cost.seconds > 0 and cost.memory > 4 * 20 * 256, "logits of the train prompts alone take more"
    assert np.isnan(table.rows["tuned vector"].cost.seconds), "it was tuned elsewhere"


def test_what_completes_validation_words_costs_time_and_memory(table):
    for name in ("activation addition", "mean difference", "another relation's, best"):
        assert table.rows[name].cost.seconds > 0 and table.rows[name].cost.memory > 4 * 256, "logits alone take more"


def test_the_count_of_memory_takes_nothing_of_the_seconds():
    kept = torch.zeros(8)

    def run():
        if _get_current_dispatch_mode():
            time.sleep(0.5)
        return (kept + 1).sum()

    value, seconds, memory = prepared(run)
    assert value == 8 and seconds < 0.25 and memory == 36


def test_no_method_is_timed_while_memory_is_counted(llama, fv, others, monkeypatch):
    counted = []

    def spy(run):
        counted.append(_get_current_dispatch_mode())
        return timed(run)

    for module in (rows_module, costs):
        monkeypatch.setattr(module, "timed", spy)
    baselines(llama, RELATION, fv, others=others, methods=METHODS[1:2] + METHODS[4:], how=Tuning(1))
    assert counted == [None] * 4


def test_training_begins_where_it_would_without_the_step_whose_memory_is_counted(llama, fv, monkeypatch):
    begun = []

    def spy(adapted, *given):
        begun.append((_get_current_dispatch_mode() is not None, adapted.values()))
        return train(adapted, *given)

    monkeypatch.setattr(rows_module, "train", spy)
    baselines(llama, RELATION, fv, methods=TRAINED, how=QUICK)
    trained = dict(zip(TRAINED, begun[1::2]))
    assert [counted for counted, _ in begun] == [True, False] * len(TRAINED)
    for name, (_, values) in trained.items():
        n_tokens = {"soft prompt, 1 token": 1, "soft prompt, 5 tokens": 5}.get(name)
        every = range(3) if name.endswith("all layers") else [fv.layer]
        lens = lens_of(llama)
        fresh = with_soft_prompt(lens, n_tokens) if n_tokens else with_lora(lens, every)
        assert all(map(torch.equal, values, fresh.values())) and len(values) == len(fresh.values())


def test_in_inference_mode_all_is_trained_as_outside(llama, fv, table):
    with torch.inference_mode():
        inside = baselines(llama, RELATION, fv, methods=TRAINED, how=QUICK)
    for name in TRAINED:
        one, other = inside.rows[name], table.rows[name]
        assert one.chosen == other.chosen and one.result.accuracy == other.result.accuracy
        assert float(one.result.log_prob) == pytest.approx(float(other.result.log_prob), abs=1e-5)


def test_the_tuned_vector_is_measured_as_by_evaluate(llama, table, fv):
    own = fv_lens.evaluate(llama, RELATION, fv, controls=False)
    row = table.rows["tuned vector"].result
    assert (row.accuracy, row.first_token_accuracy) == (own.accuracy, own.first_token_accuracy)
    assert float(row.log_prob) == pytest.approx(float(own.log_prob), abs=1e-4)
    gain = table.rows["zero-shot"].result.log_prob_gain
    assert float(gain) == pytest.approx(float(row.log_prob) - float(table.rows["zero-shot"].result.log_prob), abs=1e-4)


def test_all_see_the_pairs_the_vector_saw_and_go_as_many_steps(llama, monkeypatch):
    fv = finetune(llama, RELATION, layer=1, n_pairs=12, n_validation=5, seed=3, how=Tuning(3))
    seen = []

    def spy(adapted, prompts, rates, how):
        seen.append((prompts.train.words, prompts.validation.words, how.steps))
        return train(adapted, prompts, rates, how)

    monkeypatch.setattr(rows_module, "train", spy)
    table = baselines(llama, RELATION, fv, methods=["soft prompt, 1 token"])
    words = tuple(fv.training["train_words"]), tuple(fv.training["validation_words"])
    assert [item[:2] for item in seen] == [words] * len(seen) and seen[-1][2] == 3
    assert (table.n_pairs, table.n_validation) == (12, 5)


def test_without_a_vector_one_is_tuned_here_and_its_cost_known(llama):
    table = baselines(llama, RELATION, how=QUICK, methods=[])
    cost = table.rows["tuned vector"].cost
    assert (
        cost.parameters == 32
        and cost.seconds > 0
        and cost.memory > 0
        and (table.n_pairs, table.n_validation) == (20, 10)
    )


def test_the_best_other_vector_is_chosen_on_validation_and_the_mean_is_over_all(llama, table, others):
    scores = {name: fv_lens.evaluate(llama, RELATION, vector, controls=False) for name, vector in others.items()}
    edits = [[Edit(vector.layer, vector.vector)] for vector in others.values()]
    measured = completions(lens_of(llama), prompts_of(llama).validation, edits)
    quality = list(zip(measured.right[:, 1:].mean(0), measured.log_prob[:, 1:].mean(0)))
    best = table.rows["another relation's, best"]
    name = best.chosen.split(",")[0]
    assert name == list(others)[quality.index(max(quality))] and quality[0] != quality[1]
    assert float(best.result.log_prob) == pytest.approx(float(scores[name].log_prob), abs=1e-4)
    mean = np.mean([float(score.log_prob) for score in scores.values()])
    assert float(table.rows["another relation's, mean"].result.log_prob) == pytest.approx(mean, abs=1e-4)


def test_the_instruction_stands_before_the_prompt(llama):
    assert instructed(lens_of(llama), PromptTemplate(), "Say {it}.").prompt("big") == "Say {it}.\n\nQ: big\nA:"
    headed = PromptTemplate(prefix="Words.\n")
    assert instructed(lens_of(llama), headed, "Say.").prompt("big") == "Say.\n\nWords.\nQ: big\nA:"


@pytest.mark.parametrize("system", ["", "<system> be {{ '{' }}kind} </s>\n"], ids=["alone", "system"])
@pytest.mark.parametrize("question", ["{word}", "What of {word}, {{now}}?"])
def test_the_instruction_stands_in_the_users_turn(system, question):
    model = tiny.chatting(system + CHAT)
    template = PromptTemplate.chat(model, question)
    found = instructed(lens_of(model), template, "Say {it}.").prompt("w5")
    turn = {"role": "user", "content": f"Say {{it}}.\n{question.format(word='w5')}"}
    assert found == model.tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    plain = instructed(lens_of(model), PromptTemplate(), "Say.").prompt("w5")
    assert plain == "Say.\n\nQ: w5\nA:", "the form of the template counts, not what the model has"


def test_where_a_turn_begins_is_not_guessed(fv):
    model = tiny.chatting(CHAT)
    own = PromptTemplate("<user> {word} </s>\n<model>")
    table = baselines(
        model, RELATION, fv, instruction="w1 w2", methods=["instruction", "activation addition"],
        how=Tuning(1, template=own),
    )  # fmt: skip
    assert "holds the special token '</s>' and is not the chat form" in table.gaps["instruction"]
    assert "instruction" not in table.rows and "activation addition" in table.rows


def test_every_bundled_relation_has_an_instruction_of_one_short_sentence():
    assert set(instructions()) == set(relation_names())
    for text in instructions().values():
        assert text[0].isupper() and text.endswith(".") and text.count(".") == 1 and len(text.split()) <= 12


def test_what_cannot_be_measured_is_a_gap_with_its_reason(llama, fv):
    table = baselines(llama, RELATION, fv, methods=["instruction", "other relations"])
    assert "no instruction is known for 'a'; pass instruction=" in table.gaps["instruction"]
    assert "pass others={name: vector}" in table.gaps["another relation's, best"]
    assert "left out" in str(table) and "pass instruction=" in table._repr_html_()


def test_a_method_that_cannot_be_trained_is_a_gap_and_not_the_end(llama, fv, monkeypatch):
    def refuse(lens, *settings):
        raise InputError("no linear map")

    monkeypatch.setattr(rows_module, "with_lora", refuse)
    table = baselines(llama, RELATION, fv, methods=["LoRA, injection layer", "activation addition"])
    assert table.gaps == {"LoRA, injection layer": "no linear map"} and "activation addition" in table.rows


def test_the_table_shows_itself(table):
    text, html, frame = str(table), table._repr_html_(), table.to_frame()
    assert table.verdict in text and all(name in text for name in table.rows)
    assert html.count("<tr") >= len(table.rows) and "LoRA, all layers" in html
    assert list(frame.index) == list(table.rows)
    assert {"accuracy", "accuracy_gain_low", "parameters", "seconds", "memory", "chosen"} <= set(frame.columns)
    assert table.best in table.rows and table.best != table.name


# Vectors that are measured


def last_residuals(model, texts, layer):
    rows = []
    for text in texts:
        _, cache = model.run_with_cache(model.to_tokens(text), names_filter=f"blocks.{layer}.hook_resid_post")
        rows.append(cache[f"blocks.{layer}.hook_resid_post"][0, -1])
    return torch.stack(rows).mean(0)


@pytest.fixture
def candidates(monkeypatch):
    """The vectors that one is chosen of, at strength 1."""
    seen, best_of = [], steering.best_of

    def chosen(lens, relation, vectors, *rest):
        seen[:] = [vector for (vector,) in vectors if vector.strength == 1]
        return best_of(lens, relation, vectors, *rest)

    monkeypatch.setattr(steering, "best_of", chosen)
    return seen


def check(model, candidates, contrasts, vector, chosen):
    """Each candidate is a difference of means at its layer, and the chosen vector is the one that is named."""
    layers = list(dict.fromkeys(fv.layer for fv in candidates))
    assert len(candidates) == len(contrasts) * len(layers) >= 4
    by_hand = {
        (name, layer): last_residuals(model, shown, layer) - last_residuals(model, plain, layer)
        for name, (shown, plain) in contrasts.items()
        for layer in layers
    }
    for fv, difference in zip(candidates, by_hand.values()):
        assert (fv.vector - difference).norm() <= 1e-4 * difference.norm() and difference.norm() > 1e-3
    contrast, layer, strength = chosen.split(", ")
    layer, strength = int(layer.split()[1]), float(strength.split()[1])
    assert (vector.layer, vector.strength) == (layer, strength)
    expected = strength * by_hand[contrast, layer]
    assert (vector.vector - expected).norm() <= 1e-4 * expected.norm()


def test_activation_addition_is_a_mean_difference_of_two_prompts(llama, candidates):
    vector, chosen = activation_addition(lens_of(llama), RELATION, PromptTemplate(), "w7 w8")
    train_part = RELATION.split().train
    wrong = shuffled(train_part, RELATION, 0)

    def answered(part):
        return [f"Q: {word}\nA: {answers[0]}" for word, answers in part.pairs]

    bare = [f"Q: {word}\nA:" for word in train_part.words]
    contrasts = {
        "answered": (answered(train_part), bare),
        "right against wrong": (answered(train_part), answered(wrong)),
        "instructed": ([f"w7 w8\n\n{text}" for text in bare], bare),
    }
    assert wrong.words == train_part.words and vector.method == "activation addition"
    assert all(a != b for (_, a), (_, b) in zip(wrong.pairs, train_part.pairs))
    check(llama, candidates, contrasts, vector, chosen)


def test_mean_difference_is_that_of_few_shot_prompts_and_others(llama, candidates):
    vector, chosen = mean_difference(lens_of(llama), RELATION, PromptTemplate())
    train_part = RELATION.split().train
    n, shots = len(train_part), min(steering.SHOTS, len(train_part) - 1)

    def written(prompts):
        return ["".join(f"Q: {w}\nA: {a}\n\n" for w, a in prompt.demonstrations) + f"Q: {prompt.word}\nA:"
                for prompt in prompts]  # fmt: skip

    intact, wrong = few_shot(train_part, n, shots, 0), corrupted(train_part, n, shots, 0)
    contrasts = {
        "against zero-shot": (written(intact), [f"Q: {prompt.word}\nA:" for prompt in intact]),
        "against shuffled": (written(intact), written(wrong)),
    }
    assert vector.method == "mean difference"
    check(llama, candidates, contrasts, vector, chosen)


def test_mean_difference_takes_few_shot_prompts_of_the_train_words_alone(llama):
    vector, chosen = mean_difference(lens_of(llama), RELATION, PromptTemplate())
    assert vector.method == "mean difference" and chosen.split(",")[0] in ("against zero-shot", "against shuffled")
    changed = Relation("a", [(w, (f"w{3 + i}",) if w in RELATION.split().test.answers else a)
                             for i, (w, a) in enumerate(RELATION.pairs)])  # fmt: skip
    again, _ = mean_difference(lens_of(llama), changed, PromptTemplate())
    assert torch.equal(vector.vector, again.vector)


# The user's model


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_model_is_as_it_was_also_after_an_error_in_the_middle(monkeypatch, error):
    made = tiny.build("llama")
    made.original_model.requires_grad_(True)
    ids = torch.arange(1, 9)[None]
    fv = FunctionVector(torch.ones(32), 1)
    logits, state = made(ids).detach(), {name: value.clone() for name, value in made.state_dict().items()}
    modules = [(name, id(module), module.training) for name, module in made.named_modules()]
    calls = []

    def breaking(self, perplexity=False):
        calls.append(self)
        if len(calls) == 3:
            raise error("in the middle")
        return BACKWARD(self, perplexity)

    BACKWARD = AnswerRows.backward
    monkeypatch.setattr(AnswerRows, "backward", breaking)
    with pytest.raises(error, match="in the middle"):
        baselines(made, RELATION, fv, methods=["LoRA, all layers"], how=QUICK)
    assert torch.equal(made(ids), logits) and all(parameter.requires_grad for parameter in made.parameters())
    assert modules == [(name, id(module), module.training) for name, module in made.named_modules()]
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())
    assert all(parameter.grad is None for parameter in made.parameters())


@pytest.mark.skipif(not tiny.HOOKED_INSTALLED, reason="TransformerLens 4 has no HookedTransformer")
def test_a_hooked_transformer_has_the_rows_that_train_nothing_in_it():
    made = tiny.build("hooked-llama")
    fv = FunctionVector(torch.ones(32), 1)
    with pytest.raises(InputError, match='HookedTransformer.*cls="bridge"'):
        baselines(made, RELATION, fv)
    table = baselines(made, RELATION, fv, methods=["activation addition", "mean difference"])
    assert {"activation addition", "mean difference"} <= set(table.rows)


# What is refused


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(methods=["magic"]), "methods has 'magic'; give a list of 'soft prompt, 1 token'"),
        (dict(methods="instruction"), "methods has 'instruction'"),
        (dict(methods=None), "methods has None"),
        (dict(methods=[3, "x"]), "methods has 3"),
        (dict(fv=3), "fv is int"),
        (dict(others={"b": 3}), "others is not a mapping"),
        (dict(instruction=" "), "instruction is"),
    ],
)
def test_bad_arguments_are_refused(llama, bad, message):
    with pytest.raises(InputError, match=message):
        baselines(llama, RELATION, **bad)


def test_a_vector_of_another_relations_words_is_refused(llama, others):
    with pytest.raises(InputError, match="tuned with the train word .* not in the train part of 'a'"):
        baselines(llama, Relation("a", [(f"w{i}0", f"w{i}") for i in range(20)]), others["b"], methods=[])


# Memory


def test_memory_is_that_of_the_tensors_alive_together():
    kept = torch.zeros(500)
    with memory_held() as most:
        for _ in range(3):
            made = torch.zeros(1000)
            view = made.view(10, 100)
            del made, view
        kept.add_(1)
        first = torch.ones(1000)
        second = first + 1
        del first, second
    assert most() == 8000


def test_lora_is_measured_behind_the_same_prompts(llama):
    adapted = with_lora(lens_of(llama), [1])
    prompts = prompts_of(llama).train
    assert behind_virtual_tokens(adapted, prompts) is prompts
