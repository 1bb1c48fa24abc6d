"""Vectors as plain tensors in a safetensors file, for code of one's own in any framework that reads these."""

from collections.abc import Mapping

from safetensors.torch import save_file

from ...ground import storage
from ...ground.text_files import FilePath
from ..function_vector import FunctionVector
from .control_vectors import DIRECTION


def write_plain(layers: Mapping[int, FunctionVector], path: FilePath, kind: str) -> None:
    """Write the vectors of layers as tensors `direction.N`, `[d_model]`, each to be added to what block N puts out.

    Args:
        kind: the model type in transformers, which goes into the file's metadata as `model_type`.

    Raises:
        InputError: the file cannot be written.
    """
    tensors = {f"{DIRECTION}{layer}": fv.vector for layer, fv in layers.items()}
    with storage.written_whole(path) as partial:
        save_file(tensors, partial, metadata={"model_type": kind})
