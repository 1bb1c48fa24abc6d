"""The lesson: solutions pass their tests, and tests name what is wrong with anything else. Notebooks open in Colab."""

import ast
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from fv_lens.datasets.relations import Relation

from . import tiny

DEMOS = Path(__file__).parents[1] / "demos"
sys.path.insert(0, str(DEMOS))

from lesson import solutions  # noqa: E402
from lesson import tests as lesson_tests  # noqa: E402
from lesson.mistakes import MISTAKES  # noqa: E402
from lesson.timing import Stopwatch, Times  # noqa: E402
from pages import notebooks  # noqa: E402

EXERCISES = ["prompt_of", *MISTAKES]
WORDS = Relation("words", [(f"w{i}", f"w{i + 1} w{i + 2}" if i % 4 == 0 else f"w{i + 1}") for i in range(0, 80, 2)])
OF_TOKENIZERS = [  # what the tiny models' tokenizer, which splits at spaces, cannot tell apart
    reason for reason in MISTAKES["answer_log_prob"] if "without its space" in reason or "model.tokenizer" in reason
]
NAMED = [(name, reason) for name in MISTAKES for reason in MISTAKES[name] if reason not in OF_TOKENIZERS]


def frozen(model):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


@pytest.fixture(scope="module", params=tiny.params())
def model(request):
    return frozen(tiny.build(request.param))


@pytest.fixture(scope="module")
def gpt2():
    return frozen(tiny.build("gpt2"))


def verdict(name: str, function, model):
    """What the test of an exercise says of a function."""
    test = getattr(lesson_tests, f"test_{name}")
    return test(function) if name == "prompt_of" else test(function, model, WORDS)


def wrong(name: str, function, model) -> str:
    with pytest.raises(lesson_tests.Wrong) as caught:
        verdict(name, function, model)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300
    assert caught.value._render_traceback_() == [f"✗ {message}"]
    return message


def cells(kind: str) -> dict[str, str]:
    """The cells of the lesson of one kind, by the name of their function."""
    notebook = json.loads((DEMOS / "lesson.ipynb").read_text(encoding="utf-8"))
    tagged = [(cell["metadata"].get("tags") or [""], "".join(cell["source"])) for cell in notebook["cells"]]
    return {tags[1]: source for tags, source in tagged if tags[0] == kind}


# Solutions and tests


@pytest.mark.parametrize("name", EXERCISES)
def test_a_solution_passes(name, model):
    if name == "summed_vector" and "gemma2" in model.cfg.model_name:
        pytest.skip("a norm stands behind attention, so heads do not write z @ W_O")
    passed = verdict(name, getattr(solutions, name), model)
    assert passed.function == name and passed.n >= 1 and f"{name} is right: {passed.n} of {passed.n}" in repr(passed)


@pytest.mark.parametrize("name", EXERCISES)
def test_a_function_as_the_notebook_leaves_it_is_not_written_yet(name, gpt2):
    names = dict(vars(solutions))
    exec(cells("exercise")[name], names)
    assert f"{name} is not written yet" in wrong(name, names[name], gpt2)


def test_a_function_that_is_called_and_not_written_is_named(gpt2):
    names = dict(vars(solutions))
    exec(cells("exercise")["log_prob_with_vector"], names)
    exec(notebooks.sources()["tune"], names)
    assert wrong("tune", names["tune"], gpt2).startswith("log_prob_with_vector is not written yet")


@pytest.mark.slow(but=6)
@pytest.mark.parametrize(("name", "reason"), NAMED)
def test_a_mistake_is_named(name, reason, gpt2):
    assert wrong(name, MISTAKES[name][reason], gpt2).startswith(reason)


@pytest.mark.parametrize("reason", OF_TOKENIZERS)
def test_a_mistake_of_tokens_is_named(reason, default_model):
    function = MISTAKES["answer_log_prob"][reason]
    with pytest.raises(lesson_tests.Wrong) as caught:
        lesson_tests.test_answer_log_prob(function, default_model)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize("name", MISTAKES)
def test_what_gives_nothing_or_no_number_is_told_so(name, gpt2):
    assert "gives None: end it with `return`" in wrong(name, lambda *case: print(end=""), gpt2)
    assert f"{name} gives 'a word'" in wrong(name, lambda *case: "a word", gpt2)


@pytest.mark.parametrize(
    ("shown", "part"),
    [("Q: {}\nA:{}\n\n", "A:went"), ("Q: {}\nA: {}\n", r"went\nQ"), ("{}: {}\n\n", "'go: went")],
)
def test_another_prompt_is_shown_beside_the_right_one(shown, part, gpt2):
    def prompt_of(word, demonstrations=()):
        return "".join(shown.format(*pair) for pair in demonstrations) + f"Q: {word}\nA:"

    message = wrong("prompt_of", prompt_of, gpt2)
    assert part in message and r"it should be 'Q: go\nA: went\n\nQ: do\nA: did\n\nQ: see\nA:'" in message


def test_a_mistake_that_nobody_foresaw_is_shown_with_its_case(gpt2):
    message = wrong("answer_log_prob", lambda model, prompt, answer: torch.tensor(1.5), gpt2)
    assert "answer_log_prob gives 1.5, fv_lens -" in message and "'Q: w" in message


@pytest.mark.parametrize("at", [-1, 0])
def test_a_vector_at_another_token_fails(at, gpt2):
    def log_prob_with_vector(model, prompt, answer, vector, layer):
        n, tokens = model.to_tokens(prompt).shape[1], model.to_tokens(f"{prompt} {answer}")

        def add(x, hook):
            x = x.clone()
            x[0, at] += vector
            return x

        logits = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.hook_resid_post", add)])
        return logits[0].log_softmax(-1)[n - 1 : -1].gather(1, tokens[0, n:, None]).sum()

    message = wrong("log_prob_with_vector", log_prob_with_vector, gpt2)
    assert ("it was added at the answer's last token" in message) == (at == -1)


def test_a_result_that_cannot_be_differentiated_fails(gpt2):
    def log_prob_with_vector(*case):
        return solutions.log_prob_with_vector(*case).item()

    assert "cannot be differentiated" in wrong("log_prob_with_vector", log_prob_with_vector, gpt2)


def test_a_step_chosen_by_the_train_loss_fails(gpt2):
    wrong("tune", lambda model, train, validation, *rest: solutions.tune(model, train, train, *rest), gpt2)


def test_a_start_that_is_moved_fails(gpt2):
    def tune(model, train, validation, start, *rest):
        best = solutions.tune(model, train, validation, start, *rest)
        start += 1e-6
        return best

    assert "start.clone()" in wrong("tune", tune, gpt2)


def test_the_wrong_layer_fails(gpt2):
    def summed_vector(model, prompts, heads):
        return solutions.summed_vector(model, prompts, [(layer - 1, head) for layer, head in heads])

    wrong("summed_vector", summed_vector, gpt2)


def test_an_error_of_the_function_itself_is_not_hidden(gpt2):
    with pytest.raises(ZeroDivisionError):
        verdict("composite", lambda *case: 1 / 0, gpt2)


# Times


def test_times_are_those_spent_and_do_not_show_where_runs_are_compared():
    with Stopwatch() as clock:
        sum(range(10_000))
    assert 0 < clock.seconds < 5
    times = Times("One head", 1.5, 0.002)
    assert repr(times) == "Times of One head, by hand and by fv_lens"
    assert times._repr_html_() == "<p>One head: 1.5 s by hand, 2 ms by fv_lens, which is 750 times as fast.</p>"


# What is written into notebooks


def test_notebooks_and_readme_are_as_they_are_written():
    for file, text in notebooks.files(notebooks.address()).items():
        assert file.read_text(encoding="utf-8") == text, f"{file.name}: run python demos/pages/notebooks.py"


def test_every_notebook_has_its_badge_and_its_line_in_the_readme():
    assert set(notebooks.TITLES) == {file.stem for file in DEMOS.glob("*.ipynb")}


def test_another_address_leaves_nothing_of_the_old_one():
    for file, text in notebooks.files("https://github.com/someone/else").items():
        assert notebooks.address() not in text and "fv-lens/fv-lens/blob" not in text, file.name
        assert "https://colab.research.google.com/github/someone/else/blob/main/demos/" in text


@pytest.mark.parametrize("place", ["elsewhere", "Colab", "Colab, restarted"])
def test_the_first_cell_installs_in_colab_and_does_nothing_elsewhere(place, monkeypatch, capfd):
    done = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: done.append(command))
    monkeypatch.setattr(os, "chdir", lambda folder: done.append(folder))
    monkeypatch.setattr(os.path, "exists", lambda path: place == "Colab, restarted")
    if place != "elsewhere":
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    exec(notebooks.install(notebooks.address()), {})
    assert capfd.readouterr() == ("", "")
    if place == "elsewhere":
        assert not done
        return
    *cloned, installed, folder = done
    assert installed[1:4] == ["-m", "pip", "install"] and folder == f"{installed[-1]}/demos"
    expected = [["git", "clone", "--quiet", "--depth=1", notebooks.address(), installed[-1]]]
    assert cloned == ([] if place == "Colab, restarted" else expected)


def test_exercises_are_the_solutions_without_their_code():
    assert list(cells("exercise")) == list(cells("solution")) == EXERCISES
    for name, text in cells("exercise").items():
        (function,) = ast.parse(text).body
        whole = ast.parse(notebooks.sources()[name]).body[0]
        assert ast.unparse(function.args) == ast.unparse(whole.args)
        assert ast.get_docstring(function) == ast.get_docstring(whole)
        assert ast.unparse(function.body[1:]) == "raise NotImplementedError"
        assert len(notebooks.sources()[name].splitlines()) - len(text.splitlines()) < 25, "more than ten minutes' work"
