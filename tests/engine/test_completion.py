"""Whole-answer completion against greedy decoding of single prompts, token by token through full forwards."""

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge

from fv_lens.engine import completion
from fv_lens.engine.batches import PromptBatch
from fv_lens.engine.completion import FEW, Completions, completions
from fv_lens.engine.whatif import Edit
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of

from .. import oracles, tiny
from ..oracles import EXACT, Change

PROMPTS = oracles.random_prompts(9, 13, 5, 9, 6, 12)
ENDINGS = oracles.some_endings()
MANY = FEW + 2
PARTS = ("right", "log_prob", "rank", "first_log_prob")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def asked(prompts, answers) -> PromptBatch:
    """A batch of prompts with their answers, all in ids."""
    first = torch.tensor([listed[0][0] for listed in answers])
    nothing = tuple("" for _ in prompts)
    return PromptBatch(*oracles.padded(prompts), first, tuple(map(tuple, answers)), nothing, nothing)


def of_prompt(whatif, i):
    """The oracle's form of a what-if on one prompt."""
    return [Change(e.layer, e.value if e.value.dim() == 1 else e.value[i], e.head) for e in whatif]


def by_hand(model, prompts, answers, whatifs, endings=ENDINGS) -> Completions:
    ends = endings.nonzero()[:, 0].tolist()
    rows = [
        [
            oracles.completion(model, ids, listed, ends, edits)
            for edits in ([], *(of_prompt(whatif, i) for whatif in whatifs))
        ]
        for i, (ids, listed) in enumerate(zip(prompts, answers))
    ]
    return Completions(*(np.array([[getattr(x, part) for x in row] for row in rows]) for part in PARTS))


def same(found: Completions, expected: Completions) -> bool:
    return (
        np.array_equal(found.right, expected.right)
        and np.array_equal(found.rank, expected.rank)
        and np.abs(found.log_prob - expected.log_prob).max() <= EXACT
        and np.abs(found.first_log_prob - expected.first_log_prob).max() <= EXACT
    )


def answers_of(model, whatifs):
    """For each prompt one to three answers of one to three tokens: what it and its what-ifs write, and some misses."""
    rng, listed = np.random.default_rng(0), []
    for i, ids in enumerate(PROMPTS):
        answers = []
        for row in rng.permutation(len(whatifs) + 1)[: 2 + i % 2]:
            tops = oracles.greedy(model, ids, 3, of_prompt(whatifs[row - 1], i) if row else [])
            answers.append(tuple(min(top) for top in tops[: rng.integers(1, 4)]))
        if i % 3 == 0:
            answers.insert(i % 2, tuple(rng.integers(0, 200, 1 + i % 2).tolist()))
        listed.append(tuple(answers))
    return listed


@pytest.fixture(scope="module")
def task(model):
    """What-ifs, answers, and by hand how each is completed."""
    lens, n = lens_of(model), len(PROMPTS)
    d_model, d_head = lens.d_model, lens.d_head
    whatifs = [
        [Edit(1, 3 * noise(d_model, seed=1))],
        [Edit(0, 3 * noise(n, d_model, seed=2))],
        [Edit(1, 3 * noise(n, d_head, seed=3), 2), Edit(2, 3 * noise(d_model, seed=4))],
        [Edit(2, 2 * noise(d_head, seed=5), 1)],
        [],
        [Edit(2, 3 * noise(n, d_model, seed=6)), Edit(0, noise(d_model, seed=7))],
    ]
    answers = answers_of(model, whatifs)
    return whatifs, answers, by_hand(model, PROMPTS, answers, whatifs)


@pytest.fixture(scope="module")
def llama_task(llama):
    whatifs = [[Edit(1, 3 * noise(len(PROMPTS), 32, seed=seed))] for seed in range(MANY)]
    answers = answers_of(llama, whatifs)
    return whatifs, answers, by_hand(llama, PROMPTS, answers, whatifs)


@pytest.fixture
def some_end(monkeypatch):
    """Half of a model's tokens, or those given, end an answer."""
    return lambda model, endings=ENDINGS: monkeypatch.setattr(lens_of(model).state, "endings", endings)


@pytest.fixture(params=["few", "many"])
def few_or_many(request, monkeypatch):
    """First listed answers are asked at once, or only where a row begins them."""
    monkeypatch.setattr(completion, "FEW", 100 if request.param == "few" else -1)


# The same as greedy decoding, token by token


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("n", [0, 3, MANY])
def test_completions_are_those_of_single_full_forwards(model, task, some_end, n):
    whatifs, answers, expected = task
    some_end(model)
    found = completions(lens_of(model), asked(PROMPTS, answers), whatifs[:n])
    assert found.right.shape == (len(PROMPTS), 1 + n) and same(found, expected.rows(slice(0, 1 + n)))


def test_the_task_has_answers_right_and_wrong_and_long(task):
    _, answers, expected = task
    assert expected.right.any() and ((expected.rank == 0) & ~expected.right).any() and (expected.rank > 0).any()
    assert {1, 2, 3} <= {len(answer) for listed in answers for answer in listed}


@pytest.mark.slow
def test_an_answer_that_goes_on_is_another_answer(llama, some_end, few_or_many):
    """ " smaller" is not " small": the model writes a b c, and only what c follows ends there."""
    written = (
        (ids, whatif, [min(top) for top in oracles.greedy(llama, ids, 4, of_prompt(whatif, 0))])
        for ids in PROMPTS
        for whatif in ([Edit(1, 3 * noise(32, seed=seed))] for seed in range(9))
    )
    ids, whatif, (a, b, c, _) = next(found for found in written if len(set(found[2])) == 4)
    lists = [[(a,)], [(a, b)], [(a, b, c)], [(a,), (a, b, c)], [(a,), (a, b)], [(b,), (a, b)], [(a, c), (b,)]]
    some_end(llama, torch.arange(256) == c)
    found = completions(lens_of(llama), asked([ids] * len(lists), lists), [whatif])
    assert found.right[:, 1].tolist() == [False, True, False, False, True, True, False]
    assert found.rank[:, 1].tolist() == [0] * len(lists)
    some_end(llama, ENDINGS & False)
    assert not completions(lens_of(llama), asked([ids] * len(lists), lists), [whatif]).right.any()


@pytest.mark.slow
def test_a_vector_along_an_unembedding_row_completes_the_answers_of_that_token(llama, some_end, few_or_many):
    """Edits act at the last prompt token only: what follows the answer is the model's own, and here it may end."""
    whatif = [Edit(2, 1000 * llama.unembed.W_U[:, 7].detach())]
    answers = [[(7,)], [(8,)], [(9,), (7,)], [(7, 7, 7)], [(9, 7), (10,), (7,)], [(8,), (9,)]]
    some_end(llama, torch.ones(256, dtype=torch.bool))
    found = completions(lens_of(llama), asked(PROMPTS, answers), [whatif])
    assert found.right[:, 1].tolist() == [True, False, True, False, True, False]
    assert same(found, by_hand(llama, PROMPTS, answers, [whatif], torch.ones(256)))


@pytest.mark.slow
def test_the_order_of_answers_matters_to_the_log_probability_alone(llama, llama_task, some_end, few_or_many):
    whatifs, answers, expected = llama_task
    some_end(llama)
    turned = [listed[1:] + listed[:1] for listed in answers]
    found = completions(lens_of(llama), asked(PROMPTS, turned), whatifs)
    for part in ("right", "rank"):
        assert np.array_equal(getattr(found, part), getattr(expected, part))
    assert np.abs(found.first_log_prob - expected.first_log_prob).max() <= EXACT
    own = by_hand(llama, PROMPTS, turned, whatifs).log_prob
    assert np.abs(found.log_prob - own).max() <= EXACT < np.abs(own - expected.log_prob).min(1).max()


@pytest.mark.slow
def test_an_answer_listed_twice_counts_once(llama, llama_task, some_end, few_or_many):
    whatifs, answers, expected = llama_task
    some_end(llama)
    assert same(completions(lens_of(llama), asked(PROMPTS, [2 * listed for listed in answers]), whatifs), expected)


# However it is run


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    together=st.integers(1, 64), few=st.sampled_from([-1, 100]), order=st.permutations(range(len(PROMPTS))),
    rows=st.lists(st.integers(0, MANY - 1), max_size=MANY),
)  # fmt: skip
def test_a_completion_does_not_depend_on_what_is_asked_beside_it(llama, llama_task, together, few, order, rows):
    whatifs, answers, expected = llama_task
    chosen = [[edit.for_prompts(torch.tensor(order)) for edit in whatifs[row]] for row in rows]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lens_of(llama).state, "endings", ENDINGS)
        patched.setattr(completion, "TOGETHER", together)
        patched.setattr(completion, "FEW", few)
        found = completions(lens_of(llama), asked([PROMPTS[i] for i in order], [answers[i] for i in order]), chosen)
    assert same(found, expected.prompts(order).rows([0, *(1 + row for row in rows)]))


@pytest.mark.slow
def test_answers_that_no_row_begins_are_not_run_on(llama, monkeypatch):
    calls, what_if = [], completion.what_if

    def spy(lens, tokens, mask, whatifs, read, tail):
        calls.append((len(tokens), len(whatifs), tail))
        return what_if(lens, tokens, mask, whatifs, read, tail=tail)

    monkeypatch.setattr(completion, "what_if", spy)
    whatifs = [[Edit(2, 1000 * llama.unembed.W_U[:, token].detach())] for token in (7, 8, 9, 10, 11)]
    never = next(token for token in range(100, 200) if all({token} != oracles.greedy(llama, p, 1)[0] for p in PROMPTS))
    completions(lens_of(llama), asked(PROMPTS, [[(never,)]] * 6), whatifs)
    assert calls == [(6, 5, 1)]
    completions(lens_of(llama), asked(PROMPTS, [[(never,), (8, 3)], *[[(never,)]] * 5]), whatifs)
    assert calls[1:] == [(6, 5, 1), (1, 1, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, MANY])
def test_every_prompt_is_told_as_begun_once(llama, llama_task, n):
    whatifs, answers, _ = llama_task
    told = []
    completions(lens_of(llama), asked(PROMPTS, answers), whatifs[:n], told.append)
    assert sum(told) == len(PROMPTS) and min(told) > 0


def test_an_edit_of_one_value_per_prompt_is_taken_apart_by_prompt():
    values = noise(4, 8)
    assert torch.equal(Edit(1, values, 2).for_prompts(torch.tensor([3, 0, 3])).value, values[[3, 0, 3]])
    assert torch.equal(Edit(1, values[0]).for_prompts(torch.tensor([3, 0])).value, values[0])


# Ties and numbers that are none


def written(lens, monkeypatch, tops, broken=None):
    """The model predicts each of `tops[0]`, then each of `tops[1]`, ... with the same logit, whatever it is asked.

    At the place that is `broken`, one logit is NaN.
    """

    def readout(rows):
        logits = torch.zeros(*rows.shape[:2], 256)
        for place, tokens in enumerate(tops[: rows.shape[1]]):
            logits[:, place, tokens] = 1
            if place == broken:
                logits[:, place, 5] = torch.nan
        return logits

    completions(lens, asked([PROMPTS[1]], [[(1, 1, 1)]]), [])  # probed for lengths like these, with the true readout
    monkeypatch.setattr(lens, "readout", readout)
    return completions(lens, asked([PROMPTS[0]], [[(9,), (10, 11)]]), [[Edit(1, noise(32))]])


@pytest.mark.slow
@pytest.mark.parametrize(
    "tops, right",
    [
        ([[10], [11], [204]], True),
        ([[10, 99], [11], [204]], False),
        ([list(range(256)), [11], [204]], False),
        ([[10], [11, 99], [204]], False),
        ([[10], [11], [99, 204]], False),
        ([[10], [11], [204, 205]], False),
        ([[10], [11], [203, 204]], True),
    ],
)
def test_a_tie_counts_against_the_answer(llama, some_end, few_or_many, monkeypatch, tops, right):
    some_end(llama, (torch.arange(256) == 203) | (torch.arange(256) == 204))
    found = written(lens_of(llama), monkeypatch, tops)
    assert found.right.tolist() == [[right, right]]
    assert found.rank.tolist() == [[len({*tops[0]} - {9, 10})] * 2]


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1, 2])
def test_logits_that_are_no_numbers_raise(llama, few_or_many, monkeypatch, place):
    with pytest.raises(InputError, match="became NaN"):
        written(lens_of(llama), monkeypatch, [[10], [11], [204]], place)
    with pytest.raises(InputError, match="became NaN"):
        completions(lens_of(llama), asked(PROMPTS, [[(3, 4)]] * 6), [[Edit(0, torch.full((32,), torch.nan))]] * 2)


# Which tokens end an answer


def byte_level(folder, **specials):
    """A tokenizer of bytes and a few joined ones, as GPT-2's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    joined = ["ĊĊ", "ĠĊ", "ĊĠ", "Ġa", "Ċa", "čĊ"]
    vocab = {token: i for i, token in enumerate([*alphabet, *joined])}
    made = Tokenizer(models.BPE(vocab, [tuple(token) for token in joined]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    hf.PreTrainedTokenizerFast(tokenizer_object=made, **specials).save_pretrained(folder)
    return hf.AutoTokenizer.from_pretrained(folder)


def endings(tokenizer, vocab=300) -> list[str]:
    config = hf.GPT2Config(**tiny.GPT2 | {"vocab_size": vocab})
    network = hf.GPT2LMHeadModel(config).eval()
    model = TransformerBridge.boot_transformers("tiny/bytes", hf_model=network, tokenizer=tokenizer, device="cpu")
    found = lens_of(model).endings
    assert found.shape == (vocab,)
    return [model.tokenizer.decode([token]) for token in found.nonzero()[:, 0].tolist()]


def test_tokens_that_begin_with_a_newline_end_an_answer(tmp_path):
    found = endings(byte_level(tmp_path, eos_token="<end>", bos_token="<begin>", unk_token="<unknown>"))
    assert sorted(found) == sorted(["\n", "\r", "\n\n", "\n ", "\na", "\r\n", "<end>", "<begin>"])


def test_a_special_token_that_ends_the_text_counts_also_where_it_stands_for_unknown_ones(tmp_path):
    found = endings(byte_level(tmp_path, **dict.fromkeys(["eos_token", "bos_token", "unk_token"], "<|endoftext|>")))
    assert "<|endoftext|>" in found and "\n" in found


def test_a_word_level_tokenizer_ends_answers_with_its_special_tokens(model):
    lens = lens_of(model)
    assert lens.endings.nonzero()[:, 0].tolist() == lens.model.tokenizer.convert_tokens_to_ids(["<s>", "</s>"])


def test_where_an_answer_ends_is_unknown_without_a_tokenizer(llama, monkeypatch):
    lens = type(lens_of(llama))(llama)
    monkeypatch.setattr(llama, "tokenizer", None)
    with pytest.raises(InputError, match="no tokenizer"):
        _ = lens.endings
