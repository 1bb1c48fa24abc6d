"""The steps of a study against loops over one relation and one what-if at a time."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch

from fv_lens.datasets.prompts import FewShot, few_shot, with_demonstrations
from fv_lens.datasets.relations import Relation
from fv_lens.engine.batches import batch
from fv_lens.engine.completion import Completions, completions
from fv_lens.engine.whatif import Edit
from fv_lens.evaluation.controls import edits_of
from fv_lens.ground.errors import InputError
from fv_lens.studies.reproduce import steps
from fv_lens.vectors import lessons, sweeps
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.mediation import indirect_effects
from fv_lens.vectors.optimizer import Tuning
from fv_lens.vectors.patching import patch
from fv_lens.vectors.summed import distributed_vectors, function_vector
from fv_lens.vectors.tuning import finetune_all

from ...engine.exact import see_padding
from ...oracles import EXACT, difference
from ..small import breaking, demonstrated, relations, studied, study_of

PARTS = ("right", "log_prob", "rank", "first_log_prob")
CLOSE = 1e-4  # relative: Adam divides by a gradient's own size, so the order of a sum weighs more than in a loss
HEADS = [(layer, head) for layer in range(3) for head in range(4)]
STRENGTHS = (1.0, 4.0)


@pytest.fixture(scope="module")
def study():
    return study_of(studied())


@pytest.fixture(scope="module")
def maps(study):
    return steps.heads(study)[0]


@pytest.fixture(scope="module")
def summed(study, maps):
    return steps.sums(study, maps)


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alone(study, prompts, whatifs=()):
    """Completions of one relation's prompts by themselves."""
    return completions(study.lens, batch(study.lens, prompts), list(whatifs))


def zero_shot(relation, part):
    return with_demonstrations(relation.split()[part], relation.split()[part], 0)


def quality(study, r: int, whatif) -> tuple[Fraction, float]:
    """Share of the validation words completed right, exactly, and their mean log-probability."""
    found = alone(study, zero_shot(study.relations[r], 1), [whatif])
    return Fraction(int(found.right[:, 1].sum()), len(found.right)), float(found.log_prob[:, 1].mean())


def mean(qualities) -> tuple[Fraction, float]:
    shares, log_probs = zip(*qualities)
    return sum(shares) / len(shares), float(np.mean(log_probs))


def best_strength(study, r: int, whatif_at):
    """(quality, strength) of the best strength, the first where they are equal."""
    return max(((quality(study, r, whatif_at(s)), s) for s in STRENGTHS), key=lambda item: item[0])


# Head maps


@pytest.mark.slow
def test_head_maps_are_each_relations_own(study, maps):
    for relation, effects, mean_z in zip(study.relations, maps["effects"], maps["mean_z"]):
        one = indirect_effects(study.model, relation, 2, 3, 3)
        assert torch.equal(effects, one.mean) and torch.equal(mean_z, one.mean_z)


# Summed vectors


def ranked(effects) -> list[tuple[int, int]]:
    return sorted(HEADS, key=lambda head: -effects[head])


def sum_of(study, maps, r: int, heads) -> torch.Tensor:
    return function_vector(study.model, study.relations[r], heads, 0, maps["mean_z"][r]).vector


@pytest.mark.slow
def test_head_count_layer_and_strengths_are_those_of_a_loop_over_validation(study, maps, summed):
    tensors, record = summed
    order = ranked(maps["effects"].mean(0))
    found = {}
    for n in (2, 3):
        for layer in record["layers"]:
            vectors = [sum_of(study, maps, r, order[:n]) for r in range(5)]
            found[n, layer] = [
                best_strength(study, r, lambda s, v=vectors[r], layer=layer: [Edit(layer, s * v)]) for r in range(5)
            ]
    n, layer = max(found, key=lambda cell: mean([of for of, _ in found[cell]]))
    strengths = [strength for _, strength in found[n, layer]]
    assert (record["heads"], record["layer"], record["strengths"]) == (order[:n], layer, strengths)
    assert record["layers"] == [1, 2] and record["counts"] == [2, 3] and np.shape(record["grid"]) == (2, 2, 2)
    assert len({mean([of for of, _ in cell]) for cell in found.values()}) == 4 and np.max(record["grid"]) > 0
    for r, strength in enumerate(strengths):
        assert torch.equal(tensors["plain"][r], sum_of(study, maps, r, order[:n]))
        assert torch.equal(tensors["vectors"][r], strength * tensors["plain"][r])


@pytest.mark.slow
def test_own_heads_are_each_relations_best_at_their_best_strength(study, maps, summed):
    tensors, record = summed
    n, layer = len(record["heads"]), record["layer"]
    for r in range(5):
        vector = sum_of(study, maps, r, ranked(maps["effects"][r])[:n])
        _, strength = best_strength(study, r, lambda s, v=vector: [Edit(layer, s * v)])
        assert torch.equal(tensors["own"][r], strength * vector)


@pytest.mark.slow
def test_random_heads_are_as_many_others_the_same_for_all_relations_at_their_best_strength(study, maps, summed):
    tensors, record = summed
    n, layer = len(record["heads"]), record["layer"]
    writes = torch.stack([torch.stack([sum_of(study, maps, r, [head]) for head in HEADS]) for r in range(5)])
    free = [i for i, head in enumerate(HEADS) if head not in record["heads"]]
    drawn = set()
    for vectors in tensors["random"]:
        cosine = {some: torch.cosine_similarity(writes[:, some].sum(1), vectors) for some in combinations(free, n)}
        heads = max(cosine, key=lambda some: cosine[some].min())
        assert cosine[heads].min() > 1 - 1e-5
        drawn.add(heads)
        for r, vector in enumerate(vectors):
            once = writes[r, heads].sum(0)
            _, strength = best_strength(study, r, lambda s, v=once: [Edit(layer, s * v)])
            assert difference(vector, strength * once) <= EXACT * vector.norm()
    assert len(drawn) == len(tensors["random"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 7])
def test_random_heads_are_left_out_where_there_are_too_few_others(study, maps, n):
    tensors, record = steps.sums(study_of(study.model, head_counts=(n,)), maps)
    assert len(record["heads"]) == n and {"plain", "vectors", "own"} <= tensors.keys()
    assert ("random" in tensors) == (n == 6)
    if n == 6:
        others = [head for head in HEADS if head not in record["heads"]]
        for r in range(5):
            once = sum_of(study, maps, r, others)
            for vector in tensors["random"][:, r]:
                assert torch.cosine_similarity(vector, once, dim=0) > 1 - 1e-5


@pytest.mark.slow
def test_the_distributed_form_is_that_of_a_loop_over_validation(study, maps, summed):
    tensors, record = summed
    order, found, made = ranked(maps["effects"].mean(0)), {}, {}
    for n in (2, 3):
        for r in range(5):
            parts = distributed_vectors(study.model, study.relations[r], order[:n], maps["mean_z"][r])
            made[n, r] = parts
            found[n, r] = best_strength(study, r, lambda s, parts=parts: edits_of([s * part for part in parts]))
    n = max((2, 3), key=lambda n: mean([found[n, r][0] for r in range(5)]))
    strengths = [found[n, r][1] for r in range(5)]
    assert (record["distributed_heads"], record["distributed_strengths"]) == (order[:n], strengths)
    assert record["distributed_places"] == [(part.layer, part.site) for part in made[n, 0]]
    for at, vectors in enumerate(tensors["distributed"]):
        for r, vector in enumerate(vectors):
            assert torch.equal(vector, strengths[r] * made[n, r][at].vector)


@pytest.mark.slow
@pytest.mark.parametrize("better", [0, 1])
def test_a_whole_word_more_outweighs_any_log_probability(study, maps, monkeypatch, better):
    # Of two strengths, one is right once more and far less probable.
    def stub(lens, prompts, whatifs, progress=None):
        n, rows = len(prompts), 1 + len(whatifs)
        at = (np.arange(rows) - 1) % 2 == better
        right = np.zeros((n, rows), bool)
        right[0] = at
        return Completions(right, np.where(at, -9.0, -1.0) * np.ones((n, 1)), *np.zeros((2, n, rows)))

    monkeypatch.setattr(sweeps, "completions", stub)
    record = steps.sums(study, maps)[1]
    assert record["strengths"][0] == STRENGTHS[better], "it has the word that is right"
    assert record["strengths"][1:] == [STRENGTHS[1 - better]] * 4


@pytest.mark.slow
def test_a_model_on_which_a_sum_means_nothing_has_none_and_says_why():
    study = study_of(studied("bent"))
    tensors, record = steps.sums(study, steps.heads(study)[0])
    assert "tiny/bent rescales what the heads of layer 0 write" in record["no_sums"]
    assert tensors.keys() == {"distributed"} and "heads" not in record and len(record["distributed_heads"]) in (2, 3)


# Tuned vectors


@pytest.fixture
def asked(monkeypatch):
    """The tasks that are tuned, in the order asked for."""
    seen, tune = [], lessons.tune

    def spy(lens, tasks, *how):
        seen.append(tasks)
        return tune(lens, tasks, *how)

    monkeypatch.setattr(lessons, "tune", spy)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("start", ["zero", "random", "vectors"])
def test_tuned_vectors_are_those_of_finetune(study, start):
    inits = start
    if start == "vectors":
        values = noise(5, 32, scale=0.3)
        inits = {r.name: FunctionVector.on(study.lens, values[i], 1, r) for i, r in enumerate(study.relations)}
    step = steps.tuned(study, 1, list(inits.values()) if start == "vectors" else start)
    how = dict(layer=1, n_pairs=8, n_validation=5, how=Tuning(8, 0.2))
    expected = finetune_all(study.model, study.relations, inits, **how)
    for vector, fv in zip(steps.unpacked(step), expected.values()):
        assert (vector.vector - fv.vector).norm() <= CLOSE * fv.vector.norm()
        assert vector.training["losses"] == pytest.approx(fv.training["losses"], abs=CLOSE)
        assert vector.training["chosen_step"] == fv.training["chosen_step"] and vector.parents == fv.parents
        assert (vector.data_hash, vector.split_seed, vector.method) == (fv.data_hash, 0, "tuned")
    assert step[1]["broken"] == {} and step[0]["vectors"].shape == (5, 32)


def test_vectors_that_were_packed_are_the_same_with_their_records_and_errors(study):
    relation = study.relations[0]
    vectors = [FunctionVector.on(study.lens, noise(32), 1, relation), InputError("too few"), InputError("broke")]
    step = steps.packed("abc", vectors, 32)
    assert step[1]["broken"] == {"b": "too few", "c": "broke"} and step[0]["vectors"][1:].isnan().all()
    vector, *errors = steps.unpacked(step)
    assert torch.equal(vector.vector, vectors[0].vector) and vector.record == vectors[0].record
    assert list(map(str, errors)) == ["too few", "broke"]
    with pytest.raises(InputError, match="too few"):
        steps.whole(step)
    (alone,) = steps.whole(steps.packed("a", vectors[:1], 32))
    assert alone.record == vectors[0].record


def pairs_of(prompts, model) -> list[tuple[str, str]]:
    """(word, first answer) of each prompt, read back from its tokens."""
    return [(word, model.tokenizer.decode(listed[0])) for word, listed in zip(prompts.words, prompts.answers)]


@pytest.mark.slow
def test_vectors_of_shuffled_pairs_see_no_right_answer(study, asked):
    steps.tuned(study, 1, shuffle=True)
    for one, relation in zip(asked[0], study.relations):
        for prompts, part in zip((one.train, one.validation), relation.split()):
            assert prompts.words == part.words
            assert not any(answer in relation.answers[word] for word, answer in pairs_of(prompts, study.model))


@pytest.mark.slow
def test_the_pooled_vector_is_tuned_on_all_pairs_each_once(study, asked):
    tensors, record = steps.pooled(study, 1)
    ((one,),) = asked
    for prompts, part in ((one.train, 0), (one.validation, 1)):
        listed = [(w, answers[0]) for relation in study.relations for w, answers in relation.split()[part].pairs]
        assert sorted(pairs_of(prompts, study.model)) == sorted(listed)
    assert tensors["vectors"].shape == (1, 32) and record["records"][0]["relation"] is None


@pytest.mark.slow
def test_another_deal_is_tuned_on_its_own_pairs(study, asked):
    steps.tuned(study, 1, seed=1)
    for one, relation in zip(asked[0], study.relations):
        train, validation = study.pairs(relation, 1)
        assert (one.train.words, one.validation.words) == (train.words, validation.words)


@pytest.mark.slow
def test_the_learning_curve_is_tuned_on_the_first_pairs(study, asked):
    tensors, _ = steps.curve(study, 1)
    at = iter(asked[0])
    for n, n_validation in ((1, 1), (4, 2)):
        for relation in study.relations:
            one, (train, validation, _) = next(at), relation.split()
            assert (one.train.words, one.validation.words) == (train.words[:n], validation.words[:n_validation])
    assert tensors["vectors"].shape == (2, 5, 32)
    one = steps.curve(study_of(study.model, relations()[1:2], curve=(4,)), 1)[0]["vectors"]
    assert (one[0, 0] - tensors["vectors"][1, 1]).norm() <= CLOSE * one.norm()


@pytest.mark.slow
def test_a_vector_that_breaks_is_nan_with_the_reason_and_the_others_are_the_same(study, monkeypatch):
    expected = steps.tuned(study, 1)[0]["vectors"]
    curve = steps.curve(study, 1)[0]["vectors"]
    breaking(monkeypatch, "b")
    tensors, record = steps.tuned(study, 1)
    assert record["broken"].keys() == {"b"} and tensors["vectors"][1].isnan().all()
    assert "The loss of 'b' became NaN, or its vector too large, at step 3" in record["broken"]["b"]
    assert torch.equal(tensors["vectors"][[0, 2, 3, 4]], expected[[0, 2, 3, 4]])
    tensors, record = steps.curve(study, 1)
    assert record["broken"].keys() == {"b, 1 pairs", "b, 4 pairs"}
    assert (
        torch.equal(tensors["vectors"][:, [0, 2, 3, 4]], curve[:, [0, 2, 3, 4]])
        and tensors["vectors"][:, 1].isnan().all()
    )


@pytest.mark.slow
def test_a_relation_that_cannot_be_shuffled_has_no_such_vector(study):
    validation = relations()[0].split().validation
    same = [(word, "w199" if word in validation.words else listed) for word, listed in relations()[0].pairs]
    one = study_of(study.model, [Relation("a", same), *relations()[1:]])
    tensors, record = steps.tuned(one, 1, shuffle=True)
    assert list(record["broken"]) == ["a"] and "cannot be exchanged" in record["broken"]["a"]
    assert record["records"][0] is None and tensors["vectors"][0].isnan().all()
    expected = steps.tuned(study, 1, shuffle=True)[0]["vectors"]
    assert (tensors["vectors"][1:] - expected[1:]).norm() <= CLOSE * expected[1:].norm()


@pytest.mark.slow
def test_where_no_pairs_can_be_shuffled_there_are_no_vectors_and_the_reasons_are_told(study, asked):
    validation = {name: relation.split().validation.words for name, relation in zip("ab", relations())}
    same = [
        Relation(name, [(word, "w199" if word in validation[name] else listed) for word, listed in relation.pairs])
        for name, relation in zip("ab", relations())
    ]
    two = study_of(study.model, same)
    tensors, record = steps.tuned(two, 1, shuffle=True)
    assert not asked and tensors["vectors"].shape == (2, 32) and record["records"] == [None, None]
    assert tensors["vectors"].isnan().all()
    assert list(record["broken"]) == ["a", "b"]
    assert all("cannot be exchanged" in reason for reason in record["broken"].values())


# Scores


def equal(tensors, found, mine, columns=slice(None)) -> bool:
    exact = all(
        np.array_equal(tensors[part][mine].numpy(), getattr(found, part)[:, columns]) for part in ("right", "rank")
    )
    return exact and all(
        difference(tensors[part][mine].double(), torch.from_numpy(getattr(found, part)[:, columns])) <= EXACT
        for part in ("log_prob", "first_log_prob")
    )


def test_scores_equal_each_relation_evaluated_by_itself(study):
    a, b, c = (noise(5, 32, seed=seed, scale=3) for seed in range(3))
    whatifs = {
        "one": [[study.edit(a, 2, 1)]],
        "two": [[study.edit(b, 2, 0)], [study.edit(c, 2, 2), study.edit(a, 2, 1)]],
    }
    tensors, record = steps.scores(study, whatifs)
    assert record["rows"] == {"zero-shot": [0], "one": [1], "two": [2, 3]}
    for r, relation in enumerate(study.relations):
        own = [[Edit(1, a[r])], [Edit(0, b[r])], [Edit(2, c[r]), Edit(1, a[r])]]
        assert equal(tensors, alone(study, zero_shot(relation, 2), own), tensors["owners"] == r)
    assert tensors["right"].any() and not tensors["right"].all()


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"shuffled": True}, {"validation": True}], ids=str)
def test_prompting_equals_single_prompts(study, how):
    grouped = study_of(study.model, n_together=4)
    tensors, _ = steps.prompting(grouped, 13, **how)
    place = 0
    for prompts, owners in grouped.few_shot(13, **how):
        for text, word, owner in zip(prompts.texts, prompts.words, owners.tolist()):
            answers = study.relations[owner].split().test.answers[word]
            assert equal(tensors, alone(study, [FewShot(word, answers, tuple(demonstrated(text)))]), [place])
            assert tensors["owners"][place] == owner
            place += 1
    assert len(tensors["owners"]) == place == 30


@pytest.mark.slow
def test_vectors_in_shuffled_prompts_are_those_of_single_prompts(study):
    grouped, (a, b) = study_of(study.model, n_together=4), (noise(5, 32, seed=seed, scale=3) for seed in range(2))
    whatifs = {
        "one": [[study.edit(a, 2, 1)]],
        "two": [[study.edit(b, 2, 0)], [study.edit(b, 2, 0), study.edit(a, 2, 1)]],
    }
    tensors, record = steps.prompting(grouped, 3, shuffled=True, whatifs=whatifs)
    assert record["rows"] == {"one": [1], "two": [2, 3]} and len(tensors["owners"]) == 30
    place = 0
    for prompts, owners in grouped.few_shot(3, shuffled=True):
        for text, word, r in zip(prompts.texts, prompts.words, owners.tolist()):
            shown = FewShot(word, study.relations[r].split().test.answers[word], tuple(demonstrated(text)))
            own = [[Edit(1, a[r])], [Edit(0, b[r])], [Edit(0, b[r]), Edit(1, a[r])]]
            assert equal(tensors, alone(study, [shown], own), [place])
            place += 1


def assert_mean_difference_of_single_prompts(one, found):
    def residual(text):
        ids = torch.tensor([one.lens.tokens(text)])
        with torch.no_grad():
            return one.model.run_with_cache(ids)[1]["blocks.1.hook_resid_post"][0, -1]

    for relation, vector in zip(one.relations, found):
        prompts = few_shot(relation.split().train, 8, 3)
        shown = [residual(one.template.prompt(shots.word, shots.demonstrations)) for shots in prompts]
        bare = [residual(f"Q: {shots.word}\nA:") for shots in prompts]
        assert difference(vector, torch.stack(shown).mean(0) - torch.stack(bare).mean(0)) <= 1e-4
    assert found.shape == (len(one), 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_the_mean_difference_is_that_of_single_prompts(study, name):
    one = study if name == "llama" else study_of(studied(name), relations()[:2])
    assert_mean_difference_of_single_prompts(one, steps.mean_difference(one, 1))


@pytest.mark.slow
def test_the_mean_difference_does_not_pad_a_model_that_cannot_be():
    one = study_of(studied("gpt2"), relations()[:2])
    see_padding(one.lens)
    assert_mean_difference_of_single_prompts(one, steps.mean_difference(one, 1))
    assert not one.lens.parity.padding


def test_a_mean_difference_under_a_patch_is_refused(study):
    with (
        patch(study.model, FunctionVector(noise(32), 1, model=study.lens.name)),
        pytest.raises(InputError, match="patch"),
    ):
        steps.mean_difference(study, 1)
