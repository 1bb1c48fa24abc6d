"""Vectors to other engines and from them: `export_vector` and `import_vectors`.

Example:
    >>> export_vector(tuned, "antonym.gguf", model=model)
    >>> [fv] = import_vectors("antonym.gguf", model)
"""

import os
from collections.abc import Sequence
from typing import Literal, overload

from ...ground.errors import InputError
from ...ground.text_files import FilePath
from ..function_vector import FunctionVector
from .control_vectors import read_control_vector, write_control_vector
from .imported import ModelOrName, imported
from .objects import ControlVector, SteeringVector
from .steering_vectors import as_steering_vector, from_steering_vector

FORMATS = ("gguf", "steering-vectors")


@overload
def export_vector(
    fv: FunctionVector | Sequence[FunctionVector],
    path: FilePath,
    to: Literal["gguf"] = "gguf",
    *,
    model: ModelOrName,
) -> None: ...


@overload
def export_vector(
    fv: FunctionVector | Sequence[FunctionVector], *, to: Literal["steering-vectors"]
) -> SteeringVector: ...


def export_vector(
    fv: FunctionVector | Sequence[FunctionVector],
    path: FilePath | None = None,
    to: Literal["gguf", "steering-vectors"] = "gguf",
    *,
    model: ModelOrName = None,
) -> SteeringVector | None:
    """Give a vector to another engine, in the format that its own loader takes.

    "gguf" writes a control vector for llama.cpp (`--control-vector FILE`) and repeng (`ControlVector.import_gguf`).
    Both add it at *every* token, which is another intervention than the last prompt token that function vectors are
    made for: choose its strength there again, half or less to begin with. The vector's record goes into the file, and
    `import_vectors` gives back an equal vector.

    "steering-vectors" returns a `SteeringVector`. Its own `token_indices` say where it acts: `token_indices=[-1]` is
    the last token of prompts that are not padded on the right, as `patch` has it; a mask `[batch, pos]` is any token.
    (`apply` of version 0.12 takes them beside `min_token_index=None` alone.)

    Args:
        fv: a vector, or several of different layers.
        path: of the file to write, for "gguf".
        to: "gguf" or "steering-vectors".
        model: for "gguf", the model that the vector is for, which is checked against it; or its model type in
            transformers, such as "llama", which the file names.

    Raises:
        InputError: a vector at a site other than "hook_resid_post", of centred weights, or, for "gguf", of layer 0,
            where llama.cpp adds nothing; two of one layer or of two models; a vector that does not fit the model; no
            path or model for "gguf", or a path for an object; a library that is not installed.

    Example:
        >>> export_vector(tuned, "antonym.gguf", model=model)
        >>> # llama-cli -m model.gguf --control-vector-scaled antonym.gguf:0.5
        >>> steering = export_vector(tuned, to="steering-vectors")
        >>> with steering.apply(network, min_token_index=None, token_indices=[-1]):
        ...     logits = network(ids).logits
    """
    if to not in FORMATS:
        raise InputError(f"to is {to!r}; give {' or '.join(map(repr, FORMATS))}.")
    if to == "steering-vectors":
        if path is not None:
            raise InputError(f"path is {str(path)!r}, and 'steering-vectors' gives an object; leave the path out.")
        return as_steering_vector(fv)
    if path is None:
        raise InputError("path is missing; say which .gguf file to write.")
    write_control_vector(fv, path, model)
    return None


def import_vectors(
    source: FilePath | ControlVector | SteeringVector, model: ModelOrName = None
) -> list[FunctionVector]:
    """Take vectors of another engine as function vectors, one for each layer, lowest first.

    Their method is "imported", and each is added after the block of its layer. `patch(model, vectors)` adds them all,
    at the last prompt token; `patch(model, vectors, at=mask)` at the tokens of a mask, such as every one.

    Args:
        source: the path of a GGUF control vector, from llama.cpp's generator, repeng or `export_vector`; a repeng
            `ControlVector`; or a `SteeringVector` of decoder blocks. A file of `export_vector` gives its vectors back
            as they were, with their records.
        model: the model they are for, which is checked against them; or its name, which is recorded; None where that
            is not known, and not checked.

    Raises:
        InputError: a file that is missing, damaged or of another kind; another object; a layer that the model does not
            have, or vectors of another size; a model other than the vectors' own.

    Example:
        >>> vectors = import_vectors("happy.gguf", model)
        >>> with patch(model, vectors, strength=0.5, at=mask):
        ...     logits = model(ids, attention_mask=mask)
    """
    if isinstance(source, str | os.PathLike):
        return read_control_vector(source, model)
    if isinstance(source, SteeringVector):
        return from_steering_vector(source, model)
    if isinstance(source, ControlVector):
        return imported(source.directions.items(), model)
    raise InputError(
        f"source is {type(source).__name__}; give the path of a .gguf file, a ControlVector of repeng or a "
        "SteeringVector of steering-vectors."
    )
