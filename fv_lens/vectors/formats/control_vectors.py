"""Control vectors as GGUF files, as llama.cpp (`--control-vector`) and repeng read and write them.

The file has one float32 tensor `direction.N` for each layer, and the keys `general.architecture` ("controlvector"),
`controlvector.model_hint` (transformers' model type) and `controlvector.layer_count` (of the directions). llama.cpp
adds direction N to what block N puts out, blocks counted from 0, for every token; a direction 0 makes it refuse the
file. repeng counts in the same way.
"""

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import gguf
import numpy as np
import torch

from ...ground import storage
from ...ground.errors import InputError
from ...ground.text_files import FilePath, check_file, own_path, parse_json
from ...models.gguf_header import Header, read_header
from ...models.kinds import adapter_of, model_type
from ..function_vector import FunctionVector
from .imported import ModelOrName, check_names, imported

ARCHITECTURE = "controlvector"
HINT, COUNT = f"{ARCHITECTURE}.model_hint", f"{ARCHITECTURE}.layer_count"
RECORD = "fv_lens.record"  # JSON: for each layer, lowest first, the vector's record and SHA-256 of its numbers
DIRECTION = "direction."


def write_control_vector(layers: Mapping[int, FunctionVector], path: FilePath, kind: str) -> None:
    """Write the vectors of layers as one GGUF control vector for models of this kind, a model type of transformers.

    Raises:
        InputError: a vector of layer 0; a file that cannot be written.
    """
    if 0 in layers:
        raise InputError(
            "The vector is added after block 0, where llama.cpp adds none: its control vectors begin at block 1. "
            "Choose another layer, as in finetune(..., layer=[...]); FunctionVector.apply and patch serve layer 0."
        )
    records = [{"record": vector.record, "sha256": vector.sha256} for vector in layers.values()]
    with storage.written_whole(path) as partial:
        writer = gguf.GGUFWriter(partial, ARCHITECTURE)
        writer.add_string(HINT, kind)
        writer.add_uint32(COUNT, len(layers))
        writer.add_string(RECORD, json.dumps(records))
        for layer, vector in layers.items():
            writer.add_tensor(f"{DIRECTION}{layer}", vector.vector.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def read_control_vector(path: FilePath, model: ModelOrName = None) -> list[FunctionVector]:
    """Read a GGUF control vector; arguments and errors are those of `import_vectors`.

    A file that `write_control_vector` wrote gives the vectors back as they were, with their records.
    """
    file = own_path(path)
    try:
        check_file(file)
    except InputError as error:
        raise InputError(f"{str(file)!r}: {error}; expected a control vector, a .gguf file") from None
    header = read_header(file)
    directions = _directions(file, header)
    _compare_kinds(header, model)
    if RECORD not in header.fields:
        return imported(directions.items(), model)
    with storage.naming(file):
        records = parse_json(str(header.fields[RECORD]), f"its key {RECORD!r}", constants=True)
        if not isinstance(records, list) or len(records) != len(directions):
            raise InputError(f"its key {RECORD!r} has no list of {len(directions)} records, one for each direction")
        vectors = []
        for (layer, numbers), part in zip(sorted(directions.items()), records):
            part = part if isinstance(part, dict) and isinstance(part.get("record"), dict) else {}
            vector = FunctionVector.of_parts(numbers, part.get("record", {}))
            if part.get("sha256") != vector.sha256:
                raise InputError(f"the numbers of direction {layer} are not those that its record is of")
            if vector.layer != layer:
                raise InputError(f"the record of direction {layer} is of layer {vector.layer}")
            vectors.append(vector)
    check_names(vectors, model)
    return vectors


def _directions(file: Path, header: Header) -> dict[int, torch.Tensor]:
    """The directions of a file by their layer."""
    name = str(file)
    if header.architecture != ARCHITECTURE:
        raise InputError(
            f"{name!r} is a GGUF file of {header.architecture or 'no'!r} architecture, not {ARCHITECTURE!r}: it may be "
            "a model, which load_model reads; give a control vector."
        )
    if file.stat().st_size < header.n_bytes:
        raise InputError(f"{name!r} is truncated: {file.stat().st_size} of {header.n_bytes} bytes; copy it again.")
    tensors = [tensor for tensor in header.tensors.values() if tensor.name.startswith(DIRECTION)]
    try:
        numbers = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    except ValueError as error:
        raise InputError(f"{name!r} cannot be read: {error}. It is damaged; copy it again.") from None
    directions = {}
    for tensor in tensors:
        layer = tensor.name.removeprefix(DIRECTION)
        if not (layer.isascii() and layer.isdecimal()):
            raise InputError(
                f"{name!r} has a tensor {tensor.name!r}; expected {DIRECTION}N, N a layer. Write it again."
            )
        if tensor.kind_name != "F32" or len(tensor.shape) != 1:
            raise InputError(
                f"{tensor.name} of {name!r} is {tensor.kind_name} {list(tensor.shape)}; expected F32 [d_model], as "
                "llama.cpp does. Write it again."
            )
        directions[int(layer)] = torch.from_numpy(np.array(numbers[tensor.name].data, dtype=np.float32))
    if len(directions) < len(tensors):
        raise InputError(f"{name!r} has two directions of one layer; write it again.")
    return directions


def _compare_kinds(header: Header, model: ModelOrName) -> None:
    """Warn if the file names another model type than the model has."""
    hint = str(header.fields.get(HINT, ""))
    if not hint or model is None or isinstance(model, str):
        return
    with suppress(InputError):  # a model that does not say its type
        if hint != (kind := model_type(adapter_of(model))):
            warnings.warn(f"The control vector is for a model of type {hint!r}; this one is {kind!r}.", stacklevel=4)
