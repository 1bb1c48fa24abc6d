"""Vectors to other engines and from them: `export_vectors` and `import_vectors`.

Example:
    >>> export_vectors(tuned, "antonym.gguf", model=model)
    >>> [fv] = import_vectors("antonym.gguf", model)
"""

import os
from collections.abc import Sequence
from typing import Literal

from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedModel

from ...ground.errors import InputError
from ...ground.text_files import FilePath
from ...models.kinds import adapter_of
from ...models.kinds import model_type as type_of
from ...models.lens import Model
from ..checks import check_model
from ..function_vector import FunctionVector
from .control_vectors import read_control_vector, write_control_vector
from .exported import by_layer
from .imported import ModelOrName, imported
from .objects import ControlVector, SteeringVector
from .plain import write_plain
from .steering_vectors import from_steering_vector

Format = Literal["gguf", "safetensors"]
WRITERS = {"gguf": write_control_vector, "safetensors": write_plain}


def export_vectors(
    fv: FunctionVector | Sequence[FunctionVector],
    path: FilePath,
    *,
    model: Model | PreTrainedModel | nn.Module | None = None,
    model_type: str | None = None,
    to: Format = "gguf",
) -> None:
    """Write vectors as a GGUF control vector, for llama.cpp and repeng, or as plain tensors.

    llama.cpp takes the file as `--control-vector FILE`, repeng by `ControlVector.import_gguf`. Both add the vectors at
    *every* token, which is another intervention than the last prompt token that function vectors are made for: choose
    their strength there again, half or less to begin with. The vectors' records go into the file, and `import_vectors`
    gives back equal vectors.

    As "safetensors", the file has a tensor `direction.N` for each layer, to be added to what block N puts out, by code
    of your own, at whichever tokens.

    Args:
        fv: a vector, or several of different layers.
        path: of the file to write.
        model: the model that the vectors are for, which is checked against them; the file names its type.
        model_type: instead of the model, its type in transformers, such as "llama"; no model is then checked.
        to: the format of the file.

    Raises:
        InputError: another format; a vector at a site other than "hook_resid_post", of centred weights, or, as GGUF, of
            layer 0, where llama.cpp adds nothing; two of one layer or of two models; a vector that does not fit the
            model; a model type that transformers does not have; neither a model nor a type, or both.

    Example:
        >>> export_vectors(tuned, "antonym.gguf", model=model)
        >>> # llama-completion -m model.gguf --control-vector-scaled antonym.gguf:0.5
        >>> export_vectors(tuned, "antonym.gguf", model_type="llama")
    """
    if to not in WRITERS:
        raise InputError(f"to is {to!r}; choose from {', '.join(WRITERS)}.")
    layers = by_layer(fv, "llama.cpp" if to == "gguf" else "a file of plain tensors")
    if model_type is None:
        if model is None:
            raise InputError(
                "A control vector says which kind of model it is for; give model=..., the model, or model_type=..., "
                "its type in transformers, such as 'llama'."
            )
        if isinstance(model, str):
            raise InputError(f"model is the text {model!r}; give the model itself, or its type as model_type=...")
        adapter = adapter_of(model)
        for vector in layers.values():
            check_model(vector, adapter)
        kind = type_of(adapter)
    elif model is not None:
        raise InputError(f"model and model_type {model_type!r} are both given; give one of them.")
    elif model_type not in CONFIG_MAPPING:
        raise InputError(
            f"model_type is {model_type!r}, which transformers does not have; give the model_type of the model's "
            "configuration, such as 'llama' or 'gpt2'."
        )
    else:
        kind = model_type
    WRITERS[to](layers, path, kind)


def import_vectors(
    source: FilePath | ControlVector | SteeringVector, model: ModelOrName = None
) -> list[FunctionVector]:
    """Take vectors of another engine as function vectors, one for each layer, lowest first.

    Their method is "imported", and each is added after the block of its layer. `patch(model, vectors)` adds them all,
    at the last prompt token; `patch(model, vectors, at=mask)` at the tokens of a mask, such as every one.

    Args:
        source: the path of a GGUF control vector, from llama.cpp's generator, repeng or `export_vectors`; a repeng
            `ControlVector`; or a `SteeringVector` of decoder blocks. A file of `export_vectors` gives its vectors back
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
