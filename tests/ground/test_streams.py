"""Streams under one seed are apart, and stay what they were: saved results depend on their numbers."""

import numpy as np
import pytest

from fv_lens import InputError
from fv_lens.ground.streams import Stream, generator


def drawn(seed, stream, more=()):
    return tuple(generator(seed, stream, more).integers(0, 2**32, 4).tolist())


def test_every_stream_and_seed_draws_its_own_numbers():
    streams = [*Stream]
    assert len({drawn(seed, stream) for seed in (0, 1, 2**40) for stream in streams}) == 3 * len(streams)
    assert drawn(0, Stream.START, b"a") != drawn(0, Stream.START, b"b") != drawn(0, Stream.START)


@pytest.mark.parametrize("stream", Stream)
def test_a_streams_numbers_are_those_of_seed_and_number(stream):
    expected = np.random.default_rng([7, int(stream), 97]).integers(0, 2**32, 4)
    assert drawn(7, stream, b"a") == tuple(expected.tolist())


def test_the_numbers_that_saved_results_depend_on():
    numbers = dict(FEW_SHOT=0, DEMONSTRATIONS=1, CORRUPTED=2, PROMPT_PAIRS=3, START=4, CONTROLS=7, DEALS=11)
    numbers |= dict(EXCHANGED_ANSWERS=12, RIVALS=13, RANDOM_HEADS=14, FOLDS=21, READ=22)
    numbers |= dict(RANDOM_VECTORS=23, POOLS=24, HALVES=31, PERMUTATIONS=41)
    assert {name: int(stream) for name, stream in Stream.__members__.items()} == numbers


@pytest.mark.parametrize("seed", [-1, 1.0, "0", None, True])
def test_what_is_not_a_seed_is_refused(seed):
    with pytest.raises(InputError, match="seed is .*whole number of at least 0"):
        generator(seed, Stream.START)
