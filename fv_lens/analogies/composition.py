"""Settings of composites: single ones, the named ones, and those fitted in folds over families of relations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ..datasets.questions import Question
from ..ground import storage
from ..ground.errors import InputError, finite_number, whole_number
from ..ground.markup import card, facts, number, table
from ..ground.text_files import FilePath
from .records import Composites

Weighting = Literal["posterior", "gain", "single", "uniform", "gradient", "affine", "none"]
WEIGHTINGS = get_args(Weighting)
ScoredBy = Literal["log-probability", "probability"]
TENSORS = ("shared", "start", "affine_map", "affine_bias")
OF_MAPS = ("scored_by", "vectors")  # further fields that only an affine weighting has
VALIDATION = {"validation accuracy": "accuracy", "validation log-prob, nats": "log_prob"}  # as a record has them


@dataclass(frozen=True, eq=False)
class Composition:
    """Settings of a composite; `METHODS` holds the named ones, and `fit_composition` chooses one.

    Args:
        weighting: "posterior", `softmax(log P(B | A, +v_r) / temperature)` over the library; "gain", in proportion to
            what a vector gains over none in log P(B | A); "single", the best vector alone; "uniform"; "gradient",
            weights in a softmax moved by Adam to make B probable; "affine", the softmax of an affine map of how well
            each vector explains the pair, see `affine_map`; "none", no library.
        temperature: of the posterior.
        center: subtract the mean over the library from every vector first.
        scale: multiplies the weighted sum.
        shared: `[d_model]`, added to every composite; None for nothing.
        pair_steps: Adam steps on the pair alone, from `start`; 0 for no pair part.
        pair_scale: multiplies what those steps added to `start`.
        start: `[d_model]`, where those steps begin; None for zero.
        n_shots: 1 for the prompt that shows A:B, 0 for the prompt that asks for C only.
        affine_map: of "affine", `[vector, vector]`, or its diagonal `[vector]`; None for the identity. `fit_affine`
            fits it.
        affine_bias: of "affine", `[vector]`; None for zero.
        scored_by: what the map acts on, log P(B | A, +v_r) in nats or P(B | A, +v_r), in both cases less its mean over
            the vectors that the pair may use.
        vectors: names of the library's vectors in the order of map and bias. A library may lack some of them.

    Raises:
        InputError: an unknown weighting, a temperature that is not above 0, numbers that are not finite, or a map and a
            bias that do not fit the names.
    """

    weighting: Weighting = "posterior"
    temperature: float = 1.0
    center: bool = False
    scale: float = 1.0
    shared: Float[Tensor, " d_model"] | None = None
    pair_steps: int = 0
    pair_scale: float = 1.0
    start: Float[Tensor, " d_model"] | None = None
    n_shots: int = 0
    affine_map: Float[Tensor, " vector"] | Float[Tensor, "vector vector"] | None = None
    affine_bias: Float[Tensor, " vector"] | None = None
    scored_by: ScoredBy = "log-probability"
    vectors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise InputError(f"weighting is {self.weighting!r}; choose from {', '.join(WEIGHTINGS)}.")
        # Plain numbers, which JSON can hold, whatever kind was given.
        for name in ("temperature", "scale", "pair_scale"):
            object.__setattr__(self, name, finite_number(name, getattr(self, name)))
        if self.temperature <= 0:
            raise InputError(f"temperature is {self.temperature!r}; give a number above 0.")
        object.__setattr__(self, "pair_steps", whole_number("pair_steps", self.pair_steps, least=0))
        if self.n_shots not in (0, 1):
            raise InputError(f"n_shots is {self.n_shots!r}; a composite is for a prompt with 0 or 1 demonstration.")
        if self.scored_by not in get_args(ScoredBy):
            raise InputError(f"scored_by is {self.scored_by!r}; choose from {', '.join(get_args(ScoredBy))}.")
        object.__setattr__(self, "vectors", tuple(self.vectors))
        self._check_map()

    def _check_map(self) -> None:
        for name in ("affine_map", "affine_bias"):
            values = getattr(self, name)
            if values is None:
                continue
            shape = list(values.shape)
            if set(shape) != {len(self.vectors)} or len(shape) > 1 + (name == "affine_map"):
                raise InputError(
                    f"{name} has the shape {shape} and vectors {len(self.vectors)} names; give a number for each name"
                    + (", or for each pair of names." if name == "affine_map" else ".")
                )
            if not values.isfinite().all():
                raise InputError(f"{name} holds numbers that are not finite; fit it once more at a lower rate.")

    def __repr__(self) -> str:
        return f"Composition({self._in_short})"

    def _repr_html_(self) -> str:
        return card(
            "Composition", self.weighting, facts(self._changed_settings()), note="Settings not listed are the defaults."
        )

    @property
    def _in_short(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._changed_settings().items())

    def _changed_settings(self) -> dict[str, Any]:
        """The weighting and the settings that differ from the defaults; vectors by their shape."""
        settings = {part.name: (getattr(self, part.name), part.default) for part in fields(self)}
        changed = {
            name: value for name, (value, default) in settings.items() if value is not default and value != default
        }
        shapes = {name: list(value.shape) for name, value in changed.items() if isinstance(value, Tensor)}
        changed |= {"vectors": len(self.vectors)} if self.vectors else {}
        return {"weighting": self.weighting} | changed | shapes

    @property
    def uses_library(self) -> bool:
        """Whether the vectors of the library have any part in it."""
        return self.weighting != "none" and self.scale != 0

    @property
    def is_fitted(self) -> bool:
        """Whether a part of it was fitted on analogies, in the prompt of `n_shots`."""
        return any(part is not None for part in (self.shared, self.affine_map, self.affine_bias))

    def aligned(self, names: Sequence[str]) -> "Composition":
        """The settings with map and bias for the library of these names, which may be some of its `vectors`.

        Raises:
            InputError: a name that the map was not fitted for.
        """
        if (self.affine_map is None and self.affine_bias is None) or tuple(names) == self.vectors:
            return self
        places = {name: i for i, name in enumerate(self.vectors)}
        if unknown := [name for name in names if name not in places]:
            raise InputError(
                f"The library holds {unknown[0]!r}, which the affine map was not fitted for; give the library of "
                f"{len(self.vectors)} vectors that it was fitted with, or a part of it."
            )
        kept = [places[name] for name in names]
        matrix, bias = self.affine_map, self.affine_bias
        if matrix is not None:
            matrix = matrix[kept] if matrix.dim() == 1 else matrix[kept][:, kept]
        bias = None if bias is None else bias[kept]
        return replace(self, vectors=tuple(names), affine_map=matrix, affine_bias=bias)

    def split(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The settings that are tensors, and the others."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        tensors = {name: parts.pop(name) for name in TENSORS}
        for name in () if self.weighting == "affine" else OF_MAPS:
            del parts[name]
        return {name: value.float().clone() for name, value in tensors.items() if value is not None}, parts

    def save(self, path: FilePath) -> None:
        """Write the settings to a safetensors file."""
        Folded(self).save(path)

    @classmethod
    def load(cls, path: FilePath) -> "Composition":
        """Read saved settings, of folds the `whole` one; an InputError names a file that holds none."""
        return Folded.load(path).whole


METHODS = {
    "posterior": Composition(),
    "gain": Composition("gain"),
    "single best": Composition("single"),
    "uniform": Composition("uniform"),
    "gradient": Composition("gradient"),
    "centred": Composition("posterior", 2.0, center=True),
    "fitted": Composition("none", pair_steps=8),
}


@dataclass(frozen=True, eq=False)
class Folded:
    """Settings fitted once on analogies of all families (`whole`), and in folds that leave families out.

    `fold_of`: family -> the fold fitted without it; a family in no fold uses `whole`. `record`: how they were chosen.
    """

    whole: Composition
    folds: tuple[Composition, ...] = ()
    fold_of: Mapping[str, int] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return f"Folded({self.whole!r}, {len(self.folds)} folds of {len(self.fold_of)} families)"

    def _repr_html_(self) -> str:
        lines = [("all families", self.whole._in_short)]
        for fold, families in self.to_frame().groupby("fold")["family"]:
            lines.append((f"without {', '.join(families)}", self.folds[fold]._in_short))
        scores = {name: number(self.record.get(part)) for name, part in VALIDATION.items()}
        return card(
            "Folded",
            f"settings and {len(self.folds)} folds",
            table(["chosen on", "settings"], lines, words=True),
            facts(scores),
        )

    def to_frame(self) -> pd.DataFrame:
        """One line per family: family, the fold that has not seen it, and that fold's settings but for vectors."""
        lines = [{"family": name, "fold": fold} | self.of(name).split()[1] for name, fold in self.fold_of.items()]
        return pd.DataFrame(lines, columns=["family", "fold", *self.whole.split()[1]])

    def of(self, family: str | None) -> Composition:
        """The settings that were fitted without a family."""
        return self.whole if family is None or family not in self.fold_of else self.folds[self.fold_of[family]]

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and plain JSON data; `of_parts` reads them."""
        tensors: dict[str, Tensor] = {}
        plain = []
        for i, settings in enumerate((self.whole, *self.folds)):
            vectors, rest = settings.split()
            tensors |= {f"{name}.{i}": value for name, value in vectors.items()}
            plain.append(rest | {"vectors": list(settings.vectors)} if "vectors" in rest else rest)
        record = {"settings": plain, "fold_of": dict(self.fold_of), "record": dict(self.record)}
        return tensors, record | {"tensors": sorted(tensors)}

    @classmethod
    def of_parts(cls, tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> "Folded":
        """The settings that `parts` gave; an InputError where one is missing or not what it may be."""
        Composites.check(tensors, saved)
        settings = []
        for i, plain in enumerate(saved["settings"]):
            parts: dict[str, Any] = {name: tensors.get(f"{name}.{i}") for name in TENSORS}
            settings.append(Composition(**_read(plain), **parts))
        return cls(settings[0], tuple(settings[1:]), saved["fold_of"], saved["record"])

    def save(self, path: FilePath) -> None:
        """Write all settings to one safetensors file."""
        storage.save_checked(path, Composites, *self.parts())

    @classmethod
    def load(cls, path: FilePath) -> "Folded":
        """Read saved settings; an InputError names a file that is missing, damaged or something else, and the field."""
        return cls.of_parts(*storage.load(path, Composites))


def _read(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from JSON, which has lists for tuples."""
    return {name: tuple(value) if name == "vectors" else value for name, value in plain.items()}


Method = Literal["posterior", "gain", "single best", "uniform", "gradient", "centred", "fitted"]  # of `METHODS`
CompositionLike = Composition | Folded | Method


def composition(how: CompositionLike) -> Composition:
    """The `Composition` that `how` means: itself, the `whole` of folds, or a named one."""
    if isinstance(how, Composition | Folded):
        return how.whole if isinstance(how, Folded) else how
    if not isinstance(how, str) or how not in METHODS:
        raise InputError(f"how is {how!r}; give a Composition, or one of {', '.join(METHODS)}.")
    return METHODS[how]


def with_folds(how: CompositionLike) -> Composition | Folded:
    """What `how` means, with its folds where it has some."""
    return how if isinstance(how, Folded) else composition(how)


def settings_for(how: CompositionLike, questions: Sequence[Question], left_out: bool) -> list[Composition]:
    """The settings of each question; where its own vectors are left out, those fitted without its family."""
    if isinstance(how, Folded) and left_out:
        return [how.of(question.kin) for question in questions]
    return [composition(how)] * len(questions)
