"""Relations of several sets brought together: which are the same, and which are kin because they share pairs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .questions import unordered
from .relations import Relation

SAME = 0.5  # share of the pairs of the smaller of two relations, from which on they count as one
KIN = 0.1  # from which on neither is answered with the vector of the other, where families are left out


@dataclass(frozen=True)
class Gathered:
    """Relations of several sets.

    Args:
        relations: by name, those of the first set first. One whose name was taken has its set's name behind it.
        aliases: name -> what else the relation is called: in its own set, and those that count as the same.
        kin: name -> its family and its siblings, and names and families of relations that it shares pairs with, those
            that were left out among them.
        left_out: name -> the relation before it that it is the same as.
    """

    relations: Mapping[str, Relation]
    aliases: Mapping[str, tuple[str, ...]]
    kin: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, str]


def unite(sets: Iterable[tuple[str, Sequence[Relation]]]) -> Gathered:
    """Bring sets of relations together, without those that share half of their pairs with one before them.

    Pairs count in either direction and letter case, with each right answer; shares are of the smaller relation. Two
    relations of one set are never the same: who made it told them apart.

    Args:
        sets: name and relations of each; of two that are the same, that of the earlier set stays.

    Example:
        >>> bundled = [load_relation(name) for name in relation_names()]
        >>> unite([("bundled", bundled), load_published("todd_function_vectors")]).left_out["antonym-Todd"]
        'antonym'
    """
    everything: dict[str, _Member] = {}
    left_out: dict[str, str] = {}
    for of_set, listed in sets:
        before = [name for name in everything if name not in left_out]
        for relation in listed:
            name = relation.name
            while name in everything:
                name = f"{name}-{of_set}"
            member = _Member(replace(relation, name=name), relation.name)
            shares = {other: member.shared(everything[other]) for other in before}
            if shares and shares[nearest := max(shares, key=lambda other: shares[other])] >= SAME:
                left_out[name] = nearest
            everything[name] = member
    kept = {name: member for name, member in everything.items() if name not in left_out}
    return Gathered(
        relations={name: member.relation for name, member in kept.items()},
        aliases={name: _aliases(name, everything, left_out) for name in kept},
        kin={name: _kin(name, everything) for name in kept},
        left_out=left_out,
    )


class _Member:
    """A relation under its name among all, what its own set calls it, and its pairs."""

    def __init__(self, relation: Relation, called: str):
        self.relation, self.called = relation, called
        self.pairs = {unordered(word, answer) for word, answers in relation.pairs for answer in answers}

    @property
    def labels(self) -> list[str]:
        return [self.relation.name, self.called, *filter(None, [self.relation.family])]

    def shared(self, other: "_Member") -> float:
        """The share of the smaller one's pairs that both have."""
        return len(self.pairs & other.pairs) / min(len(self.pairs), len(other.pairs))

    def is_kin(self, other: "_Member") -> bool:
        family = self.relation.family
        return (family is not None and family == other.relation.family) or self.shared(other) >= KIN


def _aliases(name: str, everything: Mapping[str, _Member], left_out: Mapping[str, str]) -> tuple[str, ...]:
    same = [everything[other] for other in (name, *(twin for twin, kept in left_out.items() if kept == name))]
    called = dict.fromkeys(label for member in same for label in (member.relation.name, member.called))
    return tuple(label for label in called if label != name)


def _kin(name: str, everything: Mapping[str, _Member]) -> tuple[str, ...]:
    own = everything[name]
    near = [own, *(member for other, member in everything.items() if other != name and own.is_kin(member))]
    labels = dict.fromkeys(label for member in near for label in member.labels)
    return tuple(label for label in labels if label != name)
