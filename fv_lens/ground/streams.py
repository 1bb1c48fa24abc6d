"""Named streams of random numbers: what one stream draws under a seed does not depend on the other streams."""

from collections.abc import Iterable
from enum import IntEnum

import numpy as np

from .errors import whole_number


class Stream(IntEnum):
    """What each stream is for. Saved results depend on these numbers, so never change them."""

    FEW_SHOT = 0
    DEMONSTRATIONS = 1
    CORRUPTED = 2
    PROMPT_PAIRS = 3  # pairs that prompts are made for, where they are not all needed
    START = 4  # of a vector that is tuned from a random direction; one for each name
    CONTROLS = 7  # random vectors, heads and relations beside the vector under test
    DEALS = 11  # of a study's train and validation pairs
    EXCHANGED_ANSWERS = 12
    RIVALS = 13
    RANDOM_HEADS = 14
    FOLDS = 21  # of analogies' families
    READ = 22  # random vectors that are read beside tuned ones
    RANDOM_VECTORS = 23
    POOLS = 24  # vectors drawn from a library, and noise that joins it
    HALVES = 31  # of people's comparisons
    PERMUTATIONS = 41  # of relations, in Mantel's test


def generator(seed: int, stream: Stream, more: Iterable[int] = ()) -> np.random.Generator:
    """The generator of a stream under a seed; each list of `more` numbers has a stream of its own.

    Raises:
        InputError: the seed is not a whole number of at least 0.
    """
    return np.random.default_rng([whole_number("seed", seed, least=0), stream, *more])
