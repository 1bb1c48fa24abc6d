"""Tests of the exercises: what a function gives is compared with what fv_lens gives, on a few pairs of a relation.

A test returns what agreed. Else it raises `Wrong`, which a notebook shows in one line; mistakes that are easily made
(`mistakes`) are known by what they give.

Example:
    >>> test_answer_log_prob(answer_log_prob, model)
    ✓ answer_log_prob is right: 6 of 6 results agree with fv_lens.
"""

import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

import fv_lens
from fv_lens.datasets.prompts import few_shot, with_demonstrations
from fv_lens.datasets.relation_files import RelationLike, load_relation
from fv_lens.datasets.relations import Split
from fv_lens.vectors.tuning_pairs import shuffled, tuning_pairs

from .mistakes import MISTAKES
from .solutions import prompt_of, step_size

RELATION = "present-past"
N_SHOTS = 4  # of the few-shot prompts that are compared
PARTS = 12, 6, 6  # train, validation and test pairs
CLOSE = 5e-4  # of the largest number: what float32 and another order of sums may differ by

Function = Callable[..., Any]


class Wrong(AssertionError):
    """What is wrong with the solution of an exercise."""

    def _render_traceback_(self) -> list[str]:  # IPython shows this instead of the stack
        return [f"\N{BALLOT X} {self}"]


@dataclass(frozen=True)
class Passed:
    """How many results of a function agreed with fv_lens: all of them."""

    function: str
    n: int

    def __repr__(self) -> str:
        return f"\N{CHECK MARK} {self.function} is right: {self.n} of {self.n} results agree with fv_lens."


def test_prompt_of(function: Function) -> Passed:
    """The text is that of the default `PromptTemplate`."""
    cases: list[tuple[Any, ...]] = [("see", [("go", "went"), ("do", "did")]), ("big", [("hot", "cold")]), ("see",)]
    for case in cases:
        text, right = _given("prompt_of", function, case), fv_lens.PromptTemplate().prompt(*case)
        if text != right:
            given = ", ".join(map(repr, case))
            raise Wrong(f"prompt_of({given}) gives {text!r}; it should be {right!r}.")
    return Passed("prompt_of", len(cases))


@torch.no_grad()
def test_answer_log_prob(function: Function, model: TransformerBridge, relation: RelationLike = RELATION) -> Passed:
    """As in `evaluate`: test words in few-shot prompts."""
    part = load_relation(relation).limited(*PARTS)
    with fv_lens.no_progress():
        words = fv_lens.evaluate(model, part, n_shots=N_SHOTS, controls=False).words
    prompts = with_demonstrations(part.split().test, part.split().train, N_SHOTS)
    cases = [(model, prompt_of(shots.word, shots.demonstrations), shots.answers[0]) for shots in prompts]
    order = _longest_first(model, [shots.answers[0] for shots in prompts])
    expected = torch.tensor(words["log_prob"].tolist())[order]
    return _compared("answer_log_prob", function, [cases[i] for i in order], expected)


@torch.no_grad()
def test_indirect_effect(function: Function, model: TransformerBridge, relation: RelationLike = RELATION) -> Passed:
    """As in the map of `indirect_effects`: its three strongest heads, in two prompts."""
    part = load_relation(relation).limited(*PARTS)
    with fv_lens.no_progress():
        effects = fv_lens.indirect_effects(model, part, n_prompts=2, n_shots=N_SHOTS, n_mean_prompts=4)
    prompts = effects.batch
    assert prompts is not None  # only a mean over relations has none
    where = [(i, *head) for i in range(2) for head in effects.top(3)]
    cases = [
        (model, prompts.texts[i], int(prompts.answer_ids[i]), layer, head, effects.mean_z[layer, head])
        for i, layer, head in where
    ]
    expected = torch.stack([effects.values[place] for place in where])
    return _compared("indirect_effect", function, cases, expected)


@torch.no_grad()
def test_summed_vector(function: Function, model: TransformerBridge, relation: RelationLike = RELATION) -> Passed:
    """As `function_vector` sums: two heads of one layer and one of the last."""
    part, last = load_relation(relation).limited(*PARTS), model.cfg.n_layers - 1
    heads = [(last // 2, 1), (last // 2, 2), (last, 1)]
    with fv_lens.no_progress():
        mean_z, _ = fv_lens.mean_head_outputs(model, part, n_prompts=3, n_shots=N_SHOTS)
        expected = fv_lens.function_vector(model, part, heads, layer=last, mean_z=mean_z).vector
    prompts = [prompt_of(shots.word, shots.demonstrations) for shots in few_shot(part.split().train, 3, N_SHOTS)]
    return _compared("summed_vector", function, [(model, prompts, heads)], expected[None])


def test_log_prob_with_vector(
    function: Function, model: TransformerBridge, relation: RelationLike = RELATION
) -> Passed:
    """As in `sweep`: validation words under a vector at two layers. And the result can be differentiated."""
    part, layers = load_relation(relation).limited(*PARTS), (1, model.cfg.n_layers // 2)
    vector = _some_vector(model, layers[1])
    with fv_lens.no_progress():
        sweep = fv_lens.sweep(model, part, fv_lens.FunctionVector(vector, layers[0]), layers, (1.0,))
    pairs = [(word, answers[0]) for word, answers in part.split().validation.pairs]
    order = _longest_first(model, [answer for _, answer in pairs])
    cases = [(model, prompt_of(pairs[i][0]), pairs[i][1], vector, layer) for i in order for layer in layers]
    expected = torch.from_numpy(sweep.log_probs[order, 0, :, 0]).float().flatten()
    with torch.no_grad():
        passed = _compared("log_prob_with_vector", function, cases, expected)
    result = function(*cases[0][:3], vector.requires_grad_(), layers[0])
    if not isinstance(result, Tensor) or not result.requires_grad:
        raise Wrong(
            "the numbers are right, but the result cannot be differentiated, as exercise 5 does: return a tensor, and "
            "leave out .item(), float(), .detach() and torch.no_grad()."
        )
    return passed


def test_tune(function: Function, model: TransformerBridge, relation: RelationLike = RELATION) -> Passed:
    """As `finetune` tunes: in small steps, and in large ones whose validation pairs have each other's answers.

    On these the loss is lowest before the last step, as the vector learns the right answers.
    """
    whole, layer, steps = load_relation(relation), model.cfg.n_layers // 2, 4
    train, validation, test = tuning_pairs(whole, 3, 2)
    start = 0.2 * _some_vector(model, layer)
    given, expected, cases = start.clone(), [], []
    for rate, checked in ((0.05, validation), (0.5, shuffled(train, whole))):
        fv, how = fv_lens.FunctionVector(start, layer), fv_lens.Tuning(steps, rate, strengths=(1.0,))
        part = replace(whole, parts=Split(train, checked, test))
        with fv_lens.no_progress():
            tuned = fv_lens.finetune(model, part, fv, layer=layer, n_pairs=3, n_validation=len(checked), how=how)
        expected.append(tuned.vector)
        pairs = [[(word, answers[0]) for word, answers in split.pairs] for split in (train, checked)]
        cases.append((model, *pairs, given, layer, step_size(model, train.words, layer, rate), steps))
    passed = _compared("tune", function, cases, torch.stack(expected))
    if not torch.equal(given, start):
        raise Wrong("the function changed the vector that it was given: let it move a copy, start.clone().")
    return passed


@torch.no_grad()
def test_composite(function: Function, model: TransformerBridge, relation: RelationLike = RELATION) -> Passed:
    """As in `compose`: mixtures of three vectors, for two pairs of words."""
    layer = model.cfg.n_layers // 2
    library = {name: _some_vector(model, layer, seed) for seed, name in enumerate(("one", "three", "two"))}
    vectors = {name: fv_lens.FunctionVector(vector, layer) for name, vector in library.items()}
    pairs = [(word, answers[0]) for word, answers in load_relation(relation).pairs[:2]]
    with fv_lens.no_progress():
        expected = torch.stack([fv_lens.compose(model, vectors, pair).vector for pair in pairs])
    return _compared("composite", function, [(model, library, layer, pair) for pair in pairs], expected)


def _longest_first(model: TransformerBridge, answers: Sequence[str]) -> list[int]:
    """The order in which answers of several tokens come first: they tell more mistakes apart."""
    lengths = [model.to_tokens(f" {answer}").shape[1] for answer in answers]
    return sorted(range(len(answers)), key=lambda i: -lengths[i])


# Comparing


def _compared(name: str, function: Function, cases: Sequence[tuple[Any, ...]], expected: Tensor) -> Passed:
    """`Passed`, if the function gives what is expected of each case; else `Wrong`, with the reason if it is known."""
    for case, right in zip(cases, expected, strict=True):
        value = _given(name, function, case)
        if _same(value, right):
            continue
        gives = f"{name} gives {_described(value)}, fv_lens {_described(right)}"
        if reason := _reason(name, case, value):
            raise Wrong(f"{reason}. ({gives}.)")
        given = [_described(argument) for argument in case[1:]]  # without the model
        raise Wrong(f"{gives}, for {', '.join(given)}.")
    return Passed(name, len(cases))


def _given(name: str, function: Function, case: tuple[Any, ...]) -> Any:
    """What the function gives; `Wrong` if it is not written yet, or gives nothing."""
    try:
        value = function(*case)
    except NotImplementedError as error:
        unwritten = traceback.extract_tb(error.__traceback__)[-1].name  # the function, or one that it calls
        raise Wrong(f"{unwritten} is not written yet: put your code in place of `raise NotImplementedError`.") from None
    if value is None:
        raise Wrong(f"{name} gives None: end it with `return`.")
    return value


def _reason(name: str, case: tuple[Any, ...], value: Any) -> str | None:
    """The mistake that gives the same value."""
    for reason, wrong in MISTAKES[name].items():
        with suppress(Exception):  # a mistake may be impossible in some model
            if _same(value, torch.as_tensor(wrong(*case))):
                return reason
    return None


def _same(value: Any, right: Tensor) -> bool:
    """Whether a value has the shape and, to float tolerance, the numbers that are right."""
    with suppress(TypeError, ValueError, RuntimeError):  # no numbers at all
        value = torch.as_tensor(value).detach().to("cpu", torch.float32)
        right = right.detach().to("cpu", torch.float32)
        return value.shape == right.shape and bool((value - right).abs().max() <= CLOSE * right.abs().max() + 1e-6)
    return False


def _described(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Tensor) and value.dim():
        return f"a tensor {list(value.shape)} of norm {float(value.norm()):.4g}"
    if isinstance(value, int | str):
        return repr(value)
    with suppress(TypeError, ValueError):
        return f"{float(value):.4g}"
    return f"a {type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else type(value).__name__


def _some_vector(model: TransformerBridge, layer: int, seed: int = 0) -> Tensor:
    """A random vector, half as long as the residual stream after the layer."""
    direction = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(seed))
    return direction * step_size(model, ["see"], layer, rate=0.5)
