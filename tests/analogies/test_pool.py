"""Pools of vectors: each is what a smaller, merged or larger library gives by itself."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from fv_lens.analogies.composition import Composition, Folded
from fv_lens.analogies.pool import COLUMNS, Pools, pool_scores
from fv_lens.analogies.scores import Row
from fv_lens.analogies.unseen import unseen
from fv_lens.ground.errors import InputError

from .made import FAMILY, FULL, QUESTIONS, RELATION, TRAIN, evaluated, noise, questions_of, vectors_of

pytestmark = pytest.mark.usefixtures("some_end")

SOME = Pools((2,), (2,), (2,), (1, 2))
ASKED = [*QUESTIONS, *TRAIN, *questions_of("a", 12, 20)]


def lone(frame: pd.DataFrame, pool: str, size: int, measure: str = "accuracy") -> float:
    [value] = frame[(frame.pool == pool) & (frame.vectors == size) & (frame.measure == measure)].value
    return float(value)


def by_itself(model, vectors, how="posterior", library=FULL) -> float:
    found = evaluated(model, ASKED, vectors, {"it": how}, libraries=[library], choices=False)
    return found.score(Row("it", library, "zero-shot")).value


@pytest.fixture(scope="module")
def frame(llama):
    with pytest.MonkeyPatch.context() as patched:
        from fv_lens.models.lens import lens_of

        from .. import oracles

        patched.setattr(lens_of(llama).state, "endings", oracles.some_endings())
        yield pool_scores(llama, vectors_of(llama), ASKED, pools=SOME, library="full")


def test_the_whole_pool_is_the_library_and_the_largest_weight_is_the_single_best(llama, frame):
    assert lone(frame, "whole", 4) == pytest.approx(by_itself(llama, vectors_of(llama)))
    assert lone(frame, "largest weights", 1) == pytest.approx(by_itself(llama, vectors_of(llama), "single best"))


def test_a_line_has_a_paired_difference_from_the_whole(frame):
    assert [*frame.columns] == COLUMNS and set(frame.pool) == {
        "whole", "drawn", "merged", "with noise", "largest weights",
    }  # fmt: skip
    for line in frame[frame.measure == "minus whole"].itertuples():
        gap = lone(frame, line.pool, line.vectors) - lone(frame, "whole", 4)
        assert line.value == pytest.approx(gap, abs=1e-9) and line.pool != "whole" and line.n == len(ASKED)


@pytest.mark.parametrize("library", [FULL, FAMILY])
def test_a_family_is_answered_by_the_settings_that_have_not_seen_it(llama, library):
    """Scales of either sign, so that folds and `whole` answer differently."""
    vectors, fold_of = vectors_of(llama), {"f": 0, "g": 1}

    def folded(weighting):
        way, back, none = (Composition(weighting, scale=scale) for scale in (1.0, -1.0, 0.01))
        return Folded(none, (way, back), fold_of)

    found = pool_scores(llama, vectors, ASKED, folded("posterior"), Pools((), (), (), (1,)), library=library)
    whole = by_itself(llama, vectors, folded("posterior"), library)
    largest = by_itself(llama, vectors, folded("single"), library)
    assert lone(found, "whole", 4) == pytest.approx(whole)
    assert lone(found, "largest weights", 1) == pytest.approx(largest)
    other = by_itself(llama, vectors, folded("posterior").whole, library)
    assert (whole == pytest.approx(other)) == (library == FULL)


def test_settings_of_which_some_have_no_weights_have_pools(llama):
    shared = Composition("none", shared=noise(32))
    folded = Folded(Composition(), (shared, Composition()), {"f": 0, "g": 1})
    found = pool_scores(llama, vectors_of(llama), ASKED, folded, Pools((), (), (), (1,)), library=FAMILY)
    single = replace(folded, whole=Composition("single"), folds=(shared, Composition("single")))
    assert lone(found, "largest weights", 1) == pytest.approx(by_itself(llama, vectors_of(llama), single, FAMILY))


def test_analogies_on_pairs_that_were_tuned_on_are_left_out_with_a_warning(llama):
    vectors = vectors_of(llama)
    training = {"train_words": [TRAIN[0].source[0]], "validation_words": []}
    vectors["a"] = replace(vectors["a"], training=training)
    kept, out = unseen(ASKED, vectors.values())
    assert 0 < len(out) < len(ASKED)
    with pytest.warns(UserWarning, match=f"^{len(out)} analogies were left out"):
        found = pool_scores(llama, vectors, ASKED, pools=Pools((), (), (), (1,)))
    pd.testing.assert_frame_equal(found, pool_scores(llama, vectors, kept, pools=Pools((), (), (), (1,))))
    assert set(found.n) == {len(kept)}
    with pytest.raises(InputError, match="^No question is left of 1"):
        pool_scores(llama, vectors, out[:1])


@pytest.mark.slow
def test_drawn_pools_are_smaller_libraries(llama):
    """A pool of all but one vector is one of four libraries."""
    vectors = vectors_of(llama)
    found = pool_scores(llama, vectors, ASKED, pools=replace(SOME, sizes=(3,), draws=1), library="full")
    smaller = [by_itself(llama, {n: fv for n, fv in vectors.items() if n != out}) for out in vectors]
    assert min(abs(lone(found, "drawn", 3) - value) for value in smaller) <= 1e-9


@pytest.mark.slow
def test_merged_vectors_are_the_means_of_the_most_alike(llama):
    vectors = vectors_of(llama)
    vectors["b"] = replace(vectors["b"], vector=vectors["a"].vector + 0.1 * noise(32, seed=5))
    found = pool_scores(llama, vectors, ASKED, pools=replace(SOME, merged=(3,)), library="full")
    mean = replace(vectors["a"], vector=(vectors["a"].vector + vectors["b"].vector) / 2)
    expected = by_itself(llama, {"a": mean, "c": vectors["c"], "d": vectors["d"]})
    assert lone(found, "merged", 3) == pytest.approx(expected)


@pytest.mark.slow
def test_noise_is_as_long_as_the_vectors_and_is_left_out_by_nobody(llama):
    """With every vector of a question's own left out, what it is answered with is the noise."""
    one = {"a": vectors_of(llama)["a"]}
    questions = questions_of("a", 6, 20)
    with pytest.raises(InputError, match="no vector is left"):
        pool_scores(llama, one, questions, library=RELATION)
    found = pool_scores(llama, vectors_of(llama), questions, pools=Pools((), (), (2,), (1, 2)), library=RELATION)
    assert lone(found, "with noise", 6) >= 0


@pytest.mark.slow
def test_the_seed_draws_and_the_same_seed_draws_the_same(llama, frame):
    again = pool_scores(llama, vectors_of(llama), ASKED, pools=SOME, library="full")
    pd.testing.assert_frame_equal(frame, again)


@pytest.mark.slow
def test_what_a_library_does_not_reach_is_left_out(llama):
    pools = Pools((4, 9), (4, 9), (), (4, 9))
    found = pool_scores(llama, vectors_of(llama), ASKED[:4], pools=pools, library="full")
    assert [*found.pool] == ["whole"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(dict(sizes=(0,)), "sizes is 0"), (dict(top=(-1,)), "top is -1"), (dict(draws=0), "draws is 0")],
)
def test_bad_numbers_are_refused(wrong, message):
    with pytest.raises(InputError, match=f"^{message}; give a whole number of at least 1"):
        Pools(**wrong)


def test_what_cannot_be_measured_is_refused(llama):
    with pytest.raises(InputError, match="^There are no analogies"):
        pool_scores(llama, vectors_of(llama), [])
    how = Composition("affine", affine_bias=torch.zeros(4), vectors=tuple("abcd"))
    with pytest.raises(InputError, match="was not fitted for"):
        pool_scores(llama, vectors_of(llama), ASKED, how, SOME, library="full")
