"""Analogies against plain full forwards: words completed greedily, choices scored, each with and without the vector."""

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fv_lens.analogies.compose import compose
from fv_lens.analogies.composition import Composition
from fv_lens.analogies.solve import MOST_TOKENS, AnalogyAnswer, choice_scores, likeliest, solve_analogy
from fv_lens.datasets.prompts import PromptTemplate
from fv_lens.engine.edits import Edit
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.patching import patch

from .. import oracles, tiny
from ..oracles import EXACT, Change

SOURCE, TARGET, LAYER = ("w3", "w5 w6"), "w8 w9", 1
CHOICES = ["w11 w12 w13", "w14", "w15 w16", "w17"]
PAIRS = [("w21", "w22 w23"), ("w24 w25 w26", "w27"), ("w28", "w29"), ("w21", "w30 w31 w32")]
ENDINGS = oracles.some_endings()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vectors_of(model, n: int = 3, **more) -> dict[str, FunctionVector]:
    lens = lens_of(model)
    record = dict(model=lens.name, processing=lens.processing, bos=lens.bos) | more
    return {name: FunctionVector(values, LAYER, **record) for name, values in zip("abcd", 3 * noise(n, lens.d_model))}


@pytest.fixture
def some_end(model, monkeypatch):
    """Half of the tokens end a word: so words of every length up to the most are completed."""
    monkeypatch.setattr(lens_of(model).state, "endings", ENDINGS)


def prompt_of(model, word: str, n_shots: int = 0, template=None) -> list[int]:
    text = (template or PromptTemplate()).prompt(word, (SOURCE,) if n_shots else ())
    return model.to_tokens(text)[0].tolist()


def written(model, token: int) -> str:
    """What a token reads as behind another, by the tokenizer itself."""
    return model.tokenizer.decode([0, token]).removeprefix("w0")


def completed(model, prompt, k: int, edits=(), ends=ENDINGS, read=None) -> dict[str, float]:
    """Word -> log P: the `k` likeliest tokens, each run on greedily to an ending, by full forwards."""
    read, found = read or (lambda token: written(model, token)), {}
    values, tokens = oracles.log_probs(model, prompt, edits).topk(k)
    for value, token in zip(values.tolist(), tokens.tolist()):
        tail = []
        while not ends[token] and len(tail) < MOST_TOKENS:
            tail.append(token)
            total = value
            following = oracles.logits(model, prompt, edits, tail)[-1].log_softmax(-1)
            token, value = int(following.argmax()), value + float(following.max())
        word = "".join(read(one) for one in tail).strip()
        if word:
            found[word] = float(np.logaddexp(found.get(word, -math.inf), total))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def same(found, expected: dict[str, float]) -> bool:
    return dict(found) == pytest.approx(expected, abs=EXACT) and [word for word, _ in found] == list(expected)


def scores_of(model, pairs, edits=(), n_shots: int = 0) -> list[float]:
    """log P(D | C) of the whole D by full forwards."""
    found = []
    for c, d in pairs:
        text = PromptTemplate().prompt(c, (SOURCE,) if n_shots else ())
        prompt, (answer,) = oracles.in_words(model, text, (d,))
        found.append(float(oracles.continuation_log_probs(model, prompt, list(answer), edits).sum()))
    return found


# Completions


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("n_shots", [0, 1])
def test_words_are_completed_as_in_full_forwards(model, some_end, n_shots):
    vectors, how = vectors_of(model), Composition(n_shots=n_shots)
    found = solve_analogy(model, vectors, SOURCE, TARGET, k=8, how=how)
    prompt, edits = prompt_of(model, TARGET, n_shots), [Change(LAYER, found.vector.vector)]
    assert same(found.completions, completed(model, prompt, 8, edits))
    assert same(found.plain_completions, completed(model, prompt, 8))
    assert found.completions != found.plain_completions and found.completions
    assert torch.equal(found.vector.vector, compose(model, vectors, SOURCE, how).vector)
    assert found.weights == found.vector.weights and (found.source, found.target) == (SOURCE, TARGET)


@pytest.mark.slow
def test_words_of_several_lengths_are_among_them(llama, monkeypatch):
    monkeypatch.setattr(lens_of(llama).state, "endings", ENDINGS)
    found = likeliest(lens_of(llama), "Q: w8\nA:", [], 60)
    lengths = {len(word.split()) for word, _ in found}
    assert {1, 2, 3} <= lengths and max(lengths) <= MOST_TOKENS
    assert same(found, completed(llama, prompt_of(llama, "w8"), 60))


@pytest.mark.slow
def test_a_word_without_an_end_has_the_most_tokens(llama, monkeypatch):
    never = torch.zeros(256, dtype=torch.bool)
    monkeypatch.setattr(lens_of(llama).state, "endings", never)
    found = likeliest(lens_of(llama), "Q: w8\nA:", [], 10)
    assert same(found, completed(llama, prompt_of(llama, "w8"), 10, ends=never))
    assert max(len(word.split()) for word, _ in found) == MOST_TOKENS


def test_where_the_text_ends_at_once_there_is_no_word(llama, monkeypatch):
    monkeypatch.setattr(lens_of(llama).state, "endings", ~torch.zeros(256, dtype=torch.bool))
    assert likeliest(lens_of(llama), "Q: w8\nA:", [], 10) == ()


@pytest.mark.slow
def test_tokens_that_read_alike_are_one_word(llama, monkeypatch):
    """Tokens read as one of four texts, so words are reached in several ways."""
    lens = lens_of(llama)
    monkeypatch.setattr(lens.state, "endings", ENDINGS)
    monkeypatch.setattr(lens, "text", lambda token: f" x{token % 4}", raising=False)
    found = likeliest(lens, "Q: w8\nA:", [], 40)
    expected = completed(llama, prompt_of(llama, "w8"), 40, read=lambda token: f" x{token % 4}")
    begun = oracles.log_probs(llama, prompt_of(llama, "w8")).topk(40).indices
    assert same(found, expected) and len(expected) < (~ENDINGS[begun]).sum()


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("k", [1, 3, 20])
def test_at_most_k_words_are_listed(llama, k):
    found = solve_analogy(llama, vectors_of(llama), SOURCE, TARGET, k=k)
    assert 1 <= len(found.completions) <= k and 1 <= len(found.plain_completions) <= k


@pytest.mark.slow
def test_the_best_word_is_what_a_patched_model_generates(model, some_end):
    found = solve_analogy(model, vectors_of(model), SOURCE, TARGET, k=1)
    prompt = torch.tensor([prompt_of(model, TARGET)])
    asked = dict(max_new_tokens=MOST_TOKENS, do_sample=False, verbose=False, stop_at_eos=False, return_type="tokens")
    for words, fv in ((found.completions, found.vector), (found.plain_completions, None)):
        if fv is None:
            out = model.generate(prompt, **asked)
        else:
            with patch(model, fv):
                out = model.generate(prompt, **asked)
        tail = out[0, prompt.shape[1] :].tolist()
        tail = tail[: next((i for i, token in enumerate(tail) if ENDINGS[token]), MOST_TOKENS)]
        assert [word for word, _ in words] == [w for w in ["".join(written(model, t) for t in tail).strip()] if w]


def test_the_template_of_the_library_asks(llama, monkeypatch):
    monkeypatch.setattr(lens_of(llama).state, "endings", ENDINGS)
    template = PromptTemplate("{word} A", prefix="w98 ")
    found = solve_analogy(llama, vectors_of(llama, template=template.to_dict()), SOURCE, TARGET, k=4)
    prompt, edits = prompt_of(llama, TARGET, template=template), [Change(LAYER, found.vector.vector)]
    assert same(found.completions, completed(llama, prompt, 4, edits))
    assert same(found.plain_completions, completed(llama, prompt, 4))


# Choices


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("n_shots", [0, 1])
def test_words_to_choose_from_are_scored_as_in_full_forwards(model, n_shots):
    found = solve_analogy(model, vectors_of(model), SOURCE, TARGET, CHOICES, how=Composition(n_shots=n_shots))
    pairs, edits = [(TARGET, choice) for choice in CHOICES], [Change(LAYER, found.vector.vector)]
    check(found, scores_of(model, pairs, edits, n_shots), scores_of(model, pairs, n_shots=n_shots))
    assert found.choices == tuple(CHOICES) and found.completions


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("n_shots", [0, 1])
def test_pairs_to_choose_from_are_scored_as_in_full_forwards(model, n_shots):
    found = solve_analogy(model, vectors_of(model), SOURCE, None, PAIRS, how=Composition(n_shots=n_shots))
    edits = [Change(LAYER, found.vector.vector)]
    check(found, scores_of(model, PAIRS, edits, n_shots), scores_of(model, PAIRS, n_shots=n_shots))
    assert found.choices == tuple(PAIRS) and found.completions == found.plain_completions == ()


def check(found: AnalogyAnswer, expected: list[float], plain: list[float]):
    assert found.scores == pytest.approx(expected, abs=EXACT) and found.plain_scores == pytest.approx(plain, abs=EXACT)
    assert found.choice == max(range(len(expected)), key=expected.__getitem__)
    assert found.plain_choice == max(range(len(plain)), key=plain.__getitem__)
    assert expected != pytest.approx(plain, abs=1e-2), "a vector that does nothing would pass"


@pytest.mark.slow
@pytest.mark.parametrize("target, choices", [(TARGET, CHOICES), (None, PAIRS)], ids=["words", "pairs"])
def test_the_index_is_in_the_callers_order(llama, target, choices):
    first = solve_analogy(llama, vectors_of(llama), SOURCE, target, choices)
    for order in ([3, 1, 0, 2], [2, 3, 1, 0], [1, 0, 3, 2]):
        found = solve_analogy(llama, vectors_of(llama), SOURCE, target, [choices[i] for i in order])
        assert found.scores == pytest.approx([first.scores[i] for i in order], abs=EXACT)
        assert found.choices[found.choice] == first.choices[first.choice]
        assert found.choices[found.plain_choice] == first.choices[first.plain_choice]


@pytest.mark.slow
def test_a_vector_that_makes_a_choice_likely_makes_it_chosen(llama):
    for i, choice in enumerate(["w40", "w41", "w42"]):
        values = 1e3 * llama.unembed.W_U[:, 40 + i].detach()
        vectors = {"only": FunctionVector(values, 2, model="tiny/llama", bos=True)}
        found = solve_analogy(llama, vectors, SOURCE, TARGET, ["w40", "w41", "w42"], k=1)
        assert found.choice == i and found.completions[0][0].split()[0] == choice and found.weights == {"only": 1.0}


def test_each_question_has_its_own_vector_and_demonstrations(model):
    lens, vectors = lens_of(model), 3 * noise(2, 3, 32)
    asked = [((), PAIRS[:2]), ((SOURCE,), PAIRS), ((), PAIRS[1:])]
    found = choice_scores(lens, PromptTemplate(), asked, [[Edit(LAYER, vectors[0])], [Edit(0, vectors[1, 2])]])
    assert [one.shape for one in found] == [(2, 3), (4, 3), (3, 3)]
    for i, ((shown, pairs), mine) in enumerate(zip(asked, found)):
        rows = [[], [Change(LAYER, vectors[0, i])], [Change(0, vectors[1, 2])]]
        expected = np.array([scores_of(model, pairs, edits, len(shown)) for edits in rows]).T
        assert np.abs(mine - expected).max() <= EXACT


# Without the vector


@pytest.mark.slow
def test_nothing_added_is_the_model_without_the_vector(llama):
    found = solve_analogy(llama, vectors_of(llama), SOURCE, TARGET, CHOICES, how=Composition(scale=0.0))
    assert dict(found.completions) == pytest.approx(dict(found.plain_completions), abs=EXACT)
    assert found.scores == pytest.approx(found.plain_scores, abs=EXACT) and found.choice == found.plain_choice


@pytest.mark.slow
def test_what_is_said_of_the_model_alone_does_not_depend_on_the_library(llama):
    one = solve_analogy(llama, vectors_of(llama), SOURCE, TARGET, CHOICES)
    other = solve_analogy(llama, {"z": 2.0 * vectors_of(llama)["b"]}, SOURCE, TARGET, CHOICES, how="uniform")
    assert dict(one.plain_completions) == pytest.approx(dict(other.plain_completions), abs=EXACT)
    assert one.plain_scores == pytest.approx(other.plain_scores, abs=EXACT) and one.scores != other.scores


@pytest.mark.slow
def test_solving_leaves_the_model_as_it_was(llama):
    prompt = oracles.random_prompts(7)[0]
    before = oracles.log_probs(llama, prompt)
    for how in ("posterior", "gradient", "fitted"):
        solve_analogy(llama, vectors_of(llama), SOURCE, TARGET, CHOICES, k=2, how=how)
    assert torch.equal(oracles.log_probs(llama, prompt), before) and not lens_of(llama).patches


@pytest.mark.slow
def test_the_order_of_the_mapping_changes_nothing(llama):
    vectors = vectors_of(llama)
    one, other = (
        solve_analogy(llama, dict(some), SOURCE, TARGET, CHOICES)
        for some in (vectors.items(), reversed(vectors.items()))
    )
    assert one.scores == other.scores and one.completions == other.completions
    assert list(one.weights.items()) == list(other.weights.items())


# What an answer shows


@pytest.mark.slow
def test_an_answer_without_choices_chooses_none(llama):
    found = solve_analogy(llama, vectors_of(llama), SOURCE, TARGET)
    assert found.choice is None is found.plain_choice and found.choices == found.scores == found.plain_scores == ()
    frame = found.to_frame()
    assert list(frame.columns) == ["word", "log_prob", "plain_log_prob"]
    assert dict(zip(frame["word"], frame["log_prob"])) == dict(found.completions)
    plain = dict(found.plain_completions)
    for word, value in zip(frame["word"], frame["plain_log_prob"]):
        assert value == plain[word] if word in plain else math.isnan(value)


@pytest.mark.slow
def test_an_answers_frame_has_its_choices_in_order(llama):
    for target, choices in ((TARGET, CHOICES), (None, PAIRS)):
        found = solve_analogy(llama, vectors_of(llama), SOURCE, target, choices)
        frame = found.to_frame()
        names = choices if target else [" : ".join(pair) for pair in choices]
        assert frame["choice"].tolist() == names
        assert frame["score"].tolist() == list(found.scores) and frame["plain_score"].tolist() == list(
            found.plain_scores
        )


def test_an_answer_reads_as_an_analogy():
    answer = AnalogyAnswer(
        ("hot", "cold"), "big", (("small", math.log(0.62)),), (("hot", math.log(0.31)),),
        {"antonym": 0.934, "size": 0.066}, ("small", "huge"), (-0.5, -2.0), (-3.0, -1.0),
    )  # fmt: skip
    lines = str(answer).splitlines()
    assert lines[0] == "hot : cold :: big : ?" and "antonym 0.93, size 0.07" in lines[1]
    assert "small 0.62" in lines[2] and "hot 0.31" in lines[3]
    small, huge = lines[4:]
    assert "small" in small and small.endswith("*") and "huge" in huge and huge.endswith("(without)")
    assert "?" in str(replace(answer, target=None)).splitlines()[0]


# What is refused


@pytest.mark.parametrize(
    "target, choices, message",
    [
        (None, None, "target is None and there are no choices; give C, or choices that are pairs C:D."),
        (TARGET, ["w1"], "choices is ['w1']; give at least two to choose from, or None to complete."),
        (TARGET, [], "choices is []; give at least two"),
        (None, [("w1", "w2")], "choices is [('w1', 'w2')]; give at least two"),
        (TARGET, PAIRS, "The choice ('w21', 'w22 w23') does not fit target 'w8 w9'; give words D."),
        (TARGET, ["w1", ("w2", "w3")], "The choice ('w2', 'w3') does not fit target"),
        (None, CHOICES, "The choice 'w11 w12 w13' does not fit target None; give pairs (C, D), as target is None."),
        (None, [("w1", "w2"), "w3"], "The choice 'w3' does not fit target None; give pairs (C, D)"),
        (None, [("w1", "w2"), ("w3",)], "The choice ('w3',) does not fit target None"),
        (None, [("w1", "w2"), ("w3", "w4", "w5")], "The choice ('w3', 'w4', 'w5') does not fit target None"),
        (None, [("w1", "w2"), ()], "The choice () does not fit target None"),
        (TARGET, [("w1",), "w2"], "The choice ('w1',) does not fit target"),
        (TARGET, "w4", "choices is 'w4'"),  # not the letters w and 4
        (TARGET, [1, 2], "The choice 1 does not fit target"),
    ],
    ids=str,
)
def test_choices_that_do_not_fit_are_refused(llama, target, choices, message):
    with pytest.raises(InputError) as refused:
        solve_analogy(llama, vectors_of(llama), SOURCE, target, choices)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


SILENT = "\u200b"  # not blank to Python, and nothing to the tokenizer below


@pytest.fixture
def silent(monkeypatch):
    """A model whose tokenizer drops zero-width spaces."""
    model = tiny.build("llama")
    lens = lens_of(model)
    tokens = type(lens).tokens
    monkeypatch.setattr(type(lens), "tokens", lambda self, text: tokens(self, text.replace(SILENT, "")))
    assert lens.tokens(f"w1 {SILENT}") == lens.tokens("w1")
    return model


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("nothing", ["", "  ", SILENT], ids=["empty", "blank", "no tokens"])
@pytest.mark.parametrize("place", ["A", "B", "target", "choice D", "C of a pair", "D of a pair"])
def test_a_word_that_is_nothing_is_refused(silent, place, nothing):
    asked = {
        "A": ((nothing, "w1"), TARGET),
        "B": (("w1", nothing), TARGET),
        "target": (SOURCE, nothing),
        "choice D": (SOURCE, TARGET, ["w1", nothing]),
        "C of a pair": (SOURCE, None, [("w1", "w2"), (nothing, "w3")]),
        "D of a pair": (SOURCE, None, [("w1", "w2"), ("w3", nothing)]),
    }
    with pytest.raises(InputError) as refused:
        solve_analogy(silent, vectors_of(silent), *asked[place])
    assert "\n" not in str(refused.value)


def test_what_compose_refuses_is_refused(llama):
    vectors = vectors_of(llama)
    for wrong, more, message in [
        ({}, {}, "The library has no vectors"),
        (vectors | {"z": replace(vectors["a"], model="gpt2")}, {}, "The library mixes vectors of model"),
        (vectors | {"z": replace(vectors["a"], layer=2)}, {}, "The library mixes vectors of layer"),
        (vectors | {"z": replace(vectors["a"], site="hook_resid_mid")}, {}, "The library mixes vectors of site"),
        (vectors | {"z": replace(vectors["a"], vector=noise(16))}, {}, "The vector has 16 numbers"),
        (vectors, dict(how="postrior"), "how is 'postrior'; give a Composition, or one of"),
        (vectors, dict(k=0), "k is 0; give a whole number of at least 1"),
    ]:
        with pytest.raises(InputError) as refused:
            solve_analogy(llama, wrong, SOURCE, TARGET, **more)
        assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "asked, message",
    [
        ((SOURCE, 3), "3 is not a word; give text, such as 'big'."),
        ((SOURCE, ["w1"]), "['w1'] is not a word"),
        ((None, TARGET), "The source pair is None; give two words"),
        (("ab", TARGET), "The source pair is 'ab'; give two words"),
        ((SOURCE, TARGET, 5), "choices is 5; give at least two"),
        ((SOURCE, TARGET, {"w1": "w2", "w3": "w4"}), "choices is {'w1'"),
    ],
    ids=str,
)
def test_what_is_no_word_is_quoted(llama, asked, message):
    with pytest.raises(InputError) as refused:
        inspect.unwrap(solve_analogy)(llama, vectors_of(llama), *asked)
    assert str(refused.value).startswith(message)


def test_an_active_patch_is_refused(llama):
    vectors = vectors_of(llama)
    with patch(llama, vectors["a"]), pytest.raises(InputError, match="patch is active"):
        solve_analogy(llama, vectors, SOURCE, TARGET)
