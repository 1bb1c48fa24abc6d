"""Relations of several sets brought together: which are the same, and which are kin because they share pairs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .questions import unordered
from .relations import Relation

SAME = 0.5  # share of the pairs of the smaller of two relations, from which on they count as one
KIN = 0.1  # from which on neither is left out without the other


@dataclass(frozen=True)
class Gathered:
    """Relations of several sets.

    Args:
        relations: by name, those of the first set first. One whose name was taken has its set's name behind it.
        kin: name -> families, beside its own, of other relations that it shares pairs with.
        left_out: name -> the relation before it that it is the same as.
    """

    relations: Mapping[str, Relation]
    kin: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, str]


def gather(sets: Iterable[tuple[str, Sequence[Relation]]]) -> Gathered:
    """Bring sets of relations together, without those that share half of their pairs with one before them.

    Pairs count in either direction and letter case, with each right answer; shares are of the smaller relation. Two
    relations of one set are never the same: who made it told them apart.

    Args:
        sets: name and relations of each; of two that are the same, that of the earlier set stays.

    Example:
        >>> bundled = [load_relation(name) for name in relation_names()]
        >>> gather([("bundled", bundled), load_published("todd_function_vectors")]).left_out["antonym-Todd"]
        'antonym'
    """
    relations: dict[str, Relation] = {}
    pairs: dict[str, set[frozenset[str]]] = {}
    left_out: dict[str, str] = {}
    for of_set, listed in sets:
        before = list(relations)
        for relation in listed:
            name = relation.name if relation.name not in relations else f"{relation.name}-{of_set}"
            own = {unordered(word, answer) for word, answers in relation.pairs for answer in answers}
            alike = {other: _shared(own, pairs[other]) for other in before}
            if alike and alike[nearest := max(alike, key=lambda other: alike[other])] >= SAME:
                left_out[name] = nearest
                continue
            relations[name], pairs[name] = replace(relation, name=name), own
    kin = {}
    for name, relation in relations.items():
        near = [relations[other] for other in relations if other != name and _shared(pairs[name], pairs[other]) >= KIN]
        families = dict.fromkeys(other.family or other.name for other in near)
        kin[name] = tuple(family for family in families if family != (relation.family or name))
    return Gathered(relations, kin, left_out)


def _shared(one: set[frozenset[str]], other: set[frozenset[str]]) -> float:
    return len(one & other) / min(len(one), len(other))
