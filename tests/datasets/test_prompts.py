import re
import time

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fv_lens.datasets.prompts import FewShot, PromptTemplate, corrupt, corrupted, few_shot, with_demonstrations
from fv_lens.datasets.relations import Relation
from fv_lens.engine.batches import PromptBatch, batch
from fv_lens.ground.errors import InputError

ANTONYM = Relation(
    "antonym",
    [("hot", "cold"), ("cold", ["hot", "warm"]), ("big", ["small", "little"]), ("little", "big"), ("up", "down")]
    + [(f"w{i}", f"un-w{i}") for i in range(10)],
)
CURRENCY = Relation("country-currency", [(f"c{i}", "euro" if i < 18 else f"coin {i}") for i in range(20)])


class WordLens:
    """Tokens are words with the space before them; each new word gets the next id. "§" gives no token."""

    n_ctx, pad_id = 200, 0

    def __init__(self, bos=False):
        self.bos, self.ids, self.calls = bos, {}, []

    def tokens(self, text: str) -> list[int]:
        self.calls.append(text)
        words = re.findall(r" ?\w+|\s|[^\w\s§]", text.replace(" §", "§"))
        return [1] * self.bos + [self.ids.setdefault(word, len(self.ids) + 2) for word in words]

    def text(self, ids) -> str:
        words = {i: word for word, i in self.ids.items()}
        return "".join(words.get(int(i), "") for i in ids)


# Templates


def test_default_template_is_that_of_todd():
    prompt = PromptTemplate().prompt("big", [("hot", "cold"), ("up", "down")])
    assert prompt == "Q: hot\nA: cold\n\nQ: up\nA: down\n\nQ: big\nA:"
    assert PromptTemplate().prompt("big") == "Q: big\nA:"


def test_words_with_braces_stand_as_they_are():
    prompt = PromptTemplate().prompt("{word}", [("{", "{answer}"), ("}", "{0}")])
    assert prompt == "Q: {\nA: {answer}\n\nQ: }\nA: {0}\n\nQ: {word}\nA:"


def test_all_parts_of_a_template_are_used():
    template = PromptTemplate("{{{word}}} ->", " <{answer}>", " {x}; ", "Opposites {word}: ")
    assert template.prompt("up", [("hot", "cold")]) == "Opposites {word}: {hot} -> <cold> {x}; {up} ->"


def test_template_goes_through_a_dict():
    template = PromptTemplate("{word} ->", prefix="Opposites: ")
    assert PromptTemplate.from_dict(template.to_dict()) == template
    for parts in ({"question": "{word}", "end": "."}, {"separator": 3}):
        with pytest.raises(
            InputError, match="template part '(end|separator)' is .*; give strings for question, answer"
        ):
            PromptTemplate.from_dict(parts)


@pytest.mark.parametrize(
    "question", ["Q:", "{}", "{0}", "{word} {answer}", "{word!r}", "{word:>5}", "{word.x}", "{word", "}{word}"]
)
def test_bad_templates_are_quoted(question):
    with pytest.raises(InputError, match=re.escape(f"the template's question is {question!r}")):
        PromptTemplate(question)
    with pytest.raises(InputError, match="the template's answer is .*"):
        PromptTemplate(answer=question)


# Draws


@given(n_prompts=st.integers(1, 60), n_shots=st.integers(0, 14), seed=st.integers(0, 10**9))
def test_few_shot_draws_what_was_asked_for(n_prompts, n_shots, seed):
    prompts = few_shot(ANTONYM, n_prompts, n_shots, seed)
    assert prompts == few_shot(ANTONYM, n_prompts, n_shots, seed)
    assert len(prompts) == n_prompts
    words = [shots.word for shots in prompts]
    assert len(set(words)) == min(n_prompts, len(ANTONYM))
    assert words[len(ANTONYM) :] == words[: -len(ANTONYM)]
    for shots in prompts:
        assert shots.answers == ANTONYM.answers[shots.word]
        assert len({word for word, _ in shots.demonstrations} - {shots.word}) == n_shots
        assert all(ANTONYM.answers[word][0] == answer for word, answer in shots.demonstrations)


@given(st.integers(0, 10**9))
def test_demonstrations_do_not_give_the_answer_away(seed):
    for shots in few_shot(ANTONYM, 15, 12, seed):  # each word has at least 12 others that tell nothing
        for word, _ in shots.demonstrations:
            assert word not in shots.answers and shots.word not in ANTONYM.answers[word]


def test_seeds_and_streams_differ():
    assert len({few_shot(ANTONYM, 5, 3, seed) for seed in range(10)}) == 10
    assert [s.word for s in few_shot(ANTONYM, 15, 3)] != [s.word for s in corrupted(ANTONYM, 15, 3)]


def test_with_demonstrations_asks_every_query_from_the_other_part():
    train, _, test = ANTONYM.split()
    prompts = with_demonstrations(test, train, n_shots=3, seed=1)
    assert [shots.word for shots in prompts] == list(test.words)
    assert all(word in train.words for shots in prompts for word, _ in shots.demonstrations)
    assert prompts == with_demonstrations(test, train, n_shots=3, seed=1)
    assert prompts != with_demonstrations(test, train, n_shots=3, seed=2)
    assert {shots.demonstrations for shots in with_demonstrations(test, train, n_shots=0)} == {()}


def test_too_few_pairs_are_counted():
    with pytest.raises(InputError, match="'antonym' has 14 pairs besides the query '.*', and 15 shots need 15"):
        few_shot(ANTONYM, 1, 15)
    queries = Relation("other", [("x", "y")])
    assert len(with_demonstrations(queries, ANTONYM, 15)[0].demonstrations) == 15
    with pytest.raises(InputError, match="'antonym' has 15 pairs besides the query 'x', and 16 shots need 16"):
        with_demonstrations(queries, ANTONYM, 16)


@pytest.mark.parametrize("draw", [few_shot, corrupted])
@pytest.mark.parametrize(
    ("n_prompts", "n_shots", "seed", "message"),
    [
        (0, 3, 0, "n_prompts is 0; give a whole number of at least 1"),
        (3, -1, 0, "n_shots is -1; give a whole number of at least"),
        (3, 3, -1, "seed is -1; give a whole number of at least 0"),
    ],
)
def test_bad_numbers_are_quoted(draw, n_prompts, n_shots, seed, message):
    with pytest.raises(InputError, match=message):
        draw(ANTONYM, n_prompts, n_shots, seed)


def test_answers_as_one_string_are_refused():
    with pytest.raises(InputError, match="the answers of 'hot' are 'cold'; give a tuple"):
        FewShot("hot", "cold")


# Corruption


@pytest.mark.slow
@given(n_prompts=st.integers(1, 30), n_shots=st.integers(2, 12), seed=st.integers(0, 10**9))
def test_corrupted_answers_are_deranged_and_wrong(n_prompts, n_shots, seed):
    prompts = corrupted(ANTONYM, n_prompts, n_shots, seed)
    assert prompts == corrupted(ANTONYM, n_prompts, n_shots, seed)
    assert len(prompts) == n_prompts
    for shots in prompts:
        words, answers = zip(*shots.demonstrations)
        assert len(words) == n_shots and shots.word not in words
        assert sorted(answers) == sorted(ANTONYM.answers[word][0] for word in words)
        assert all(answer not in ANTONYM.answers[word] for word, answer in shots.demonstrations)


@pytest.mark.slow
@given(
    answers=st.lists(st.sampled_from("abcd"), min_size=2, max_size=8),
    others=st.lists(st.sampled_from("abcd"), min_size=8, max_size=8),
    seed=st.integers(0, 100),
)
def test_corrupt_leaves_no_answer_right(answers, others, seed):
    right = {str(i): (y, other) for i, (y, other) in enumerate(zip(answers, others))}
    shots = FewShot("x", ("y",), tuple((word, listed[0]) for word, listed in right.items() if int(word) < len(answers)))
    deranged = corrupt(shots, right, np.random.default_rng(seed))
    assume(deranged is not None)
    assert [word for word, _ in deranged.demonstrations] == [word for word, _ in shots.demonstrations]
    assert sorted(y for _, y in deranged.demonstrations) == sorted(y for _, y in shots.demonstrations)
    assert all(y not in right[word] for word, y in deranged.demonstrations)


def test_corrupt_reaches_every_derangement():
    shots = FewShot("x", ("y",), tuple((str(i), f"a{i}") for i in range(4)))
    rng = np.random.default_rng(0)
    assert len({corrupt(shots, {}, rng) for _ in range(300)}) == 9  # of four things


@pytest.mark.parametrize("shown", [[], ["a"], ["a", "a"], ["a", "a", "b"]])
def test_what_cannot_be_deranged_is_none(shown):
    shots = FewShot("x", ("y",), tuple((str(i), answer) for i, answer in enumerate(shown)))
    answers = {str(i): (answer,) for i, answer in enumerate(shown)}
    assert corrupt(shots, answers, np.random.default_rng(0)) is None


def test_a_draw_that_cannot_be_deranged_is_drawn_again():
    prompts = corrupted(CURRENCY, 40, 2, seed=0)  # most pairs of demonstrations are euro and euro
    assert len(prompts) == 40
    assert all("euro" in {y for _, y in shots.demonstrations} for shots in prompts)
    assert all(y not in CURRENCY.answers[word] for shots in prompts for word, y in shots.demonstrations)


def test_what_can_never_be_corrupted_is_named():
    with pytest.raises(
        InputError, match="'country-currency': in 100 draws of 6 .*; 'euro' serves 18 of 20 words: give pairs"
    ):
        corrupted(CURRENCY, 1, 6)
    for n_shots in (0, 1):
        with pytest.raises(InputError, match=f"n_shots is {n_shots}; give a whole number of at least 2"):
            corrupted(ANTONYM, 1, n_shots)


# Batches


@pytest.mark.parametrize("bos", [False, True])
def test_batch_pads_on_the_left(bos):
    lens = WordLens(bos)
    prompts = [FewShot("hot", ("cold",), (("up", "down"),)), FewShot("sea cow", ("manatee", "dugong kind"))]
    prompts = batch(lens, prompts)
    assert len(prompts) == 2 and prompts.words == ("hot", "sea cow")
    assert prompts.texts == ("Q: up\nA: down\n\nQ: hot\nA:", "Q: sea cow\nA:")
    for ids, mask, text in zip(prompts.tokens, prompts.mask, prompts.texts):
        n = len(lens.tokens(text))
        assert ids.tolist() == [lens.pad_id] * (len(ids) - n) + lens.tokens(text)
        assert mask.tolist() == [0] * (len(ids) - n) + [1] * n
    assert [[lens.text(answer) for answer in answers] for answers in prompts.answers] == [
        [" cold"],
        [" manatee", " dugong kind"],
    ]
    assert [len(answer) for answer in prompts.answers[1]] == [1, 2]
    assert lens.text(prompts.answer_ids) == " cold manatee"
    assert prompts.tokens.dtype == prompts.mask.dtype == prompts.answer_ids.dtype == torch.int64


def test_each_text_is_tokenised_once():
    lens = WordLens()
    batch(lens, few_shot(ANTONYM, 40, 3))
    assert len(lens.calls) == len(set(lens.calls))


def test_many_answers_are_quick():
    relation = Relation("meronym", [(f"w{i}", [f"part {i} {j}" for j in range(20)]) for i in range(100)])
    prompts = few_shot(relation, 100, 10)
    start = time.perf_counter()
    assert len(batch(WordLens(), prompts)) == 100
    assert time.perf_counter() - start < 5


@pytest.mark.slow
@given(st.lists(st.integers(0, 7), min_size=1, max_size=12))
def test_select_keeps_the_order_and_trims(indices):
    lens = WordLens()
    prompts = [shots for n in range(4) for shots in few_shot(ANTONYM, 2, n, seed=n)]
    chosen = batch(lens, prompts).select(indices)
    alone = batch(lens, [prompts[i] for i in indices])
    for field in ("tokens", "mask", "answer_ids"):
        assert torch.equal(getattr(chosen, field), getattr(alone, field))
    assert (chosen.answers, chosen.texts, chosen.words) == (alone.answers, alone.texts, alone.words)


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), min_size=1, max_size=4))
def test_joined_batches_are_the_batch_of_all_their_prompts(sizes):
    lens = WordLens(bos=True)
    drawn = [few_shot(ANTONYM, n, shots, seed=i) for i, (n, shots) in enumerate(sizes)]
    joined = PromptBatch.joined([batch(lens, prompts) for prompts in drawn], lens.pad_id)
    whole = batch(lens, [prompt for prompts in drawn for prompt in prompts])
    for field in ("tokens", "mask", "answer_ids"):
        assert torch.equal(getattr(joined, field), getattr(whole, field))
    assert (joined.answers, joined.texts, joined.words) == (whole.answers, whole.texts, whole.words)


def test_joined_batches_are_padded_with_the_token_given():
    parts = [batch(WordLens(), few_shot(ANTONYM, 1, n)) for n in (3, 0)]
    joined, n = PromptBatch.joined(parts, 77), parts[1].tokens.shape[1]
    assert (joined.tokens[1, :-n] == 77).all() and joined.mask[1].tolist() == [0] * (len(joined.mask[1]) - n) + [1] * n


def test_select_takes_tensors_and_ranges_and_names_what_is_outside():
    prompts = batch(WordLens(), few_shot(ANTONYM, 4, 1))
    assert prompts.select(torch.tensor([3, 1])).words == prompts.select(range(3, 0, -2)).words
    with pytest.raises(InputError, match=r"the indices of prompts are \[4\]; give at least one, all in 0\.\.3"):
        prompts.select([4])
    with pytest.raises(InputError, match=r"the indices of prompts are \[\]; give at least one"):
        prompts.select([])
    for indices in ([-1], torch.tensor([True, False, True, False])):
        with pytest.raises(InputError, match="a prompt's index is (-1|True); give a whole number"):
            prompts.select(indices)


def test_an_answer_without_a_token_is_named():
    with pytest.raises(InputError, match="the answer ' §' of 'hot' adds no token of its own"):
        batch(WordLens(), [FewShot("hot", ("cold", "§"))])


def test_a_template_that_joins_its_answer_is_refused():
    with pytest.raises(
        InputError,
        match=r"the answer 'cold' of 'hot' changes the prompt's own tokens: .*\(before a space, say\)",
    ):
        batch(WordLens(), [FewShot("hot", ("cold",))], PromptTemplate("Q: {word}\nA: ", "{answer}"))


def test_a_prompt_too_long_for_the_context_gives_both_numbers():
    lens = WordLens()
    prompts = few_shot(ANTONYM, 1, 10)
    longest = len(lens.tokens(PromptTemplate().prompt(prompts[0].word, prompts[0].demonstrations)))
    added = max(map(len, batch(lens, prompts).answers[0]))
    lens.n_ctx = longest + added
    batch(lens, prompts)
    lens.n_ctx -= 1
    message = (
        f"{prompts[0].word!r} has {longest} tokens and its longest answer {added}, .* context of {lens.n_ctx}; give"
    )
    with pytest.raises(InputError, match=message):
        batch(lens, prompts)


def test_no_prompts_are_refused():
    with pytest.raises(InputError, match="no prompts to batch"):
        batch(WordLens(), [])
