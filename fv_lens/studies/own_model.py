"""The model that a saved vector is for."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ground.errors import InputError

if TYPE_CHECKING:
    from ..vectors.function_vector import FunctionVector


def model_of(fv: "FunctionVector", file: Path, name: str | None) -> Any:
    """The model that a saved vector is for: the one named, or its own.

    Raises:
        InputError: neither is known, or the model cannot be loaded.
    """
    name_or_own = name or fv.model
    if not name_or_own:
        raise InputError(f"{str(file)!r} does not say which model it was made on; pass --model.")
    from ..models.load import load_model

    try:
        return load_model(name_or_own)
    except InputError as error:
        hint = "" if name else f" The vector was made on {fv.model!r}; if that was a folder, pass --model PATH."
        raise InputError(f"{error}{hint}") from None
