"""A library of function vectors, and how well each of them explains a pair of words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..datasets.prompts import FewShot, PromptTemplate
from ..datasets.questions import Question
from ..datasets.relation_files import load_relation, relation_names
from ..engine.batches import PromptBatch, batch
from ..engine.completion import completions
from ..engine.edits import Edit
from ..ground.errors import InputError
from ..models.lens import Lens
from ..vectors.function_vector import FunctionVector, own_template
from ..vectors.one_place import check_fits, checked

Exclusion = Literal["relation", "family"]
EXCLUSIONS = (None, *get_args(Exclusion))


@dataclass(frozen=True, eq=False)
class Basis:
    """Vectors that can be mixed: of one model, at one place. `matrix` is `[vector, d_model]`, sorted by name."""

    names: tuple[str, ...]
    matrix: Float[Tensor, "vector d_model"]
    vectors: tuple[FunctionVector, ...]

    @classmethod
    def of(cls, lens: Lens, vectors: Mapping[str, FunctionVector]) -> "Basis":
        """The library of a mapping from name to vector.

        Raises:
            InputError: no vectors, something else, or vectors of two models, layers or sites, or not of this model.
        """
        vectors = checked(vectors)
        names = tuple(sorted(vectors))
        listed = tuple(vectors[name] for name in names)
        check_fits(lens, listed)
        return cls(names, torch.stack([fv.vector for fv in listed]), listed)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def first(self) -> FunctionVector:
        """The first vector, whose layer and site are those of all."""
        return self.vectors[0]

    @property
    def template(self) -> PromptTemplate:
        return own_template(list(self.vectors))

    def edit(self, vectors: Tensor) -> list[Edit]:
        """The what-if that adds vectors, `[d_model]` or `[prompt, d_model]`, where the library's belong."""
        return [Edit(self.first.layer, vectors, site=self.first.site)]


def pairs_batch(lens: Lens, pairs: Sequence[Sequence[str]], template: PromptTemplate) -> PromptBatch:
    """The zero-shot prompts that ask each A for its B."""
    checked = [check_pair(pair) for pair in pairs]
    check_words(lens, [word for pair in checked for word in pair])
    return batch(lens, [FewShot(a, (b,)) for a, b in checked], template)


def check_pair(pair: Sequence[str]) -> tuple[str, str]:
    """A and B as a tuple; an InputError for anything but two words."""
    two = isinstance(pair, list | tuple) and len(pair) == 2
    if not two or not all(isinstance(word, str) and word.strip() for word in pair):
        raise InputError(f"The source pair is {pair!r}; give two words, such as ('hot', 'cold').")
    return pair[0], pair[1]


def check_words(lens: Lens, words: Sequence[str]) -> None:
    """Raise an InputError for a word that is not text, is empty, or has no tokens."""
    nothing = len(lens.tokens(""))
    for word in words:
        if not isinstance(word, str):
            raise InputError(f"{word!r} is not a word; give text, such as 'big'.")
    for word in dict.fromkeys(words):
        if not word.strip() or len(lens.tokens(word)) <= nothing:
            raise InputError(f"The word {word!r} has no tokens; give one that the model's tokenizer knows.")


def explained(lens: Lens, library: Basis, sources: PromptBatch) -> Float[Tensor, "pair row"]:
    """log P(B | A) of the whole B, in nats: without a vector in row 0, then with each library vector."""
    whatifs = [library.edit(vector) for vector in library.matrix]
    return torch.from_numpy(completions(lens, sources, whatifs).log_prob).float()


def allowed(
    library: Basis,
    relations: Sequence[str | None],
    exclude: Exclusion | None,
    families: Mapping[str, str] | None = None,
    own: Sequence[str | None] = (),
) -> Bool[Tensor, "pair vector"]:
    """Mask of the vectors that each pair may use, given its relation (None if unknown: all of them).

    `exclude`: None for all; "relation" to leave out the pair's own, also under an alias; "family" its siblings too, and
    vectors that name the pair's relation or family among their `kin`. `families`: relation -> family; the bundled
    relations' are known. `own`: each pair's family, for pairs without a known relation.

    Raises:
        InputError: an unknown `exclude`.
    """
    if exclude not in EXCLUSIONS:
        raise InputError(f"exclude is {exclude!r}; give None, 'relation' or 'family'.")
    bundled = {name: load_relation(name).family or name for name in relation_names()} if exclude == "family" else {}
    families = bundled | dict(families or {})

    def kind(relation: str | None, family: str | None = None) -> str | None:
        if exclude != "family":
            return relation
        return family or (None if relation is None else families.get(relation, relation))

    def may(relation: str | None, family: str | None, name: str, fv: FunctionVector) -> bool:
        if exclude is None:
            return True
        of_pair = kind(relation, family)
        if of_pair is not None and of_pair == kind(fv.relation or name):
            return False
        listed = {*fv.aliases, *(fv.kin if exclude == "family" else ())}
        return listed.isdisjoint({of_pair, relation, kind(relation)})

    kept = [
        [may(relation, family, name, fv) for name, fv in zip(library.names, library.vectors)]
        for relation, family in zip(relations, own or [None] * len(relations))
    ]
    return torch.tensor(kept, device="cpu").reshape(len(relations), len(library))


def allowed_for(
    library: Basis, questions: Sequence[Question], exclude: Exclusion | None, families: Mapping[str, str]
) -> Bool[Tensor, "question vector"]:
    """`allowed`, for questions, which know their relation and family."""
    relations, own = ([getattr(question, name) for question in questions] for name in ("relation", "family"))
    return allowed(library, relations, exclude, families, own)
