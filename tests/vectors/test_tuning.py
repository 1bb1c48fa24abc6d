"""Tuned vectors: Adam by hand, what may and may not have a say in them, and what is refused."""

import json
import math
import warnings

import numpy as np
import pytest
import torch

from fv_lens.datasets.prompts import PromptTemplate
from fv_lens.datasets.relations import Relation
from fv_lens.engine.gradients import Rows
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.lessons import Lesson, training_frame, tune_lessons
from fv_lens.vectors.optimizer import EVERY, RATE, Tuning
from fv_lens.vectors.sweeps import layer_grid
from fv_lens.vectors.tuning import DEPTHS, finetune, finetune_all
from fv_lens.vectors.tuning_pairs import shuffled, tuning_pairs

from .. import oracles, tiny
from ..oracles import difference

CLOSE = 1e-4  # relative: Adam divides by a gradient's own size, so rounding weighs more than in a loss
QUICK = dict(layer=1, n_pairs=10, n_validation=4, how=Tuning(6))


def relation(name: str, shift: int = 0, n: int = 60, length: int = 2) -> Relation:
    """Few answers, so that a vector learns them; words of one and two tokens, so that prompts are padded."""
    words = [f"w{i} w{i + 1}" if i % 3 else f"w{i}" for i in range(n)]
    listed = [[f"w{100 + shift + i % 3 + j}" for j in range(length)] for i in range(n)]
    return Relation(name, [(word, [" ".join(answer), "w99"]) for word, answer in zip(words, listed)])


A, B, C = relation("a"), relation("b", 20, length=3), relation("c", 40, length=1)
SMALL, FEW = relation("small", 60, n=20), relation("few", 60, n=30)  # 8 and 12 train pairs
VARIED = Relation("varied", [(f"w{i}", f"w{100 + i}") for i in range(60)])


def noise(seed: int = 0, scale: float = 1.0, n: int = 32) -> torch.Tensor:
    return scale * torch.randn(n, generator=torch.Generator().manual_seed(seed))


def start(made_on, seed: int = 0, **record) -> FunctionVector:
    lens = lens_of(made_on)
    fitting = dict(model=lens.name, processing=lens.processing, bos=lens.bos, relation="a", split_seed=0)
    return FunctionVector(record.pop("vector", noise(seed)), 1, **fitting | record)


def in_tokens(model, part: Relation, template: str = "Q: {}\nA:") -> list[tuple[list[int], list[int]]]:
    """Prompts and whole first answers of a part, written by hand."""
    pairs = []
    for word, answers in part.pairs:
        text = template.format(word)
        prompt = model.to_tokens(text)[0].tolist()
        pairs.append((prompt, model.to_tokens(f"{text} {answers[0]}")[0, len(prompt) :].tolist()))
    return pairs


def same(a: FunctionVector, b: FunctionVector) -> bool:
    return (a.vector - b.vector).norm() <= CLOSE * b.vector.norm() and a.layer == b.layer


def identical(a: FunctionVector, b: FunctionVector) -> bool:
    return torch.equal(a.vector, b.vector) and (a.layer, a.training) == (b.layer, b.training)


# Adam by hand


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("init", ["zero", "a vector"])
def test_tuning_is_adam_by_hand(model, init):
    begin = torch.zeros(32) if init == "zero" else start(model).vector
    init = init if init == "zero" else start(model)
    fv = finetune(model, A, init, **QUICK | dict(how=Tuning(5, strengths=[1.0])))
    train, validation, _ = tuning_pairs(A, 10, 4)
    train, validation = in_tokens(model, train), in_tokens(model, validation)
    vectors, losses, checks = oracles.tuned(model, train, validation, 1, begin, 5, RATE)
    seen = [0, 2, 4, 5]  # every second step, and the last
    assert len({len(prompt) for prompt, _ in train}) > 1 and {len(answer) for _, answer in train} == {2}
    assert fv.training["losses"] == pytest.approx(losses, abs=CLOSE)
    assert [step for step, _ in fv.training["validation_losses"]] == seen
    assert [loss for _, loss in fv.training["validation_losses"]] == pytest.approx([checks[i] for i in seen], abs=CLOSE)
    best = min(seen, key=lambda step: checks[step])
    assert fv.training["chosen_step"] == best > 0 and fv.training["validation_loss"] < checks[0] - 0.1
    assert difference(fv.vector, vectors[best]) <= CLOSE * vectors[best].abs().max()


@pytest.mark.slow
def test_the_first_step_goes_a_learning_rate_against_the_gradients_sign(llama):
    fv = finetune(llama, B, **QUICK | dict(how=Tuning(1, learning_rate=0.02)))
    prompts, answers = zip(*in_tokens(llama, tuning_pairs(B, 10, 4).train))
    _, (gradient,) = oracles.losses_and_gradient(llama, prompts, answers, [0] * 10, 1, torch.zeros(1, 32))
    step = 0.02 * oracles.residual_rms(llama, prompts, 1)
    assert fv.training["chosen_step"] == 1 and {len(answer) for answer in answers} == {3}
    assert difference(fv.vector, -step * gradient.sign()) <= CLOSE * step


@pytest.mark.slow
def test_first_tokens_alone_are_tuned_on_where_that_is_asked_for(model):
    first = Relation("a", [(word, answers[0].split()[0]) for word, answers in A.pairs])
    alone, expected = (
        finetune(model, A, **QUICK | dict(how=Tuning(6, first_token=True))),
        finetune(model, first, **QUICK),
    )
    assert same(alone, expected) and not same(alone, finetune(model, A, **QUICK))
    assert alone.training["first_token"] is True


@pytest.mark.slow
def test_without_a_bos_token_prompts_begin_with_their_first_word():
    model = tiny.build("llama", bos=False)
    model.tokenizer.bos_token = None
    fv = finetune(model, A, **QUICK | dict(how=Tuning(2)))
    train, validation, _ = tuning_pairs(A, 10, 4)
    template = "Q: {}\nA:"
    ids = [
        [
            (model.tokenizer(template.format(word))["input_ids"], model.tokenizer(answers[0])["input_ids"])
            for word, answers in part.pairs
        ]
        for part in (train, validation)
    ]
    vectors, _, checks = oracles.tuned(model, *ids, 1, torch.zeros(32), 2, RATE)
    assert fv.bos is False and fv.training["chosen_step"] == 2 and checks[2] < checks[0]
    assert difference(fv.vector, vectors[2]) <= CLOSE * vectors[2].abs().max()


# Many at once


@pytest.mark.slow
@pytest.mark.parametrize("inits", ["zero", "random", "vectors"])
def test_many_relations_at_once_equal_each_alone(model, inits):
    if inits == "vectors":
        inits = {name: start(model, seed, relation=name) for seed, name in enumerate("abc")}
    together = finetune_all(model, [A, B, C], inits, **QUICK)
    assert list(together) == ["a", "b", "c"] and not together.errors
    for one in (A, B, C):
        alone = finetune(model, one, inits, **QUICK)
        assert same(together[one.name], alone)
        for part in ("losses", "train_words", "chosen_step", "validation_loss"):
            assert together[one.name].training[part] == pytest.approx(alone.training[part], abs=CLOSE)


@pytest.mark.slow
def test_relations_come_as_a_list_a_mapping_or_one(llama):
    expected = finetune(llama, A, **QUICK)
    for relations in ([A], {"any": A}, A):
        assert identical(finetune_all(llama, relations, **QUICK)["a"], expected)


def test_relations_may_be_the_path_of_one(llama, tmp_path):
    file = tmp_path / "of-a-file.json"
    file.write_text(json.dumps({"name": "a", "pairs": A.pairs}), encoding="utf-8")
    assert list(finetune_all(llama, file, **QUICK)) == ["a"]


@pytest.mark.slow
def test_the_models_weights_do_not_change():
    model = tiny.build("llama")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    finetune_all(model, [A, B], "random", **QUICK)
    assert all(torch.equal(parameter, kept) for parameter, kept in zip(model.parameters(), before, strict=True))
    assert not any(parameter.grad is not None for parameter in model.parameters())


# What is chosen, and by what


@pytest.mark.slow
def test_the_best_step_is_that_of_lowest_validation_loss(llama):
    scattered = Relation("a", [(f"w{i}", f"w{100 + i * 37 % 83}") for i in range(60)])  # not to be learnt
    fv = finetune(llama, scattered, **QUICK | dict(how=Tuning(41, learning_rate=0.2)))
    seen = dict(fv.training["validation_losses"])
    best = min(seen, key=seen.get)
    assert list(seen) == [*range(0, 41, EVERY), 41] and best not in (0, 41)
    assert fv.training["chosen_step"] == best and fv.training["validation_loss"] == seen[best]
    pairs = in_tokens(llama, tuning_pairs(scattered, 10, 4).validation)
    losses = [oracles.answer_loss(llama, *pair, 1, fv.vector).item() for pair in pairs]
    assert np.mean(losses) == pytest.approx(seen[best], abs=CLOSE)


@pytest.mark.slow
def test_no_test_answer_has_a_say(llama):
    test = A.split().test
    permuted = dict(zip(test.words, [answers for _, answers in test.pairs[1:] + test.pairs[:1]]))
    other = Relation("a", [(word, permuted.get(word, answers)) for word, answers in A.pairs])
    assert other.split().test.pairs != test.pairs and other.split().train.pairs == A.split().train.pairs
    settings = dict(layer=[0, 1, 2], n_pairs=12, n_validation=8, how=Tuning(6, strengths=(0.5, 1, 2)))
    for inits in ("random", {"a": start(llama)}):
        assert identical(*(finetune_all(llama, [one], inits, **settings)["a"] for one in (A, other)))


@pytest.mark.slow
def test_a_validation_answer_has_a_say(llama):
    validation = A.split().validation
    other = Relation("a", [(word, "w7 w8" if word in validation.words else answers) for word, answers in A.pairs])
    settings = QUICK | dict(how=Tuning(20))
    assert (
        finetune(llama, A, **settings).training["chosen_step"]
        > finetune(llama, other, **settings).training["chosen_step"]
    )


@pytest.mark.slow
def test_a_shuffled_control_is_tuned_on_the_same_words_with_wrong_answers(llama):
    train, validation, _ = tuning_pairs(VARIED, 10, 4)
    for part in (train, validation):
        wrong = shuffled(part, VARIED, 0)
        assert wrong.words == part.words and wrong != part
        assert sorted(listed[0] for _, listed in wrong.pairs) == sorted(listed[0] for _, listed in part.pairs)
        assert not any(listed[0] in VARIED.answers[word] for word, listed in wrong.pairs)
    control, plain = (
        finetune(llama, VARIED, **QUICK | dict(how=Tuning(6, shuffle=True))),
        finetune(llama, VARIED, **QUICK),
    )
    assert control.training["train_words"] == plain.training["train_words"]
    assert control.training["losses"] != plain.training["losses"]
    pairs = in_tokens(llama, shuffled(train, VARIED, 0))
    losses = [oracles.answer_loss(llama, *pair, 1, torch.zeros(32)).item() for pair in pairs]
    assert control.training["losses"][0] == pytest.approx(np.mean(losses), abs=CLOSE)


@pytest.mark.slow
def test_answers_that_cannot_be_shuffled_leave_their_relation_out(llama):
    alike = Relation("alike", [(f"w{i}", "w99") for i in range(60)])
    with pytest.warns(UserWarning, match="Left out: The answers of 'alike' cannot be exchanged"):
        assert list(finetune_all(llama, [alike, VARIED], **QUICK | dict(how=Tuning(6, shuffle=True)))) == ["varied"]


@pytest.mark.slow
def test_recorded_words_are_drawn_from_their_parts(llama):
    fv = finetune(llama, A.with_split(2), **QUICK, seed=5)
    train, validation, test = A.split(2)
    seen, checked = fv.training["train_words"], fv.training["validation_words"]
    assert set(seen) <= set(train.words) and set(checked) <= set(validation.words)
    assert (len(set(seen)), len(set(checked))) == (10, 4) == (fv.training["n_pairs"], fv.training["n_validation"])
    assert not set(seen + checked) & set(test.words) and not set(seen) & set(checked)
    assert (fv.split_seed, fv.training["seed"], fv.method, fv.relation) == (2, 5, "tuned", "a")
    assert fv.data_hash == A.hash and fv.template == PromptTemplate().to_dict() and fv.parents == ()


@pytest.mark.slow
def test_the_layer_is_that_of_lowest_mean_validation_loss(llama):
    chosen = finetune_all(llama, [A, B], **QUICK | dict(layer=[0, 1, 2]))
    each = [finetune_all(llama, [A, B], **QUICK | dict(layer=layer)) for layer in range(3)]
    means = [np.mean([fv.training["validation_loss"] for fv in tuned.values()]) for tuned in each]
    best = int(np.argmin(means))
    for name, fv in chosen.items():
        assert fv.layer == best and torch.equal(fv.vector, each[best][name].vector)
        assert [fv.training["layer_losses"][str(layer)] for layer in range(3)] == pytest.approx(means, abs=1e-5)
    assert "layer_losses" not in each[0]["a"].training


@pytest.mark.slow
def test_the_usual_layers_are_shares_of_the_depth(llama):
    lens = lens_of(llama)
    assert layer_grid(lens, DEPTHS) == [1, 2]
    fv = finetune(llama, C, **QUICK | dict(layer=None, how=Tuning(1)))
    assert list(fv.training["layer_losses"]) == ["1", "2"]


# Draws


def test_draws_of_pairs_are_nested_and_follow_the_seed():
    whole = [tuning_pairs(A, 24, 12, seed).train.words for seed in (0, 1)]
    assert whole[0] != whole[1] and set(whole[0]) == set(whole[1]) == set(A.split().train.words)
    for n in (1, 5, 12):
        train, validation, test = tuning_pairs(A, n, 3, 0)
        assert train.words == whole[0][:n] and validation.words == tuning_pairs(A, 24, 12, 0).validation.words[:3]
        assert test.pairs == A.split().test.pairs


@pytest.mark.slow
def test_a_seed_gives_one_vector_and_another_seed_another(llama):
    first, again, other = (finetune(llama, A, "random", **QUICK, seed=seed) for seed in (3, 3, 4))
    assert identical(first, again) and not same(first, other)
    assert first.training["train_words"] != other.training["train_words"]


# Starts


@pytest.mark.slow
def test_a_random_start_is_as_long_as_the_residual_stream(model):
    still = dict(QUICK, how=Tuning(1, 1e-12, (1.0,)))
    starts = [finetune_all(model, [A, B], "random", **still, seed=seed) for seed in (0, 1)]
    drawn = [starts[0]["a"], starts[0]["b"], starts[1]["a"]]
    for fv, one, seed in zip(drawn, (A, B, A), (0, 0, 1)):
        prompts = [prompt for prompt, _ in in_tokens(model, tuning_pairs(one, 10, 4, seed).train)]
        assert fv.vector.square().mean().sqrt() == pytest.approx(oracles.residual_rms(model, prompts, 1), rel=CLOSE)
    directions = torch.stack([fv.vector / fv.vector.norm() for fv in drawn])
    assert (directions @ directions.T).fill_diagonal_(0).abs().max() < 0.7


@pytest.mark.slow
def test_a_starts_strength_is_that_of_lowest_validation_loss(model):
    strengths, fv = (0.5, 1.0, 2.0, 4.0), start(model, vector=noise(2, 0.5), template={"question": "{word} :"})
    still = dict(QUICK, how=Tuning(1, 1e-12, strengths))
    tuned = finetune(model, A, fv, **still)
    pairs = in_tokens(model, tuning_pairs(A, 10, 4).validation, "{} :")
    losses = [sum(oracles.answer_loss(model, *pair, 1, s * fv.vector) for pair in pairs) for s in strengths]
    best = strengths[int(torch.stack(losses).argmin())]
    assert difference(tuned.vector, best * fv.vector) <= 1e-6
    assert tuned.parents == ((best, fv.record),) and tuned.template["question"] == "{word} :"


@pytest.mark.slow
def test_a_zero_start_has_no_strength(llama):
    zero = start(llama, vector=torch.zeros(32))
    tuned = finetune(llama, A, zero, **QUICK)
    assert torch.equal(tuned.vector, finetune(llama, A, **QUICK).vector) and tuned.parents == ((1.0, zero.record),)


@pytest.mark.parametrize(
    ("inits", "message"),
    [
        ("ones", "inits is 'ones'; give 'zero', 'random', or a mapping"),
        (None, "inits is None"),
        ({"b": "zero"}, r"no FunctionVector for 'a'; it has \['b'\]"),
        ({"a": torch.zeros(32)}, "no FunctionVector for 'a'"),
    ],
)
def test_other_starts_are_refused(llama, inits, message):
    with pytest.raises(InputError, match=message):
        finetune_all(llama, [A], inits, **QUICK)


@pytest.mark.parametrize("init", ["zeros", None, torch.zeros(32)], ids=["zeros", "None", "a tensor"])
def test_the_start_of_one_vector_is_called_init(llama, init):
    with pytest.raises(InputError, match="^init is .*; give 'zero', 'random' or a FunctionVector.$"):
        finetune(llama, A, init, **QUICK)


def test_a_start_of_another_model_is_refused(llama):
    with pytest.raises(InputError, match="The vector has 16 numbers; the residual stream of tiny/llama has 32"):
        finetune(llama, A, start(llama, vector=noise(n=16)), **QUICK)
    with pytest.raises(InputError, match="was made on 'another'"):
        finetune(llama, A, start(llama, model="another"), **QUICK)


# Relations that cannot be tuned


@pytest.mark.slow
def test_fewer_pairs_than_asked_for_are_used_with_a_warning(llama):
    with pytest.warns(UserWarning) as caught:
        fv = finetune(llama, FEW, **QUICK | dict(n_pairs=20, n_validation=10))
        finetune(llama, FEW, **QUICK | dict(n_pairs=20, n_validation=6))
        finetune(llama, FEW, **QUICK | dict(n_pairs=10, n_validation=8))
    train, validation, _ = FEW.split()
    assert [str(warning.message) for warning in caught] == [
        "'few' is tuned with 12 train and 6 validation pairs, not 20 and 10; 50 pairs would be enough.",
        "'few' is tuned with 12 train and 6 validation pairs, not 20 and 6; 48 pairs would be enough.",
        "'few' is tuned with 10 train and 6 validation pairs, not 10 and 8; 40 pairs would be enough.",
    ]
    assert set(fv.training["train_words"]) == set(train.words) and fv.training["n_pairs"] == 12
    assert set(fv.training["validation_words"]) == set(validation.words) and fv.training["n_validation"] == 6


@pytest.mark.slow
def test_a_relation_with_too_few_pairs_is_left_out_and_the_others_are_not_harmed(llama):
    with pytest.warns(UserWarning, match="Left out: relation 'small' has 20 pairs, .* give 23 or more"):
        tuned = finetune_all(llama, [A, SMALL, B], "random", **QUICK)
    assert list(tuned) == ["a", "b"] and list(tuned.errors) == ["small"]
    alone = finetune_all(llama, [A, B], "random", **QUICK)
    assert all(identical(tuned[name], alone[name]) for name in "ab")
    with pytest.raises(InputError, match="'small' has 20 pairs, too few to tune on: give 23 or more"):
        finetune(llama, SMALL, **QUICK)


def test_as_many_pairs_as_are_said_to_be_enough_are(llama):
    with pytest.raises(InputError, match="'few' has 22 pairs, too few .* give 23 or more"):
        tuning_pairs(relation("few", n=22), 20, 10)
    with pytest.warns(UserWarning, match="50 pairs would be enough"):
        assert [len(part) for part in tuning_pairs(relation("few", n=23), 20, 10)[:2]] == [10, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [len(part) for part in tuning_pairs(relation("enough", n=50), 20, 10)[:2]] == [20, 10]


def test_a_given_train_part_that_is_too_small_is_counted_by_itself():
    with pytest.raises(InputError, match="'a' has 9 train pairs, and tuning needs at least 10; give more pairs"):
        tuning_pairs(relation("a", n=60).limited(9, 5, 5), 20, 5)
    assert len(tuning_pairs(relation("a", n=60).limited(10, 1, 1), 10, 1).train) == 10


@pytest.mark.slow
def test_few_pairs_serve_where_few_are_asked_for(llama):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert finetune(llama, SMALL, **QUICK | dict(n_pairs=8)).training["n_pairs"] == 8


@pytest.mark.slow
def test_an_answer_that_cannot_be_tokenised_names_its_relation(llama):
    long = Relation("long", [(f"w{i} " * 140 + "w0", "w9") for i in range(60)])
    with pytest.warns(UserWarning, match="Left out: .*context of 128"):
        tuned = finetune_all(llama, [long, A], **QUICK)
    assert list(tuned) == ["a"] and isinstance(tuned.errors["long"], InputError)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e25, 2e38])  # twice the second is infinite; norms inside a model square the first
def test_a_start_that_overflows_leaves_its_relation_out(llama, size):
    inits = {"a": start(llama), "b": start(llama, vector=size * noise().sign(), relation="b")}
    with pytest.warns(UserWarning, match="Left out: The loss of 'b' became NaN, or its vector too large, at step 0"):
        tuned = finetune_all(llama, [A, B], inits, **QUICK | dict(how=Tuning(6, strengths=[2.0])))
    assert list(tuned.errors) == ["b"] and same(
        tuned["a"], finetune(llama, A, inits, **QUICK | dict(how=Tuning(6, strengths=[2.0])))
    )


@pytest.mark.slow
def test_a_gradient_that_becomes_nan_leaves_its_relation_out(llama, monkeypatch):
    gradient, calls = Rows.gradient, []

    def broken(self, vectors, *how):
        losses, found = gradient(self, vectors, *how)
        calls.append(1)
        found[1] = math.nan if len(calls) == 3 else found[1]
        return losses, found

    expected = finetune_all(llama, [A, B, C], **QUICK)
    monkeypatch.setattr(Rows, "gradient", broken)
    with pytest.warns(UserWarning, match="Left out: The loss of 'b' became NaN.* at step 2; lower learning_rate"):
        tuned = finetune_all(llama, [A, B, C], **QUICK)
    assert list(tuned) == ["a", "c"] and all(identical(tuned[name], expected[name]) for name in "ac")


@pytest.mark.slow
def test_an_error_is_raised_where_no_relation_is_left(llama):
    inits = {name: start(llama, vector=torch.full((32,), 3e38), relation=name) for name in "ab"}
    with pytest.raises(InputError, match="The loss of 'a' became NaN.*The loss of 'b' became NaN"):
        finetune_all(llama, [A, B], inits, **QUICK)
    with pytest.raises(InputError, match="'small' has 20 pairs, .* 'tiny' has 3 pairs, too few"):
        finetune_all(llama, [SMALL, relation("tiny", n=3)], **QUICK)


# Settings


@pytest.mark.slow(but=1)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(layer=3), r"Layer 3 is outside 0\.\.2 of tiny/llama"),
        (dict(layer=-1), "layer is -1"),
        (dict(layer=[1, 9]), r"Layer 9 is outside 0\.\.2 of tiny/llama"),
        (dict(layer=[]), "layer is an empty list"),
        (dict(how={"steps": 3}), "^how is dict; give Tuning"),
        (dict(n_pairs=0), "n_pairs is 0"),
        (dict(n_validation=0), "n_validation is 0"),
        (dict(seed=-1), "seed is -1"),
    ],
    ids=str,
)
def test_bad_numbers_are_quoted(llama, settings, message):
    with pytest.raises(InputError, match=message):
        finetune(llama, A, "random", **QUICK | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(steps=0), "steps is 0"),
        (dict(strengths=2), "^strengths is 2; give a list of numbers"),
        (dict(template="Q: {word}"), "^template is 'Q: {word}'; give a PromptTemplate"),
        (dict(learning_rate=math.nan), "learning_rate is nan"),
        (dict(learning_rate=0), "learning_rate is 0"),
        (dict(learning_rate=-0.1), "learning_rate is -0.1"),
        (dict(learning_rate=1e30), r"learning_rate is 1e\+30; give a number above 0 and at most 100"),
        (dict(strengths=[1.0, math.inf]), "strength is inf"),
    ],
    ids=str,
)
def test_bad_settings_are_quoted(settings, message):
    with pytest.raises(InputError, match=message):
        Tuning(**settings)


def test_relations_have_names_that_are_known_and_differ(llama):
    with pytest.raises(InputError, match="no bundled relation 'antonyms'; did you mean antonym"):
        finetune(llama, "antonyms", **QUICK)
    with pytest.raises(InputError, match=r"relations are \['a', 'a'\]; give at least one, and each name once"):
        finetune_all(llama, [A, relation("a", 9)], **QUICK)
    with pytest.raises(InputError, match=r"relations are \[\]"):
        finetune_all(llama, [], **QUICK)


def test_what_is_no_model_is_refused():
    with pytest.raises(InputError, match="Expected a HookedTransformer or TransformerBridge, got str"):
        finetune("llama", A, **QUICK)


# The record


def test_the_training_record_is_a_table_also_after_a_file(llama, tmp_path):
    fv = finetune(llama, A, **QUICK)
    fv.save(tmp_path / "fv")
    frame, loaded = training_frame(fv), FunctionVector.load(tmp_path / "fv")
    assert loaded.record == fv.record and torch.equal(loaded.vector, fv.vector)
    assert training_frame(loaded).equals(frame)
    assert list(frame) == ["step", "loss", "validation_loss", "chosen"] and list(frame.step) == list(range(7))
    assert list(frame.loss[:6]) == fv.training["losses"] and frame.loss[:6].notna().all() and math.isnan(frame.loss[6])
    assert list(frame.validation_loss.notna()) == [True, False] * 3 + [True]
    chosen = frame[frame.chosen]
    assert list(chosen.step) == [fv.training["chosen_step"]]
    assert chosen.validation_loss.item() == frame.validation_loss.min() == fv.training["validation_loss"]
    with pytest.raises(InputError, match="was not tuned"):
        training_frame(2.0 * fv)


# One batch


@pytest.mark.slow(but=1)
def test_lessons_and_layers_of_one_batch_are_what_they_are_alone(model):
    lens, how = lens_of(model), Tuning(6)
    lessons = [
        Lesson(r, [train], [validation], begin, seed)
        for seed, (r, begin) in enumerate([(VARIED, "zero"), (C, "random"), (B, start(model, relation="b"))])
        for train, validation, _ in [tuning_pairs(r, 10, 4, seed)]
    ]
    lessons.append(lessons[0].shuffled())
    together = tune_lessons(lens, lessons, [2, 0], how)
    for layer, vectors in together.items():
        for lesson, found in zip(lessons, vectors, strict=True):
            (alone,) = tune_lessons(lens, [lesson], [layer], how)[layer]
            assert (found.layer, found.relation) == (layer, alone.relation)
            assert difference(found.vector, alone.vector) <= CLOSE * alone.vector.norm()
            assert found.training["shuffle"] == lesson.is_shuffled
            np.testing.assert_allclose(found.training["losses"], alone.training["losses"], rtol=CLOSE)
