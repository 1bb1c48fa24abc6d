"""The `Library` type: function vectors of one model at one place, by name, with what was measured of them."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.prompts import PromptTemplate
from ..ground import display
from ..ground.errors import InputError
from ..ground.scores import Score
from ..ground.text_files import FilePath
from ..models.identity import Identity, identity_of
from ..models.lens import Model, lens_of
from .function_vector import FunctionVector, own_template
from .library_scores import NO_SCORES, VECTOR, Scores
from .one_place import check_fits, checked
from .sharing.card import card_of
from .sharing.files import read_library, write_library

if TYPE_CHECKING:
    from .sharing.hub import Token


class Library(Mapping[str, FunctionVector]):
    """Function vectors of one model at one place, by name. It does not change: `|` and `select` make another.

    Args:
        vectors: the vectors by name, mostly that of their relation.
        scores: what was measured, one line a number: `name` (of the vector), `row` ("vector", or the control that stood
            in its place), `measure` ("accuracy", ...), `value`, its 95 % interval from `low` to `high`, and `n`, the
            words it was measured on. `measure_library` and the studies make it.
        identity: the model that the vectors were made on, as `for_model` records it; None where it is not known.
        errors: why other relations have no vector.
        licence: of the vectors, as the Hugging Face hub names it, such as "mit".

    Raises:
        InputError: no vectors, something else, or vectors of two models, layers or sites; scores of other names, or
            with other columns.

    Example:
        >>> library = finetune_all(model, ["antonym", "present-past"])
        >>> library["antonym"], library.layer
        (FunctionVector(tuned of 'antonym', layer 12, norm 70.1, smollm2-135m), 12)
        >>> library.save("library")
        >>> solve_analogy(model, Library.load("library", model), ("hot", "cold"), "big")
    """

    def __init__(
        self,
        vectors: Mapping[str, FunctionVector],
        *,
        scores: pd.DataFrame | Scores = NO_SCORES,
        identity: Identity | None = None,
        errors: Mapping[str, InputError] | None = None,
        licence: str | None = None,
    ):
        self._vectors = checked(vectors)
        self.identity, self.errors, self.licence = identity, dict(errors or {}), licence
        self.measured = scores if isinstance(scores, Scores) else Scores.of_frame(scores)
        if others := sorted(self.measured.names - set(self)):
            raise InputError(f"scores are of {others[0]!r}, which the library has no vector of.")

    @property
    def scores(self) -> pd.DataFrame:
        """The scores, one line each, as a frame; a change of it does not change the library."""
        return self.measured.to_frame()

    def __getitem__(self, name: str) -> FunctionVector:
        try:
            return self._vectors[name]
        except KeyError:
            raise UnknownVector(f"The library has no vector {name!r}; it has {', '.join(self)}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    def __repr__(self) -> str:
        names = ", ".join(map(repr, list(self)[:5])) + (", ..." if len(self) > 5 else "")
        left_out = f"; {len(self.errors)} left out" if self.errors else ""
        count = f"{len(self)} vector{'s' * (len(self) > 1)}"
        return f"Library({count} of {self.model or 'a model'}, layer {self.layer}: {names}{left_out})"

    def _repr_html_(self) -> str:
        place = f"after layer {self.layer} of {self.model or 'a model that is not known'}"
        return display.library(self.to_frame(), place, self.errors)

    def __or__(self, other: "Library | Mapping[str, FunctionVector]") -> "Library":
        """The vectors of both, those of `other` where a name is in both; scores come along.

        The model and the licence stay on record where both libraries have the same.

        Raises:
            InputError: they are of two models or places, or were made on two states of one model.
        """
        if not isinstance(other, Mapping):
            return NotImplemented
        scores, identity, errors, licence = self.measured.of(self.keys() - other.keys()), None, self.errors, None
        if isinstance(other, Library):
            if self.identity is not None and other.identity is not None:
                if reason := self.identity.why_other(other.identity):
                    raise InputError(
                        f"The libraries were made on two states of {self.model!r}: {reason}. Join those of one."
                    )
                identity = self.identity
            licence = self.licence if self.licence == other.licence else None
            scores, errors = scores | other.measured, errors | other.errors
        return Library({**self, **other}, scores=scores, identity=identity, errors=errors, licence=licence)

    @property
    def first(self) -> FunctionVector:
        """The first vector, whose layer, site and model are those of all."""
        return next(iter(self._vectors.values()))

    @property
    def layer(self) -> int:
        """The block after which the vectors are added."""
        return self.first.layer

    @property
    def site(self) -> str:
        """The hook point they are added at."""
        return self.first.site

    @property
    def model(self) -> str | None:
        """Name of the model they were made on; None or "" where it is not known."""
        return self.first.model

    @property
    def template(self) -> PromptTemplate:
        """The prompt template they were made with, where they agree on one; else the default."""
        return own_template(list(self.values()))

    @property
    def matrix(self) -> Float[Tensor, "vector d_model"]:
        """The vectors as rows, in the library's order."""
        return torch.stack([fv.vector for fv in self.values()])

    def select(self, names: Iterable[str]) -> "Library":
        """The library of some of the vectors, in the order of `names`.

        Raises:
            InputError: none is named, or one that the library does not have.
        """
        if isinstance(names, str):
            raise InputError(f"names is {names!r}; give a list of names, such as [{names!r}].")
        vectors = {name: self[name] for name in names}
        return Library(vectors, scores=self.measured.of(vectors), identity=self.identity, licence=self.licence)

    def rows(self, measure: str = "accuracy") -> list[str]:
        """The rows of scores that have a measure: "vector", and the controls beside it."""
        return self.measured.rows(measure)

    def score(self, name: str, measure: str = "accuracy", row: str = VECTOR) -> Score | None:
        """The score of a vector, or of a control in its place; None where it was not measured.

        Raises:
            InputError: the library has no vector of this name.
        """
        self[name]
        return self.measured.get(name, row, measure)

    def to_frame(self) -> pd.DataFrame:
        """One line per vector: relation, method, layer, norm; how it was tuned; and its scores, where there are any.

        Of tuned vectors n_pairs, chosen_step, validation_loss there and start_loss at step 0. Each measure of the
        vector has a column, and two for the ends of its interval.
        """
        lines = []
        for name, fv in self.items():
            training = fv.training or {}
            first = dict(training.get("validation_losses", ())).get(0, np.nan)
            tuned = {part: training.get(part, np.nan) for part in ("n_pairs", "chosen_step", "validation_loss")}
            made = {"relation": name, "method": fv.method, "layer": fv.layer, "norm": float(fv.vector.norm())}
            lines.append(made | tuned | {"start_loss": first})
        frame = pd.DataFrame(lines)
        for measure in self.measured.measures():
            own = [self.score(name, measure) for name in self]
            columns = [{} if score is None else score.columns(measure) for score in own]
            frame = pd.concat([frame, pd.DataFrame(columns)], axis=1)
        return frame

    def _with(self, **other: Any) -> "Library":
        parts = {"scores": self.measured, "identity": self.identity, "errors": self.errors, "licence": self.licence}
        return Library(self._vectors, **parts | other)

    def with_scores(self, scores: pd.DataFrame) -> "Library":
        """The same library with other scores; their columns are those of `scores`.

        Raises:
            InputError: a column is missing, or they are of a vector that the library does not have.
        """
        return self._with(scores=scores)

    def for_model(self, model: Model) -> "Library":
        """The same library with `model` on record, by which a model of the same name and other weights is refused.

        Raises:
            InputError: the vectors do not belong to the model; or it is patched.
        """
        return self._with(identity=self._checked(model) or identity_of(lens_of(model)))

    def check(self, model: Model) -> None:
        """Raise an InputError unless the vectors belong to the model: its name, its size, and where known its weights.

        Models are compared by log-probabilities behind a fixed prompt, and by the SHA-256 of their weights unless the
        library was recorded with the other model class, another version of TransformerLens or another dtype.
        """
        self._checked(model)

    def _checked(self, model: Model) -> Identity | None:
        """`check`; the record of the model where it was needed."""
        lens = lens_of(model)
        check_fits(lens, list(self.values()))
        if self.identity is None:
            return None
        identity = identity_of(lens)
        self.identity.check(identity, "The library")
        return identity

    def save(self, folder: FilePath, model: Model | None = None, *, licence: str | None = None) -> None:
        """Write the library to a folder: a safetensors file a vector, `library.json`, and a card, `README.md`.

        Args:
            folder: made where it is missing; files of an earlier library in it are replaced, others stay.
            model: the model that the vectors were made on, for the record, see `for_model`.
            licence: of the vectors, for the card, as the Hugging Face hub names it, such as "mit"; by default that on
                record.

        Raises:
            InputError: the folder cannot be written to, or has a file of another origin where one of the library's
                belongs; the vectors do not belong to the model.
        """
        library = self._recorded(model, licence)
        write_library(folder, library, card_of(library))

    def _recorded(self, model: Model | None, licence: str | None) -> "Library":
        library = self if model is None else self.for_model(model)
        return library if licence is None else library._with(licence=licence)

    @classmethod
    def load(cls, folder: FilePath, model: Model | None = None) -> "Library":
        """The library that a folder holds: from `save`, or any folder of saved vectors, such as `vectors` of a study.

        Args:
            model: the model to use it with; it is refused unless the vectors belong to it, see `check`.

        Raises:
            InputError: the folder is missing, has no vectors, or they differ from what was saved; two vectors are of
                one relation, or of two places; the model is another one.
        """
        vectors, record = read_library(folder)
        library = cls(vectors)
        if record is not None:
            scores = Scores.of_lines(record.scores)
            library = cls(vectors, scores=scores, identity=record.identity, licence=record.licence)
        if model is not None:
            library.check(model)
        return library

    def push_to_hub(
        self,
        repo: str,
        model: Model | None = None,
        *,
        licence: str | None = None,
        base_model: str | None = None,
        private: bool = False,
        revision: str | None = None,
        token: "Token" = None,
    ) -> str:
        """Put the library and its card on the Hugging Face hub, in one commit; returns the commit's address.

        Args:
            repo: "org/name"; made where it is missing.
            model: the model that the vectors were made on, for the record, see `for_model`.
            licence: of the vectors, as the hub names it, such as "mit"; without one the card says that none is given.
            base_model: the model's name on the hub, where the name on record is another.
            private: whether a new repository is private.
            revision: the branch to commit to, made where it is missing; by default the main one.
            token: of an account that may write there; by default the one that `hf auth login` keeps.

        Raises:
            InputError: the hub cannot be reached, refuses the token or the name, or is switched off (HF_HUB_OFFLINE).
        """
        from .sharing.hub import push

        library = self._recorded(model, licence)
        card = card_of(library, repo, base_model)
        message = f"{len(library)} function vectors of {library.model or 'a model'}, layer {library.layer}"
        with tempfile.TemporaryDirectory() as scratch:
            return push(write_library(scratch, library, card), repo, message, private, revision, token)

    @classmethod
    def from_hub(
        cls, repo: str, model: Model | None = None, *, revision: str | None = None, token: "Token" = None
    ) -> "Library":
        """The library of a repository on the Hugging Face hub, from its cache where it is there already.

        Args:
            repo: "org/name".
            model: the model to use it with; it is refused unless the vectors belong to it, see `check`.
            revision: a branch, a tag or a commit; by default the newest of the main branch.
            token: for private repositories; by default the one that `hf auth login` keeps.

        Raises:
            InputError: there is no such repository or revision, or it is no library; the token is refused; the hub
                cannot be reached and the cache does not have it; the model is another one.

        Example:
            >>> library = Library.from_hub("org/relations", model=model)
            >>> with patch(model, library["antonym"]):
            ...     print(model.generate("Q: hot\\nA:", max_new_tokens=2))
        """
        from .sharing.hub import fetched

        return cls.load(fetched(repo, revision, token), model)


class UnknownVector(InputError, KeyError):
    """A name that a library does not have; a KeyError as well, as a mapping's methods expect."""

    __str__ = InputError.__str__
