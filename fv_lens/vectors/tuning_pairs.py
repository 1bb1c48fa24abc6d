"""The pairs that a vector is tuned on and stopped by, and the control whose answers are exchanged."""

import warnings

from ..datasets.prompts import FewShot, corrupt
from ..datasets.relations import Relation, Split, pairs_for
from ..ground.errors import InputError, whole_number
from ..ground.streams import Stream, generator

LEAST_PAIRS = 10  # fewer are used only where fewer are asked for


def tuning_pairs(relation: Relation, n_pairs: int | None = 20, n_validation: int | None = 10, seed: int = 0) -> Split:
    """The split with `n_pairs` drawn from its train part and `n_validation` from its validation part; None for all.

    Where the parts have fewer, all of theirs are taken, with a warning.

    Raises:
        InputError: the train part has fewer pairs than asked for, and fewer than 10.
    """
    counts = {"n_pairs": n_pairs, "n_validation": n_validation}
    n_pairs, n_validation = (n if n is None else whole_number(name, n, least=1) for name, n in counts.items())
    if n_pairs is None or n_validation is None:
        split = relation.split()
        n_pairs, n_validation = n_pairs or len(split.train), n_validation or len(split.validation)
    least, has = min(n_pairs, LEAST_PAIRS), f"relation {relation.name!r} has"
    if relation.parts is None and len(relation) < pairs_for(least):
        raise InputError(
            f"{has} {len(relation)} pairs, too few to tune on: give {pairs_for(least)} or more "
            f"(two fifths are for training, which takes at least {least})"
        )
    split = relation.split()
    if len(split.train) < least:
        raise InputError(f"{has} {len(split.train)} train pairs, and tuning needs at least {least}; give more pairs")
    if len(split.train) < n_pairs or len(split.validation) < n_validation:
        warnings.warn(
            f"{relation.name!r} is tuned with {min(n_pairs, len(split.train))} train and "
            f"{min(n_validation, len(split.validation))} validation pairs, not {n_pairs} and {n_validation}; "
            f"{max(pairs_for(n_pairs), 5 * n_validation)} pairs would be enough.",
            stacklevel=3,
        )
    return Split(_sample(split.train, n_pairs, seed), _sample(split.validation, n_validation, seed), split.test)


def shuffled(relation: Relation, answers: Relation, seed: int = 0) -> Relation:
    """The pairs with their first answers exchanged so that none is right; what is right is looked up in `answers`.

    Raises:
        InputError: no such exchange was found, because few answers serve all words.
    """
    rng = generator(seed, Stream.EXCHANGED_ANSWERS)
    shown = FewShot(relation.words[0], ("none",), tuple((word, listed[0]) for word, listed in relation.pairs))
    for _ in range(40):
        if (exchanged := corrupt(shown, answers.answers, rng)) is not None:
            return relation.with_pairs(list(exchanged.demonstrations))
    raise InputError(f"The answers of {relation.name!r} cannot be exchanged so that each is wrong; give more answers.")


def _sample(part: Relation, n: int, seed: int) -> Relation:
    order = generator(seed, Stream.PROMPT_PAIRS).permutation(len(part))[:n]
    return part.with_pairs([part.pairs[i] for i in order])
