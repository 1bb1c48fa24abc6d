"""Whether vectors are of one model at one place, as those that are mixed or compared must be."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..ground.errors import InputError
from ..models.lens import Lens
from .function_vector import FunctionVector

ONE_PLACE = ("model", "layer", "site", "processing", "bos")


def checked(vectors: Mapping[str, FunctionVector]) -> dict[str, FunctionVector]:
    """The vectors of a mapping from name to vector; an InputError unless they are of one model at one place."""
    if not isinstance(vectors, Mapping) or not vectors:
        raise InputError("The library has no vectors; give a mapping from relation to FunctionVector.")
    if unnamed := [name for name in vectors if not _is_name(name)]:
        raise InputError(f"The library has the name {unnamed[0]!r}; give relations' names, such as 'antonym'.")
    first_name = min(vectors)
    for name in sorted(vectors):
        fv: Any = vectors[name]
        if not isinstance(fv, FunctionVector):
            raise InputError(f"The library holds {type(fv).__name__} for {name!r}; give FunctionVectors.")
        for what in ONE_PLACE:
            value, first = getattr(fv, what), getattr(vectors[first_name], what)
            if value != first:
                raise InputError(
                    f"The library mixes vectors of {what} {first!r} ({first_name!r}) and {value!r} ({name!r}); "
                    "only vectors of one model at one place can be mixed."
                )
    return dict(vectors)


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and bool(name.strip()) and not re.search("[\ud800-\udfff]", name)


def check_fits(lens: Lens, vectors: Sequence[FunctionVector]) -> None:
    """Raise an InputError if vectors that are of one place do not belong to the model."""
    vectors[0].check(lens)
    for fv in vectors[1:]:
        if len(fv.vector) != lens.d_model:
            fv.check(lens)
